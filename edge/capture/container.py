"""Recording files: opening one, reading its header, the limits on what is accepted, and the wording
of a refusal.

Does not know where in the file the sound lies (sound_parts.py), what becomes of the samples
(recording.py), when or where the sound was recorded (start_time.py), or which files a folder holds.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import soundfile

from edge.capture.pulsed_file import Pulse, PulsedFile, no_pulse, pread
from edge.capture.sound_parts import HEAD_BYTES, SoundPart, error_line, find_start
from edge.capture.trailing_data import id3_end
from edge.capture.triggered import may_be_folded
from edge.contract.errors import RecordingError, UnreadError

CHANNELS_MAX = 32
RATE_HZ_MIN = 1_000
RATE_HZ_MAX = 1_000_000
DURATION_S_MIN = 0.1  # four columns of the log-mel image

# Audio formats in common use that libsndfile cannot read.
# fmt: off
FOREIGN_SUFFIXES = frozenset((
    ".m4a", ".m4b", ".mp4", ".3gp", ".aac", ".wma", ".asf", ".ape", ".wv", ".wvc", ".tta", ".tak",
    ".mpc", ".ofr", ".spx", ".dsf", ".dff", ".amr", ".mka", ".webm", ".wac", ".w4v", ".ra",
))
# fmt: on

_FORMATS = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "CAF", "AU", "FLAC", "OGG", "MP3"})

# Offset and magic bytes of formats that libsndfile cannot read, and their names.
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
    (28, b"\x7fFLAC", "FLAC in Ogg"),
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
class ContainerHeader:
    """Properties that a file's header declares."""

    path: Path
    rate_hz: int
    channels: int
    frames: int | None  # samples per channel as declared; None where the container does not say
    format: str  # libsndfile's major format: WAV, FLAC, OGG, MP3 ...
    subtype: str  # PCM_16, VORBIS, MPEG_LAYER_III ...

    @property
    def duration_s(self) -> float | None:
        return None if self.frames is None else self.frames / self.rate_hz


def open_file(path: Path, pulse: Pulse = no_pulse) -> PulsedFile:
    """Open a recording's file for reading; `pulse` is as for PulsedFile.

    Raises RecordingError if it cannot be a recording, UnreadError if it cannot be opened at the
    moment.
    """
    try:
        if path.is_dir():
            next(path.iterdir(), None)  # raises OSError if the folder may not be listed
            raise RecordingError(path, "a folder, not a recording")
        file = PulsedFile(path, pulse)
    except ValueError as error:  # not a valid file name
        raise RecordingError(path, f"cannot be opened: {error_line(error)}") from None
    except OSError as error:
        raise UnreadError(path, "cannot be opened", error) from None
    try:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            raise RecordingError(
                path, "empty file" if stat.S_ISREG(status.st_mode) else "not a regular file"
            )
    except BaseException:
        file.close()
        raise
    return file


def first_part(path: Path, file: BinaryIO) -> SoundPart:
    """The recording at the beginning of the file, behind tags and junk, before its first sample."""
    try:
        head = pread(file, HEAD_BYTES, id3_end(file, 0))
        return SoundPart(
            file, find_start(file, search=_foreign(head) is None and _not_audio(head) is None)
        )
    except soundfile.SoundFileError as error:
        raise RecordingError(path, _refusal(path, file, error)) from None


def header_of(path: Path, file: BinaryIO, part: SoundPart) -> ContainerHeader:
    """The header of the first part, checked against the limits. Raises RecordingError."""
    sound = part.sound
    frames = part.frames
    reason = None
    if sound.format not in _FORMATS:
        reason = _unsupported(sound.format)
    elif not 1 <= sound.channels <= CHANNELS_MAX:
        reason = f"{sound.channels} channels; 1 to {CHANNELS_MAX} can be read"
    elif not RATE_HZ_MIN <= sound.samplerate <= RATE_HZ_MAX:
        reason = f"sample rate of {sound.samplerate} Hz; {RATE_HZ_MIN} to {RATE_HZ_MAX} can be read"
    elif frames is not None and frames < DURATION_S_MIN * sound.samplerate:
        more = part.certain is None or may_be_folded(path, file, sound)  # only reading can tell
        reason = None if more else too_short(frames / sound.samplerate)
    if reason is not None:
        raise RecordingError(path, reason)
    return ContainerHeader(
        path, sound.samplerate, sound.channels, frames, sound.format, sound.subtype
    )


def _refusal(path: Path, file: BinaryIO, error: Exception) -> str:
    head = pread(file, HEAD_BYTES, id3_end(file, 0))
    if (name := _foreign(head)) is not None:
        return _unsupported(name)
    if not head:
        return "not audio: tags without sound"
    if not any(head):
        return "not audio: only zero bytes (lost in a power cut?)"
    if (name := _not_audio(head)) is not None:
        return f"not audio: {name}"
    if head[:4] in (b"RIFF", b"RF64", b"BW64", b"FORM", b"fLaC", b"OggS", b"caff"):
        return f"damaged or of an unknown codec: {error_line(error)}"
    if path.suffix.lower() in FOREIGN_SUFFIXES:
        return _unsupported(path.suffix.lower())
    return f"not audio, or damaged: {error_line(error)}"


def _foreign(head: bytes) -> str | None:
    return next((name for at, magic, name in _FOREIGN if head.startswith(magic, at)), None)


def _not_audio(head: bytes) -> str | None:
    return next((name for magic, name in _NOT_AUDIO if head.startswith(magic)), None)


def _unsupported(name: str) -> str:
    return f"format not supported: {name}; convert to FLAC or WAV"


def too_short(duration_s: float) -> str:
    if duration_s == 0:
        return "header only: 0 samples"
    return f"too short: {seconds(duration_s)}; at least {seconds(DURATION_S_MIN)} are needed"


def seconds(duration_s: float) -> str:
    return f"{duration_s:.1f} s" if duration_s >= 1 else f"{1000 * duration_s:.3g} ms"
