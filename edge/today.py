"""What has happened since local midnight, counted in memory. Knows no database: who restarts primes it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone, tzinfo


@dataclass
class Counts:
    """Since local midnight."""

    lost_s: float = 0.0
    analysed_s: float = 0.0
    detections: int = 0
    suppressed: int = 0


class Today:
    """Counts of the present day of a place, forgotten at its midnight; and the sound lost in the last hour.

    Each thing counts where it happened: of a stretch of sound over midnight the part that is today's. `zone` None is
    UTC; `now` gives aware UTC.

    today = Today(config.zone, clock.now)
    today.add_analysed(start, 60.0)
    today.counts.analysed_s
    """

    def __init__(self, zone: tzinfo | None, now: Callable[[], datetime]) -> None:
        self._zone, self._now = zone or timezone.utc, now
        self._counts = Counts()
        self._lost: dict[int, float] = {}  # by the minute since 1970 in which it ended
        self._begin(now())

    def _begin(self, now: datetime) -> None:
        local = now.astimezone(self._zone)
        self._start = datetime(local.year, local.month, local.day, tzinfo=self._zone).astimezone(timezone.utc)
        after = local.date() + timedelta(days=1)  # the day has 23 to 25 hours
        self._end = datetime(after.year, after.month, after.day, tzinfo=self._zone).astimezone(timezone.utc)

    @property
    def start(self) -> datetime:
        """Local midnight (aware UTC), from which the counts are primed after a restart."""
        self._turned()
        return self._start

    @property
    def counts(self) -> Counts:
        """A copy of the counts at this moment."""
        return replace(self._turned())

    @property
    def lost_hour_s(self) -> float:
        """Seconds of sound lost in stretches that ended in the last 60 minutes; 3600 at most."""
        self._forget()
        return min(3600.0, math.fsum(self._lost.values()))

    def add_lost(self, start: datetime, seconds: float) -> None:
        """Sound that should have been heard was not (no schedule, no station that was switched off)."""
        self._turned().lost_s += self._part(start, seconds)
        minute = _minute(start + timedelta(seconds=seconds))
        self._lost[minute] = self._lost.get(minute, 0.0) + seconds
        self._forget()

    def add_analysed(self, start: datetime, seconds: float) -> None:
        """Sound that was analysed."""
        self._turned().analysed_s += self._part(start, seconds)

    def add_detections(self, at: datetime, count: int = 1) -> None:
        """Detections that were stored."""
        self._turned().detections += count if self._start <= at < self._end else 0

    def add_suppressed(self, at: datetime, count: int = 1) -> None:
        """Windows of which nothing was kept, since somebody spoke."""
        self._turned().suppressed += count if self._start <= at < self._end else 0

    def _turned(self) -> Counts:
        """The counts, new ones if the day is another; the clock may have been set back, too."""
        now = self._now()
        if not self._start <= now < self._end:
            self._begin(now)
            self._counts = Counts()
        return self._counts

    def _part(self, start: datetime, seconds: float) -> float:
        """How much of a stretch lies in the present day."""
        end = min(start + timedelta(seconds=seconds), self._end)
        return max(0.0, (end - max(start, self._start)).total_seconds())

    def _forget(self) -> None:
        """Drop what ended too long ago; or in the future, of a clock that was set back."""
        now = _minute(self._now())
        self._lost = {minute: seconds for minute, seconds in self._lost.items() if -1 <= now - minute < 60}


def _minute(moment: datetime) -> int:
    return int(moment.timestamp() // 60)
