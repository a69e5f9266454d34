"""The nouns that pass between the station's parts. Plain frozen data; knows no database, broker or network."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Protocol

from edge.contract.blend import Scores

_NAMESPACE = uuid.UUID("6d1f6a5e-3a51-5f0c-9c57-6f1d1f0b8a11")  # of birdstation's ids; never change it


def stable_id(*parts: str) -> str:
    """UUIDv5 of the parts: the same parts give the same id on every machine and in every run."""
    return str(uuid.uuid5(_NAMESPACE, "\x1f".join(parts)))


def utc_text(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds, as rows and messages carry it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


@dataclass(frozen=True)
class Place:
    """Degrees, WGS84."""

    latitude: float
    longitude: float


@dataclass(frozen=True)
class WindowScores:
    """Scores of a batch of windows."""

    members: Scores  # (members, windows, species); of each window alone
    acoustic: Scores  # (windows, species); smoothed with the neighbours where the bundle says so
    blended: Scores  # (windows, species); equals acoustic where there is no prior


@dataclass(frozen=True)
class RecordingRow:
    """A file that came in: what it is, when it began, where it was made."""

    id: str
    path: str  # relative to the folder that was replayed, with forward slashes
    bytes: int
    mtime_ns: int
    sha256: str
    start: datetime  # aware UTC
    time_source: str
    zone_source: str
    utc_offset_minutes: int
    place: Place | None


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
    acoustic: float  # smoothed with the neighbours where the bundle says so; equals score where there is no prior
    prior: float | None  # None: no place, or the prior is off
    threshold: float
    rule: str
    member_low: float  # lowest and highest score among the members for this window alone, before smoothing
    member_high: float
    level_dbfs: float | None  # None: digital silence


@dataclass(frozen=True)
class Message:
    """What goes to the broker: stored with its detection, sent until acknowledged."""

    id: str
    topic: str
    payload: str


class Outbox(Protocol):
    """Messages that wait for a broker; the store keeps them, the publisher empties it."""

    def __enter__(self) -> "Outbox": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def waiting(self, after: int, limit: int) -> list[tuple[int, str, str]]:
        """Messages not yet acknowledged, `(seq, topic, payload)`, oldest first, with seq above `after`."""

    def waiting_count(self) -> int:
        """How many messages no broker has acknowledged yet."""

    def mark_sent(self, seqs: Sequence[int]) -> None:
        """The broker has acknowledged these."""


@dataclass(frozen=True)
class Effort:
    """How long one source was heard and analysed in one hour (UTC), and what was lost and why."""

    hour: datetime
    heard_s: float
    analysed_s: float
    lost_s: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Outcome:
    """How one recording ended."""

    path: str
    bytes: int
    state: str  # analysed or refused
    reason: str | None
    audio_s: float
    windows: int
    new_detections: int
    earlier: bool  # it had ended so in an earlier run; nothing was done now
