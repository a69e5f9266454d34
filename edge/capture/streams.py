"""Where streams of compressed sound end in a file and where the next begins: FLAC, Ogg and MPEG.

Reads a header and the file's last bytes; libsndfile decodes. Knows no samples; layout.py has the plain containers.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import BinaryIO

from edge.capture.layout import ID3_FOOTER, id3_bytes

TAIL_BYTES = 65_536  # looked at behind a stream; longer than any Ogg page, and than what libsndfile reads ahead
_METADATA_MAX = 1_000  # blocks before a FLAC file's sound
_MPEG_HEAD_BYTES = 4_096  # looked at for an MPEG file's length, which stands in the first frame or nowhere
_MPEG_FRAMES = 3  # in a row prove that it is one
_SYNC = re.compile(rb"\xff[\xe2-\xff]")
_FLAC_FRAME = re.compile(rb"\xff[\xf8\xf9]")


# FLAC


@dataclass(frozen=True)
class Flac:
    """What STREAMINFO says of the stream at `start`."""

    start: int
    frames: int | None  # samples per channel; None: not said
    whole: bool  # the last frame in the file is the last of these

    def without_length(self, head: bytes) -> bytes:
        """The first 26 bytes, saying no length: libsndfile then reads to the end."""
        return head[:21] + bytes([head[21] & 0xF0]) + bytes(4)


def flac_stream(file: BinaryIO, start: int, end: int) -> Flac:
    """The stream at `start`, where `fLaC` stands."""
    head = os.pread(file.fileno(), 26, start)
    frames = (int.from_bytes(head[18:26], "big") & (2**36 - 1)) if len(head) == 26 else 0
    block = int.from_bytes(head[8:10], "big")
    tail = os.pread(file.fileno(), TAIL_BYTES, max(start, end - TAIL_BYTES))
    whole = frames > 0 and any(
        stop == frames for place in _FLAC_FRAME.finditer(tail) if (stop := _flac_frame_stop(tail, place.start(), block))
    )
    return Flac(start, frames or None, whole)


def _flac_frame_stop(data: bytes, at: int, block: int) -> int:
    """The sample at which the frame ends whose header may stand here; 0 if it is none."""
    head = data[at : at + 16]
    if len(head) < 16 or head[2] >> 4 == 0 or head[2] & 15 == 15 or head[3] >> 4 > 10 or head[3] & 1:
        return 0
    extra = 7 - (head[4] ^ 0xFF).bit_length() if head[4] >= 0xC0 else 0  # bytes of the number, written as UTF-8 is
    number = head[4] if head[4] < 0x80 else head[4] & (0x3F >> extra)
    for byte in head[5 : 5 + extra]:
        number = number << 6 | byte & 0x3F
    at, code = 5 + extra, head[2] >> 4
    size = {1: 192}.get(code) or (576 << code - 2 if code <= 5 else 256 << code - 8 if code >= 8 else 0)
    if code in (6, 7):
        size = int.from_bytes(head[at : at + code - 5], "big") + 1
        at += code - 5
    at += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if at >= len(head) or _crc8(head[:at]) != head[at]:
        return 0
    return (number if head[1] & 1 else number * block) + size


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc << 1 ^ (0x107 if crc & 0x80 else 0)
    return crc


# Ogg


def ogg_end_marked(file: BinaryIO, start: int, end: int) -> bool:
    """Whether the last page before `end` carries the end-of-stream flag: a cut file's length looks right otherwise."""
    low = max(start, end - TAIL_BYTES)
    tail = os.pread(file.fileno(), end - low, low)
    page = tail.rfind(b"OggS\0")
    return 0 <= page < len(tail) - 5 and bool(tail[page + 5] & 4)


def ogg_one_stream(file: BinaryIO, start: int, end: int) -> bool:
    """Whether the last page is one of the first page's stream."""
    low = max(start, end - TAIL_BYTES)
    tail = os.pread(file.fileno(), end - low, low)
    page = tail.rfind(b"OggS\0")
    return page >= 0 and tail[page + 14 : page + 18] == os.pread(file.fileno(), 4, start + 14)


def ogg_next(file: BinaryIO, start: int, low: int, end: int) -> int | None:
    """The first page from `low` on that begins a stream and is not one of those with which the file at `start`
    begins."""
    at = start
    while True:
        page = os.pread(file.fileno(), 282, at)
        if page[:5] != b"OggS\0" or len(page) < 27 or not page[5] & 2 or at >= end:
            break
        at += 27 + page[26] + sum(page[27 : 27 + page[26]])
    low = max(low, at)
    while low < end:
        data = os.pread(file.fileno(), 2**20, low)
        found = re.search(rb"OggS\x00[\x02\x06]", data[: end - low])
        if found:
            return low + found.start()
        if len(data) < 2**20:
            return None
        low += len(data) - 8
    return None


# MPEG


def id3_end(file: BinaryIO, at: int) -> int:
    """Where the ID3v2 tags end that begin at `at`; they are sometimes stacked."""
    for _ in range(8):
        head = os.pread(file.fileno(), 10, at)
        if len(head) < 10 or head[:3] != b"ID3":
            break
        end = at + id3_bytes(head)
        if head[5] & ID3_FOOTER and os.pread(file.fileno(), 3, end - 10) != b"3DI":
            end -= 10  # the footer that is promised is not there
        at = end
    return at


@dataclass(frozen=True)
class Mpeg:
    """MPEG audio: where its first frame is, and whether that tells the length."""

    start: int
    has_length: bool
    bytes: int | None = None  # of the stream, if the first frame tells


def mpeg_stream(file: BinaryIO, start: int) -> Mpeg | None:
    """The stream whose first frame is at `start`; None if there is none."""
    frame = os.pread(file.fileno(), _MPEG_HEAD_BYTES, start)
    if len(frame) < 4 or frame[0] != 0xFF or frame[1] < 0xE0 or not frame[1] & 6:  # layer 0 is AAC
        return None
    for tag in (b"Xing", b"Info"):
        place = frame.find(tag)
        if 0 <= place < len(frame) - 16 and frame[place + 7] & 1:  # the number of frames follows
            size = int.from_bytes(frame[place + 12 : place + 16], "big") if frame[place + 7] & 2 else None
            return Mpeg(start, True, size)
    return Mpeg(start, b"VBRI" in frame)


def mpeg_next(file: BinaryIO, low: int, end: int, reach: int = TAIL_BYTES) -> int | None:
    """Where, from `low` on and at most `reach` bytes further, frames of MPEG audio follow each other; the tag before
    them does not count as another place."""
    low = id3_end(file, low)
    data = os.pread(file.fileno(), max(0, min(reach, end - low)), low)
    for place in _SYNC.finditer(data):
        at, first = place.start(), data[place.start() : place.start() + 4]
        for _ in range(_MPEG_FRAMES):
            head = data[at : at + 4]
            size = mpeg_frame_bytes(head)
            if not size or (head[1] ^ first[1]) & 0x1E or (head[2] ^ first[2]) & 0x0C:
                break
            at += size
            if low + at >= end - 3:
                return low + place.start()
        else:
            return low + place.start()
    return None


# kbit/s by MPEG version 1 or 2 and layer
_RATES = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def mpeg_frame_bytes(head: bytes) -> int:
    """The length of the frame with this header; 0 if it is none, or of a free bit rate."""
    if len(head) < 4 or head[0] != 0xFF or head[1] < 0xE0:
        return 0
    version, layer, rate, hz = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3), head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or rate in (0, 15) or hz == 3:
        return 0
    lower = version != 3
    kbit = _RATES[(2, min(layer, 2)) if lower else (1, layer)][rate]
    sample_rate = (44_100, 48_000, 32_000)[hz] >> {3: 0, 2: 1, 0: 2}[version]
    padding = head[2] >> 1 & 1
    if layer == 1:
        return (12 * kbit * 1000 // sample_rate + padding) * 4
    return (72 if lower and layer == 3 else 144) * kbit * 1000 // sample_rate + padding
