"""Local time at a place: the local day and hour of a moment. Nothing else in the station computes
days.

Knows no recorder, no settings and no database.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone, tzinfo

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_INSTANT = timedelta(microseconds=1)

# Moments are known to the millisecond: an end as close as this is reached.
_NEARLY = timedelta(milliseconds=2)


@dataclass(frozen=True)
class ClockPart:
    """A part of a time span that lies within one hour, or one day, of a local clock, at one offset
    from UTC."""

    start: datetime  # aware UTC
    seconds: float
    since: datetime  # aware UTC: start of this hour or day of the clock at this offset
    utc_offset_minutes: int

    @property
    def day(self) -> date:
        """The local day."""
        return (self.start + timedelta(minutes=self.utc_offset_minutes)).date()


@dataclass(frozen=True)
class LocalClock:
    """The station's zone if it is set, with daylight saving at the moment itself; otherwise the
    recorder's offset.

    >>> LocalClock(ZoneInfo("Asia/Kolkata")).day(datetime(2024, 5, 11, 18, 35, tzinfo=timezone.utc))
    datetime.date(2024, 5, 12)
    """

    zone: tzinfo | None = None
    recorder_minutes: int = 0  # offset from UTC if no zone is set

    def offset_minutes(self, moment: datetime) -> int:
        """Minutes by which local time is ahead of UTC at a moment (aware), rounded: old zones had
        seconds."""
        if self.zone is None:
            return self.recorder_minutes
        return round(
            (moment.astimezone(self.zone).utcoffset() or timedelta()) / timedelta(minutes=1)
        )

    def day(self, moment: datetime) -> date:
        """The local day of a moment (aware)."""
        return (
            moment.astimezone(timezone.utc) + timedelta(minutes=self.offset_minutes(moment))
        ).date()

    def hours(self, start: datetime, seconds: float) -> list[ClockPart]:
        """The time from `start` (aware UTC), split by local hours; an hour with a clock change has
        two parts."""
        return self._parts(start, seconds, _HOUR)

    def days(self, start: datetime, seconds: float) -> list[ClockPart]:
        """The time from `start` (aware UTC), split by local days; a day with a clock change has two
        parts."""
        return self._parts(start, seconds, _DAY)

    def spans(self, start: datetime, seconds: float) -> list[ClockPart]:
        """The time from `start` (aware UTC), split only at clock changes."""
        spans: list[ClockPart] = []
        for part in self.days(start, seconds):
            if spans and spans[-1].utc_offset_minutes == part.utc_offset_minutes:
                last = spans.pop()
                part = ClockPart(
                    last.start, last.seconds + part.seconds, last.since, last.utc_offset_minutes
                )
            spans.append(part)
        return spans

    def until(self, start: datetime) -> datetime:
        """End of a stretch of sound that begins at `start` (aware UTC): the next full hour UTC, or
        a clock change before that."""
        start += _NEARLY
        hour = start.replace(minute=0, second=0, microsecond=0) + _HOUR
        return start + timedelta(
            seconds=self.spans(start, (hour - start) / timedelta(seconds=1))[0].seconds
        )

    def _parts(self, start: datetime, seconds: float, unit: timedelta) -> list[ClockPart]:
        parts = []
        end = start + timedelta(seconds=seconds)
        while start < end:
            minutes = self.offset_minutes(start)
            offset = timedelta(minutes=minutes)
            since = _EPOCH + (start + offset - _EPOCH) // unit * unit - offset
            stop = min(end, since + unit)
            if self.offset_minutes(stop - _INSTANT) != minutes:
                stop = self._change(start, stop)
            if self.offset_minutes(since) != minutes:
                since = self._change(since, start)
            parts.append(ClockPart(start, (stop - start) / timedelta(seconds=1), since, minutes))
            start = stop
        return parts

    def _change(self, before: datetime, after: datetime) -> datetime:
        """Time of the clock change between two moments, by bisection.

        Changes are at whole seconds, and several days apart in every zone.
        """
        low, high = ((moment - _EPOCH) // timedelta(seconds=1) for moment in (before, after))
        offset = self.offset_minutes(before)
        while high - low > 1:
            middle = (low + high) // 2
            if self.offset_minutes(_EPOCH + timedelta(seconds=middle)) == offset:
                low = middle
            else:
                high = middle
        return _EPOCH + timedelta(seconds=high)
