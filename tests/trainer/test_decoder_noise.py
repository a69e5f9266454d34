"""The MP3 decoder's own lines do not reach the screen; everything else does, from this process and
its workers."""

import subprocess
import sys

PROGRAM = """
import os, subprocess, sys
from trainer.corpus.decoder_noise import without_decoder_noise
with without_decoder_noise():
    os.write(2, b"[src/libmpg123/layer3.c:INT123_do_layer3():1844] error: part2_3_length\\n")
    os.write(2, b"a library's warning\\n")
    program = "import os; os.write(2, b'libmpg123 error\\\\nof a worker\\\\n')"
    subprocess.run([sys.executable, "-c", program])
    print("a line of ours", file=sys.stderr)
os.write(2, b"libmpg123 afterwards\\n")
print("at the end", file=sys.stderr)
"""


def test_their_lines_are_left_out_and_no_others() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    expected = [
        "a library's warning",
        "a line of ours",
        "at the end",
        "libmpg123 afterwards",
        "of a worker",
    ]
    assert sorted(done.stderr.splitlines()) == expected
    assert done.stderr.splitlines()[-2:] == ["libmpg123 afterwards", "at the end"]
