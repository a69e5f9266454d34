"""Whether a file is what it was, without reading all of it, and whether it has grown out of what it
was.

A sample is the sums of a few blocks: the first and the last 4 KiB, and blocks further and further
apart between. What was read once for its digest has a sum of its body, too. Knows no sound.
"""

import hashlib
import os
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from edge.capture.opened import PulsedFile, pread
from edge.types import FileState

_END_BYTES = 4096  # at both ends
_BLOCKS = (
    (16_384, 4096, 4096, 4),
    (0, 256, 512, 2),
)  # for files from so many bytes: block, first offset, its factor
_PIECE_BYTES = 1 << 20
_SUM = "08x"
_TIME_NS_MAX = (
    2**63 - 1
)  # a row can hold no later time; a broken clock may have written the year 2400


def state_of(path: Path) -> FileState:
    """A look at a file: one stat, and 30 KB of an hour of sound. Raises OSError."""
    with PulsedFile(path) as file:
        return state_of_opened(file)


def state_of_opened(file: PulsedFile) -> FileState:
    """The same of a file that is open, as long as it was when it was opened. Raises OSError."""
    stat = os.fstat(file.fileno())
    size = file.bytes
    spans = [(0, _END_BYTES), *_blocks(size), (max(0, size - _END_BYTES), _END_BYTES)]
    sample = "".join(format(_sum(file, at, length), _SUM) for at, length in spans)
    return FileState(size, _bounded(stat.st_mtime_ns), _bounded(stat.st_ctime_ns), sample)


def read_once(file: PulsedFile, state: FileState) -> tuple[str, FileState]:
    """SHA-256 of a file, and its state with the sum of its body. Raises OSError."""
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
    """Whether a file holds, up to the length that it had when it was opened, what `read_once` read
    of it. Reads it again only where its size or its time have changed. Raises OSError."""
    stat = os.fstat(file.fileno())
    if (stat.st_size, _bounded(stat.st_mtime_ns)) == (state.bytes, state.mtime_ns):
        return True
    return read_once(file, state)[0] == digest


def continues(file: PulsedFile, earlier: FileState) -> bool | None:
    """Whether a file holds what an `earlier` file held, and perhaps more: all is equal but the
    ends, since a header is written anew when a recording is closed. None: there is nothing but
    zeros between, so nothing can be said. Reads that much of the file if the blocks of the sample
    are equal. Raises OSError."""
    spans = list(_blocks(earlier.bytes))
    sums = [int(earlier.sample[at : at + 8], 16) for at in range(8, 8 + 8 * len(spans), 8)]
    if not earlier.body_end:
        return None
    if file.bytes < earlier.bytes:
        return False
    for span, sum_ in zip(
        spans, sums, strict=True
    ):  # zeros may be room that was set aside for sound
        if sum_ not in (_sum(file, *span), zlib.crc32(bytes(span[1]))):
            return False
    at = _body(earlier.bytes)[0]
    sum_ = 0
    while at < earlier.body_end and (
        piece := pread(file, min(_PIECE_BYTES, earlier.body_end - at), at)
    ):
        sum_ = zlib.crc32(piece, sum_)
        at = at + len(piece)
    return sum_ == earlier.body_sum


def _body(size: int) -> tuple[int, int]:
    """From where to where a file of so many bytes is neither header nor what is added at its
    end."""
    block, first = next((block, first) for least, block, first, _ in _BLOCKS if size >= least)
    return first, max(first, size - block)


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    """Offset and length of whole blocks within a file of so many bytes, so that a file that has
    grown has them too."""
    block, at, factor = next(rest for least, *rest in _BLOCKS if size >= least)
    while at + block <= size:
        yield at, block
        at *= factor


def _sum(file: PulsedFile, at: int, length: int) -> int:
    return zlib.crc32(pread(file, length, at))


def _bounded(time_ns: int) -> int:
    return max(-_TIME_NS_MAX, min(time_ns, _TIME_NS_MAX))
