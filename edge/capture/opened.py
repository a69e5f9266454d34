"""One open recording file: digest, header and sound are read from it, whatever becomes of its name
meanwhile.

It has the length that it had when it was opened: what is added later is another state of the file.
Knows no sound.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

Pulse = Callable[[], None]


def no_pulse() -> None:
    """Nobody waits for a file."""


class PulsedFile(io.FileIO):
    """A file that is read in pieces, by `pread`. `pulse` is called before each of them: so whoever
    waits knows that reading gets on, and it may raise to leave it. Raises OSError."""

    def __init__(self, path: Path, pulse: Pulse = no_pulse) -> None:
        self.pulse = pulse
        # a pipe must not block
        super().__init__(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
        self.bytes = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        """From where it was read last, or sought."""
        at = self.tell()
        data = pread(self, self.bytes if size is None or size < 0 else size, at)
        self.seek(at + len(data))
        return data


def pread(file: BinaryIO | PulsedFile, count: int, at: int) -> bytes:
    """So many bytes of a file from there on; fewer at its end. Raises OSError."""
    if isinstance(file, PulsedFile):
        file.pulse()
        count = max(0, min(count, file.bytes - at))
    try:
        return os.pread(file.fileno(), count, at)
    except MemoryError:  # an error of this machine like the others
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from None


def size_of(file: BinaryIO | PulsedFile) -> int:
    """How long a file is, or was when it was opened."""
    return file.bytes if isinstance(file, PulsedFile) else os.fstat(file.fileno()).st_size
