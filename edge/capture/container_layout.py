"""Position of the sound in files that hold plain samples: RIFF/WAV, RF64, W64, AIFF, CAF and AU.

No declared length is trusted. What follows the declared end is known chunks, tags or padding,
another file, data that is clearly not sound, or sound; `Layout.mended` gives a header with which
libsndfile reads exactly the sound. Knows no codec; streams.py has FLAC, Ogg and MPEG.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from edge.capture.header_view import ByteExtent
from edge.capture.pulsed_file import pread
from edge.capture.trailing_data import is_no_sound, only_zeros, tags_begin, without_room

CHUNKS_MAX = 1_000  # read in one file
SIZE_UNKNOWN = 2**48  # sizes from here on are placeholders

_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_W64_MAGIC = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")
# Beginnings of a recording, also behind other data.
BEGINNINGS = re.compile(
    rb"RIFF....WAVE|RIFX....WAVE|RF64....WAVE|BW64....WAVE|FORM....AIF[FC]|caff\x00\x01\x00\x00"
    rb"|[.]snd\x00\x00..|dns[.]..\x00\x00|fLaC[\x00\x80]\x00\x00\x22|OggS\x00[\x02\x06]|"
    + re.escape(_W64_MAGIC),
    re.DOTALL,
)
# Stricter patterns by the first four bytes, to be found quickly within sound.
BEGINNING = {
    kind: re.compile(pattern, re.DOTALL)
    for kind, pattern in {
        b"RIFF": rb"RIFF....WAVEfmt |RIFF....WAVE(?:JUNK|bext|LIST)",
        b"RF64": rb"RF64....WAVEds64",
        b"BW64": rb"BW64....WAVEds64",
        b"RIFX": rb"RIFX....WAVEfmt ",
        b"FORM": rb"FORM....AIF[FC]",
        b"caff": rb"caff\x00\x01\x00\x00desc",
        b"riff": re.escape(_W64_MAGIC),
        b".snd": rb"[.]snd\x00\x00[\x00\x01].{5}\x00\x00\x00",
        b"dns.": rb"dns[.].[\x00\x01]\x00\x00.{5}\x00\x00\x00",
    }.items()
}
# Known chunks: those without sound, and the two with it.
_KNOWN = {
    name.ljust(4)
    for name in (
        b"LIST list guan bext iXML id3 ID3 cue smpl fact JUNK junk PAD FLLR axml chna wamd inst "
        b"plst _PMX umid PEAK "
        b"LGWV cart DISP levl acid minf elm1 ds64 INFO note labl ltxt bwfx summ IDIT ISFT ANNO "
        b"NAME AUTH (c) MARK COMT "
        b"INST APPL MIDI AESD CHAN COMM strg info free mark regn uuid pakt chan kuki edct ovvw "
        b"midi peak data SSND"
    ).split()
}
_AU_BYTES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}  # bytes per sample by encoding
_AIFC_PLAIN = (
    b"NONE",
    b"sowt",
    b"twos",
    b"in24",
    b"in32",
    b"fl32",
    b"FL32",
    b"fl64",
    b"FL64",
    b"raw ",
)


class ContainerChunk(NamedTuple):
    """A chunk; `size` is the declared size in bytes."""

    id: bytes
    offset: int  # of its content in the file
    size: int


class _Style(NamedTuple):
    """Chunk format of a family of containers."""

    head: int  # bytes before the first chunk
    id_bytes: int
    size: str  # struct format of the chunk size
    counted: int  # bytes of the chunk's own header that its size includes
    align: int

    @property
    def header(self) -> int:
        return self.id_bytes + struct.calcsize(self.size)

    @property
    def size_max(self) -> int:
        return int(2 ** (8 * struct.calcsize(self.size)))


_RIFF = _Style(12, 4, "<I", 0, 2)
_STYLES = {
    b"RIFF": _RIFF,
    b"RF64": _RIFF,
    b"BW64": _RIFF,
    b"RIFX": _Style(12, 4, ">I", 0, 2),
    b"FORM": _Style(12, 4, ">I", 0, 2),
    # CAF does not align chunks, but libsndfile does when it writes ALAC
    b"caff": _Style(8, 4, ">q", 0, 2),
    b"riff": _Style(40, 16, "<Q", 24, 8),
}


@dataclass(frozen=True)
class Layout:
    """Position of the sound in one container, and the lengths that its header declares."""

    kind: bytes  # its first four bytes
    start: int  # offset in the file; other data may precede it
    end: int  # offset of its end; another container may follow
    data_at: int  # offset of its sound
    said: int | None  # declared bytes of sound; None: not known to the header
    extents: tuple[ByteExtent, ...]  # sound that is present
    # header and content agree, and nothing else is in the file: libsndfile needs no help
    whole: bool
    # bytes of one sample of all channels, or of an indivisible block; 1 if unknown
    frame_bytes: int = 1
    # Length fields: (offset in the header, struct format, added to the bytes of sound, divisor).
    sizes: tuple[tuple[int, str, int, int], ...] = ()

    @property
    def present(self) -> int:
        return sum(extent.bytes for extent in self.extents)

    def mended(self, head: bytes) -> tuple[bytes, tuple[ByteExtent, ...]]:
        """A corrected header, and the extents of the sound that belongs to it.

        `head` is the file from `start` to `data_at`; the result has the true lengths in it.
        """
        total = self.present // self.frame_bytes * self.frame_bytes
        fixed = bytearray(head)
        for at, form, added, divided in self.sizes:
            most = 2 ** (8 * struct.calcsize(form) - (form[1] in "q")) - 1
            struct.pack_into(form, fixed, at, min((total + added) // divided, most))
        if self.kind == b"BW64":
            fixed[:4] = b"RF64"  # the same format by a name that libsndfile knows
        if self.kind == b"RIFF" and total + len(head) >= 2**32:  # its lengths have 32 bits
            ds64 = struct.pack("<4sIQQQI", b"ds64", 28, total + len(head) + 28, total, 0, 0)
            fixed[:12] = b"RF64" + b"\xff" * 4 + b"WAVE"
            fixed[12:12] = ds64
            fixed[-4:] = b"\xff" * 4
        return bytes(fixed), self.extents


def plain_layout(file: BinaryIO, start: int, end: int) -> Layout | None:
    """The layout of the container at `start`; None if it is none of these, or has no sound."""
    kind = pread(file, 4, start)
    if kind in (b".snd", b"dns."):
        return _au(file, kind, start, end)
    style = _STYLES.get(kind)
    if style is None:
        return None
    fields = _Fields(kind, style, start)
    head = pread(file, 24, start)
    if style.size in ("<I", ">I"):
        fields.outer = struct.unpack_from(style.size, head.ljust(8), 4)[0] + 8
    elif kind == b"riff":
        fields.outer = int.from_bytes(head[16:24], "little")
    for chunk in chunks(file, kind, start, end):
        if fields.take(file, chunk):
            return _laid_out(file, fields, end)
    return None


def chunks(file: BinaryIO, kind: bytes, start: int, end: int) -> Iterator[ContainerChunk]:
    """The chunks of the container at `start`, in order.

    Only chunk headers are read. The walk ends where they lead out of the file or to something that
    is not a chunk. A missing padding byte is tolerated.
    """
    style = _STYLES[kind]
    at = start + style.head
    padded = False
    wide_size = 2**32 - 1  # bytes of sound in an RF64 file, from ds64
    for _ in range(CHUNKS_MAX):
        chunk = _chunk(file, style, at)
        if chunk is None and padded:
            at -= 1
            chunk = _chunk(file, style, at)
        if chunk is None:
            return
        if chunk.id == b"ds64":
            wide_size = int.from_bytes(pread(file, 8, chunk.offset + 8), "little")
        elif chunk.id == b"data" and kind in (b"RF64", b"BW64") and chunk.size == 2**32 - 1:
            chunk = chunk._replace(size=wide_size)
        yield chunk
        at = _next(style, start, chunk)
        padded = style.align == 2 and chunk.size % 2 == 1
        if at >= end or chunk.size < 0:
            return


def _chunk(file: BinaryIO, style: _Style, at: int) -> ContainerChunk | None:
    data = pread(file, style.header, at)
    if len(data) < style.header or not all(32 <= byte < 127 for byte in data[:4]):
        return None
    if style.id_bytes == 16 and data[4:16] != _W64_TAIL and data[:4] not in _KNOWN:
        return None
    size = struct.unpack(style.size, data[style.id_bytes :])[0] - style.counted
    return ContainerChunk(data[:4], at + style.header, size)


def _next(style: _Style, start: int, chunk: ContainerChunk) -> int:
    after = chunk.offset + max(0, chunk.size) - start
    return start + after + -after % style.align


@dataclass
class _Fields:
    """Fields of the chunks before the sound."""

    kind: bytes
    style: _Style
    start: int
    frame_bytes: int = 1
    ds64: int = -1  # offset from `start` of an RF64 file's lengths
    frames: int = -1  # offset from `start` of an AIFF file's sample count
    second_bytes: int = 0  # bytes per second; 0 if unknown
    outer: int = -1  # declared length of the whole file; -1 if not given
    sound: ContainerChunk | None = None
    lead: int = 0  # bytes in the sound's chunk before its first sample

    def take(self, file: BinaryIO, chunk: ContainerChunk) -> bool:
        """Read a chunk's fields; True if it is the sound."""
        body = pread(file, 64, chunk.offset)
        if chunk.id == b"ds64" and len(body) >= 24:
            self.ds64 = chunk.offset - self.start
            self.outer = int.from_bytes(body[:8], "little") + 8
        elif chunk.id == b"fmt " and len(body) >= 16:
            order = self.style.size[0]
            self.frame_bytes = struct.unpack_from(order + "H", body, 12)[0] or 1
            self.second_bytes = struct.unpack_from(order + "I", body, 8)[0]
        elif chunk.id == b"COMM" and len(body) >= 18:
            channels, _, bits = struct.unpack_from(">HIH", body)
            if chunk.size < 22 or body[18:22] in _AIFC_PLAIN:
                self.frame_bytes = channels * ((bits + 7) // 8) or 1
                self.frames = chunk.offset + 2 - self.start
                # the sample rate is an 80-bit float
                exponent, mantissa = struct.unpack_from(">HQ", body, 8)
                self.second_bytes = self.frame_bytes * (mantissa >> max(0, 16_446 - exponent))
        elif chunk.id == b"desc" and len(body) >= 32:
            rate_hz, _, _, packet_bytes, packet_frames = struct.unpack_from(">d4sIII", body)
            self.frame_bytes = packet_bytes or 1
            if 0 < rate_hz < 1e9 and packet_frames == 1:
                self.second_bytes = round(rate_hz * packet_bytes)
        elif chunk.id == b"data":
            self.sound = chunk
            self.lead = 4 if self.kind == b"caff" else 0
        elif chunk.id == b"SSND" and len(body) >= 8:
            self.sound = chunk
            self.lead = 8 + struct.unpack_from(">I", body)[0]
        return self.sound is not None

    def sizes(self) -> tuple[tuple[int, str, int, int], ...]:
        """The header's length fields, as in `Layout.sizes`."""
        assert self.sound is not None
        body = self.sound.offset - self.start
        style = self.style
        data_at = body + self.lead
        own = (body - struct.calcsize(style.size), style.size, self.lead + style.counted, 1)
        if self.kind == b"caff":
            return (own,)
        if self.kind == b"riff":
            return own, (16, "<Q", data_at, 1)
        if self.ds64 >= 0:
            wide = ((self.ds64, "<Q", data_at - 8, 1), (self.ds64 + 8, "<Q", 0, 1))
            return (
                (own[0], "<I", 2**32, 1),
                (4, "<I", 2**32, 1),
                *wide,
                (self.ds64 + 16, "<Q", 0, self.frame_bytes),
            )
        frames = ((self.frames, ">I", 0, self.frame_bytes),) if self.frames >= 0 else ()
        return own, (4, style.size, data_at - 8, 1), *frames


def _laid_out(file: BinaryIO, fields: _Fields, end: int) -> Layout:
    chunk = fields.sound
    style = fields.style
    assert chunk is not None
    data_at = min(chunk.offset + fields.lead, end)
    said = known_size(chunk.size - fields.lead)
    wrap = style.size_max if style.size in ("<I", ">I") and fields.ds64 < 0 else 0
    extents, stop = _sound(file, fields, data_at, said, wrap, end)
    whole = (
        fields.start == 0
        and extents == (ByteExtent(data_at, said or 0),)
        and stop >= end
        and fields.kind != b"BW64"
    )
    if (fields.kind == b"riff" or said is None) and data_at + (said or 0) != end:
        whole = False  # libsndfile would take what follows for sound
    return Layout(
        fields.kind,
        fields.start,
        stop,
        data_at,
        said,
        extents,
        whole,
        fields.frame_bytes,
        fields.sizes(),
    )


def _au(file: BinaryIO, kind: bytes, start: int, end: int) -> Layout | None:
    head = pread(file, 24, start)
    if len(head) < 24:
        return None
    order = ">" if kind == b".snd" else "<"
    offset, size, encoding, rate_hz, channels = struct.unpack(order + "5I", head[4:])
    data_at = start + offset
    if not 24 <= offset <= 65_536 or data_at > end:
        return None
    fields = _Fields(
        kind, _Style(24, 4, order + "I", 0, 1), start, _AU_BYTES.get(encoding, 0) * channels or 1
    )
    fields.second_bytes = rate_hz * channels * _AU_BYTES.get(encoding, 0)
    said = known_size(size)
    extents, stop = _sound(file, fields, data_at, said, 2**32, end)
    whole = start == 0 and extents == (ByteExtent(data_at, said or 0),) and stop >= end
    whole = whole and (said is not None or data_at == end)
    return Layout(
        kind,
        start,
        stop,
        data_at,
        said,
        extents,
        whole,
        fields.frame_bytes,
        ((8, order + "I", 0, 1),),
    )


def known_size(size: int) -> int | None:
    """The size, or None for placeholders that recorders write before they know it: 0, -1, the
    largest number, the largest positive number, or slightly less."""
    if (
        size <= 0
        or size >= SIZE_UNKNOWN
        or 2**31 - 2**16 <= size <= 2**31 + 2**16
        or 2**32 - 2**16 <= size < 2**32
    ):
        return None
    return size


def _sound(
    file: BinaryIO, fields: _Fields, data_at: int, said: int | None, wrap: int, end: int
) -> tuple[tuple[ByteExtent, ...], int]:
    """The extents of the sound, and the end of the container."""
    if said is not None and data_at + said > end:
        return (ByteExtent(data_at, end - data_at),), end  # truncated
    guess = data_at + (said or 0)
    while guess <= end:
        # if the length may have wrapped, zeros may be sound that it does not count
        counted = said is not None and not 0 < wrap <= end - guess
        rest = _behind(file, fields, guess, end, zeros=counted)
        if rest is not None:
            own = ByteExtent(data_at, guess - data_at)
            return tuple(extent for extent in (own, *rest[0]) if extent.bytes), rest[1]
        if said is not None and _over(file, fields, guess, end):
            return (ByteExtent(data_at, guess - data_at),), guess
        if not wrap:
            break
        guess += wrap  # the 32-bit length may have wrapped
    stop = tags_begin(file, data_at, end)
    sound = without_room(file, data_at + (said or 0), stop) - data_at
    sound += -sound % fields.frame_bytes
    return (ByteExtent(data_at, min(sound, stop - data_at)),), end


def _over(file: BinaryIO, fields: _Fields, at: int, end: int) -> bool:
    """True if the sound ends where its header says although something unknown follows.

    That is so if a text or a picture follows, or if, before the file ends or another recording
    begins, less than a second follows and neither length in the header includes it.
    """
    align = fields.style.align
    agreed = fields.outer < 0 or 0 <= fields.outer - (at - fields.start) < align
    padded = at + -(at - fields.start) % align
    if any(is_no_sound(file, place) for place in {at, padded}):
        return True
    soon = at + fields.second_bytes
    return agreed and (end < soon or find_beginning(file, at, min(end, soon)) is not None)


def _behind(
    file: BinaryIO, fields: _Fields, at: int, end: int, zeros: bool
) -> tuple[tuple[ByteExtent, ...], int] | None:
    """Further extents of sound among the chunks behind the sound, and the end of the container.

    None if something other than chunks follows, which then is sound.
    """
    style = fields.style
    extents: list[ByteExtent] = []
    stop = tags_begin(file, at, end)
    if fields.kind in (b".snd", b"dns."):
        seen = at >= stop or begins(file, at) or (zeros and only_zeros(file, at, stop))
        return ((), at if at < stop and begins(file, at) else end) if seen else None
    seen = False
    padded = at + -(at - fields.start) % style.align
    for _ in range(CHUNKS_MAX):
        for place in sorted({at, padded}, reverse=True):  # a missing padding byte is tolerated
            if place >= stop:
                return tuple(extents), end
            if begins(file, place):
                return tuple(extents), place
            chunk = _chunk(file, style, place)
            if chunk is not None and _plausible(file, fields, chunk, stop):
                break
        else:
            if zeros and only_zeros(file, at, stop):
                return tuple(extents), end
            return (tuple(extents), at) if seen else None
        if chunk.id in (b"data", b"SSND"):
            lead = {b"caff": 4, b"FORM": 8}.get(fields.kind, 0)
            extents.append(
                ByteExtent(chunk.offset + lead, max(0, min(chunk.size, stop - chunk.offset) - lead))
            )
        seen = True
        at = chunk.offset + max(0, chunk.size)
        padded = _next(style, fields.start, chunk)
    return tuple(extents), at


def _plausible(file: BinaryIO, fields: _Fields, chunk: ContainerChunk, stop: int) -> bool:
    """True if these bytes are a chunk rather than sound."""
    if chunk.id in _KNOWN:
        return True
    after = _next(fields.style, fields.start, chunk)
    if chunk.size <= 0 or after > stop + 1:
        return False
    return (
        after >= stop
        or _chunk(file, fields.style, after) is not None
        or begins(file, after)
        or only_zeros(file, after, stop)
    )


def begins(file: BinaryIO, at: int) -> bool:
    """True if a recording begins at this offset."""
    return BEGINNINGS.match(pread(file, 16, at)) is not None


def find_beginning(file: BinaryIO, low: int, end: int) -> int | None:
    """The first offset from `low` on at which a recording begins."""
    overlap = 16
    while low < end:
        data = pread(file, 2**20, low)
        match = BEGINNINGS.search(data[: end - low])
        if match:
            return low + match.start()
        if len(data) < 2**20:
            return None
        low += len(data) - overlap
    return None
