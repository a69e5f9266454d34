"""Queue of entries that wait to be stored, oldest first, and account of the effort that the record
refused. Knows no thread."""

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
    """One write to the record, and what to do for clips after it."""

    store: Callable[[Store], object] | None = None
    clips: Callable[[ClipMaker], object] | None = None
    analysed_s: float = 0.0  # analysed sound that is lost if this is not stored
    sound_s: float = 0.0  # samples kept in it for clips, in seconds
    until_s: float | None = None  # end of the sound it is about, on the boot's clock
    # stored instead if the record refuses the entry
    refused: Callable[[Store, StoreError], object] | None = None


class WriteBacklog:
    """Entries of a ledger. One thread adds them and another removes them; each keeps its own
    counters, so no lock is needed.

    backlog = WriteBacklog()
    backlog.put(BacklogEntry(store))
    backlog.first().store(...)
    backlog.let_go()
    """

    def __init__(self) -> None:
        self._waiting: deque[BacklogEntry] = deque()
        self._entered = self._stored = 0  # entries with a `store`: added, and done
        self._sound_in_s = self._sound_out_s = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def rows(self) -> int:
        """Number of entries that wait to be stored."""
        return self._entered - self._stored

    @property
    def sound_s(self) -> float:
        """Seconds of sound that wait for their clips."""
        return self._sound_in_s - self._sound_out_s

    @property
    def unstored(self) -> list[BacklogEntry]:
        """The entries that wait to be stored."""
        return [entry for entry in list(self._waiting) if entry.store is not None]

    def put(self, entry: BacklogEntry) -> None:
        """Add an entry behind all others."""
        self._entered += entry.store is not None
        self._sound_in_s += entry.sound_s
        self._waiting.append(entry)

    def first(self) -> BacklogEntry:
        """The oldest entry."""
        return self._waiting[0]

    def let_go(self) -> None:
        """Remove the oldest entry, which is done."""
        entry = self._waiting.popleft()
        self._stored += entry.store is not None
        self._sound_out_s += entry.sound_s


class Shortfall:
    """Correction of a stretch's effort, which always counts from its beginning: refused effort
    became a gap and is subtracted from all later totals.

    shortfall = Shortfall()
    store.add(..., effort=shortfall.off(row.id, found.effort))
    shortfall.stored(row.id, found.effort)    # or
    shortfall.refused(row.id, found.effort)
    """

    def __init__(self) -> None:
        self._recording = ""
        # the last total that was stored or refused, by hour and load level
        self._known: dict[tuple[datetime, int], float] = {}
        self._refused: dict[tuple[datetime, int], float] = {}

    def off(self, recording: str, effort: Sequence[Effort]) -> list[Effort]:
        """This effort without the refused part."""
        if recording != self._recording:
            return list(effort)
        return [
            replace(e, analysed_s=e.analysed_s - self._refused.get((e.hour, e.shed), 0.0))
            for e in effort
        ]

    def stored(self, recording: str, effort: Sequence[Effort]) -> None:
        """Note that this effort is in the record."""
        self._switch_to(recording)
        self._known = {(e.hour, e.shed): e.analysed_s for e in effort}

    def refused(self, recording: str, effort: Sequence[Effort]) -> None:
        """Note that the growth of this effort since the last total was refused for good."""
        self._switch_to(recording)
        for e in effort:
            key = (e.hour, e.shed)
            self._refused[key] = (
                self._refused.get(key, 0.0) + e.analysed_s - self._known.get(key, 0.0)
            )
        self._known = {(e.hour, e.shed): e.analysed_s for e in effort}

    def _switch_to(self, recording: str) -> None:
        if recording != self._recording:
            self._recording = recording
            self._known = {}
            self._refused = {}


def gap_in(row: RecordingRow, from_s: float, to_s: float, why: str) -> GapRow:
    """Gap for sound of a live stretch that was analysed but could not be stored."""
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
