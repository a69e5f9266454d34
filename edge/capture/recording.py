"""A recording file, decoded as a stream of mono float32 blocks at one rate, or refused with one clear reason.

Knows which files of a folder are recordings, mixing and the resampler (soxr). Does not know containers and
codecs (container.py), when or where the sound was recorded (start_time.py), what a window is, or what becomes
of a refused file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile
import soxr

from edge.capture.container import (
    DURATION_S_MIN,
    Recording,
    header_of,
    layout_of,
    one_line,
    open_file,
    open_sound,
    seconds,
    too_short,
)
from edge.contract.audio import RATE_HZ, Samples
from edge.contract.errors import RecordingError
from edge.contract.folders import passed_over

# What lies beside recordings and is none of them: notes, tables, pictures, settings, databases. Whatever has another
# name is tried, and refused with a reason if it is no sound: a recording with an odd name must not vanish in silence.
# fmt: off
SIDECAR_SUFFIXES = frozenset((
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".conf", ".md",
    ".html", ".htm", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ods", ".png", ".jpg", ".jpeg", ".gif", ".tif",
    ".tiff", ".svg", ".webp", ".log", ".gpx", ".kml", ".db", ".db-wal", ".db-shm", ".sqlite", ".sqlite3", ".parquet",
    ".py", ".r", ".sh", ".ipynb", ".zip", ".gz", ".md5", ".sha256", ".summary", ".sm4", ".pgs", ".part", ".tmp",
))
# fmt: on

DURATION_S_MAX = 7 * 86_400.0  # a few MB of FLAC can claim and deliver years of silence
SAMPLE_MAX = 2.0**31  # float files in integer units are bearable; beyond this the power overflows float32

_READ_S = 0.25  # per libsndfile call: each costs 8 µs of its own, and a decoding error the call it happens in
_PIECE_FRAMES = 65_536  # per mixing and resampling step
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")  # also what turns a line's direction round
_LOST_S_MIN = 0.1  # below this, header and decoder merely differ about the encoder's padding


def find_recordings(folder: Path) -> list[Path]:
    """Every file under `folder` that may be a recording, sorted; a single file is its own list, whatever its suffix.

    Sidecars (SIDECAR_SUFFIXES), what systems leave behind (`passed_over`; macOS leaves `._x.wav` on every card) and
    everything that is not a regular file are passed over; symlinks to files are followed, to folders not. A subfolder
    that may not be listed is in the result itself, so that whoever opens the list reports it.
    """
    if not folder.exists():
        raise RecordingError(folder, "no such file or folder")
    if not folder.is_dir():
        return [folder]
    found: list[Path] = []

    def unreadable(error: OSError) -> None:
        found.append(Path(error.filename))

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not passed_over(name)]
        candidates = (Path(parent, name) for name in names if not passed_over(name))
        found.extend(path for path in candidates if path.suffix.lower() not in SIDECAR_SUFFIXES and _is_regular(path))
    return sorted(found)


def record_name(path: Path, root: Path) -> str:
    r"""How the record knows a recording: relative to `root`, with forward slashes, in one printable line.

    Rows, messages and JSON hold text alone: a byte that is no UTF-8 is written \xNN, a control character \uNNNN and a
    backslash twice, so that every name can be told from every other and be found again.
    """
    name = os.fsencode(path.relative_to(root).as_posix()).replace(b"\\", b"\\\\")
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", name.decode("utf8", "backslashreplace"))


def _is_regular(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return True  # whoever opens it will say why it cannot


def open_recording(path: Path) -> Recording:
    """The header of a recording that can be decoded; RecordingError says why another cannot."""
    with Decoder(path) as decoder:
        return decoder.recording


def stream(path: Path, *, block_s: float = 10.0, rate_hz: int = RATE_HZ) -> Iterator[Samples]:
    """Blocks as `Decoder` yields them, for callers that need not know what was lost.

    >>> for block in stream(Path("20240501_040000.WAV"), block_s=5.0): ...
    """
    with Decoder(path, block_s=block_s, rate_hz=rate_hz) as decoder:
        yield from decoder


class Decoder:
    """One recording as mono float32 blocks of `block_s` at `rate_hz`; the last block is shorter.

    Channels are averaged. Rates of 1 kHz to 1 MHz are resampled (soxr HQ), those below `rate_hz` upwards, so
    their upper bands stay empty. The total is the decoded length within one sample, block edges do not depend
    on the codec, and memory does not depend on the file. Float samples beyond [-1, 1] are passed on as they
    are; at the first one that is not a finite number the recording counts as damaged and the rest as lost.

    What can be decoded is yielded; afterwards `lost_s` and `warning` say what could not, 0 and None where all
    is well. RecordingError is raised on opening, or before the first block if nothing can be decoded. Iterate
    once; `close` also ends an iteration that was left early.

    >>> with Decoder(path) as decoder:
    ...     for block in decoder: ...
    ...     report(decoder.decoded_s, decoder.lost_s, decoder.warning)
    """

    def __init__(self, path: Path, *, block_s: float = 10.0, rate_hz: int = RATE_HZ) -> None:
        self.rate_hz = rate_hz
        self.block_frames = round(block_s * rate_hz)
        assert self.block_frames >= DURATION_S_MIN * rate_hz, "a block shorter than any recording"
        self._frames = 0  # decoded so far, at the recording's own rate
        self._stopped: str | None = None  # why decoding ended before the end
        with ExitStack() as opening:
            file = opening.enter_context(open_file(path))
            layout = layout_of(file)
            self._view, self._sound = open_sound(path, file, layout)
            opening.enter_context(self._sound)
            self.recording = header_of(path, self._sound, layout)
            self._end_mark_missing = layout.end_mark_missing
            self._open = opening.pop_all()

    @property
    def expected_s(self) -> float | None:
        """Length as the header says, None where it does not."""
        return self.recording.duration_s

    @property
    def decoded_s(self) -> float:
        """Length of what was decoded so far."""
        return self._frames / self.recording.rate_hz

    @property
    def lost_s(self) -> float:
        """Announced but not decoded, final once the iteration has ended; 0 where the length is not known."""
        lost_s = 0.0 if self.expected_s is None else min(self.expected_s, DURATION_S_MAX) - self.decoded_s
        return lost_s if lost_s > _LOST_S_MIN else 0.0

    @property
    def warning(self) -> str | None:
        """One line about what could not be decoded; meaningful once the iteration has ended."""
        read = f"{seconds(self.decoded_s)} could be read"
        if self.lost_s and self.expected_s is not None:
            # a damaged Ogg or MP3 page is skipped: what is missing may be in the middle
            kind = "incomplete" if self.recording.format in ("OGG", "MP3") else "truncated"
            return f"{self._stopped or kind}: header says {seconds(self.expected_s)}, {read}"
        if self._stopped:
            return f"{self._stopped}: {read}"
        if self._end_mark_missing:
            return f"truncated: no end mark; {read}, how much is missing is not known"
        return None

    def __enter__(self) -> Decoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._open.close()

    def __iter__(self) -> Iterator[Samples]:
        block, filled = np.empty(self.block_frames, np.float32), 0
        for piece in self._resampled():
            while len(piece):
                taken = min(len(piece), self.block_frames - filled)
                block[filled : filled + taken] = piece[:taken]
                piece, filled = piece[taken:], filled + taken
                if filled == self.block_frames:
                    yield block
                    block, filled = np.empty(self.block_frames, np.float32), 0
        if self.decoded_s < DURATION_S_MIN:
            raise RecordingError(self.recording.path, self.warning or too_short(self.decoded_s))
        if filled:
            yield block[:filled].copy()

    def _resampled(self) -> Iterator[Samples]:
        if self.recording.rate_hz == self.rate_hz:
            yield from self._mono()
            return
        native_hz = self.recording.rate_hz
        resampler = soxr.ResampleStream(native_hz, self.rate_hz, 1, dtype="float32", quality="HQ")
        for piece in self._mono():
            yield resampler.resample_chunk(piece)
        yield resampler.resample_chunk(np.empty(0, np.float32), last=True)

    def _mono(self) -> Iterator[Samples]:
        """Pieces at the recording's own rate, until the end, damage or DURATION_S_MAX."""
        channels = self.recording.channels
        buffer = np.empty((_PIECE_FRAMES, channels), np.float32)
        count = _PIECE_FRAMES
        while count == _PIECE_FRAMES and self._stopped is None:
            count = self._fill(buffer)
            with np.errstate(all="ignore"):  # what is not finite is dealt with below
                mono = _mixed(buffer[:count])
            mono = self._sane(mono)
            self._frames += len(mono)
            yield mono
            if self.decoded_s >= DURATION_S_MAX:
                self._stopped = f"too long (only the first {DURATION_S_MAX / 86_400:.0f} days are read)"

    def _fill(self, buffer: Samples) -> int:
        """Frames read; fewer than the buffer holds at the end or where the decoder gives up."""
        count, step = 0, round(_READ_S * self.recording.rate_hz)
        while count < len(buffer):
            try:
                got = len(self._sound.read(out=buffer[count : count + step]))
            except (soundfile.SoundFileError, OSError) as error:
                self._stopped = f"damaged ({one_line(error)})"
                break
            count += got
            if got == 0:
                if self._view is not None and self._view.error is not None:
                    self._stopped = f"damaged ({one_line(self._view.error)})"
                break
        return count

    def _sane(self, mono: Samples) -> Samples:
        if not len(mono) or max(mono.max(), -mono.min()) <= SAMPLE_MAX:  # false for NaN too
            return mono
        with np.errstate(invalid="ignore"):
            first_bad = int(np.argmin(np.abs(mono) <= SAMPLE_MAX))
        self._stopped = "damaged (samples that are not numbers)"
        return mono[:first_bad]


def _mixed(frames: Samples) -> Samples:
    """Mean of the channels `(n, channels)`. Not a matrix product: for that BLAS would wake threads of its own."""
    mono = frames[:, 0].copy()
    for channel in range(1, frames.shape[1]):
        mono += frames[:, channel]
    mono /= np.float32(frames.shape[1])
    return mono
