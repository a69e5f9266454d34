"""An open recording file, from which digest, header and sound are read even if its name changes
meanwhile.

It keeps the length that it had when it was opened: data appended later belong to another state of
the file. Knows no sound.
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
    """The default pulse, which does nothing."""


class PulsedFile(io.FileIO):
    """A file that is read in pieces by `pread`, with a call of `pulse` before each piece.

    The pulse shows a watchdog that reading makes progress, and may raise an exception to end it.
    Raises OSError.
    """

    def __init__(self, path: Path, pulse: Pulse = no_pulse) -> None:
        self.pulse = pulse
        # opening a pipe must not block
        super().__init__(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
        self.bytes = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        """Read from the current position."""
        at = self.tell()
        data = pread(self, self.bytes if size is None or size < 0 else size, at)
        self.seek(at + len(data))
        return data


def pread(file: BinaryIO | PulsedFile, count: int, at: int) -> bytes:
    """Read `count` bytes at offset `at`; fewer at the end of the file. Raises OSError."""
    if isinstance(file, PulsedFile):
        file.pulse()
        count = max(0, min(count, file.bytes - at))
    try:
        return os.pread(file.fileno(), count, at)
    except MemoryError:  # treated like other errors of this machine
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from None


def size_of(file: BinaryIO | PulsedFile) -> int:
    """The length of a file; of a PulsedFile, when it was opened."""
    return file.bytes if isinstance(file, PulsedFile) else os.fstat(file.fileno()).st_size
