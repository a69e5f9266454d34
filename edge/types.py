"""The nouns that pass between the station's parts. Plain frozen data; knows no database, broker or
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

_NAMESPACE = uuid.UUID(
    "6d1f6a5e-3a51-5f0c-9c57-6f1d1f0b8a11"
)  # of birdstation's ids; never change it


GapReason = Literal[
    "off",  # the station was not running
    "schedule",  # the station rests by its schedule
    "no device",  # the sound card is not there (yet)
    "unplugged",  # it went away, or its driver gave up
    "stalled",  # it is there, and delivers nothing
    "constant",  # it delivers the same number for ever: a dead microphone
    "overflow",  # samples were lost between the card and this program
    "overload",  # sound came faster than answers, the oldest went
    "store",  # what was heard could not be stored for too long
    "clock",  # the wall clock was set while listening
    "damaged",  # of a recording: announced, but not to be decoded
    "triggered",  # of a recording: below the recorder's trigger, it kept no sound
]
DecidedBy = Literal["bag", "student"]  # whose scores a window has
ClockState = Literal[
    "synced", "rtc", "unsynced", "recorder"
]  # recorder: of a file, nobody here can know
Known = Literal[
    "synced", "rtc", "unsynced", "recorder", "fixed"
]  # fixed: by a person, with `clock fix`


def stable_id(*parts: str) -> str:
    """UUIDv5 of the parts: the same parts give the same id on every machine and in every run."""
    return str(uuid.uuid5(_NAMESPACE, "\x1f".join(parts)))


def utc_text(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds, as rows and messages carry it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


class LoadLevel(IntEnum):
    """What a station gives up while sound arrives faster than it is analysed; `shed` in the record
    and in messages."""

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

    at_s: float  # monotonic clock at its first sample, counted by the sample clock
    samples: Samples  # mono, RATE_HZ


@dataclass(frozen=True)
class Gap:
    """Sound that is missing, and why."""

    at_s: float  # of a live source the monotonic clock, of a recording the time from its start
    seconds: float
    reason: GapReason
    detail: str = ""  # the system's own words


@dataclass(frozen=True)
class WindowScores:
    """Scores of a batch of windows."""

    # (networks loaded, windows, species); of each window alone; NaN: was not asked about this
    # window
    members: Scores
    acoustic: Scores  # (windows, species); smoothed with the neighbours where the bundle says so
    blended: Scores  # (windows, species); equals acoustic where there is no prior
    decided_by: tuple[DecidedBy, ...]  # (windows,)


@dataclass(frozen=True)
class FileState:
    """What tells one state of a file from another without reading all of it."""

    bytes: int
    mtime_ns: int
    ctime_ns: int  # of FAT no more than when the file was made, and in steps of two seconds or none
    sample: str  # of its content: sums of a few blocks, as edge.capture.content takes them
    body_end: int = (
        0  # where all of it but its ends, and the zeros before the end, ends; 0: it was not read
    )
    body_sum: int = 0  # of that


@dataclass(frozen=True)
class RecordingRow:
    """An unbroken stretch of sound: a file that came in, or what the microphone heard, an hour of
    it at most. What it is, when it began, where it was made."""

    id: str
    # of a file: relative to its folder, with forward slashes; of live sound: source and start
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
    boot: str | None = None  # of live sound: the boot of this machine whose clock stamped it
    zone: tzinfo | None = None  # the station's; None: the offset holds for all of it
    run: str | None = (
        None  # of live sound: the run of the station, whose line says when `boot_s` was
    )
    boot_s: float | None = None  # CLOCK_BOOTTIME at the start
    told_as: str | None = None  # of a file: another name of the recording, which told when it began

    @property
    def known_as(self) -> str:
        """The path by which the record and messages name it."""
        return self.told_as or self.path

    @property
    def local(self) -> LocalClock:
        """The clock at the place."""
        return LocalClock(self.zone, self.utc_offset_minutes)


@dataclass(frozen=True)
class Detection:
    """A species heard in one window, with all that led to the decision."""

    id: str
    recording_id: str
    start: datetime  # aware UTC
    end: datetime
    offset_s: float  # from the start of the recording
    species: str
    score: float  # blended; what the threshold was compared with
    # smoothed with the neighbours where the bundle says so; equals score where there is no prior
    acoustic: float
    prior: float | None  # None: no place, or the prior is off
    threshold: float
    rule: str
    member_low: (
        float  # lowest and highest score among the members for this window alone, before smoothing
    )
    member_high: float
    level_dbfs: float | None  # None: digital silence
    members: tuple[
        float | None, ...
    ] = ()  # score of each loaded network for this window alone, in the bundle's order,
    # the student's last; None: it was not asked
    runner_ups: tuple[
        tuple[str, float], ...
    ] = ()  # the next best species of the window with their blended scores
    # step of the overload ladder: 0 none, 1 no overlap, 2 one member per kind, or the student alone
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
    offset_s: float | None = None  # from the start of its recording, if that is known


@dataclass(frozen=True)
class StoredClip:
    """A clip as those see it who decide whether it goes."""

    id: str
    path: str  # relative to the clips' folder, with forward slashes
    since_utc: str  # when it was recorded or saved, whichever is later
    bytes: int


@dataclass(frozen=True)
class Message:
    """What goes to the broker: stored with its detection, sent until acknowledged."""

    id: str
    topic: str
    payload: str


@dataclass(frozen=True)
class QueuedMessage:
    """A message in the outbox."""

    seq: int  # grows from message to message of this station
    topic: str
    payload: str
    created_utc: str
    lies: "DetectionTime | None" = (
        None  # of a detection, by now: its clock may have been put right since
    )


class DetectionTime(NamedTuple):
    """When a detection is, as the record has it."""

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
        """Whether the open file is still the one of that name; True where that cannot be seen."""

    def waiting(self, after: int, limit: int) -> list["QueuedMessage"]:
        """Messages not yet acknowledged, oldest first, with seq above `after`; all of them are on
        the disk."""

    def waiting_count(self) -> int:
        """How many messages no broker has acknowledged yet."""

    def mark_sent(self, seqs: Sequence[int]) -> None:
        """The broker has acknowledged these."""

    def refused(self, seq: int, reason: str, attempts_max: int) -> bool:
        """The broker said no to this one; True if it was that often that it is set aside for
        good."""

    def bound(self, waiting_max: int, after: int = 0) -> int:
        """Drop the oldest beyond so many, but none up to seq `after`; returns how many went."""

    def counts(self) -> dict[str, int]:
        """created, sent, waiting, dropped and dead at one moment; the first is the sum of the
        others."""


@dataclass(frozen=True)
class Effort:
    """How long one stretch was analysed in one hour of the clock at the place, at one step of the
    overload ladder."""

    hour: datetime  # aware UTC: when that hour began, or the change of the clock inside it
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
    recording_id: str | None = None  # of the file that is damaged; None: of a live source
    utc_offset_minutes: int = 0  # of the clock at the place, at the start
    clock_state: ClockState = "recorder"
    boot: str | None = None
    zone: tzinfo | None = None  # the station's; None: the offset holds for all of it
    run: str | None = (
        None  # of a live source: the run of the station, whose line says when `boot_s` was
    )
    boot_s: float | None = (
        None  # CLOCK_BOOTTIME at the start; None with a run: the time before it began
    )

    @property
    def local(self) -> LocalClock:
        """The clock at the place."""
        return LocalClock(self.zone, self.utc_offset_minutes)

    def at_one_offset(self) -> list["GapRow"]:
        """The gap, cut where the clock at the place is changed. The first piece keeps the id; ids
        depend on the start alone, so that a gap which goes on gives the same pieces again, the last
        one longer."""
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
    """One run of the station in one boot of its machine, and what its clock says of when that
    was."""

    id: str
    source: str  # microphone or folder
    boot: str
    began_s: float  # CLOCK_BOOTTIME
    offset_ms: int  # UTC, in milliseconds since 1970, when CLOCK_BOOTTIME was 0
    known: Known
    zone: tzinfo | None = None  # the station's


@dataclass(frozen=True)
class Outcome:
    """How one recording ended, as one file of it was looked at."""

    path: str
    bytes: int
    state: str  # analysed or refused
    reason: str | None
    audio_s: float
    windows: int
    new_detections: int
    # it had ended so before, in an earlier run or under another name; nothing was done now
    earlier: bool
    recording: str | None  # its id; None: it could not be read
