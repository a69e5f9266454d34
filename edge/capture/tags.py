"""Texts in a sound file, wherever its container keeps them: chunks, comments, ID3 frames.

Knows containers, and nothing of what recorders write into them (start_time.py). Reading stops at
damage.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from edge.capture.container_layout import chunks
from edge.capture.pulsed_file import size_of

TEXT_BYTES_MAX = 65_536  # longer texts are cut
_BLOCK_BYTES_MAX = 2**20  # read of an ID3 tag, or of a block or packet of comments
_ITEMS_MAX = 1_000  # read in a list, tag, block or file
_ID3_MAX = 8  # tags in front of a file: there may be several in a row

_AIFF_TEXTS = (b"ANNO", b"NAME", b"AUTH", b"(c) ")


class Text(NamedTuple):
    """A text; `field` is the lower-case name of the chunk, comment or frame, or the description of
    an ID3 frame TXXX."""

    field: str
    data: bytes  # a chunk's raw bytes, all others as UTF-8


def texts_of(file: BinaryIO) -> Iterator[Text]:
    """The texts of a file in its order: RIFF, RF64, AIFF, CAF, AU, FLAC, Ogg, and ID3v2 tags in
    front of any of them or of MPEG. Raises only OSError."""
    start = 0
    for _ in range(_ID3_MAX):
        file.seek(start)
        size = _id3_size(file.read(10))
        if not size:
            break
        file.seek(start)
        yield from _id3_texts(file.read(min(size, _BLOCK_BYTES_MAX)))
        start += size
    file.seek(start)
    magic = file.read(4)
    if magic == b"fLaC":
        yield from _flac_texts(file)
    elif magic == b"OggS":
        yield from _ogg_texts(file, start)
    elif magic == b"caff":
        yield from _caf_texts(file, start + 8)
    elif magic == b".snd":
        size = int.from_bytes(file.read(4), "big") - 24
        file.seek(start + 24)
        yield Text("annotation", file.read(min(max(size, 0), TEXT_BYTES_MAX)))
    elif magic in (b"RIFF", b"RF64", b"BW64", b"FORM"):
        for chunk in chunks(file, magic, start, size_of(file)):
            if chunk.id not in (b"data", b"SSND"):
                file.seek(chunk.offset)
                yield from _chunk_texts(
                    chunk.id, file.read(max(0, min(chunk.size, TEXT_BYTES_MAX)))
                )


# RIFF and its relatives


def _chunk_texts(name: bytes, data: bytes) -> Iterator[Text]:
    if name in (b"guan", b"bext", b"wamd"):
        yield Text(name.decode(), data)
        if name == b"bext":  # begins with a description, into which converters put comments
            yield Text("description", data[:256])
    elif name == b"LIST" and data[:4] == b"INFO":
        yield from _info_texts(data)
    elif name in _AIFF_TEXTS:
        yield Text(name.decode().lower(), data)
    elif name == b"COMT":
        yield from _aiff_comments(data)
    elif name in (b"id3 ", b"ID3 "):
        yield from _id3_texts(data)


def _info_texts(info: bytes) -> Iterator[Text]:
    """The fields of a LIST chunk of type INFO, such as ICMT."""
    at = 4
    for _ in range(_ITEMS_MAX):
        if at + 8 > len(info):
            return
        size = int.from_bytes(info[at + 4 : at + 8], "little")
        yield Text(info[at : at + 4].decode("latin-1").lower(), info[at + 8 : at + 8 + size])
        at += 8 + size + size % 2


def _aiff_comments(data: bytes) -> Iterator[Text]:
    """The comments of a COMT chunk: a count, then time, marker, length and text of each."""
    at = 2
    for _ in range(min(int.from_bytes(data[:2], "big"), _ITEMS_MAX)):
        size = int.from_bytes(data[at + 6 : at + 8], "big")
        yield Text("comt", data[at + 8 : at + 8 + size])
        at += 8 + size + size % 2


def _caf_texts(file: BinaryIO, at: int) -> Iterator[Text]:
    """The texts of the chunk `info`: a count, then keys and values that each end with a zero
    byte."""
    end = file.seek(0, os.SEEK_END)
    for _ in range(_ITEMS_MAX):
        file.seek(at)
        head = file.read(12)
        size = int.from_bytes(head[4:], "big", signed=True)
        if len(head) < 12 or size < 0:
            return
        if head[:4] == b"info":
            strings = file.read(min(size, _BLOCK_BYTES_MAX))[4:].split(b"\0", 2 * _ITEMS_MAX)
            for key, value in zip(strings[::2], strings[1::2], strict=False):
                yield _named(key, value)
        at += 12 + size
        if at >= end:
            return


# FLAC and Ogg


def _flac_texts(file: BinaryIO) -> Iterator[Text]:
    """Vorbis comments, and the chunks of a WAV or AIFF file kept by `flac
    --keep-foreign-metadata`."""
    at = file.tell()
    for _ in range(_ITEMS_MAX):
        file.seek(at)
        head = file.read(4)
        if len(head) < 4:
            return
        kind = head[0] & 0x7F
        size = int.from_bytes(head[1:], "big")
        if kind == 4:
            yield from _vorbis_comments(file.read(min(size, _BLOCK_BYTES_MAX)))
        elif kind == 2:
            block = file.read(min(size, TEXT_BYTES_MAX + 12))
            if block[:4] in (b"riff", b"aiff"):
                said = int.from_bytes(block[8:12], "little" if block[:4] == b"riff" else "big")
                yield from _chunk_texts(block[4:8], block[12 : 12 + said])
        at += 4 + size
        if head[0] & 0x80 or kind == 127:
            return


def _ogg_texts(file: BinaryIO, start: int) -> Iterator[Text]:
    for head, packet in _second_packets(file, start):
        if packet[:7] == b"\x03vorbis":
            yield from _vorbis_comments(packet[7:])
        elif packet[:8] == b"OpusTags":
            yield from _vorbis_comments(packet[8:])
        elif head[:5] == b"\x7fFLAC" and packet[:1] in (b"\x04", b"\x84"):
            yield from _vorbis_comments(packet[4:])


def _second_packets(file: BinaryIO, at: int) -> Iterator[tuple[bytes, bytes]]:
    """The first and the second packet of each stream that begins at the start of an Ogg file.

    Pages of several streams may alternate; a packet may span many pages.
    """
    heads: dict[int, bytes] = {}
    packets: dict[int, bytearray] = {}  # not yet complete
    left = _BLOCK_BYTES_MAX
    while left > 0:
        file.seek(at)
        page = file.read(27)
        if len(page) < 27 or page[:4] != b"OggS":
            return
        lacing = file.read(page[26])
        stream = int.from_bytes(page[14:18], "little")
        if page[5] & 2:  # its first page
            packets.setdefault(stream, bytearray())
        body = io.BytesIO(file.read(sum(lacing)))
        for size in lacing:
            if stream not in packets:
                break
            packets[stream] += body.read(size)
            if size < 255 and stream in heads:
                yield heads[stream], bytes(packets.pop(stream))
            elif size < 255:
                heads[stream] = bytes(packets[stream])
                packets[stream] = bytearray()
        if not packets:
            return
        at += 27 + len(lacing) + sum(lacing)
        left -= 27 + len(lacing) + sum(lacing)


def _vorbis_comments(block: bytes) -> Iterator[Text]:
    """The comments of a block: the encoder's name, a count, then `KEY=value` with its length
    each."""
    at = 4 + int.from_bytes(block[:4], "little")
    count = int.from_bytes(block[at : at + 4], "little")
    at += 4
    for _ in range(min(count, _ITEMS_MAX)):
        if at + 4 > len(block):
            return
        size = int.from_bytes(block[at : at + 4], "little")
        key, _, value = block[at + 4 : at + 4 + size].partition(b"=")
        yield _named(key, value)
        at += 4 + size


def _named(key: bytes, value: bytes) -> Text:
    return Text(key[:100].decode("latin-1").lower(), value[:TEXT_BYTES_MAX])


# ID3


def _id3_size(head: bytes) -> int:
    """Length of the whole tag, with its header of 10 bytes; 0 if none begins here."""
    if len(head) < 10 or head[:3] != b"ID3":
        return 0
    return 10 + _without_sync(head[6:10]) + (10 if head[5] & 0x10 else 0)  # 0x10: a footer follows


def _without_sync(data: bytes) -> int:
    """A number stored with seven bits per byte, so that no player takes it for a frame of sound."""
    size = 0
    for byte in data:
        size = size << 7 | byte & 0x7F
    return size


def _id3_texts(tag: bytes) -> Iterator[Text]:
    """The text frames and comments of an ID3 tag 2.2, 2.3 or 2.4."""
    size = _id3_size(tag[:10])
    if not size or tag[3] not in (2, 3, 4):
        return
    version = tag[3]
    flags = tag[5]
    body = tag[10 : min(size, _BLOCK_BYTES_MAX)]
    if flags & 0x80 and version < 4:  # 2.4 sets this flag for each frame
        body = body.replace(b"\xff\0", b"\xff")
    at = 0
    if flags & 0x40 and version == 3:  # an extended header
        at = 4 + int.from_bytes(body[:4], "big")
    elif flags & 0x40 and version == 4:
        at = _without_sync(body[:4])
    name_bytes, head_bytes = (3, 6) if version == 2 else (4, 10)
    for _ in range(_ITEMS_MAX):
        head = body[at : at + head_bytes]
        if len(head) < head_bytes or not head[0]:
            return
        numbers = head[name_bytes : 2 * name_bytes]
        plain = version < 4 or max(numbers) > 0x7F  # some write plain sizes into 2.4
        size = int.from_bytes(numbers, "big") if plain else _without_sync(numbers)
        frame = body[at + head_bytes : at + head_bytes + min(size, TEXT_BYTES_MAX)]
        content = _frame_content(frame, head[-1] if version > 2 else 0, version)
        if content:
            yield from _frame_texts(head[:name_bytes], content)
        at += head_bytes + size


def _frame_content(frame: bytes, flags: int, version: int) -> bytes:
    """The content of a frame without the fields that flags add; empty if it is compressed or
    encrypted."""
    if version < 4:
        return b"" if flags & 0xC0 else frame[1:] if flags & 0x20 else frame
    if flags & 0x0C:
        return b""
    frame = frame[(1 if flags & 0x40 else 0) + (4 if flags & 1 else 0) :]
    return frame.replace(b"\xff\0", b"\xff") if flags & 2 else frame


def _frame_texts(name: bytes, content: bytes) -> Iterator[Text]:
    encoding = ("latin-1", "utf-16", "utf-16-be", "utf-8")[min(content[0], 3)]
    comment = name in (b"COM", b"COMM")
    if not comment and name[:1] != b"T":
        return
    # a comment begins with its language
    text = content[4 if comment else 1 :].decode(encoding, "replace").lstrip("\ufeff")
    field = name.decode("latin-1").lower()
    if comment or name in (b"TXX", b"TXXX"):
        description, _, text = text.partition("\0")
        field = field if comment else description.lower()
    yield Text(field, text.lstrip("\ufeff").encode("utf-8", "replace")[:TEXT_BYTES_MAX])
