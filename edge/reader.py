"""Recordings read and analysed, in one thread or in several: what comes of them, as events.

Every recording that was given ends in one last event: Ended, Refused or Unread. Knows no database: whoever takes the
events stores them.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import cast

from edge.analysis import Analyst, Batch, Found, Stretch
from edge.capture.content import read_once, state_of
from edge.capture.recording import Decoder
from edge.capture.sound_sums import SoundSums
from edge.capture.start_time import StartTime, start_of
from edge.config import Config
from edge.contract.audio import RATE_HZ, Samples
from edge.contract.errors import RecordingError
from edge.identity import Identify, Identity, recording_id, told_of
from edge.local_clock import LocalClock
from edge.store.files import file_id
from edge.types import FileState, Gap, GapRow, Place, RecordingRow, stable_id

_EVENTS_MAX = 16  # that wait to be stored, for each thread: memory does not grow while the disk is slow
_PATIENCE_S = 0.5  # of a thread that cannot hand over its event, before it asks whether anybody still listens


@dataclass(frozen=True)
class Task:
    """A recording to be analysed, as it was when somebody looked."""

    path: Path
    name: str  # by which the record knows it
    file: FileState
    source: str

    @classmethod
    def of(cls, path: Path, name: str, source: str) -> "Task":
        """Raises OSError if the file is not there, or cannot be read."""
        return cls(path, name, state_of(path), source)

    def in_part(self) -> "Task":
        """The same, where the file is only the beginning of what it is taken for."""
        return replace(self, file=replace(self.file, body_end=0, body_sum=0))

    @property
    def bytes(self) -> int:
        """Of the file."""
        return self.file.bytes


@dataclass(frozen=True)
class Begun:
    """A recording can be decoded; this is what it says of itself."""

    task: Task
    row: RecordingRow
    expected_s: float | None  # its length, as far as its header tells


@dataclass(frozen=True)
class Heard:
    """Sound of a recording, for those who keep it."""

    row: RecordingRow
    samples: Samples


@dataclass(frozen=True)
class Missed:
    """Sound is missing in the middle of a recording."""

    row: RecordingRow
    gap: GapRow


@dataclass(frozen=True)
class Ended:
    """A recording was analysed to its end."""

    task: Task
    row: RecordingRow
    audio_s: float
    windows: int
    warning: str | None  # what of it was lost
    gap: GapRow | None
    note: str | None = None  # what else is to be known of its sound
    sound: str = ""  # its sums, by which it is known whatever stands around it


@dataclass(frozen=True)
class Same:
    """A file is a recording whose analysis stands, or which is being read under another name."""

    task: Task
    id: str
    better: bool = False  # its name tells more than that one: it is to be looked at again


@dataclass(frozen=True)
class Refused:
    """A recording cannot be analysed, now or later."""

    task: Task
    id: str  # of the recording, if it had begun; otherwise of the file
    reason: str
    gap: GapRow | None


@dataclass(frozen=True)
class Unread:
    """A recording could not be read this time: gone, not permitted, a bad sector."""

    task: Task
    error: OSError
    id: str | None  # of its row, if it had begun


Event = Begun | Same | Heard | Missed | Found | Ended | Refused | Unread
Events = Generator[Event, None, None]
Reading = Callable[[Iterable[Task]], Events]


@dataclass
class _Open:
    """A stretch of a recording that was decoded to its end, and whose last windows may still wait for a batch."""

    stretch: Stretch
    ended: Ended | None = None  # with the last one of the recording; its windows are not counted yet


def read_recordings(
    analyst: Analyst, tasks: Iterable[Task], keep_sound: bool = False, identify: Identify | None = None
) -> Events:
    """Analyse recordings one after the other. The windows of several share batches, so a recording may end after the
    next one has begun; the events of each are in order. `keep_sound`: with Heard events. `identify` says which
    recording a file is; without it each is new."""
    identify = identify or partial(_new, analyst.config.station.id)
    batch = Batch(analyst)
    open_: deque[_Open] = deque()
    for task in tasks:
        yield from _read(analyst, task, batch, open_, keep_sound, identify)
    yield from _answered(batch, open_, rest=True)


def _new(station: str, _: str, sha256: str, told: str) -> Identity:
    return Identity(recording_id(station, sha256, told), False)


def _read(
    analyst: Analyst, task: Task, batch: Batch, open_: deque[_Open], keep_sound: bool, identify: Identify
) -> Events:
    row, decoder, digest = None, None, ""
    try:
        with analyst.stopwatch("decode"):
            digest, file = read_once(task.path, task.file)
            task = replace(task, file=file)
        with Decoder(task.path) as decoder:
            start = start_of(task.path, zone=analyst.config.zone, duration_s=decoder.expected_s)
            identity = identify(task.name, digest, told_of(task.name, start.source))
            if identity.done:
                yield Same(task.in_part() if identity.part else task, identity.id, identity.better)
                return
            if start.source == "mtime" and decoder.expected_s is None:  # when it ended: how long it is, decoding tells
                with analyst.stopwatch("decode"):
                    start = start_of(task.path, zone=analyst.config.zone, duration_s=_length_s(task.path))
            row = _row(analyst.config, task, identity.id, digest, start)
            yield Begun(task, row, decoder.expected_s)
            stretch, heard_s, sums = Stretch(analyst, row), 0.0, SoundSums()
            for piece in _pieces(analyst, decoder):
                if isinstance(piece, Gap):
                    yield Missed(row, _gap_row(row, piece))
                    sums.miss(piece.seconds)
                    open_.append(_closed(batch, stretch))
                    stretch = stretch.after(piece.seconds)
                else:
                    if keep_sound:
                        yield Heard(row, piece)
                    heard_s += len(piece) / RATE_HZ
                    sums.add(piece)
                    stretch.push(piece)
                    batch.add(stretch)
                yield from _answered(batch, open_)
            last = _closed(batch, stretch)
            lost = _lost(row, stretch.ends_s, decoder)
            last.ended = Ended(task, row, heard_s, 0, decoder.warning, lost, decoder.note, sums.text)
            open_.append(last)
    except RecordingError as error:
        refused_id = row.id if row else file_id(analyst.config.station.id, task.name, digest)
        yield Refused(
            task, refused_id, error.reason, _lost(row, decoder.position_s, decoder) if row and decoder else None
        )
    except OSError as error:
        yield Unread(task, error, row.id if row else None)
    else:
        yield from _answered(batch, open_)


def _length_s(path: Path) -> float:
    with Decoder(path) as decoder:
        for _ in decoder:
            pass
        return decoder.position_s + decoder.lost_s


def _pieces(analyst: Analyst, decoder: Decoder) -> Iterator[Samples | Gap]:
    """Blocks have one size, so that a recording read again gives the same numbers."""
    pieces = iter(decoder)
    while True:
        with analyst.stopwatch("decode"):
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece


def _closed(batch: Batch, stretch: Stretch) -> _Open:
    """The stretch ends here; its last windows may still wait for a batch."""
    stretch.close()
    batch.add(stretch)
    return _Open(stretch)


def _answered(batch: Batch, open_: deque[_Open], rest: bool = False) -> Events:
    """What the networks say of whole batches, and the recordings that have all their answers with that."""
    for found in batch.found(rest):
        yield from _ended(open_, (found.row.id, found.begins_s))
        yield found
    yield from _ended(open_, None)


def _ended(open_: deque[_Open], now: tuple[str, float] | None) -> Events:
    """Stretches that are over; not the one whose answers are being given just now."""
    while open_ and open_[0].stretch.done and (open_[0].stretch.row.id, open_[0].stretch.begins_s) != now:
        over = open_.popleft()
        yield from over.stretch.last()
        if over.ended:
            yield replace(over.ended, windows=over.stretch.windows)


def _row(config: Config, task: Task, id_: str, digest: str, start: StartTime) -> RecordingRow:
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


def _place(config: Config, latitude: float | None, longitude: float | None, site: str | None) -> Place | None:
    """Where a recording was made: what it says itself, its site's place, or the station's."""
    if latitude is not None and longitude is not None:
        return Place(latitude, longitude)
    if site is not None and site in config.sites:
        return Place(config.sites[site].latitude, config.sites[site].longitude)
    station = config.station
    if station.latitude is not None and station.longitude is not None:
        return Place(station.latitude, station.longitude)
    return None


def _lost(row: RecordingRow, ends_s: float, decoder: Decoder) -> GapRow | None:
    """What was announced and could not be decoded follows what was heard."""
    if not decoder.lost_s:
        return None
    return replace(
        _gap_row(row, Gap(ends_s, decoder.lost_s, "damaged", decoder.warning or "")), id=stable_id(row.id, "damaged")
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


@dataclass
class _Failed:
    """A thread met what nobody foresaw."""

    error: BaseException


_OVER = object()  # a thread has nothing more to do


class Readers:
    """Threads that read recordings side by side: they share the networks, and decoding, images and networks run
    without Python's lock.

    for event in Readers(lambda tasks: read_recordings(analyst, tasks), threads=4).events(tasks): ...
    """

    def __init__(self, read: Reading, threads: int) -> None:
        self._read, self._count = read, threads
        self._tasks: queue.Queue[Task | None] = queue.Queue()
        self._events: queue.Queue[object] = queue.Queue(_EVENTS_MAX * threads)
        self._left = threading.Event()

    def events(self, tasks: Iterable[Task]) -> Events:
        """Read the tasks, once; events come as they happen, those of one recording in order. Tasks are asked for in the
        thread of the caller, a few ahead. Left early, the threads stop at their next event."""
        names = (f"reader-{number}" for number in range(self._count))
        threads = [threading.Thread(target=self._run, name=name, daemon=True) for name in names]
        for thread in threads:
            thread.start()
        try:
            yield from self._until_over(iter(tasks))
        finally:
            self._left.set()
            self._tell_all()
            for thread in threads:
                thread.join()

    def _until_over(self, coming: Iterator[Task]) -> Events:
        told_all, running = False, self._count
        while running:
            while not told_all and self._tasks.qsize() < self._count:
                task = next(coming, None)
                if task is None:
                    told_all = True
                    self._tell_all()
                else:
                    self._tasks.put(task)
            event = self._events.get()
            if isinstance(event, _Failed):
                raise event.error
            if event is _OVER:
                running -= 1
            else:
                yield cast(Event, event)

    def _tell_all(self) -> None:
        """Nothing more comes."""
        for _ in range(self._count):
            self._tasks.put(None)

    def _run(self) -> None:
        try:
            for event in self._read(iter(self._tasks.get, None)):
                if not self._hand_over(event):
                    return
        except BaseException as error:  # handed over, to be raised where it is heard
            self._hand_over(_Failed(error))
        else:
            self._hand_over(_OVER)

    def _hand_over(self, event: object) -> bool:
        """False if nobody listens any more."""
        while not self._left.is_set():
            try:
                self._events.put(event, timeout=_PATIENCE_S)
            except queue.Full:
                continue
            return True
        return False
