"""Listening times: always, or in periods given by clock and sun. Knows time and place, nothing of
sound."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Literal

from astral import Observer, SunDirection
from astral.sun import SUN_APPARENT_RADIUS, elevation, time_of_transit

from edge.types import Place

_ALLOWED = 'sunrise, sunset (then + or - up to 720 minutes), or "HH:MM"'
_SUN = re.compile(r"(sunrise|sunset)(?:([+-])(\d{1,3}))?", re.ASCII)
_CLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d)", re.ASCII)
_MINUTES_MAX = 720
_DAY = timedelta(days=1)
_SEARCH_DAYS = 400  # a polar night lasts half a year
# Elevation of the sun's centre at sunrise: its radius and the refraction at the horizon.
_RISE_DEG = -0.833
_SunEvent = Literal["sunrise", "sunset"]
# Earliest time of an event relative to mean noon; the latest is a day later.
_EARLIEST = {
    "sunrise": timedelta(hours=-18),
    "sunset": timedelta(hours=-6),
}
_STEP_DAYS = 8


@dataclass(frozen=True)
class _Bound:
    """One end of a period: a daily event, and minutes from it."""

    event: Literal["midnight", "sunrise", "sunset"]
    minutes: int


@dataclass(frozen=True)
class Schedule:
    """Listening periods of each day; no periods mean always. A period that ends before it begins
    ends on the next day.

    On days when the sun does not rise or set (polar day and night), a period with sunrise or sunset
    in it is the whole day while the sun is up, and empty while it is down; for a period from sunset
    to sunrise it is the other way round. A day is that of `zone`; for periods between sun and sun
    it is the solar day with noon in its middle, so that no zone can produce a day without a sunrise
    or with two. An end that does not occur on the next day is replaced by that day's midnight.

    >>> Schedule.parse([("sunrise-60", "11:00")], Place(54.7, 25.3), ZoneInfo("Europe/Vilnius"))
    """

    periods: tuple[tuple[_Bound, _Bound], ...]
    place: Place | None
    zone: tzinfo

    @classmethod
    def parse(
        cls, pairs: Sequence[tuple[str, str]], place: Place | None, zone: tzinfo | None
    ) -> "Schedule":
        """The schedule of station.yaml's texts; without `zone`, "HH:MM" is UTC.

        Raises ValueError with the key, what was found and what is allowed.
        """
        periods = []
        for index, (start, end) in enumerate(pairs):
            key = f"schedule[{index}]"
            if start == end:
                raise ValueError(
                    f"{key}: expected two different times (to listen always: schedule: []), found "
                    f"{start!r} twice"
                )
            periods.append((_bound(key, start, place), _bound(key, end, place)))
        return cls(tuple(periods), place, zone or timezone.utc)

    def open_at(self, moment: datetime) -> bool:
        """True if the station listens at this (aware) time; a period includes its first moment and
        excludes its last."""
        return not self.periods or self._open_until(moment) is not None

    def changes_after(self, moment: datetime) -> datetime | None:
        """The first time after `moment` at which `open_at` changes, in UTC; None if not within 400
        days."""
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
        """The latest end of the periods that include `moment`; None if there are none."""
        day = moment.astimezone(self.zone).date()
        return max(
            (end for start, end in self._spans(day - 3 * _DAY, 5) if start <= moment < end),
            default=None,
        )

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
        """The periods that begin on one of these days, in UTC."""
        spans = [
            self._span(first + n * _DAY, *period) for n in range(days) for period in self.periods
        ]
        return [span for span in spans if span is not None]

    def _span(self, day: date, start: _Bound, end: _Bound) -> tuple[datetime, datetime] | None:
        # between sun and sun the zone's days do not matter
        by_sun = "midnight" not in (start.event, end.event)
        start_at = self._at(day, start, by_sun)
        end_at = self._at(day, end, by_sun)
        if start_at is None or end_at is None:
            is_night = (start.event, end.event) == ("sunset", "sunrise")
            whole = self._sun_is_up(day if by_sun else self._suns_day(day)) != is_night
            # the sunrise that ends a polar night
            tomorrow = self._at(day + _DAY, end, by_sun) if is_night else None
            return (
                (self._begin(day, by_sun), tomorrow or self._begin(day + _DAY, by_sun))
                if whole
                else None
            )
        if end_at <= start_at:
            end_at = self._at(day + _DAY, end, by_sun) or self._begin(day + _DAY, by_sun)
        return (start_at, end_at) if start_at < end_at else None

    def _at(self, day: date, bound: _Bound, by_sun: bool) -> datetime | None:
        """The time of a bound on this day, in UTC; None if the sun does not rise or set on it."""
        if bound.event == "midnight":
            clock = time(bound.minutes // 60, bound.minutes % 60)
            return datetime.combine(day, clock, self.zone).astimezone(timezone.utc)
        found = _sun_event(self._place, day if by_sun else self._suns_day(day), bound.event)
        return None if found is None else found + timedelta(minutes=bound.minutes)

    def _begin(self, day: date, by_sun: bool) -> datetime:
        """Midnight at the start of a solar day, or of a day of the zone."""
        return _mean_noon(self._place, day) - _DAY / 2 if by_sun else self._midnight(day)

    def _midnight(self, day: date) -> datetime:
        return datetime.combine(day, time(), self.zone).astimezone(timezone.utc)

    def _suns_day(self, day: date) -> date:
        """The solar day whose noon is nearest to noon of the zone's day."""
        noon = datetime.combine(day, time(12), self.zone).astimezone(timezone.utc)
        return day + round((noon - _mean_noon(self._place, day)) / _DAY) * _DAY

    def _sun_is_up(self, suns_day: date) -> bool:
        """True if the sun is up on a day without sunrise and sunset.

        Whichever of noon and midnight is farther from the horizon decides, since the other may
        touch it.
        """
        noon = _mean_noon(self._place, suns_day)
        observer = _observer(self._place)
        heights = [
            elevation(observer, moment, with_refraction=False) for moment in (noon, noon + _DAY / 2)
        ]
        return bool(sum(heights) / 2 > _RISE_DEG)

    @property
    def _place(self) -> Place:
        assert self.place is not None, "parse requires a place for events of the sun"
        return self.place


def _observer(place: Place) -> Observer:
    return Observer(place.latitude, place.longitude)


def _mean_noon(place: Place, suns_day: date) -> datetime:
    """Noon of mean solar time, UTC; the sun is due south or north within 17 minutes of it."""
    return datetime.combine(suns_day, time(12), timezone.utc) - timedelta(
        minutes=4 * place.longitude
    )


@lru_cache(maxsize=4096)
def _sun_event(place: Place, suns_day: date, event: _SunEvent) -> datetime | None:
    """Sunrise before or sunset after noon of this day, in UTC; None if the sun stays up or down."""
    found = _transit(place, suns_day, event)
    # on the first and last days of a polar night astral may find only one of both
    if found is None:
        other = _transit(place, suns_day, "sunset" if event == "sunrise" else "sunrise")
        noon = _mean_noon(place, suns_day)
        found = None if other is None else noon + (noon - other)
    return None if found is None else found.replace(microsecond=0)


def _transit(place: Place, suns_day: date, event: _SunEvent) -> datetime | None:
    """Sunrise or sunset within a day of mean noon; None if there is none.

    astral's own sunrise and sunset require a date on which they occur, and find none on the day of
    the year on which they cross its midnight. Its transit may be that of the day before or after,
    which is corrected here by whole days.
    """
    direction = SunDirection.RISING if event == "sunrise" else SunDirection.SETTING
    try:
        found: datetime = time_of_transit(
            _observer(place), suns_day, 90.0 + SUN_APPARENT_RADIUS, direction
        )
    except ValueError:
        return None
    earliest = _mean_noon(place, suns_day) + _EARLIEST[event]
    return found - (found - earliest) // _DAY * _DAY


def _bound(key: str, text: str, place: Place | None) -> _Bound:
    if clock := _CLOCK.fullmatch(text):
        return _Bound("midnight", 60 * int(clock[1]) + int(clock[2]))
    sun = _SUN.fullmatch(text)
    minutes = int(f"{sun[2]}{sun[3]}") if sun and sun[3] else 0
    if sun is None or abs(minutes) > _MINUTES_MAX:
        raise ValueError(f"{key}: expected {_ALLOWED}, found {text!r}")
    if place is None:
        raise ValueError(
            f"{key}: found {text!r}; set station.latitude and station.longitude for it"
        )
    return _Bound("sunrise" if sun[1] == "sunrise" else "sunset", minutes)
