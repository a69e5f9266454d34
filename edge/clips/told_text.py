"""A clip's bytes with no more about its place in its text than may leave now: it may have been
saved under other rules. The sound is not touched, and the length stays.

Knows where clips have their text (encode.py); no disk and no record.
"""

import re
import struct
from typing import BinaryIO

from edge.capture.tags import Text, texts_of
from edge.clips.guano import FREE_OF_PLACES, LOCATION
from edge.disclosure import Disclosure

_BEGIN = b"GUANO|Version: "
_COMMENT = b"comment="  # of FLAC and Ogg, after the length of the whole comment
_PAGE_HEAD = 27  # bytes of an Ogg page before its lengths
_POLYNOMIAL = 0x04C11DB7  # of Ogg's checksum


def told_clip(file: BinaryIO, disclosure: Disclosure) -> bytes:
    """The bytes of an open clip, its text as `disclosure` allows. Raises ValueError, with the
    reason, for a file with another text than a station writes, or whose text cannot be changed."""
    content = file.read()
    start, stop = _span(content)
    before = content[start:stop]
    if [text.data for text in texts_of(file) if not _is_encoder(text)] != [before]:
        raise ValueError("it has other texts than the station's own")
    after = _told(before.decode("utf8"), disclosure).encode()
    if len(after) > len(before):
        raise ValueError("its text has no room for the names that may leave")
    after = after.ljust(len(before), b"\n")
    if after == before:
        return content
    told = content[:start] + after + content[stop:]
    return _summed(told, start, stop) if told.startswith(b"OggS") else told


def _is_encoder(text: Text) -> bool:
    """True for the name that libsndfile writes into Ogg."""
    return text.field == "encoder" and text.data.startswith(b"libsndfile")


def _span(content: bytes) -> tuple[int, int]:
    """Where the text begins and ends. Raises ValueError."""
    start = content.find(_BEGIN)
    if content[max(0, start - 8) : start - 4] == b"guan":
        return start, start + int.from_bytes(content[start - 4 : start], "little")
    if start > 12 and content[start - len(_COMMENT) : start].lower() == _COMMENT:
        size = int.from_bytes(content[start - 12 : start - 8], "little") - len(_COMMENT)
        return start, start + size
    raise ValueError("it has no text of the station's")


def _told(text: str, disclosure: Disclosure) -> str:
    lines = []
    for line in text.rstrip("\n").split("\n"):
        key, _, value = line.partition(": ")
        if key == LOCATION:
            value = " ".join(_coarse(part, disclosure.clip_decimals) for part in value.split())
        elif key not in FREE_OF_PLACES:
            value = disclosure.name(value)
        lines.append(f"{key}: {value}\n")
    return "".join(lines)


def _coarse(degrees: str, decimals: int) -> str:
    """Degrees with at most so many decimals; never more than are there, which would pretend to
    know them. Raises ValueError."""
    given = len(degrees.partition(".")[2])
    if not re.fullmatch(r"-?\d{1,3}(\.\d+)?", degrees):
        raise ValueError(f"expected degrees for its place, found {degrees[:20]!r}")
    return degrees if given <= decimals else f"{float(degrees):.{decimals}f}"


def _summed(content: bytes, start: int, stop: int) -> bytes:
    """Ogg with the checksum of the page in which the text lies. Raises ValueError if it lies in
    several."""
    at = 0
    while at + _PAGE_HEAD < start:
        lengths = content[at + _PAGE_HEAD :][: content[at + 26]]
        end = at + _PAGE_HEAD + len(lengths) + sum(lengths)
        if stop <= end:
            page = content[at : at + 22] + bytes(4) + content[at + 26 : end]
            return content[:at] + page[:22] + _checksum(page) + page[26:] + content[end:]
        at = end
    raise ValueError("its text is in several pages")


def _checksum(page: bytes) -> bytes:
    """Ogg's checksum of a page whose own is 0."""
    total = 0
    for byte in page:
        total ^= byte << 24
        for _ in range(8):
            total = (total << 1) ^ (_POLYNOMIAL if total & 0x80000000 else 0)
        total &= 0xFFFFFFFF
    return struct.pack("<I", total)
