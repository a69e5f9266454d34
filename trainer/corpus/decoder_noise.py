"""Keeps the MP3 decoder's own lines off the screen: what of a file could not be decoded is told in
our words.

libmpg123 writes "[src/libmpg123/layer3.c:…] error: …" straight to the process's stderr, dozens for
one damaged file.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_THEIRS = b"libmpg123"
_LAST_S = 1.0  # how long the end waits for lines of workers that are still under way


@contextmanager
def without_decoder_noise() -> Iterator[None]:
    """Within the block, stderr of this process and of those that it starts passes through, but for
    those lines. What Python itself writes there goes straight to where it went before."""
    sys.stderr.flush()
    before = os.dup(2)
    ours = sys.stderr
    read, write = os.pipe()
    os.dup2(write, 2)
    os.close(write)
    passed = open(before, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = passed
    passing = threading.Thread(target=_pass_on, args=(read, before), daemon=True)
    passing.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)  # closes this process's end of the pipe
        sys.stderr = ours
        passing.join(_LAST_S)


def _pass_on(read: int, to: int) -> None:
    with os.fdopen(read, "rb") as lines:
        for line in lines:
            if _THEIRS not in line:
                os.write(to, line)
