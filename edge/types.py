"""The types that pass between the station's parts. Plain frozen data; knows no database, broker or
network."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from enum import IntEnum
from types import TracebackType
from typing import Literal, NamedTuple, Protocol

from edge.contract.audio import Samples
from edge.contract.blend import Scores
from edge.contract.local_clock import LocalClock

# Of birdstation's ids; never change it.
_NAMESPACE = uuid.UUID("6d1f6a5e-3a51-5f0c-9c57-6f1d1f0b8a11")


GapReason = Literal[
    "off",  # the station was not running
    "schedule",  # the station paused by its schedule
    "no device",  # the sound card was not found, or not yet
    "unplugged",  # the sound card disappeared, or its driver gave up
    "stalled",  # the sound card delivered nothing
    "constant",  # the sound card delivered one constant value: a dead microphone
    "overflow",  # samples were lost between the card and this program
    "overload",  # sound came faster than it could be analysed; the oldest was dropped
    "store",  # results could not be stored for too long
    "clock",  # the wall clock was set while listening
    "damaged",  # in a recording: declared, but cannot be decoded
    "triggered",  # in a recording: left out, being below the recorder's trigger
]
DecidedBy = Literal["bag", "student"]  # source of a window's scores; "bag" is the ensemble
# recorder: a file's recorder, whose clock state is unknown
ClockState = Literal["synced", "rtc", "unsynced", "recorder"]
# fixed: by a person, with `clock fix`
Known = Literal["synced", "rtc", "unsynced", "recorder", "fixed"]


def stable_id(*parts: str) -> str:
    """UUIDv5 of the parts: the same parts give the same id on every machine and in every run."""
    return str(uuid.uuid5(_NAMESPACE, "\x1f".join(parts)))


def utc_text(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds, as in rows and messages."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


class LoadLevel(IntEnum):
    """Work that a station leaves out while sound arrives faster than it is analysed; `shed` in the
    record and in messages."""

    NOTHING = 0
    OVERLAP = 1  # windows overlap only as far as no sound is left out
    NETWORKS = 2  # and one member of each kind answers

    __str__ = int.__repr__  # before Python 3.11 it would be the name


@dataclass(frozen=True)
class Place:
    """Degrees, WGS84."""

    latitude: float
    longitude: float


@dataclass(frozen=True)
class Chunk:
    """Unbroken sound from a live source."""

    at_s: float  # monotonic clock at its first sample, by the sample count
    samples: Samples  # mono, RATE_HZ


@dataclass(frozen=True)
class Gap:
    """Missing sound, and the reason."""

    at_s: float  # monotonic clock of a live source; in a recording, time from its start
    seconds: float
    reason: GapReason
    detail: str = ""  # the system's message


@dataclass(frozen=True)
class WindowScores:
    """Scores of a batch of windows."""

    # (networks loaded, windows, species), without neighbours; NaN: not run on this window
    members: Scores
    acoustic: Scores  # (windows, species); smoothed with neighbours if the bundle does so
    blended: Scores  # (windows, species); equals acoustic without a prior
    decided_by: tuple[DecidedBy, ...]  # (windows,)


@dataclass(frozen=True)
class FileState:
    """The state of a file, for comparison without reading all of it."""

    bytes: int
    mtime_ns: int
    ctime_ns: int  # on FAT only the time of creation, in steps of two seconds or constant
    sample: str  # checksums of a few blocks, as edge.capture.file_states computes them
    # end of its body, without the zeros at the body's end; 0: it was not read
    body_end: int = 0
    body_sum: int = 0  # checksum of the body up to there


@dataclass(frozen=True)
class RecordingRow:
    """An unbroken stretch of sound: a file, or at most an hour of a microphone's sound. With its
    identity, time and place."""

    id: str
    # file: relative to its folder, with forward slashes; live sound: source and start
    path: str
    bytes: int
    mtime_ns: int
    sha256: str
    start: datetime  # aware UTC
    time_source: str
    zone_source: str
    utc_offset_minutes: int  # of the clock at the place, at the start
    place: Place | None
    source: str = "replay"  # replay, folder or microphone
    clock_state: ClockState = "recorder"
    boot: str | None = None  # live sound: the boot of this machine whose clock stamped it
    zone: tzinfo | None = None  # the station's; None: the offset holds for all of it
    # live sound: the run of the station, whose line gives the time of `boot_s`
    run: str | None = None
    boot_s: float | None = None  # CLOCK_BOOTTIME at the start
    told_as: str | None = None  # file: another name of the recording, which gave its start

    @property
    def known_as(self) -> str:
        """Its path in the record and in messages."""
        return self.told_as or self.path

    @property
    def local(self) -> LocalClock:
        """The clock at the place."""
        return LocalClock(self.zone, self.utc_offset_minutes)


@dataclass(frozen=True)
class Detection:
    """A species detected in one window, with everything that led to the decision."""

    id: str
    recording_id: str
    start: datetime  # aware UTC
    end: datetime
    offset_s: float  # from the start of the recording
    species: str
    score: float  # blended; compared with the threshold
    # smoothed with neighbours if the bundle does so; equals score without a prior
    acoustic: float
    prior: float | None  # None: no place, or the prior is off
    threshold: float
    rule: str
    # lowest and highest score of a member for this window, without neighbours
    member_low: float
    member_high: float
    level_dbfs: float | None  # None: digital silence
    # score of each loaded network for this window, without neighbours, in the bundle's order, the
    # student's last; None: not run
    members: tuple[float | None, ...] = ()
    # the next best species of the window with their blended scores
    runner_ups: tuple[tuple[str, float], ...] = ()
    # load level: 0 none, 1 no overlap, 2 one member per kind, or the student alone
    shed: int = 0
    decided_by: DecidedBy = "bag"
    utc_offset_minutes: int = 0  # of the clock at the place, at the start


@dataclass(frozen=True)
class ClipRow:
    """Sound that was saved around detections."""

    id: str
    path: str  # relative to the clips' folder, with forward slashes
    recording_id: str
    start: datetime  # aware UTC
    seconds: float
    bytes: int
    offset_s: float | None = None  # from the start of its recording, if known


@dataclass(frozen=True)
class StoredClip:
    """A clip as seen by retention, which decides whether it is deleted."""

    id: str
    path: str  # relative to the clips' folder, with forward slashes
    since_utc: str  # time of recording or saving, whichever is later
    bytes: int


@dataclass(frozen=True)
class Message:
    """A message for the broker: stored with its detection, sent until acknowledged."""

    id: str
    topic: str
    payload: str


@dataclass(frozen=True)
class QueuedMessage:
    """A message in the outbox."""

    seq: int  # ascending over all messages of this station
    topic: str
    payload: str
    created_utc: str
    # present time of a detection, whose clock may have been corrected since
    lies: "DetectionTime | None" = None


class DetectionTime(NamedTuple):
    """Time of a detection, according to the record."""

    start_utc: str
    end_utc: str
    utc_offset_minutes: int


class Outbox(Protocol):
    """Messages that wait for a broker; the store keeps them, the publisher empties it."""

    def __enter__(self) -> "Outbox": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def is_named_file(self) -> bool:
        """True if the open file is still the one of its name, or if that cannot be determined."""

    def waiting(self, after: int, limit: int) -> list["QueuedMessage"]:
        """Unacknowledged messages with seq above `after`, oldest first; all of them are on disk."""

    def waiting_count(self) -> int:
        """Number of messages that no broker has acknowledged yet."""

    def mark_sent(self, seqs: Sequence[int]) -> None:
        """Note that the broker has acknowledged these messages."""

    def refused(self, seq: int, reason: str, attempts_max: int) -> bool:
        """Note that the broker refused a message; True if that was often enough to set it aside for
        good."""

    def bound(self, waiting_max: int, after: int = 0) -> int:
        """Drop the oldest messages beyond `waiting_max`, but none up to seq `after`; returns how
        many."""

    def counts(self) -> dict[str, int]:
        """Numbers created, sent, waiting, dropped and dead at one moment; the first is the sum of
        the others."""


@dataclass(frozen=True)
class Effort:
    """Time analysed of one stretch, in one hour of the local clock and at one load level."""

    hour: datetime  # aware UTC: start of that hour, or of the part after a clock change in it
    analysed_s: float
    shed: int = 0
    utc_offset_minutes: int = 0  # of that hour


@dataclass(frozen=True)
class GapRow:
    """A Gap in UTC, as the record keeps it."""

    id: str
    source: str
    start: datetime  # aware UTC
    seconds: float
    reason: GapReason
    detail: str = ""
    recording_id: str | None = None  # of the damaged file; None: a live source
    utc_offset_minutes: int = 0  # of the clock at the place, at the start
    clock_state: ClockState = "recorder"
    boot: str | None = None
    zone: tzinfo | None = None  # the station's; None: the offset holds for all of it
    # live source: the run of the station, whose line gives the time of `boot_s`
    run: str | None = None
    # CLOCK_BOOTTIME at the start; None with a run: the time before the run began
    boot_s: float | None = None

    @property
    def local(self) -> LocalClock:
        """The clock at the place."""
        return LocalClock(self.zone, self.utc_offset_minutes)

    def at_one_offset(self) -> list["GapRow"]:
        """The gap, divided at changes of the local clock.

        The first piece keeps the id. Ids depend on the start alone, so that a gap that continues
        gives the same pieces again, with a longer last one.
        """
        return [
            replace(
                self,
                id=self.id if number == 0 else stable_id(self.id, utc_text(span.start)),
                start=span.start,
                seconds=span.seconds,
                utc_offset_minutes=span.utc_offset_minutes,
                boot_s=None
                if self.boot_s is None
                else self.boot_s + (span.start - self.start).total_seconds(),
            )
            for number, span in enumerate(self.local.spans(self.start, self.seconds))
        ]


@dataclass(frozen=True)
class StationRun:
    """One run of the station within one boot of its machine, and its time according to the
    clock."""

    id: str
    source: str  # microphone or folder
    boot: str
    began_s: float  # CLOCK_BOOTTIME
    offset_ms: int  # UTC, in milliseconds since 1970, when CLOCK_BOOTTIME was 0
    known: Known
    zone: tzinfo | None = None  # the station's


@dataclass(frozen=True)
class Outcome:
    """Result of one recording, for one of its files."""

    path: str
    bytes: int
    state: str  # analysed or refused
    reason: str | None
    audio_s: float
    windows: int
    new_detections: int
    # result of an earlier run, or of another name; nothing was done now
    earlier: bool
    recording: str | None  # its id; None: it could not be read
