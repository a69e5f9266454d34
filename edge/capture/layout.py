"""Where the sound lies in files that hold plain samples: RIFF/WAV, RF64, W64, AIFF, CAF and AU.

No declared length is trusted. What follows the declared end is known chunks, tags or padding,
another file, what clearly is no sound, or sound; `Layout.mended` is a header with which libsndfile
reads just the sound. Knows no codec; streams.py has FLAC, Ogg and MPEG.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from edge.capture.leftover import is_no_sound, only_zeros, tags_begin, without_room
from edge.capture.opened import pread
from edge.capture.view import ByteExtent

CHUNKS_MAX = 1_000  # looked at in one file
SIZE_UNKNOWN = 2**48  # nobody has such a file: the writer did not know

_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_W64_MAGIC = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")
# Where a recording can begin, also behind something else.
BEGINNINGS = re.compile(
    rb"RIFF....WAVE|RIFX....WAVE|RF64....WAVE|BW64....WAVE|FORM....AIF[FC]|caff\x00\x01\x00\x00"
    rb"|[.]snd\x00\x00..|dns[.]..\x00\x00|fLaC[\x00\x80]\x00\x00\x22|OggS\x00[\x02\x06]|"
    + re.escape(_W64_MAGIC),
    re.DOTALL,
)
# The same by the first four bytes, to be found quickly in sound.
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
_KNOWN = {  # chunks that are no sound, and the two that are
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
_AU_BYTES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}  # of a sample, by encoding
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
    """`size` is what the file claims, in bytes."""

    id: bytes
    offset: int  # of its content
    size: int


class _Style(NamedTuple):
    """How a family of containers writes its chunks."""

    head: int  # bytes before the first chunk
    id_bytes: int
    size: str  # its struct
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
    b"caff": _Style(
        8, 4, ">q", 0, 2
    ),  # not aligned by rights; libsndfile does so where it writes ALAC
    b"riff": _Style(40, 16, "<Q", 24, 8),
}


@dataclass(frozen=True)
class Layout:
    """Where the sound of one container lies, and what its header says."""

    kind: bytes  # its first four bytes
    start: int  # in the file: something may stand before it
    end: int  # where it ends: another may follow
    data_at: int  # where its sound begins
    said: int | None  # bytes of sound as the header says; None: the header does not know
    extents: tuple[ByteExtent, ...]  # bytes of sound that are there
    whole: (
        bool  # header and content agree, and nothing else is in the file: libsndfile needs no help
    )
    frame_bytes: int = (
        1  # of a sample of all channels, or of an indivisible block; 1 where it is not known
    )
    # What says a length: (offset in the header, struct, added to the bytes of sound, divided by).
    sizes: tuple[tuple[int, str, int, int], ...] = ()

    @property
    def present(self) -> int:
        return sum(extent.bytes for extent in self.extents)

    def mended(self, head: bytes) -> tuple[bytes, tuple[ByteExtent, ...]]:
        """`head`, the file from `start` to `data_at`, with the true lengths, and the sound that
        belongs to it."""
        total = self.present // self.frame_bytes * self.frame_bytes
        fixed = bytearray(head)
        for at, form, added, divided in self.sizes:
            most = 2 ** (8 * struct.calcsize(form) - (form[1] in "q")) - 1
            struct.pack_into(form, fixed, at, min((total + added) // divided, most))
        if self.kind == b"BW64":
            fixed[:4] = b"RF64"  # the same but for its name, which libsndfile does not know
        if self.kind == b"RIFF" and total + len(head) >= 2**32:  # its lengths have 32 bits
            ds64 = struct.pack("<4sIQQQI", b"ds64", 28, total + len(head) + 28, total, 0, 0)
            fixed[:12] = b"RF64" + b"\xff" * 4 + b"WAVE"
            fixed[12:12] = ds64
            fixed[-4:] = b"\xff" * 4
        return bytes(fixed), self.extents


def plain_layout(file: BinaryIO, start: int, end: int) -> Layout | None:
    """The layout of the container that begins at `start`; None if it is none of these, or has no
    sound."""
    kind = pread(file, 4, start)
    if kind in (b".snd", b"dns."):
        return _au(file, kind, start, end)
    style = _STYLES.get(kind)
    if style is None:
        return None
    found = _Fields(kind, style, start)
    head = pread(file, 24, start)
    if style.size in ("<I", ">I"):
        found.outer = struct.unpack_from(style.size, head.ljust(8), 4)[0] + 8
    elif kind == b"riff":
        found.outer = int.from_bytes(head[16:24], "little")
    for chunk in chunks(file, kind, start, end):
        if found.take(file, chunk):
            return _laid_out(file, found, end)
    return None


def chunks(file: BinaryIO, kind: bytes, start: int, end: int) -> Iterator[ContainerChunk]:
    """The chunks of the container at `start`, in order. Only headers are read; the walk ends where
    they lead out of the file or to what is no chunk. A missing padding byte is forgiven."""
    style = _STYLES[kind]
    at = start + style.head
    padded = False
    wide_size = 2**32 - 1  # of an RF64 file's sound, as ds64 has it
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
    """What the chunks before the sound say."""

    kind: bytes
    style: _Style
    start: int
    frame_bytes: int = 1
    ds64: int = -1  # where an RF64 file has its lengths, from the start
    frames: int = -1  # where an AIFF file says how many samples it has
    second_bytes: int = 0  # of a second; 0 where it is not known
    outer: int = -1  # how long the file is by its own account; -1 where it gives none
    sound: ContainerChunk | None = None
    lead: int = 0  # bytes of the sound's chunk before the sound

    def take(self, file: BinaryIO, chunk: ContainerChunk) -> bool:
        """Whether this chunk is the sound."""
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
                exponent, mantissa = struct.unpack_from(
                    ">HQ", body, 8
                )  # of the rate, a number of 80 bits
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
            self.sound, self.lead = chunk, 8 + struct.unpack_from(">I", body)[0]
        return self.sound is not None

    def sizes(self) -> tuple[tuple[int, str, int, int], ...]:
        """The fields that say a length."""
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


def _laid_out(file: BinaryIO, found: _Fields, end: int) -> Layout:
    chunk = found.sound
    style = found.style
    assert chunk is not None
    data_at = min(chunk.offset + found.lead, end)
    said = known_size(chunk.size - found.lead)
    wrap = style.size_max if style.size in ("<I", ">I") and found.ds64 < 0 else 0
    extents, stop = _sound(file, found, data_at, said, wrap, end)
    whole = (
        found.start == 0
        and extents == (ByteExtent(data_at, said or 0),)
        and stop >= end
        and found.kind != b"BW64"
    )
    if (found.kind == b"riff" or said is None) and data_at + (said or 0) != end:
        whole = False  # libsndfile takes what follows for sound
    return Layout(
        found.kind,
        found.start,
        stop,
        data_at,
        said,
        extents,
        whole,
        found.frame_bytes,
        found.sizes(),
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
    found = _Fields(
        kind, _Style(24, 4, order + "I", 0, 1), start, _AU_BYTES.get(encoding, 0) * channels or 1
    )
    found.second_bytes = rate_hz * channels * _AU_BYTES.get(encoding, 0)
    said = known_size(size)
    extents, stop = _sound(file, found, data_at, said, 2**32, end)
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
        found.frame_bytes,
        ((8, order + "I", 0, 1),),
    )


def known_size(size: int) -> int | None:
    """None for what recorders write before they know: 0, -1, the largest number or the largest that
    is positive, or a little less."""
    if (
        size <= 0
        or size >= SIZE_UNKNOWN
        or 2**31 - 2**16 <= size <= 2**31 + 2**16
        or 2**32 - 2**16 <= size < 2**32
    ):
        return None
    return size


def _sound(
    file: BinaryIO, found: _Fields, data_at: int, said: int | None, wrap: int, end: int
) -> tuple[tuple[ByteExtent, ...], int]:
    """The bytes of sound, and where the container ends."""
    if said is not None and data_at + said > end:
        return (ByteExtent(data_at, end - data_at),), end  # cut
    guess = data_at + (said or 0)
    while guess <= end:
        counted = (
            said is not None and not 0 < wrap <= end - guess
        )  # else zeros may be what the length left out
        rest = _behind(file, found, guess, end, zeros=counted)
        if rest is not None:
            own = ByteExtent(data_at, guess - data_at)
            return tuple(extent for extent in (own, *rest[0]) if extent.bytes), rest[1]
        if said is not None and _over(file, found, guess, end):
            return (ByteExtent(data_at, guess - data_at),), guess
        if not wrap:
            break
        guess += wrap  # the length was counted in 32 bits
    stop = tags_begin(file, data_at, end)
    sound = without_room(file, data_at + (said or 0), stop) - data_at
    sound += -sound % found.frame_bytes
    return (ByteExtent(data_at, min(sound, stop - data_at)),), end


def _over(file: BinaryIO, found: _Fields, at: int, end: int) -> bool:
    """Whether the sound ends where its header says, though something unknown follows: a text or a
    picture, or, before the file or another recording ends it, less than a second that neither of
    the header's lengths counts."""
    align = found.style.align
    agreed = found.outer < 0 or 0 <= found.outer - (at - found.start) < align
    padded = at + -(at - found.start) % align
    if any(is_no_sound(file, place) for place in {at, padded}):
        return True
    soon = at + found.second_bytes
    return agreed and (end < soon or find_beginning(file, at, min(end, soon)) is not None)


def _behind(
    file: BinaryIO, found: _Fields, at: int, end: int, zeros: bool
) -> tuple[tuple[ByteExtent, ...], int] | None:
    """What of chunks behind the sound is sound again, and where the container ends; None if
    something else follows: then that is sound."""
    style = found.style
    extents: list[ByteExtent] = []
    stop = tags_begin(file, at, end)
    if found.kind in (b".snd", b"dns."):
        seen = at >= stop or begins(file, at) or (zeros and only_zeros(file, at, stop))
        return ((), at if at < stop and begins(file, at) else end) if seen else None
    seen = False
    padded = at + -(at - found.start) % style.align
    for _ in range(CHUNKS_MAX):
        for place in sorted({at, padded}, reverse=True):  # a missing padding byte is forgiven
            if place >= stop:
                return tuple(extents), end
            if begins(file, place):
                return tuple(extents), place
            chunk = _chunk(file, style, place)
            if chunk is not None and _plausible(file, found, chunk, stop):
                break
        else:
            if zeros and only_zeros(file, at, stop):
                return tuple(extents), end
            return (tuple(extents), at) if seen else None
        if chunk.id in (b"data", b"SSND"):
            lead = {b"caff": 4, b"FORM": 8}.get(found.kind, 0)
            extents.append(
                ByteExtent(chunk.offset + lead, max(0, min(chunk.size, stop - chunk.offset) - lead))
            )
        seen = True
        at = chunk.offset + max(0, chunk.size)
        padded = _next(style, found.start, chunk)
    return tuple(extents), at


def _plausible(file: BinaryIO, found: _Fields, chunk: ContainerChunk, stop: int) -> bool:
    """Whether these bytes are a chunk rather than sound."""
    if chunk.id in _KNOWN:
        return True
    after = _next(found.style, found.start, chunk)
    if chunk.size <= 0 or after > stop + 1:
        return False
    return (
        after >= stop
        or _chunk(file, found.style, after) is not None
        or begins(file, after)
        or only_zeros(file, after, stop)
    )


def begins(file: BinaryIO, at: int) -> bool:
    """Whether a recording begins here."""
    return BEGINNINGS.match(pread(file, 16, at)) is not None


def find_beginning(file: BinaryIO, low: int, end: int) -> int | None:
    """The first place from `low` on at which a recording begins."""
    overlap = 16
    while low < end:
        data = pread(file, 2**20, low)
        found = BEGINNINGS.search(data[: end - low])
        if found:
            return low + found.start()
        if len(data) < 2**20:
            return None
        low += len(data) - overlap
    return None
