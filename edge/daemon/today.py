"""What has happened since local midnight, counted in memory. Knows no database: who restarts primes
it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from edge.contract.local_clock import LocalClock

_KEPT = timedelta(
    days=2
)  # of counts: what was recorded further from today is nobody's today any more


@dataclass
class DayCounts:
    """Since local midnight."""

    lost_s: float = 0.0
    analysed_s: float = 0.0
    detections: int = 0
    suppressed: int = 0


class Today:
    """Counts of the present day of a place; and the sound lost in the last hour.

    Each thing counts on the local day on which it happened: of a stretch of sound over midnight the
    part that is today's. `local` is the station's clock; a recording may have its own. `now` gives
    aware UTC.

    today = Today(LocalClock(config.zone), clock.now)
    today.add_analysed(start, 60.0)
    today.counts.analysed_s

    What the record had of a day is kept apart from what is added since: where the clock is set, the
    record moves, and all that is added until then is taken from there.
    """

    def __init__(self, local: LocalClock, now: Callable[[], datetime]) -> None:
        self._local = local
        self._now = now
        self._counts: dict[
            date, DayCounts
        ] = {}  # by day: a clock changed after midnight may begin one twice
        self._recorded: dict[date, DayCounts] = {}  # of days, as the record had them
        self._lost: dict[int, float] = {}  # by the minute since 1970 in which it ended

    @property
    def day(self) -> date:
        """The present local day."""
        return self._local.day(self._now())

    @property
    def counts(self) -> DayCounts:
        """A copy of the counts at this moment."""
        counts = self._of(self.day)
        recorded = self._recorded.get(self.day, DayCounts())
        return replace(
            counts,
            lost_s=counts.lost_s + recorded.lost_s,
            analysed_s=counts.analysed_s + recorded.analysed_s,
            detections=counts.detections + recorded.detections,
        )

    @property
    def lost_hour_s(self) -> float:
        """Seconds of sound lost in stretches that ended in the last 60 minutes; 3600 at most."""
        self._forget()
        return min(3600.0, math.fsum(self._lost.values()))

    def prime(self, recorded: dict[date, DayCounts]) -> None:
        """What the record has of these days, of all that was before."""
        self._recorded = recorded

    def moved(self, seconds: float) -> None:
        """The clock was set by so much: what was lost and what nothing was kept of goes along; all
        else that was added is left to `prime`."""
        days = self.day - self._local.day(self._now() - timedelta(seconds=seconds))
        self._counts = {
            day + days: DayCounts(suppressed=counts.suppressed)
            for day, counts in self._counts.items()
        }
        minutes = round(seconds / 60)
        self._lost = {minute + minutes: lost_s for minute, lost_s in self._lost.items()}

    def add_lost(self, start: datetime, seconds: float, local: LocalClock | None = None) -> None:
        """Sound that should have been heard was not (no schedule, no station that was switched
        off)."""
        for part in (local or self._local).days(start, seconds):
            self._of(part.day).lost_s += part.seconds
        minute = _minute(start + timedelta(seconds=seconds))
        self._lost[minute] = self._lost.get(minute, 0.0) + seconds
        self._forget()

    def add_analysed(
        self, start: datetime, seconds: float, local: LocalClock | None = None
    ) -> None:
        """Sound that was analysed."""
        for part in (local or self._local).days(start, seconds):
            self._of(part.day).analysed_s += part.seconds

    def add_detections(self, at: datetime, count: int = 1, local: LocalClock | None = None) -> None:
        """Detections that were stored."""
        self._of((local or self._local).day(at)).detections += count

    def add_suppressed(self, at: datetime, count: int = 1, local: LocalClock | None = None) -> None:
        """Windows of which nothing was kept, since somebody spoke."""
        self._of((local or self._local).day(at)).suppressed += count

    def _of(self, day: date) -> DayCounts:
        """The counts of a day; those far from today are let go."""
        today = self.day
        self._counts = {d: counts for d, counts in self._counts.items() if abs(d - today) <= _KEPT}
        counts = DayCounts()
        return self._counts.setdefault(day, counts) if abs(day - today) <= _KEPT else counts

    def _forget(self) -> None:
        """Drop what ended too long ago; or in the future, of a clock that was set back."""
        now = _minute(self._now())
        self._lost = {
            minute: seconds for minute, seconds in self._lost.items() if -1 <= now - minute < 60
        }


def _minute(moment: datetime) -> int:
    return int(moment.timestamp() // 60)
