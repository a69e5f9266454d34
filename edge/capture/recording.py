"""Decoder of a recording file: mono float32 blocks at one rate, and gaps, or a refusal with one
clear reason.

Knows which files of a folder are recordings, what of them is lost, and the resampler (soxr).
Containers and codecs are left to container.py and sound_parts.py, mixing to mix.py. Does not know
when or where the sound was recorded (start_time.py), what a window is, or what becomes of a refused
file.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
import soxr

from edge.capture.container import (
    DURATION_S_MIN,
    ContainerHeader,
    first_part,
    header_of,
    open_file,
    seconds,
    too_short,
)
from edge.capture.native_sound import DURATION_S_MAX, LOST_S_MIN, MissingSound, NativeSound
from edge.capture.own_files import OwnFiles, is_kept
from edge.capture.pulsed_file import PulsedFile
from edge.contract.audio import RATE_HZ, Samples
from edge.contract.errors import RecordingError, UnreadError
from edge.contract.folders import passed_over
from edge.types import Gap

Piece = Samples | Gap

# Files beside recordings that are not recordings: notes, tables, pictures, settings, databases.
# Files with any other suffix are tried, and refused with a reason if they are not sound, so that a
# recording with an unusual name does not disappear silently.
# fmt: off
SIDECAR_SUFFIXES = frozenset((
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini", ".cfg",
    ".conf", ".md", ".html", ".htm", ".pdf", ".prom", ".doc", ".docx", ".xls", ".xlsx", ".ods",
    ".png", ".jpg", ".jpeg", ".gif", ".tif", ".tiff", ".svg", ".webp", ".log", ".gpx", ".kml",
    ".db", ".db-wal", ".db-shm", ".sqlite", ".sqlite3", ".parquet", ".py", ".r", ".sh", ".ipynb",
    ".zip", ".gz", ".md5", ".sha256", ".summary", ".sm4", ".pgs", ".part", ".tmp",
))
# fmt: on

# Control characters, and those that change the direction of text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def find_recordings(folder: Path, own: OwnFiles | None = None) -> list[Path]:
    """Every file under `folder` that may be a recording, sorted; a single file gives a list of
    itself, whatever its suffix.

    Sidecars (SIDECAR_SUFFIXES), system files (`passed_over`; macOS leaves `._x.wav` on every card),
    everything that is not a regular file, and files that a station keeps for itself, `own` or
    another, are skipped. Symlinks to files are followed, to folders not. A subfolder that cannot be
    listed is itself in the result, so that opening it reports the error.
    """
    own = own or OwnFiles()
    if not folder.exists():
        raise RecordingError(folder, "no such file or folder")
    if not folder.is_dir():
        return [folder]
    found: list[Path] = []

    def unreadable(error: OSError) -> None:
        found.append(Path(error.filename))

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        kept = is_kept if own.is_state(parent) else _is_never_kept
        folders[:] = [
            n for n in folders if not (passed_over(n) or kept(n) or own.is_own(Path(parent, n)))
        ]
        candidates = (Path(parent, name) for name in names if not (passed_over(name) or kept(name)))
        found.extend(
            path
            for path in candidates
            if path.suffix.lower() not in SIDECAR_SUFFIXES
            and _is_regular(path)
            and not (path.is_symlink() and own.leads_in(path))
        )
    return sorted(found)


def record_name(path: Path, root: Path) -> str:
    r"""Name of a recording in the record: relative to `root`, with forward slashes, in one line of
    printable text.

    Rows, messages and JSON hold text alone: a byte that is not UTF-8 is written \xNN, a control
    character \uNNNN and a backslash twice, so that every name differs from every other and can be
    found again.
    """
    name = os.fsencode(path.relative_to(root).as_posix()).replace(b"\\", b"\\\\")
    return _CONTROL.sub(
        lambda found: f"\\u{ord(found[0]):04x}", name.decode("utf8", "backslashreplace")
    )


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    """Turn errors of this machine into UnreadError, as opposed to errors of the recording."""
    try:
        yield
    except (OSError, MemoryError) as error:
        raise UnreadError(path, "cannot be read", error) from error


def _is_never_kept(_name: str) -> bool:
    return False


def _is_regular(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return True  # opening it will report the reason


def open_recording(path: Path) -> ContainerHeader:
    """The header of a recording that can be decoded. Raises RecordingError with the reason if it
    cannot."""
    with Decoder(path) as decoder:
        return decoder.recording


def stream(path: Path, *, block_s: float = 10.0, rate_hz: int = RATE_HZ) -> Iterator[Samples]:
    """The blocks of `Decoder` without its gaps, for callers that need not know what is missing:
    blocks on both sides of a gap follow each other.

    >>> for block in stream(Path("20240501_040000.WAV"), block_s=5.0): ...
    """
    with Decoder(path, block_s=block_s, rate_hz=rate_hz) as decoder:
        for piece in decoder:
            if not isinstance(piece, Gap):
                yield piece


class Decoder:
    """One recording as mono float32 blocks of `block_s` at `rate_hz`, with a `Gap` where sound is
    missing.

    A gap is what AudioMoth folded up ("triggered"), or what is damaged and followed by more sound
    ("damaged"). The last block before a gap or the end is shorter. Sound between two gaps lasts at
    least DURATION_S_MIN; anything shorter is part of them.

    Channels are averaged, or the louder one is used where they cancel (mix.py; `note` reports
    that). Rates of 1 kHz to 1 MHz are resampled (soxr HQ), those below `rate_hz` upwards, so that
    their upper bands stay empty; the resampler restarts after a gap. The total is the decoded
    length within one sample, block edges do not depend on the codec, and memory use does not depend
    on the file. Float samples beyond [-1, 1] are passed on as they are; at the first sample that is
    not a finite number, or larger than 32-bit integers can be, the recording counts as damaged and
    the rest as lost.

    Files joined by `cat` and chained streams are read as one recording while rate and channels
    agree. No declared length is trusted: sound behind it is read, missing sound is lost. Whatever
    can be decoded is yielded; afterwards `lost_s` and `warning` describe what could not be, 0 and
    None if nothing is wrong. RecordingError is raised on opening, or before the first block if
    nothing can be decoded; UnreadError, for errors that may pass, at any time. `file` is the
    recording if it is open already. Iterate once; `close` also ends an iteration that was left
    early.

        >>> with Decoder(path) as decoder:
        ...     for piece in decoder: ...
        ...     report(decoder.decoded_s, decoder.position_s, decoder.lost_s, decoder.warning)
    """

    def __init__(
        self,
        path: Path,
        *,
        block_s: float = 10.0,
        rate_hz: int = RATE_HZ,
        file: PulsedFile | None = None,
    ) -> None:
        self.rate_hz = rate_hz
        self.block_frames = round(block_s * rate_hz)
        assert self.block_frames >= DURATION_S_MIN * rate_hz, "a block shorter than any recording"
        self._decoded = 0  # frames given so far, at the recording's own rate
        self._position = 0  # frames given so far, with those in gaps
        self._folded = False  # has folded silence: complete even without any sound
        with ExitStack() as opening, _read_errors(path):
            file = file or opening.enter_context(open_file(path))
            part = first_part(path, file)
            opening.callback(part.close)
            self.recording = header_of(path, file, part)
            self._native = NativeSound(file, part, self.recording)
            opening.callback(self._native.close)  # not `part`: another may be open by then
            self._open = opening.pop_all()

    @property
    def expected_s(self) -> float | None:
        """Length as declared by the header, or as found if that is more; None if neither is known.

        Final once the iteration has ended: only then are folded silence, data behind an Ogg, FLAC
        or MP3 stream, and the length of a FLAC stream that does not declare it known.
        """
        expected = self._native.expected
        return None if expected is None else expected / self.recording.rate_hz

    @property
    def certain_s(self) -> float | None:
        """Length of the sound that will be decoded, if header and end of the file prove it; else
        None."""
        frames = self._native.certain
        return None if frames is None else frames / self.recording.rate_hz

    @property
    def decoded_s(self) -> float:
        """Length of the sound given so far."""
        return self._decoded / self.recording.rate_hz

    @property
    def position_s(self) -> float:
        """Length of the sound and the gaps given so far."""
        return self._position / self.recording.rate_hz

    @property
    def lost_s(self) -> float:
        """Length declared but not decoded behind the last sound; 0 if unknown. Final once the
        iteration has ended."""
        lost_s = (
            0.0
            if self.expected_s is None
            else min(self.expected_s, DURATION_S_MAX) - self.position_s
        )
        return lost_s if lost_s > LOST_S_MIN else 0.0

    @property
    def warning(self) -> str | None:
        """One line about what could not be decoded; meaningful once the iteration has ended."""
        native = self._native
        expected_s = self.expected_s
        read = f"{seconds(self.decoded_s)} could be read"
        if expected_s is not None and (self.lost_s or native.between):
            # a damaged Ogg or MP3 page is skipped: what is missing may be in the middle
            kind = "incomplete" if self.recording.format in ("OGG", "MP3") else "truncated"
            return f"{native.why or kind}: header says {seconds(expected_s)}, {read}"
        if native.why:
            return f"{native.why}: {read}"
        if native.no_end_mark:
            return f"truncated: no end mark; {read}, how much is missing is unknown"
        if native.not_closed:
            return f"not closed: its header gives no length; {read}, more may be missing"
        return None

    @property
    def note(self) -> str | None:
        """Other remarks on the sound, final once the iteration has ended: channels cancelled each
        other, or a lossy format hides what AudioMoth folded up."""
        return self._native.note

    def __enter__(self) -> Decoder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._open.close()

    def __iter__(self) -> Iterator[Piece]:
        with _read_errors(self.recording.path):
            yield from self._pieces()

    def _pieces(self) -> Iterator[Piece]:
        block = np.empty(self.block_frames, np.float32)
        filled = 0
        for piece in self._resampled():
            if isinstance(piece, Gap):
                if filled:
                    yield block[:filled].copy()
                yield piece
                filled = 0
                continue
            while len(piece):
                taken = min(len(piece), self.block_frames - filled)
                block[filled : filled + taken] = piece[:taken]
                piece = piece[taken:]
                filled = filled + taken
                if filled == self.block_frames:
                    yield block
                    block = np.empty(self.block_frames, np.float32)
                    filled = 0
        if self.decoded_s < DURATION_S_MIN and not self._folded:
            raise RecordingError(self.recording.path, self.warning or too_short(self.decoded_s))
        if filled:
            yield block[:filled].copy()

    def _resampled(self) -> Iterator[Piece]:
        if self.recording.rate_hz == self.rate_hz:
            yield from self._runs()
            return
        resampler: soxr.ResampleStream | None = None
        for piece in itertools.chain(self._runs(), [None]):
            if piece is None or isinstance(piece, Gap):
                if resampler is not None:
                    yield resampler.resample_chunk(np.empty(0, np.float32), last=True)
                    resampler = None
                if piece is not None:
                    yield piece
            else:
                if resampler is None:
                    rates = self.recording.rate_hz, self.rate_hz
                    resampler = soxr.ResampleStream(*rates, 1, dtype="float32", quality="HQ")
                yield resampler.resample_chunk(piece)

    def _runs(self) -> Iterator[Piece]:
        """Sound and gaps at the recording's own rate. Sound shorter than DURATION_S_MIN beside a
        gap becomes part of it."""
        shortest = DURATION_S_MIN * self.recording.rate_hz
        gap: MissingSound | None = None  # precedes `held`
        held: list[Samples] = []  # the beginning of a run, until it is long enough
        running = False
        for piece in self._native:
            if isinstance(piece, MissingSound):
                short = sum(map(len, held))
                held = []
                running = False
                if gap is not None and gap.reason == piece.reason:
                    gap = piece._replace(frames=gap.frames + short + piece.frames)
                else:
                    if gap is not None:
                        yield self._gap(gap._replace(frames=gap.frames + short))
                        short = 0
                    gap = piece._replace(frames=short + piece.frames)
            elif running:
                yield self._sound(piece)
            else:
                held.append(piece)
                running = sum(map(len, held)) >= shortest
                if running:
                    if gap is not None:
                        yield self._gap(gap)
                    yield from map(self._sound, held)
                    gap = None
                    held = []
        if gap is not None:
            yield self._gap(gap._replace(frames=gap.frames + sum(map(len, held))))
        else:
            yield from map(self._sound, held)

    def _sound(self, samples: Samples) -> Samples:
        self._decoded += len(samples)
        self._position += len(samples)
        return samples

    def _gap(self, missing: MissingSound) -> Gap:
        at_s = self.position_s
        self._position += missing.frames
        self._folded = self._folded or missing.reason == "triggered"
        return Gap(at_s, missing.frames / self.recording.rate_hz, missing.reason, missing.detail)
