"""Comparison of file states without reading whole files: unchanged, grown, or replaced.

A fingerprint holds checksums of a few blocks: the first and the last 4 KiB, and blocks in between
at growing distances. A file that was read once for its digest also has a checksum of its body.
Knows no sound.
"""

import hashlib
import os
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from edge.capture.pulsed_file import PulsedFile, pread
from edge.types import FileState

_END_BYTES = 4096  # at both ends
# least file size, block length, first offset, factor from each offset to the next
_BLOCKS = (
    (16_384, 4096, 4096, 4),
    (0, 256, 512, 2),
)
_PIECE_BYTES = 1 << 20
_SUM = "08x"
# The latest time that a row can hold; a broken clock may have written the year 2400.
_TIME_NS_MAX = 2**63 - 1


def state_of(path: Path) -> FileState:
    """The state of a file: one stat and about 30 KB read of an hour of sound. Raises OSError."""
    with PulsedFile(path) as file:
        return state_of_opened(file)


def state_of_opened(file: PulsedFile) -> FileState:
    """The state of an open file, up to the length that it had when opened. Raises OSError."""
    stat = os.fstat(file.fileno())
    size = file.bytes
    spans = [(0, _END_BYTES), *_blocks(size), (max(0, size - _END_BYTES), _END_BYTES)]
    sample = "".join(format(_sum(file, at, length), _SUM) for at, length in spans)
    return FileState(size, _bounded(stat.st_mtime_ns), _bounded(stat.st_ctime_ns), sample)


def read_once(file: PulsedFile, state: FileState) -> tuple[str, FileState]:
    """SHA-256 of a file, and its state with the checksum of its body. Raises OSError."""
    digest = hashlib.sha256()
    sum_ = 0
    body_end = 0
    body_sum = 0
    first, last = _body(state.bytes)
    at = 0
    while piece := pread(file, _PIECE_BYTES, at):
        digest.update(piece)
        part = piece[max(0, first - at) : max(0, last - at)]
        written = part.rstrip(b"\0")
        if written:
            body_end = max(at, first) + len(written)
            body_sum = sum_ = zlib.crc32(written, sum_)
        sum_ = zlib.crc32(part[len(written) :], sum_)
        at += len(piece)
    return digest.hexdigest(), replace(state, body_end=body_end, body_sum=body_sum)


def still_holds(file: PulsedFile, state: FileState, digest: str) -> bool:
    """True if a file, up to the length that it had when it was opened, still holds what `read_once`
    read of it.

    Reads it again only if its size or modification time has changed. Raises OSError.
    """
    stat = os.fstat(file.fileno())
    if (stat.st_size, _bounded(stat.st_mtime_ns)) == (state.bytes, state.mtime_ns):
        return True
    return read_once(file, state)[0] == digest


def continues(file: PulsedFile, earlier: FileState) -> bool | None:
    """True if a file holds the content of an `earlier` state, and perhaps more.

    The ends may differ, since a header is rewritten when a recording is closed. None if there are
    only zeros between them, which prove nothing. Reads the file up to the earlier length if the
    sampled blocks agree. Raises OSError.
    """
    spans = list(_blocks(earlier.bytes))
    sums = [int(earlier.sample[at : at + 8], 16) for at in range(8, 8 + 8 * len(spans), 8)]
    if not earlier.body_end:
        return None
    if file.bytes < earlier.bytes:
        return False
    for span, sum_ in zip(spans, sums, strict=True):
        # zeros may be space that was reserved for sound
        if sum_ not in (_sum(file, *span), zlib.crc32(bytes(span[1]))):
            return False
    at = _body(earlier.bytes)[0]
    sum_ = 0
    while at < earlier.body_end and (
        piece := pread(file, min(_PIECE_BYTES, earlier.body_end - at), at)
    ):
        sum_ = zlib.crc32(piece, sum_)
        at += len(piece)
    return sum_ == earlier.body_sum


def _body(size: int) -> tuple[int, int]:
    """Start and end of the body of a file of `size` bytes: behind the header, before what is
    appended at the end."""
    block, first = next((block, first) for least, block, first, _ in _BLOCKS if size >= least)
    return first, max(first, size - block)


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    """Offsets and lengths of sampled blocks that lie wholly in `size` bytes, so that a grown file
    has them too."""
    block, at, factor = next(rest for least, *rest in _BLOCKS if size >= least)
    while at + block <= size:
        yield at, block
        at *= factor


def _sum(file: PulsedFile, at: int, length: int) -> int:
    return zlib.crc32(pread(file, length, at))


def _bounded(time_ns: int) -> int:
    return max(-_TIME_NS_MAX, min(time_ns, _TIME_NS_MAX))
