"""When to listen: always, or in periods given by the clock and the sun. Knows time and place, nothing of sound."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from typing import Literal

from astral import Observer
from astral.sun import elevation, noon, sunrise, sunset

from edge.types import Place

_ALLOWED = 'sunrise, sunset (then + or - up to 720 minutes), or "HH:MM"'
_SUN = re.compile(r"(sunrise|sunset)(?:([+-])(\d{1,3}))?", re.ASCII)
_CLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d)", re.ASCII)
_MINUTES_MAX = 720
_DAY = timedelta(days=1)
_SEARCH_DAYS = 400  # a polar night lasts half a year
_STEP_DAYS = 8


@dataclass(frozen=True)
class _Bound:
    """One end of a period: an event of each day, and minutes from it."""

    event: Literal["midnight", "sunrise", "sunset"]
    minutes: int


@dataclass(frozen=True)
class Schedule:
    """Periods of each day; none is always. A period that ends before it begins ends on the next day.

    Where the sun does not rise or set on a day (polar day and night), a period that has sunrise or sunset in it is
    the whole day while the sun is up, and not at all while it is down; one from sunset to sunrise the other way
    round. A day is that of `zone`. An end that the next day does not have is its midnight.

    >>> Schedule.parse([("sunrise-60", "11:00")], Place(54.7, 25.3), ZoneInfo("Europe/Vilnius"))
    """

    periods: tuple[tuple[_Bound, _Bound], ...]
    place: Place | None
    zone: tzinfo

    @classmethod
    def parse(cls, pairs: Sequence[tuple[str, str]], place: Place | None, zone: tzinfo | None) -> "Schedule":
        """Of station.yaml's texts; without `zone`, "HH:MM" is UTC. Raises ValueError: key, found, allowed."""
        periods = []
        for index, (start, end) in enumerate(pairs):
            key = f"schedule[{index}]"
            if start == end:
                raise ValueError(f"{key}: found {start!r} twice; two different ends, or no periods at all for always")
            periods.append((_bound(key, start, place), _bound(key, end, place)))
        return cls(tuple(periods), place, zone or timezone.utc)

    def open_at(self, moment: datetime) -> bool:
        """Whether to listen at this (aware) time; the first moment of a period is in it, the last is not."""
        return not self.periods or self._open_until(moment) is not None

    def changes_after(self, moment: datetime) -> datetime | None:
        """The first time after `moment` at which `open_at` is different, in UTC; None: not within 400 days."""
        if not self.periods:
            return None
        until = self._open_until(moment)
        if until is None:
            return self._next_start(moment)
        limit = moment + _SEARCH_DAYS * _DAY
        while until < limit:
            later = self._open_until(until)
            if later is None:
                return until
            until = later
        return None

    def _open_until(self, moment: datetime) -> datetime | None:
        """The last end of the periods that hold at `moment`; None: none does."""
        day = moment.astimezone(self.zone).date()
        return max((end for start, end in self._spans(day - 3 * _DAY, 5) if start <= moment < end), default=None)

    def _next_start(self, moment: datetime) -> datetime | None:
        day = moment.astimezone(self.zone).date()
        for ahead in range(0, _SEARCH_DAYS, _STEP_DAYS):
            # days overlap, since minutes may move a period out of its day
            spans = self._spans(day + (ahead - 3) * _DAY, _STEP_DAYS + 6)
            horizon = self._midnight(day + (ahead + _STEP_DAYS) * _DAY)
            starts = [start for start, _ in spans if moment < start < horizon]
            if starts:
                return min(starts)
        return None

    def _spans(self, first: date, days: int) -> list[tuple[datetime, datetime]]:
        """The periods that begin with one of these days, in UTC."""
        spans = [self._span(first + n * _DAY, *period) for n in range(days) for period in self.periods]
        return [span for span in spans if span is not None]

    def _span(self, day: date, start: _Bound, end: _Bound) -> tuple[datetime, datetime] | None:
        start_at, end_at = self._at(day, start), self._at(day, end)
        if start_at is None or end_at is None:
            is_night = (start.event, end.event) == ("sunset", "sunrise")
            whole = self._sun_is_up(day) != is_night
            return (self._midnight(day), self._midnight(day + _DAY)) if whole else None
        if end_at <= start_at:
            end_at = self._at(day + _DAY, end) or self._midnight(day + _DAY)
        return (start_at, end_at) if start_at < end_at else None

    def _at(self, day: date, bound: _Bound) -> datetime | None:
        """In UTC; None: the sun does not do so on this day."""
        offset = timedelta(minutes=bound.minutes)
        if bound.event == "midnight":
            clock = time(bound.minutes // 60, bound.minutes % 60)
            return datetime.combine(day, clock, self.zone).astimezone(timezone.utc)
        find = sunrise if bound.event == "sunrise" else sunset
        try:
            found: datetime = find(self._observer, day, tzinfo=self.zone)
        except ValueError:
            return None
        return found.astimezone(timezone.utc).replace(microsecond=0) + offset

    def _midnight(self, day: date) -> datetime:
        return datetime.combine(day, time(), self.zone).astimezone(timezone.utc)

    def _sun_is_up(self, day: date) -> bool:
        return bool(elevation(self._observer, noon(self._observer, day)) > 0)

    @property
    def _observer(self) -> Observer:
        assert self.place is not None, "parse wants a place wherever the sun is asked for"
        return Observer(self.place.latitude, self.place.longitude)


def _bound(key: str, text: str, place: Place | None) -> _Bound:
    if clock := _CLOCK.fullmatch(text):
        return _Bound("midnight", 60 * int(clock[1]) + int(clock[2]))
    sun = _SUN.fullmatch(text)
    minutes = int(f"{sun[2]}{sun[3]}") if sun and sun[3] else 0
    if sun is None or abs(minutes) > _MINUTES_MAX:
        raise ValueError(f"{key}: found {text!r}; allowed is {_ALLOWED}")
    if place is None:
        raise ValueError(f"{key}: found {text!r}; the sun wants station.latitude and station.longitude")
    return _Bound("sunrise" if sun[1] == "sunrise" else "sunset", minutes)
