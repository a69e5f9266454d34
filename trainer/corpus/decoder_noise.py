"""Keeps the messages of the MP3 decoder off the screen: our own messages report what cannot be
decoded.

libmpg123 writes "[src/libmpg123/layer3.c:…] error: …" straight to the stderr of the process, dozens
of lines for one damaged file.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_THEIRS = b"libmpg123"
_LAST_S = 1.0  # wait at the end for lines that workers are still writing


@contextmanager
def without_decoder_noise() -> Iterator[None]:
    """Filter those lines from the stderr of this process and its children within the block. Output
    of Python itself bypasses the filter."""
    sys.stderr.flush()
    before = os.dup(2)
    ours = sys.stderr
    read, write = os.pipe()
    os.dup2(write, 2)
    os.close(write)
    sys.stderr = os.fdopen(before, "w", buffering=1, errors="backslashreplace", closefd=False)
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
