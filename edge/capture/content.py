"""Whether a file is what it was, without reading all of it, and whether it has grown out of what it was.

A sample is the sums of a few blocks: the first and the last 4 KiB, and blocks further and further apart between. Knows
no sound.
"""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from edge.types import FileState

_END_BYTES = 4096  # at both ends
_BLOCKS = ((16_384, 4096, 4096, 4), (0, 256, 512, 2))  # for files from so many bytes: block, first offset, its factor
_SUM = "08x"
_TIME_NS_MAX = 2**63 - 1  # a row can hold no later time; a broken clock may have written the year 2400


def state_of(path: Path) -> FileState:
    """A look at a file: one stat, and 30 KB of an hour of sound. Raises OSError."""
    with path.open("rb") as file:
        stat = os.fstat(file.fileno())
        size = stat.st_size
        spans = [(0, _END_BYTES), *_blocks(size), (max(0, size - _END_BYTES), _END_BYTES)]
        sample = "".join(format(_sum(file.fileno(), at, length), _SUM) for at, length in spans)
    return FileState(size, _bounded(stat.st_mtime_ns), _bounded(stat.st_ctime_ns), sample)


def continues(path: Path, earlier: FileState) -> bool | None:
    """Whether a file holds what an `earlier` file held, and perhaps more: all blocks are equal but those at the ends,
    since a header is written anew when a recording is closed. None: these blocks are zeros, or there are none, so
    nothing can be said. Raises OSError."""
    spans = list(_blocks(earlier.bytes))
    sums = [int(earlier.sample[at : at + 8], 16) for at in range(8, 8 + 8 * len(spans), 8)]
    written = [(span, sum_) for span, sum_ in zip(spans, sums, strict=True) if sum_ != zlib.crc32(bytes(span[1]))]
    if not written:  # zeros may be silence, or room that was set aside for sound
        return None
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < earlier.bytes:
            return False
        return all(_sum(file.fileno(), *span) == sum_ for span, sum_ in written)


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    """Offset and length of whole blocks within a file of so many bytes, so that a file that has grown has them too."""
    block, at, factor = next(rest for least, *rest in _BLOCKS if size >= least)
    while at + block <= size:
        yield at, block
        at *= factor


def _sum(file: int, at: int, length: int) -> int:
    return zlib.crc32(os.pread(file, length, at))


def _bounded(time_ns: int) -> int:
    return max(-_TIME_NS_MAX, min(time_ns, _TIME_NS_MAX))
