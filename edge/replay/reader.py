"""Reading and analysis of recordings, in one thread or several, as a stream of events.

Every recording ends in exactly one last event: RecordingEnd, SameRecording, RecordingRefusal or
ReadFailure. Stores nothing: the caller stores the events.
"""

import errno
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from edge.analysis.stretch import Analyst, BatchResult, Stretch, WindowBatch
from edge.capture.container import open_file
from edge.capture.file_name import YEAR_MIN
from edge.capture.file_states import read_once, state_of, state_of_opened, still_holds
from edge.capture.pulsed_file import Pulse, PulsedFile, no_pulse
from edge.capture.recording import Decoder
from edge.capture.sound_sums import SoundSums
from edge.capture.start_time import StartTime, start_of
from edge.config import Config
from edge.contract.audio import RATE_HZ, Samples
from edge.contract.errors import RecordingError, UnreadError
from edge.contract.local_clock import LocalClock
from edge.replay.identity import FROM_NAME, Identify, Identity, recording_id, told_of
from edge.store.files import file_id
from edge.types import FileState, Gap, GapRow, Place, RecordingRow, stable_id, utc_text


@dataclass(frozen=True)
class RecordingTask:
    """A recording to be analysed, with the state of its file when the task was made."""

    path: Path
    name: str  # its name in the record
    file: FileState
    source: str

    @classmethod
    def of(cls, path: Path, name: str, source: str) -> "RecordingTask":
        """A task for this file. Raises OSError if the file does not exist or cannot be read."""
        return cls(path, name, state_of(path), source)

    def in_part(self) -> "RecordingTask":
        """The same task for a file that holds only the beginning of the recording it counts as."""
        return replace(self, file=replace(self.file, body_end=0, body_sum=0))

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return self.file.bytes


@dataclass(frozen=True)
class RecordingStart:
    """A recording can be decoded; `row` has its metadata."""

    task: RecordingTask
    row: RecordingRow
    expected_s: float | None  # its length by its header; None if unknown
    known_s: float = 0.0  # length of the beginning that was analysed before and stays valid


@dataclass(frozen=True)
class SoundBlock:
    """Sound of a recording, for saving clips."""

    row: RecordingRow
    samples: Samples


@dataclass(frozen=True)
class SoundGap:
    """Sound is missing in the middle of a recording."""

    row: RecordingRow
    gap: GapRow


@dataclass(frozen=True)
class RecordingEnd:
    """A recording was analysed to its end."""

    task: RecordingTask
    row: RecordingRow
    audio_s: float
    windows: int
    warning: str | None  # sound that was lost
    gap: GapRow | None
    note: str | None = None  # a remark on its sound, without loss
    sound: str = ""  # sums of its sound, which identify it whatever its header and tags are


@dataclass(frozen=True)
class SameRecording:
    """A file is a recording that has been analysed, or that is being read under another name."""

    task: RecordingTask
    id: str
    better: bool = False  # its name is more precise: it must be looked at again


@dataclass(frozen=True)
class RecordingRefusal:
    """A recording cannot be analysed, now or later."""

    task: RecordingTask
    id: str  # of the recording if it had begun, otherwise of the file
    reason: str
    gap: GapRow | None


@dataclass(frozen=True)
class ReadFailure:
    """A recording could not be read this time: gone, not permitted, a bad sector. Its earlier
    results stay valid unless `changed`."""

    task: RecordingTask
    error: OSError
    id: str | None  # of its row, if it had begun
    # the file changed while it was read: results so far are void
    changed: bool = False


Event = (
    RecordingStart
    | SameRecording
    | SoundBlock
    | SoundGap
    | BatchResult
    | RecordingEnd
    | RecordingRefusal
    | ReadFailure
)
Events = Generator[Event, None, None]
Reading = Callable[[Iterable[RecordingTask]], Events]


@dataclass
class _Open:
    """A stretch that was decoded to its end, whose last windows may still wait for a batch."""

    stretch: Stretch
    # of the last stretch of a recording; its number of windows is not set yet
    ended: RecordingEnd | None = None


def read_recordings(
    analyst: Analyst,
    tasks: Iterable[RecordingTask],
    keep_sound: bool = False,
    identify: Identify | None = None,
    pulse: Pulse = no_pulse,
) -> Events:
    """Analyse recordings one after the other. Windows of several recordings share batches, so a
    recording may end after the next one has begun; the events of each are in order. `keep_sound`
    adds SoundBlock events. `identify` finds the recording that a file is; without it each file is
    new. `pulse` is called before each piece of a file that is read, and may raise."""
    reader = _Reader(
        analyst, keep_sound, identify or partial(_new, analyst.config.station.id), pulse
    )
    for task in tasks:
        yield from reader.read(task)
    yield from reader.rest()


def _new(station: str, _: str, sha256: str, told: str) -> Identity:
    return Identity(recording_id(station, sha256, told), False)


class _Reader:
    """Reads one recording after the other."""

    def __init__(
        self, analyst: Analyst, keep_sound: bool, identify: Identify, pulse: Pulse
    ) -> None:
        self._analyst = analyst
        self._keep_sound = keep_sound
        self._identify = identify
        self._pulse = pulse
        self._batch = WindowBatch(analyst)
        self._open: deque[_Open] = deque()
        self._begun: dict[str, RecordingTask] = {}  # recordings without their last event so far

    def read(self, task: RecordingTask) -> Events:
        """Read a recording and yield its events, except those of windows that wait for a batch. A
        file that this machine cannot read now is a ReadFailure; only a fault in its bytes is a
        RecordingRefusal."""
        self._task = task
        self._digest = ""
        self._row: RecordingRow | None = None
        self._decoder: Decoder | None = None
        try:
            with open_file(task.path, self._pulse) as file:
                yield from self._whole(file)
        except UnreadError as error:
            yield self._read_failure(error.error)
        except RecordingError as error:
            yield self._refusal(error)
        except OSError as error:
            yield self._read_failure(error)
        except MemoryError:
            yield from self._out_of_memory(task)
        else:
            yield from self.answered()

    def rest(self) -> Events:
        """Events of the windows that still wait for a batch, after the last recording."""
        try:
            yield from self.answered(rest=True)
        except MemoryError:
            yield from self._out_of_memory()

    def _out_of_memory(self, *tasks: RecordingTask) -> Events:
        """Failures of all recordings that have begun, since any of them may have used up the
        memory; they are tried again later."""
        begun = {task.name: (task, id_) for id_, task in self._begun.items()}
        waiting = {task.name: (task, None) for task in tasks} | begun
        self._batch = WindowBatch(self._analyst)
        self._open = deque()
        self._begun = {}
        for task, id_ in waiting.values():
            yield ReadFailure(task, OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), id_)

    def _read_failure(self, error: OSError, changed: bool = False) -> ReadFailure:
        self._drop()
        return ReadFailure(self._task, error, self._row.id if self._row else None, changed)

    def _refusal(self, error: RecordingError) -> RecordingRefusal:
        self._drop()
        row = self._row
        decoder = self._decoder
        refused = (
            row.id
            if row
            else file_id(self._analyst.config.station.id, self._task.name, self._digest)
        )
        lost = _lost_gap(row, decoder.position_s, decoder) if row and decoder else None
        return RecordingRefusal(self._task, refused, error.reason, lost)

    def _drop(self) -> None:
        """Discard the windows of the present recording that wait for a batch."""
        if self._row is not None:
            recording = self._row.id
            self._begun.pop(recording, None)
            self._batch.drop(recording)
            self._open = deque(one for one in self._open if one.stretch.row.id != recording)

    def _whole(self, file: PulsedFile) -> Events:
        """Events of one recording. Digest and sound come from the same open file, even if another
        file takes its name meanwhile."""
        analyst = self._analyst
        with analyst.stopwatch("decode"):
            self._digest, state = read_once(file, state_of_opened(file))
        self._task = task = replace(self._task, file=state)
        with Decoder(task.path, file=file) as self._decoder:
            decoder = self._decoder
            start = self._start(file, decoder)
            identity = self._identify(task.name, self._digest, told_of(task.name, start.source))
            if identity.done:
                yield SameRecording(
                    task.in_part() if identity.part else task, identity.id, identity.better
                )
                return
            start = self._best_start(file, decoder, start, identity)
            told_as = identity.told_as if start.source in FROM_NAME else None
            self._row = row = replace(
                _row(analyst.config, task, identity.id, self._digest, start), told_as=told_as
            )
            self._begun[row.id] = task
            # clips need all of its sound and every detection, so nothing is skipped
            goes_on = not self._keep_sound and identity.since == utc_text(row.start)
            known_s = identity.known_s if goes_on else 0.0
            yield RecordingStart(task, row, decoder.expected_s, known_s)
            ended = yield from self._sound(row, decoder, known_s)
            if still_holds(file, state, self._digest):
                self._open.append(ended)
            else:
                yield self._read_failure(
                    OSError(errno.ESTALE, "the file changed while it was read"), changed=True
                )

    def _sound(
        self, row: RecordingRow, decoder: Decoder, known_s: float
    ) -> Generator[Event, None, _Open]:
        """Decode a recording from its first sample to its last and yield its events; windows of its
        first `known_s` seconds are skipped. Returns its last stretch, whose windows may still wait
        for a batch."""
        stretch = Stretch(self._analyst, row, known=round(known_s * RATE_HZ))
        heard_s = 0.0
        sums = SoundSums()
        for piece in _pieces(self._analyst, decoder):
            if isinstance(piece, Gap):
                yield SoundGap(row, _gap_row(row, piece))
                sums.miss(piece.seconds)
                self._open.append(self._closed(stretch))
                stretch = stretch.after(piece.seconds)
            else:
                if self._keep_sound:
                    yield SoundBlock(row, piece)
                heard_s += len(piece) / RATE_HZ
                sums.add(piece)
                stretch.push(piece)
                self._batch.add(stretch)
            yield from self.answered()
        last = self._closed(stretch)
        lost = _lost_gap(row, stretch.ends_s, decoder)
        last.ended = RecordingEnd(
            self._task, row, heard_s, 0, decoder.warning, lost, decoder.note, sums.text
        )
        return last

    def _best_start(
        self, file: PulsedFile, decoder: Decoder, start: StartTime, identity: Identity
    ) -> StartTime:
        """Start of the recording by everything known of it: the most precise of its names, or the
        earliest of its modification times, since copies are made later."""
        if identity.told_as:
            start = self._start(file, decoder, name=Path(identity.told_as))
        if start.source != "mtime":
            return start
        if decoder.expected_s is None:  # the time is that of its end: decode it to get its length
            start = self._start(file, decoder, whole=True)
        # rounded as in the record, so that an interrupted recording can be resumed
        guess = _row_time(utc_text(start.start_utc))
        before = _row_time(identity.since) if identity.since else guess
        return replace(
            start, start_utc=before if before.year >= YEAR_MIN and before < guess else guess
        )

    def _start(
        self, file: PulsedFile, decoder: Decoder, name: Path | None = None, whole: bool = False
    ) -> StartTime:
        """Start of the recording by its metadata and its `name`. With `whole`, its length is
        measured by decoding all of it."""
        path = self._task.path
        seconds = decoder.expected_s
        if whole:
            with self._analyst.stopwatch("decode"):
                seconds = _length_s(path, file)
        return start_of(name or path, zone=self._analyst.config.zone, duration_s=seconds, file=file)

    def _closed(self, stretch: Stretch) -> _Open:
        """Close the stretch; its last windows may still wait for a batch."""
        stretch.close()
        self._batch.add(stretch)
        return _Open(stretch)

    def answered(self, rest: bool = False) -> Events:
        """Results of full batches, and the ends of recordings that are complete with them."""
        for found in self._batch.found(rest):
            yield from self._ended((found.row.id, found.begins_s))
            yield found
        yield from self._ended(None)

    def _ended(self, now: tuple[str, float] | None) -> Events:
        """Last events of finished stretches, up to the stretch whose results are being yielded,
        `now`."""
        open_ = self._open
        while (
            open_
            and open_[0].stretch.done
            and (open_[0].stretch.row.id, open_[0].stretch.begins_s) != now
        ):
            over = open_.popleft()
            yield from over.stretch.last()
            if over.ended:
                self._begun.pop(over.ended.row.id, None)
                yield replace(over.ended, windows=over.stretch.windows)


def _row_time(time: str) -> datetime:
    return datetime.fromisoformat(time.replace("Z", "+00:00"))


def _length_s(path: Path, file: PulsedFile) -> float:
    with Decoder(path, file=file) as decoder:
        for _ in decoder:
            pass
        return decoder.position_s + decoder.lost_s


def _pieces(analyst: Analyst, decoder: Decoder) -> Iterator[Samples | Gap]:
    """Decoded blocks and gaps. All blocks have the same size, so that reading a recording again
    gives the same numbers."""
    pieces = iter(decoder)
    while True:
        with analyst.stopwatch("decode"):
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece


def _row(
    config: Config, task: RecordingTask, id_: str, digest: str, start: StartTime
) -> RecordingRow:
    local = LocalClock(config.zone, start.utc_offset_minutes)
    return RecordingRow(
        id=id_,
        path=task.name,
        bytes=task.file.bytes,
        mtime_ns=task.file.mtime_ns,
        sha256=digest,
        start=start.start_utc,
        time_source=start.source,
        zone_source=start.zone_source,
        utc_offset_minutes=local.offset_minutes(start.start_utc),
        place=_place(config, start.latitude, start.longitude, start.site),
        source=task.source,
        zone=local.zone,
    )


def _place(
    config: Config, latitude: float | None, longitude: float | None, site: str | None
) -> Place | None:
    """Place of a recording: its own coordinates, else its site's, else the station's."""
    if latitude is not None and longitude is not None:
        return Place(latitude, longitude)
    if site is not None and site in config.sites:
        return Place(config.sites[site].latitude, config.sites[site].longitude)
    station = config.station
    if station.latitude is not None and station.longitude is not None:
        return Place(station.latitude, station.longitude)
    return None


def _lost_gap(row: RecordingRow, ends_s: float, decoder: Decoder) -> GapRow | None:
    """Gap after `ends_s` for sound that was announced but could not be decoded, if any."""
    if not decoder.lost_s:
        return None
    return replace(
        _gap_row(row, Gap(ends_s, decoder.lost_s, "damaged", decoder.warning or "")),
        id=stable_id(row.id, "damaged"),
    )


def _gap_row(row: RecordingRow, gap: Gap) -> GapRow:
    return GapRow(
        id=stable_id(row.id, gap.reason, f"{gap.at_s:.3f}"),
        source=row.source,
        start=row.start + timedelta(seconds=gap.at_s),
        seconds=gap.seconds,
        reason=gap.reason,
        detail=gap.detail,
        recording_id=row.id,
        utc_offset_minutes=row.utc_offset_minutes,
        clock_state=row.clock_state,
        zone=row.zone,
    )
