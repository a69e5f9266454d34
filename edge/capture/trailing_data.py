"""Data in a file beside its sound: tags, padding, text, pictures, and unknown bytes.

Reads bytes alone. Knows no container.
"""

from __future__ import annotations

import re
from typing import BinaryIO

from edge.capture.pulsed_file import pread

# This many zero bytes may be recorded silence; more of them, undeclared, are unused space.
ZEROS_MAX = 2**20
_PIECE_BYTES = 2**20
JUNK_MAX = 1_024  # unknown bytes that are not worth a warning
ID3_FOOTER = 0x10  # flag of an ID3v2 tag: its header is repeated at its end
_TEXT_BYTES = 512  # if all of them are printable, this is not sound
_MAGIC = (
    b"\xff\xd8\xff",
    b"\x89PNG",
    b"GIF8",
    b"%PDF",
    b"PK\x03\x04",
    b"\x1f\x8b\x08",
    b"7z\xbc\xaf",
    b"SQLite format 3\0",
)
_ID3 = re.compile(rb"ID3[\x02-\x04][\x00-\x7f]{6}")
_PRINTABLE = bytes([9, 10, 12, 13, *range(32, 127)])


def is_no_sound(file: BinaryIO, at: int) -> bool:
    """True if a text, a tag, a picture or another file that is not a recording begins here."""
    head = pread(file, _TEXT_BYTES, at)
    text = len(head) == _TEXT_BYTES and not head.translate(None, _PRINTABLE)
    return text or head.startswith(_MAGIC) or _ID3.match(head) is not None


def left_over(file: BinaryIO, at: int, stop: int) -> int:
    """Number of bytes behind the sound that are neither tags nor padding; 0 if they are too few to
    tell."""
    stop = tags_begin(file, at, max(at, stop))
    at = min(stop, id3_end(file, at))
    return 0 if stop - at <= JUNK_MAX or only_zeros(file, at, stop) else stop - at


def only_zeros(file: BinaryIO, at: int, stop: int) -> bool:
    """True if there is nothing but zero bytes, of any length: space that was allocated and never
    written."""
    while at < stop:
        piece = pread(file, min(_PIECE_BYTES, stop - at), at)
        if piece.count(0) < len(piece):
            return False
        if not piece:
            break
        at += len(piece)
    return True


def without_room(file: BinaryIO, low: int, stop: int) -> int:
    """The end of undeclared data: before the zeros that precede `stop`, if they are longer than a
    silence could be."""
    at = stop
    while at > low:
        begin = max(low, at - _PIECE_BYTES)
        written = len(pread(file, at - begin, begin).rstrip(b"\0"))
        at = begin + written
        if written:
            break
    return at if stop - at > ZEROS_MAX else stop


def tags_begin(file: BinaryIO, low: int, end: int) -> int:
    """Offset of the tags at the end of a file (ID3v1, APE, Lyrics3, ID3v2); `end` if there are
    none."""
    for _ in range(8):
        tail = pread(file, min(128, end - low), end - min(128, end - low))
        size = 0
        if len(tail) == 128 and tail[:3] == b"TAG":
            size = 128
        elif tail[-32:-24] == b"APETAGEX":
            flags = int.from_bytes(tail[-12:-8], "little")
            size = int.from_bytes(tail[-20:-16], "little") + (32 if flags >> 31 else 0)
        elif tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
            size = 15 + int(tail[-15:-9])
        elif tail[-10:-7] == b"3DI":
            size = id3_bytes(tail[-10:])
        if not 0 < size <= end - low:
            return end
        end -= size
    return end


def id3_bytes(head: bytes) -> int:
    """The length of an ID3v2 tag, from its header or footer."""
    size = 0
    for byte in head[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size + (10 if head[5] & ID3_FOOTER else 0)


def id3_end(file: BinaryIO, at: int) -> int:
    """The end of the ID3v2 tags that begin at `at`; there may be several in a row."""
    for _ in range(8):
        head = pread(file, 10, at)
        if len(head) < 10 or head[:3] != b"ID3":
            break
        end = at + id3_bytes(head)
        if head[5] & ID3_FOOTER and pread(file, 3, end - 10) != b"3DI":
            end -= 10  # the declared footer is missing
        at = end
    return at
