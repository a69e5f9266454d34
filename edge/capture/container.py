"""What a recording file is: its header, its layout, opening it with libsndfile, and the words of a refusal.

Knows containers, codecs and where libsndfile has to be helped. Does not know what becomes of the samples
(recording.py), when or where the sound was recorded (start_time.py), or which files a folder holds.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import soundfile

from edge.contract.errors import RecordingError

CHANNELS_MAX = 32
RATE_HZ_MIN, RATE_HZ_MAX = 1_000, 1_000_000
DURATION_S_MIN = 0.1  # four columns of the log-mel image
CHUNKS_MAX = 1_000  # looked at in one RIFF, RF64 or AIFF file

# What people have and libsndfile cannot read.
# fmt: off
FOREIGN_SUFFIXES = frozenset((
    ".m4a", ".m4b", ".mp4", ".3gp", ".aac", ".wma", ".asf", ".ape", ".wv", ".wvc", ".tta", ".tak", ".mpc",
    ".ofr", ".spx", ".dsf", ".dff", ".amr", ".mka", ".webm", ".wac", ".w4v", ".ra",
))
# fmt: on

_FORMATS = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "CAF", "AU", "FLAC", "OGG", "MP3"})
_FRAMES_UNKNOWN = 2**40  # libsndfile's "to the end" is 2**63 - 1; FLAC cannot say more than 2**36
_SIZE_ENDLESS = 2**44
_SIZE_UNKNOWN = 0x7FFF_F000  # sizes from here up are what streaming recorders write before they know
_HEAD_BYTES = 65_536  # looked at to say what a refused file is; also longer than any Ogg page
_MPEG_BYTES = 4_096  # looked at in an MPEG file for its length, which stands in the first frame or nowhere

# The first bytes of what libsndfile cannot read, and what to call it.
_FOREIGN: tuple[tuple[int, bytes, str], ...] = (
    (4, b"ftyp", "MPEG-4/AAC"),
    (0, b"\xff\xf1", "AAC"),
    (0, b"\xff\xf9", "AAC"),
    (0, b"ADIF", "AAC"),
    (0, bytes.fromhex("3026b2758e66cf11"), "Windows Media"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"wvpk", "WavPack"),
    (0, b"TTA", "True Audio"),
    (0, b"tBaK", "TAK"),
    (0, b"MP+", "Musepack"),
    (0, b"MPCK", "Musepack"),
    (0, b"OFR ", "OptimFROG"),
    (0, b"DSD ", "DSD"),
    (0, b"FRM8", "DSD"),
    (0, b"#!AMR", "AMR"),
    (0, b".RMF", "RealAudio"),
    (0, b"\x1aE\xdf\xa3", "Matroska/WebM"),
    (0, b"WAac", "Wildlife Acoustics WAC"),
    (28, b"Speex   ", "Speex"),
)
_NOT_AUDIO: tuple[tuple[bytes, str], ...] = (
    (b"MThd", "a MIDI file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"PK\x03\x04", "a zip archive"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"APETAGEX", "tags without sound"),
    (b"ID3", "tags without sound"),
)


@dataclass(frozen=True)
class Recording:
    """What a file's header says of itself."""

    path: Path
    rate_hz: int
    channels: int
    frames: int | None  # samples per channel as announced; None where the container does not say
    format: str  # libsndfile's major format: WAV, FLAC, OGG, MP3 ...
    subtype: str  # PCM_16, VORBIS, MPEG_LAYER_III ...

    @property
    def duration_s(self) -> float | None:
        return None if self.frames is None else self.frames / self.rate_hz


class RiffChunk(NamedTuple):
    """One chunk of a RIFF, RF64 or AIFF file. `size` is what the file claims, in bytes."""

    id: bytes
    offset: int
    size: int


class _Forward(soundfile.SoundFile):  # type: ignore[misc]  # soundfile is not typed
    """Never seeks: soundfile otherwise seeks after each read, and never reads beyond a header's estimate."""

    def seekable(self) -> bool:
        return False


class View:
    """A file as libsndfile is to see it: from `start`, `said_size` long, four bytes at `ff_at` all ones."""

    def __init__(self, file: BinaryIO, start: int, said_size: int = 0, ff_at: int = -4) -> None:
        self._file, self._start, self._ff_at = file, start, ff_at
        self._size = max(0, file.seek(0, os.SEEK_END) - start)
        self._said_size = said_size or self._size
        self._at = 0
        self.error: OSError | None = None  # to libsndfile a failed read is the end; the decoder looks here

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        end = self._size if offset else self._said_size  # what is looked for near the end is at the real one
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: end}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: bytearray) -> int:
        data = b""
        try:
            if self._at < self._size:
                self._file.seek(self._start + self._at)
                data = self._file.read(len(buffer))
        except OSError as error:
            self.error = error
        buffer[: len(data)] = data
        for place in range(self._ff_at - self._at, self._ff_at - self._at + 4):
            if 0 <= place < len(data):
                buffer[place : place + 1] = b"\xff"
        self._at += len(data)
        return len(data)


@dataclass(frozen=True)
class Layout:
    """What has to be known of a file before libsndfile opens it, and what libsndfile does not tell."""

    mpeg_at: int | None = None  # where MPEG audio begins, behind ID3 tags or inside a QuickTime file
    mpeg_length: bool = False  # whether its first frame tells its length
    data_at: int = 0  # where the sound of a RIFF or AIFF file begins
    data_bytes: int = 0  # as the header says
    present_bytes: int = 0  # as the file has
    end_mark_missing: bool = False  # Ogg only

    @property
    def unclosed(self) -> bool:
        """The recorder lost power before it wrote the length: the header says 0, the sound is there."""
        return self.data_bytes == 0 < self.present_bytes

    @property
    def truncated(self) -> bool:
        placeholder = _SIZE_UNKNOWN <= self.data_bytes < 2**32 or self.data_bytes >= 2**48
        return 0 < self.present_bytes < self.data_bytes and not placeholder


def open_file(path: Path) -> BinaryIO:
    try:
        if path.is_dir():
            next(path.iterdir(), None)  # a folder that may not be listed says why here
            raise RecordingError(path, "a folder, not a recording")
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not block
    except (OSError, ValueError) as error:
        raise RecordingError(path, f"cannot be opened: {one_line(error)}") from None
    status = os.fstat(handle)
    if stat.S_ISREG(status.st_mode) and status.st_size > 0:
        return os.fdopen(handle, "rb", buffering=0)
    os.close(handle)
    raise RecordingError(path, "empty file" if stat.S_ISREG(status.st_mode) else "not a regular file")


def layout_of(file: BinaryIO) -> Layout:
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    magic = file.read(4)
    if magic == b"OggS":
        return Layout(end_mark_missing=not _has_ogg_end(file, end))
    for chunk in riff_chunks(file):
        if chunk.id == b"data":
            return Layout(data_at=chunk.offset, data_bytes=chunk.size, present_bytes=end - chunk.offset)
        if chunk.id == b"SSND":  # eight bytes of offset and block size come first
            at = chunk.offset + 8
            return Layout(data_at=at, data_bytes=chunk.size - 8, present_bytes=end - at)
    return _mpeg_layout(file)


def _mpeg_layout(file: BinaryIO) -> Layout:
    at = _id3_end(file)
    file.seek(at)
    head = file.read(_HEAD_BYTES)
    skipped = head.find(b"mdat") + 4 if head[4:8] == b"ftyp" else 0
    frame = head[skipped : skipped + _MPEG_BYTES]
    if len(frame) < 4 or frame[0] != 0xFF or frame[1] < 0xE0 or not frame[1] & 6:  # layer 0 is AAC
        return Layout()
    length = b"VBRI" in frame
    for tag in (b"Xing", b"Info"):
        place = frame.find(tag) + 7
        length = length or (7 <= place < len(frame) and bool(frame[place] & 1))  # the number of frames follows
    return Layout(mpeg_at=at + skipped, mpeg_length=length)


def open_sound(path: Path, file: BinaryIO, layout: Layout) -> tuple[View | None, soundfile.SoundFile]:
    """The decoder before its first sample, and the view through which it reads, if any."""
    try:
        if layout.mpeg_at is not None and not layout.mpeg_length:
            # libsndfile takes the first frame's bit rate for all and stops where the file would then end: a
            # VBR file can lose most of its sound. An endless file it reads for as long as there are frames.
            view = View(file, layout.mpeg_at, said_size=_SIZE_ENDLESS)
            with suppress(soundfile.SoundFileError):
                return view, _Forward(view)
        file.seek(0)
        sound = _Forward(os.dup(file.fileno()))  # libsndfile closes it, on failure too
        if sound.format not in ("WAV", "WAVEX") or sound.frames or not layout.unclosed:
            return None, sound
        sound.close()
        view = View(file, 0, ff_at=layout.data_at - 4)
        return view, _Forward(view)
    except (soundfile.SoundFileError, OSError) as error:
        raise RecordingError(path, _refusal(path, file, error)) from None


def header_of(path: Path, sound: soundfile.SoundFile, layout: Layout) -> Recording:
    """The header, checked against the limits."""
    frames = sound.frames if sound.frames < _FRAMES_UNKNOWN else None
    if sound.format == "MP3" and not layout.mpeg_length:
        frames = None  # libsndfile's is a guess
    elif frames and layout.truncated:  # libsndfile tells what is there, not what was announced
        frames = round(frames * layout.data_bytes / layout.present_bytes)
    reason = None
    if sound.format not in _FORMATS:
        reason = _unsupported(sound.format)
    elif not 1 <= sound.channels <= CHANNELS_MAX:
        reason = f"{sound.channels} channels; 1 to {CHANNELS_MAX} can be read"
    elif not RATE_HZ_MIN <= sound.samplerate <= RATE_HZ_MAX:
        reason = f"sample rate of {sound.samplerate} Hz; {RATE_HZ_MIN} to {RATE_HZ_MAX} can be read"
    elif frames is not None and frames < DURATION_S_MIN * sound.samplerate:
        reason = too_short(frames / sound.samplerate)
    if reason is not None:
        raise RecordingError(path, reason)
    return Recording(path, sound.samplerate, sound.channels, frames, sound.format, sound.subtype)


def riff_chunks(file: BinaryIO) -> Iterator[RiffChunk]:
    """The chunks of a RIFF, RF64/BW64 or AIFF file, in order; nothing for another file.

    Only chunk headers are read. Sizes are the file's claims (RF64's are looked up in ds64); the walk ends
    where they lead out of the file or to what is no chunk. A missing padding byte is forgiven.
    """
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    kind = file.read(12)[:4]
    if kind not in (b"RIFF", b"RF64", b"BW64", b"FORM"):
        return
    header = struct.Struct(">4sI" if kind == b"FORM" else "<4sI")
    wide_size = 2**32 - 1  # of an RF64 file's data chunk
    at = 12
    for _ in range(CHUNKS_MAX):
        found = _chunk_header(file, at, header)
        if found is None and at % 2 == 0:
            at -= 1
            found = _chunk_header(file, at, header)
        if found is None:
            return
        name, size = found
        if name == b"ds64":
            wide_size = int.from_bytes(file.read(16)[8:], "little")
        elif name == b"data" and kind != b"RIFF" and size == 2**32 - 1:
            size = wide_size
        yield RiffChunk(name, at + 8, size)
        at += 8 + size + size % 2
        if at >= end:
            return


def _chunk_header(file: BinaryIO, at: int, header: struct.Struct) -> tuple[bytes, int] | None:
    file.seek(at)
    data = file.read(8)
    if len(data) < 8 or not all(32 <= byte < 127 for byte in data[:4]):
        return None
    name, size = header.unpack(data)
    return name, size


def _id3_end(file: BinaryIO) -> int:
    at = 0
    for _ in range(8):  # tags are sometimes stacked
        file.seek(at)
        head = file.read(10)
        if len(head) < 10 or head[:3] != b"ID3":
            break
        size = 0
        for byte in head[6:10]:
            size = size << 7 | byte & 0x7F
        at += 10 + size + (10 if head[5] & 0x10 else 0)  # 0x10: a footer follows
    return at


def _has_ogg_end(file: BinaryIO, end: int) -> bool:
    """Whether the last page carries the end-of-stream flag: a cut file's length looks right otherwise."""
    file.seek(max(0, end - _HEAD_BYTES))
    tail = file.read(_HEAD_BYTES)
    page = tail.rfind(b"OggS")
    return 0 <= page < len(tail) - 5 and bool(tail[page + 5] & 4)


def _refusal(path: Path, file: BinaryIO, error: Exception) -> str:
    file.seek(_id3_end(file))
    head = file.read(_HEAD_BYTES)
    for at, magic, name in _FOREIGN:
        if head.startswith(magic, at):
            return _unsupported(name)
    if not head:
        return "not audio: tags without sound"
    if not any(head):
        return "not audio: only zero bytes (lost in a power cut?)"
    for magic, name in _NOT_AUDIO:
        if head.startswith(magic):
            return f"not audio: {name}"
    if head[:4] in (b"RIFF", b"RF64", b"BW64", b"FORM", b"fLaC", b"OggS", b"caff"):
        return f"damaged or of an unknown codec: {one_line(error)}"
    if path.suffix.lower() in FOREIGN_SUFFIXES:
        return _unsupported(path.suffix.lower())
    return f"not audio, or damaged: {one_line(error)}"


def _unsupported(name: str) -> str:
    return f"format not supported: {name}; convert to FLAC or WAV"


def too_short(duration_s: float) -> str:
    if duration_s == 0:
        return "header only: 0 samples"
    return f"too short: {seconds(duration_s)}; at least {seconds(DURATION_S_MIN)} are needed"


def seconds(duration_s: float) -> str:
    return f"{duration_s:.1f} s" if duration_s >= 1 else f"{1000 * duration_s:.3g} ms"


def one_line(error: Exception) -> str:
    """libsndfile's or the system's words without the file name, which RecordingError gives."""
    if isinstance(error, soundfile.LibsndfileError) and error.code == 7:  # of MP3; the words speak of pipes
        return "no frame could be decoded"
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split()).removeprefix("Error : ").rstrip(".")
