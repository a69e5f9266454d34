"""The local day and hour of any moment in any zone, with Python's zoneinfo as the judge: near
midnights and changes of clocks (at midnight, at 00:01, by half an hour, by a day), in zones of 30
and 45 minutes."""

import zoneinfo
from collections import Counter
from datetime import date, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.analysis.recognizer import Recognizer
from edge.contract.bundle import read_bundle
from edge.contract.local_clock import LocalClock
from tests.helpers.clocked_station import StationYaml, damaged, station, utc

UTC = timezone.utc
# summer time by 30 minutes, at midnight, at 00:01, in both hemispheres; a day that never was; 45
# minutes
ODD = (
    "Australia/Lord_Howe",
    "America/Santiago",
    "Asia/Beirut",
    "America/Havana",
    "America/St_Johns",
    "America/Goose_Bay",
    "Pacific/Apia",
    "Asia/Kathmandu",
    "Asia/Kolkata",
    "Pacific/Chatham",
    "Antarctica/Casey",
    "Antarctica/Troll",
    "Asia/Pyongyang",
    "America/Caracas",
    "Africa/Casablanca",
    "Europe/Dublin",
    "Europe/Paris",
    "Australia/Sydney",
)
ZONES = st.one_of(st.sampled_from(ODD), st.sampled_from(sorted(zoneinfo.available_timezones())))


@pytest.fixture(scope="module")
def recognizer(bundle_folder: Path) -> Recognizer:
    return Recognizer(read_bundle(bundle_folder))


def changes(zone: ZoneInfo, year: int) -> list[datetime]:
    """When the clocks are changed in a year, by asking zoneinfo alone."""
    found = []
    day = datetime(year, 1, 1, tzinfo=UTC)
    while day.year == year:
        low = day
        high = day + timedelta(days=1)
        offset = low.astimezone(zone).utcoffset()
        if high.astimezone(zone).utcoffset() != offset:
            while high - low > timedelta(seconds=1):
                middle = low + timedelta(seconds=(high - low) // timedelta(seconds=2))
                low, high = (
                    (middle, high)
                    if middle.astimezone(zone).utcoffset() == offset
                    else (low, middle)
                )
            found.append(high)
        day += timedelta(days=1)
    return found


@st.composite
def moments(draw: st.DrawFn) -> tuple[ZoneInfo, datetime]:
    """A zone and a moment in it: near a change of clocks, near a midnight of the zone, or any."""
    zone = ZoneInfo(draw(ZONES))
    year = draw(st.integers(1991, 2023))
    kind = draw(st.sampled_from(["change", "midnight", "any"]))
    near = timedelta(seconds=draw(st.integers(-90, 90)))
    when = changes(zone, year) if kind == "change" else []
    if when:
        return zone, draw(st.sampled_from(when)) + near
    moment = datetime(year, 1, 1, tzinfo=UTC) + timedelta(
        seconds=draw(st.integers(0, 364 * 86_400))
    )
    if kind == "any":
        return zone, moment
    local = moment.astimezone(zone).replace(hour=0, minute=0, second=0)
    return zone, local.astimezone(UTC) + near


@settings(max_examples=150, deadline=None)
@given(moments(), st.floats(0, 2 * 86_400))
def test_time_is_cut_where_the_local_clock_says(
    where: tuple[ZoneInfo, datetime], seconds: float
) -> None:
    zone, start = where
    clock = LocalClock(zone)
    for parts in (
        clock.hours(start, seconds),
        clock.days(start, seconds),
        clock.spans(start, seconds),
    ):
        assert sum(part.seconds for part in parts) == pytest.approx(seconds, abs=1e-5)
        at = start
        for part in parts:
            assert part.start == at
            at += timedelta(seconds=part.seconds)
            last = at - timedelta(microseconds=1)
            offsets = {
                moment.astimezone(zone).utcoffset() for moment in (part.since, part.start, last)
            }
            assert offsets == {timedelta(minutes=part.utc_offset_minutes)}
    for part in clock.hours(start, seconds):
        last = part.start + timedelta(seconds=part.seconds) - timedelta(microseconds=1)
        local = [moment.astimezone(zone) for moment in (part.since, part.start, last)]
        assert len({(moment.date(), moment.hour) for moment in local}) == 1
        assert part.day == local[0].date()
    days = [(part.day, part.utc_offset_minutes) for part in clock.days(start, seconds)]
    assert all(one != other for one, other in pairwise(days)), "not cut more than is needed"


def test_without_a_zone_the_recorders_own_offset_holds() -> None:
    clock = LocalClock(None, -570)
    assert clock.day(utc("2024-01-01 09:29:59")) == date(2023, 12, 31)
    assert [(p.since, p.seconds) for p in clock.hours(utc("2024-01-01 09:29:50"), 20)] == [
        (utc("2024-01-01 08:30:00"), 10),
        (utc("2024-01-01 09:30:00"), 10),
    ]
    assert clock.hours(utc("2024-01-01 09:29:50"), 0) == []


@pytest.mark.slow
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(where=moments(), missing_s=st.integers(20, 300), restart=st.booleans())
def test_what_belongs_to_one_moment_lies_on_one_local_day(
    where: tuple[ZoneInfo, datetime],
    missing_s: int,
    restart: bool,
    recognizer: Recognizer,
    station_yaml: StationYaml,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Half a minute of sound and a loss behind it, from a moment in any zone on; what each second
    is, is known."""
    zone, start = where
    folder = tmp_path_factory.mktemp("moment")
    damaged(folder / f"{start:%Y%m%dT%H%M%S}Z.wav", 30, 30 + missing_s)
    here = station(station_yaml, recognizer, zone.key, start, f"state: {folder / 'state'}")
    here.replay(folder)
    seconds = [
        (start + timedelta(seconds=n)).astimezone(zone).date() for n in range(30 + missing_s)
    ]
    windows = [(start + timedelta(seconds=2.5 * n)).astimezone(zone) for n in range(11)]
    heard = Counter(map(str, seconds[:30]))
    lost = Counter(map(str, seconds[30:]))
    assert here.rows("SELECT day, analysed_s, lost_s FROM effort_by_day ORDER BY day") == [
        (day, heard[day], pytest.approx(lost[day], abs=0.05)) for day in sorted(heard | lost)
    ]
    counted = Counter(str(window.date()) for window in windows)
    assert dict(here.rows("SELECT day, detections FROM species_by_day")) == counted
    assert dict(here.rows("SELECT hour, detections FROM hourly_activity")) == Counter(
        f"{w:%H}" for w in windows
    )
    for day in sorted(heard | lost):
        here.now = max(
            start + timedelta(seconds=n) for n, on in enumerate(seconds) if str(on) == day
        )
        here.clock.check()
        here = here.killed() if restart else here
        assert here.today() == (heard[day], pytest.approx(lost[day], abs=0.01), counted[day])
