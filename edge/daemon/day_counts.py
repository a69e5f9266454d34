"""Counts since local midnight, kept in memory. Knows no database: after a restart the caller fills
in the counts from the record."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from edge.contract.local_clock import LocalClock

# days further from today than this are "today" nowhere and are dropped
_KEPT = timedelta(days=2)


@dataclass
class DayCounts:
    """Counts since local midnight."""

    lost_s: float = 0.0
    analysed_s: float = 0.0
    detections: int = 0
    suppressed: int = 0


class Today:
    """Counts of the present day at a place, and the sound lost in the last hour.

    Everything counts on the local day on which it happened; sound over midnight is split. `local`
    is the station's clock; a recording may have its own. `now` gives aware UTC.

    today = Today(LocalClock(config.zone), clock.now)
    today.add_analysed(start, 60.0)
    today.counts.analysed_s

    Counts from the record are kept apart from those added since: when the clock is set, the record
    moves its rows, and the counts are read from there again.
    """

    def __init__(self, local: LocalClock, now: Callable[[], datetime]) -> None:
        self._local = local
        self._now = now
        # by day: a clock set back after midnight may begin a day twice
        self._counts: dict[date, DayCounts] = {}
        self._recorded: dict[date, DayCounts] = {}  # by day, from the record
        self._lost: dict[int, float] = {}  # seconds, by the minute since 1970 in which it ended

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
        """Set the counts of these days from the record, which include everything so far."""
        self._recorded = recorded

    def moved(self, seconds: float) -> None:
        """Handle a clock step of so many seconds: suppressed windows and the lost minutes move
        along; all other counts are set by `prime` afterwards."""
        days = self.day - self._local.day(self._now() - timedelta(seconds=seconds))
        self._counts = {
            day + days: DayCounts(suppressed=counts.suppressed)
            for day, counts in self._counts.items()
        }
        minutes = round(seconds / 60)
        self._lost = {minute + minutes: lost_s for minute, lost_s in self._lost.items()}

    def add_lost(self, start: datetime, seconds: float, local: LocalClock | None = None) -> None:
        """Count sound that should have been heard and was not; neither rests by schedule nor time
        when the station was off."""
        for part in (local or self._local).days(start, seconds):
            self._of(part.day).lost_s += part.seconds
        minute = _minute(start + timedelta(seconds=seconds))
        self._lost[minute] = self._lost.get(minute, 0.0) + seconds
        self._forget()

    def add_analysed(
        self, start: datetime, seconds: float, local: LocalClock | None = None
    ) -> None:
        """Count sound that was analysed."""
        for part in (local or self._local).days(start, seconds):
            self._of(part.day).analysed_s += part.seconds

    def add_detections(self, at: datetime, count: int = 1, local: LocalClock | None = None) -> None:
        """Count detections."""
        self._of((local or self._local).day(at)).detections += count

    def add_suppressed(self, at: datetime, count: int = 1, local: LocalClock | None = None) -> None:
        """Count windows with speech, of which nothing was kept."""
        self._of((local or self._local).day(at)).suppressed += count

    def _of(self, day: date) -> DayCounts:
        """The counts of a day; days far from today are dropped."""
        today = self.day
        self._counts = {d: counts for d, counts in self._counts.items() if abs(d - today) <= _KEPT}
        counts = DayCounts()
        return self._counts.setdefault(day, counts) if abs(day - today) <= _KEPT else counts

    def _forget(self) -> None:
        """Drop losses that ended more than an hour ago, or in the future because the clock was set
        back."""
        now = _minute(self._now())
        self._lost = {
            minute: seconds for minute, seconds in self._lost.items() if -1 <= now - minute < 60
        }


def _minute(moment: datetime) -> int:
    return int(moment.timestamp() // 60)
