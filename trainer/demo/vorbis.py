"""Ogg Vorbis encoding whose bytes depend only on the samples. Knows nothing of birds.

libsndfile gives every stream a random serial number; it is set to zero here and the page checksums
are recomputed.
"""

import io
import os
import zlib
from pathlib import Path

import numpy as np
import soundfile

from edge.contract.audio import RATE_HZ

_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))
_SERIAL = slice(14, 18)
_CHECKSUM = slice(22, 26)
_SEGMENTS = 26
PART = ".birdstation-part-"  # prefix of the name of a file that is being written


def encode(samples: np.ndarray) -> bytes:
    """Mono float samples in [-1, 1] at RATE_HZ as an Ogg Vorbis file; equal samples give equal
    bytes."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", RATE_HZ, 1, format="OGG", subtype="VORBIS") as sink:
        # One large write would overflow libsndfile's stack.
        for start in range(0, len(samples), RATE_HZ):
            sink.write(samples[start : start + RATE_HZ])
    return _without_serial(buffer.getvalue())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically, under a temporary name that is then changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{PART}{os.getpid()}-{path.name}")
    part.write_bytes(data)
    part.replace(path)


def _without_serial(ogg: bytes) -> bytes:
    pages = []
    start = 0
    while start < len(ogg):
        assert ogg[start : start + 4] == b"OggS", (
            "libsndfile wrote something that is not an Ogg page"
        )
        segments = ogg[start + _SEGMENTS]
        sizes_end = start + _SEGMENTS + 1 + segments
        stop = sizes_end + sum(ogg[start + _SEGMENTS + 1 : sizes_end])
        page = bytearray(ogg[start:stop])
        page[_SERIAL] = page[_CHECKSUM] = bytes(4)
        page[_CHECKSUM] = _ogg_checksum(page).to_bytes(4, "little")
        pages.append(bytes(page))
        start = stop
    return b"".join(pages)


def _ogg_checksum(page: bytearray) -> int:
    """Ogg's CRC-32 of a page: zlib's with reversed bits, and without inversion at start and end."""
    register = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{register:032b}"[::-1], 2)
