"""A file as libsndfile is to see it: extents of it in sequence, with another header where its own
is wrong.

Knows bytes alone; which bytes are right is decided elsewhere (container_layout.py, streams.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

from edge.capture.pulsed_file import pread

STOP_BYTES = 16


class ByteExtent(NamedTuple):
    """A range of bytes in a file."""

    at: int
    bytes: int


class View:
    """`head`, followed by the `extents` of the file; reports `said_size` as its length if that is
    given.

    With `stop_before`, a pattern of at most STOP_BYTES, it ends before the pattern's first match in
    the extents, where another file begins.
    """

    def __init__(
        self,
        file: BinaryIO,
        extents: Sequence[ByteExtent],
        head: bytes = b"",
        said_size: int = 0,
        stop_before: re.Pattern[bytes] | None = None,
    ) -> None:
        self._file = file
        self._head = head
        self._extents = tuple(extents)
        self._size = len(head) + sum(extent.bytes for extent in extents)
        self._said_size = said_size
        self.stop_before = stop_before
        self._at = 0
        self.stopped_at: int | None = None  # offset in the file at which `stop_before` matched
        self._error: Exception | None = None  # libsndfile takes a failed read for the end

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        # an offset from the end refers to the real one
        end = self._size if offset or not self._said_size else self._said_size
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: end}[whence]
        self._at = max(0, base + offset)
        return self._at

    def check(self) -> None:
        """Raise the error of a read, which libsndfile took for the end of the file."""
        if self._error is not None:
            raise self._error

    def tell(self) -> int:
        return self._at

    @property
    def position(self) -> int:
        """Offset in the file of the next byte to be read."""
        at = self._at - len(self._head)
        for extent in self._extents:
            if at < extent.bytes:
                return extent.at + max(0, at)
            at -= extent.bytes
        return self._extents[-1].at + self._extents[-1].bytes if self._extents else 0

    def readinto(self, buffer: bytearray) -> int:
        data = b""
        try:
            data = self._read(self._at, len(buffer))
            if self.stop_before:
                data = self._stopped(data)
        except Exception as error:  # cannot pass through libsndfile; `check` raises it later
            self._error = self._error or error
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _read(self, at: int, count: int) -> bytes:
        parts = [self._head[at : at + count]]
        begin = len(self._head)
        for extent in self._extents:
            missing = count - sum(map(len, parts))
            skip = max(0, at - begin)
            if missing and skip < extent.bytes:
                parts.append(pread(self._file, min(missing, extent.bytes - skip), extent.at + skip))
            begin += extent.bytes
        return b"".join(parts)

    def _stopped(self, data: bytes) -> bytes:
        assert self.stop_before is not None
        ahead = data + self._read(self._at + len(data), STOP_BYTES - 1)
        found = self.stop_before.search(ahead, max(0, len(self._head) - self._at))
        if found is None or found.start() >= len(data):
            return data
        self._size = self._at + found.start()
        self._extents = _first(self._extents, self._size - len(self._head))
        self.stopped_at = self.position + found.start()
        return data[: found.start()]


def _first(extents: Sequence[ByteExtent], count: int) -> tuple[ByteExtent, ...]:
    """The first `count` bytes of the extents."""
    kept = []
    for extent in extents:
        kept.append(ByteExtent(extent.at, max(0, min(extent.bytes, count))))
        count -= extent.bytes
    return tuple(kept)
