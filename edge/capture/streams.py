"""Ends of compressed streams in a file, and the beginning of the next: FLAC, Ogg and MPEG.

Reads a header and the file's last bytes; libsndfile decodes. Knows no samples; container_layout.py
has the plain containers.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from edge.capture.container_layout import find_beginning
from edge.capture.pulsed_file import pread
from edge.capture.trailing_data import JUNK_MAX, id3_end

OGG_BEGINS = re.compile(rb"OggS\x00[\x02\x06]")
# Searched behind a stream; longer than any Ogg page, and than libsndfile's read-ahead.
TAIL_BYTES = 65_536
_OGG_HEAD_BYTES = 27 + 255  # longest header of a page
# Searched for an MPEG file's length, which is in the first frame or nowhere.
_MPEG_HEAD_BYTES = 4_096
_MPEG_FRAMES = 3  # consecutive frames that prove a stream
_SYNC = re.compile(rb"\xff[\xe2-\xff]")
_FLAC_FRAME = re.compile(rb"\xff[\xf8\xf9]")


# FLAC


@dataclass(frozen=True)
class Flac:
    """Contents of STREAMINFO of the stream at `start`."""

    start: int
    frames: int | None  # samples per channel; None: not declared
    whole: bool  # the last frame in the file is the last of these

    def without_length(self, head: bytes) -> bytes:
        """The first 26 bytes without a declared length: libsndfile then reads to the end."""
        return head[:21] + bytes([head[21] & 0xF0]) + bytes(4)


def flac_stream(file: BinaryIO, start: int, end: int) -> Flac:
    """The stream at `start`, where `fLaC` is."""
    head = pread(file, 26, start)
    frames = (int.from_bytes(head[18:26], "big") & (2**36 - 1)) if len(head) == 26 else 0
    block = int.from_bytes(head[8:10], "big")
    tail = pread(file, TAIL_BYTES, max(start, end - TAIL_BYTES))
    whole = frames > 0 and any(
        stop == frames
        for place in _FLAC_FRAME.finditer(tail)
        if (stop := _flac_frame_stop(tail, place.start(), block))
    )
    return Flac(start, frames or None, whole)


def _flac_frame_stop(data: bytes, at: int, block: int) -> int:
    """Number of the sample after the frame whose header may be at `at`; 0 if it is not a frame
    header."""
    head = data[at : at + 16]
    if (
        len(head) < 16
        or head[2] >> 4 == 0
        or head[2] & 15 == 15
        or head[3] >> 4 > 10
        or head[3] & 1
    ):
        return 0
    # further bytes of the number, which is encoded like UTF-8
    extra = 7 - (head[4] ^ 0xFF).bit_length() if head[4] >= 0xC0 else 0
    number = head[4] if head[4] < 0x80 else head[4] & (0x3F >> extra)
    for byte in head[5 : 5 + extra]:
        number = number << 6 | byte & 0x3F
    at = 5 + extra
    code = head[2] >> 4
    size = {1: 192}.get(code) or (
        576 << code - 2 if code <= 5 else 256 << code - 8 if code >= 8 else 0
    )
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


@dataclass(frozen=True)
class Ogg:
    """The Ogg stream at `start`, or several multiplexed ones."""

    start: int
    heads_end: int  # end of its first pages, one for each multiplexed stream
    end: int  # end of its last page
    marked: bool  # the last page is marked as last; otherwise something is missing
    whole: bool  # nothing significant follows in the file
    following: int | None  # offset of another recording, if one was looked for and found


def ogg_stream(file: BinaryIO, start: int, end: int) -> Ogg:
    """The stream at `start`, with its exact end.

    libsndfile must not see more than this: data behind the end it takes for more of the stream,
    searches for minutes, or counts.
    """
    heads_end = _ogg_heads_end(file, start, end)
    page = ogg_last_page(file, start, end)
    stream = pread(file, 4, start + 14)
    if page is not None and page.last and page.stream == stream and end - page.end <= JUNK_MAX:
        return Ogg(start, heads_end, page.end, True, True, None)
    following = find_beginning(file, max(start + 4, heads_end), end)
    page = ogg_last_page(file, start, end if following is None else following)
    if page is None:
        return Ogg(start, heads_end, end, False, True, None)
    return Ogg(start, heads_end, page.end, page.last, False, following)


class OggPage(NamedTuple):
    """The last page in a range of a file."""

    end: int  # offset of its end
    last: bool  # marked as the last of its stream; the only sign that a file is not cut off
    stream: bytes


def ogg_last_page(file: BinaryIO, start: int, stop: int) -> OggPage | None:
    """The last complete page between two offsets."""
    high = stop
    while high > start:
        low = max(start, high - TAIL_BYTES)
        data = pread(file, high - low + _OGG_HEAD_BYTES, low)
        place = data.rfind(b"OggS\0")
        while place >= 0:
            size = _ogg_page_bytes(data[place : place + _OGG_HEAD_BYTES])
            end = low + place + size
            if size and end <= stop and _ogg_sum_right(pread(file, size, low + place)):
                return OggPage(end, bool(data[place + 5] & 4), data[place + 14 : place + 18])
            place = data.rfind(b"OggS\0", 0, place)
        high = low + 4 if low > start else start  # a page mark may lie across the edge
    return None


_BITS_TURNED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_page_bytes(head: bytes) -> int:
    """Length of a page with its header; 0 if this is not a page."""
    lacing = head[27 : 27 + head[26]] if len(head) >= 27 else b""
    return 27 + head[26] + sum(lacing) if lacing and len(lacing) == head[26] else 0


def _ogg_sum_right(page: bytes) -> bool:
    """True if the page is intact. Its checksum is that of zlib with the bits of all bytes
    reversed."""
    turned = (page[:22] + bytes(4) + page[26:]).translate(_BITS_TURNED)
    return (zlib.crc32(turned, 0xFFFFFFFF) ^ 0xFFFFFFFF).to_bytes(4, "big") == page[
        22:26
    ].translate(_BITS_TURNED)


def _ogg_heads_end(file: BinaryIO, start: int, end: int) -> int:
    at = start
    while at < end:
        page = pread(file, _OGG_HEAD_BYTES, at)
        if page[:5] != b"OggS\0" or not _ogg_page_bytes(page) or not page[5] & 2:
            break
        at += _ogg_page_bytes(page)
    return at


# MPEG


@dataclass(frozen=True)
class Mpeg:
    """MPEG audio: offset of its first frame, and whether that gives the length."""

    start: int
    has_length: bool
    bytes: int | None = None  # length of the stream, if the first frame gives it


def mpeg_stream(file: BinaryIO, start: int) -> Mpeg | None:
    """The stream whose first frame is at `start`; None if there is none."""
    frame = pread(file, _MPEG_HEAD_BYTES, start)
    if len(frame) < 4 or frame[0] != 0xFF or frame[1] < 0xE0 or not frame[1] & 6:  # layer 0 is AAC
        return None
    for tag in (b"Xing", b"Info"):
        place = frame.find(tag)
        if 0 <= place < len(frame) - 16 and frame[place + 7] & 1:  # the number of frames follows
            size = (
                int.from_bytes(frame[place + 12 : place + 16], "big")
                if frame[place + 7] & 2
                else None
            )
            return Mpeg(start, True, size)
    return Mpeg(start, b"VBRI" in frame)


def mpeg_next(file: BinaryIO, low: int, end: int, reach: int = TAIL_BYTES) -> int | None:
    """The first offset from `low`, at most `reach` bytes further, at which consecutive frames of
    MPEG audio begin.

    A tag at `low` is skipped first.
    """
    low = id3_end(file, low)
    data = pread(file, max(0, min(reach, end - low)), low)
    for place in _SYNC.finditer(data):
        at = place.start()
        first = data[place.start() : place.start() + 4]
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
    """The length of the frame with this header; 0 if it is not a frame header, or of a free bit
    rate."""
    if len(head) < 4 or head[0] != 0xFF or head[1] < 0xE0:
        return 0
    version = head[1] >> 3 & 3
    layer = 4 - (head[1] >> 1 & 3)
    rate = head[2] >> 4
    hz = head[2] >> 2 & 3
    if version == 1 or layer == 4 or rate in (0, 15) or hz == 3:
        return 0
    lower = version != 3
    kbit = _RATES[(2, min(layer, 2)) if lower else (1, layer)][rate]
    sample_rate = (44_100, 48_000, 32_000)[hz] >> {3: 0, 2: 1, 0: 2}[version]
    padding = head[2] >> 1 & 1
    if layer == 1:
        return (12 * kbit * 1000 // sample_rate + padding) * 4
    return (72 if lower and layer == 3 else 144) * kbit * 1000 // sample_rate + padding
