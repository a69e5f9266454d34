"""What waits to be stored, oldest first, and what of a stretch was refused.

Hands the Store on unseen; knows no thread.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from edge.clips.maker import ClipMaker
from edge.contract.errors import StoreError
from edge.store.record import Store
from edge.types import Effort, GapRow, RecordingRow, stable_id


@dataclass(frozen=True)
class BacklogEntry:
    """What is stored, and what clips follow from it once it is."""

    store: Callable[[Store], object] | None = None
    clips: Callable[[ClipMaker], object] | None = None
    analysed_s: float = 0.0  # sound that is in no row if this is not stored
    sound_s: float = 0.0  # samples in it
    until_s: float | None = None  # on the boot's clock: when what it tells of ended
    refused: Callable[[Store, StoreError], object] | None = (
        None  # stored instead, where the record refuses it
    )


class WriteBacklog:
    """Entries of a ledger. One thread puts them in and another takes them out; each counts by
    itself.

    backlog = Backlog()
    backlog.put(Entry(store))
    backlog.first().store(...)
    backlog.let_go()
    """

    def __init__(self) -> None:
        self._waiting: deque[BacklogEntry] = deque()
        self._entered = self._stored = 0  # entries that are stored
        self._sound_in_s = self._sound_out_s = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def rows(self) -> int:
        """Entries that are to be stored."""
        return self._entered - self._stored

    @property
    def sound_s(self) -> float:
        """Seconds of sound that wait for their clips."""
        return self._sound_in_s - self._sound_out_s

    @property
    def unstored(self) -> list[BacklogEntry]:
        """Those of `rows`."""
        return [entry for entry in list(self._waiting) if entry.store is not None]

    def put(self, entry: BacklogEntry) -> None:
        """Behind all others."""
        self._entered += entry.store is not None
        self._sound_in_s += entry.sound_s
        self._waiting.append(entry)

    def first(self) -> BacklogEntry:
        """The oldest."""
        return self._waiting[0]

    def let_go(self) -> None:
        """The oldest is done."""
        entry = self._waiting.popleft()
        self._stored += entry.store is not None
        self._sound_out_s += entry.sound_s


class Shortfall:
    """Effort of a stretch counts from its beginning: what was refused is a gap, and taken off what
    comes later.

    shortfall = Shortfall()
    store.add(..., effort=shortfall.off(row.id, found.effort))
    shortfall.stored(row.id, found.effort)    # or
    shortfall.refused(row.id, found.effort)
    """

    def __init__(self) -> None:
        self._recording = ""
        self._known: dict[
            tuple[datetime, int], float
        ] = {}  # all that was told, as far as it is stored
        self._refused: dict[tuple[datetime, int], float] = {}

    def off(self, recording: str, effort: Sequence[Effort]) -> list[Effort]:
        """This effort without what was refused."""
        if recording != self._recording:
            return list(effort)
        return [
            replace(e, analysed_s=e.analysed_s - self._refused.get((e.hour, e.shed), 0.0))
            for e in effort
        ]

    def stored(self, recording: str, effort: Sequence[Effort]) -> None:
        """So far it is in the record."""
        self._of(recording)
        self._known = {(e.hour, e.shed): e.analysed_s for e in effort}

    def refused(self, recording: str, effort: Sequence[Effort]) -> None:
        """What is more in this than in what was told before is not, and never will be."""
        self._of(recording)
        for e in effort:
            key = (e.hour, e.shed)
            self._refused[key] = (
                self._refused.get(key, 0.0) + e.analysed_s - self._known.get(key, 0.0)
            )
        self._known = {(e.hour, e.shed): e.analysed_s for e in effort}

    def _of(self, recording: str) -> None:
        if recording != self._recording:
            self._recording = recording
            self._known = {}
            self._refused = {}


def gap_in(row: RecordingRow, from_s: float, to_s: float, why: str) -> GapRow:
    """Sound of a live stretch that was analysed and could not be stored."""
    return GapRow(
        id=stable_id(row.id, "store", f"{from_s:.3f}"),
        source=row.source,
        start=row.start + timedelta(seconds=from_s),
        seconds=to_s - from_s,
        reason="store",
        detail=why,
        utc_offset_minutes=row.utc_offset_minutes,
        clock_state=row.clock_state,
        boot=row.boot,
        zone=row.zone,
        run=row.run,
        boot_s=None if row.boot_s is None else row.boot_s + from_s,
    )
