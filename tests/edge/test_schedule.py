"""When the station listens: texts, midnight, daylight saving, polar summers and winters."""

from datetime import datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from astral import Observer
from astral.sun import elevation
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge.capture.schedule import Schedule
from edge.types import Place

BERLIN = Place(52.52, 13.405)
ZONE = ZoneInfo("Europe/Berlin")
TROMSO = Place(69.65, 18.96)
OSLO = ZoneInfo("Europe/Oslo")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


def local(text: str, zone: ZoneInfo = ZONE) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone)


def test_no_periods_is_always() -> None:
    always = Schedule.parse((), None, None)
    assert always.open_at(utc("2024-06-01T03:00"))
    assert always.changes_after(utc("2024-06-01T03:00")) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dawn",
        "sunrise 60",
        "sunrise-",
        "sunrise+721",
        "24:00",
        "7:30",
        "12:60",
        "SUNRISE",
        "sunset+30 ",
        "٠٧:٣٠",
    ],
)
@pytest.mark.parametrize("position", [0, 1])
def test_other_texts_are_refused_with_their_key(text: str, position: int) -> None:
    pair = (text, "12:00") if position == 0 else ("12:00", text)
    with pytest.raises(ValueError, match=r"^schedule\[1\]: expected .*, found ") as refused:
        Schedule.parse([("10:00", "11:00"), pair], BERLIN, None)
    assert repr(text) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_sun_wants_a_place() -> None:
    with pytest.raises(ValueError, match=r"^schedule\[0\]: found 'sunset'; .*station.latitude"):
        Schedule.parse([("20:00", "sunset")], None, ZONE)


def test_two_equal_ends_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^schedule\[0\]: expected two different times .*found '06:00' twice"
    ):
        Schedule.parse([("06:00", "06:00")], None, None)


def test_the_clock_is_the_zones_and_the_end_is_not_in_the_period() -> None:
    evening = Schedule.parse([("20:00", "23:30")], None, ZONE)
    assert not evening.open_at(local("2024-06-01T19:59:59"))
    assert evening.open_at(local("2024-06-01T20:00"))
    assert not evening.open_at(local("2024-06-01T23:30"))
    assert evening.changes_after(local("2024-06-01T19:00")) == utc("2024-06-01T18:00")
    assert evening.changes_after(local("2024-06-01T20:00")) == utc("2024-06-01T21:30")
    assert evening.changes_after(local("2024-01-01T19:00")) == utc("2024-01-01T19:00")


def test_a_period_may_wrap_midnight_and_touch_the_next() -> None:
    night = Schedule.parse([("22:00", "04:00"), ("04:00", "05:00")], None, None)
    assert night.open_at(utc("2024-06-01T23:00"))
    assert night.open_at(utc("2024-06-01T03:59"))
    assert night.changes_after(utc("2024-06-01T23:00")) == utc("2024-06-02T05:00")
    assert night.changes_after(utc("2024-06-01T12:00")) == utc("2024-06-01T22:00")


def test_dawn_in_berlin() -> None:
    """Sunrise on 1 May 2024 in Berlin was at 05:34 (timeanddate.com), to a minute or two."""
    dawn = Schedule.parse([("sunrise-60", "sunrise+180")], BERLIN, ZONE)
    opens = dawn.changes_after(local("2024-05-01T01:00"))
    assert opens is not None
    assert abs(opens - local("2024-05-01T04:34")) < timedelta(minutes=3)
    assert dawn.changes_after(opens) == opens + timedelta(hours=4)


def test_the_sun_of_the_other_side_of_the_world() -> None:
    """In Auckland the day begins on the day before in UTC; zone or not, the same hours are day."""
    auckland = Place(-36.85, 174.76)
    in_zone, in_utc = (
        Schedule.parse([("sunrise", "sunset")], auckland, zone)
        for zone in (ZoneInfo("Pacific/Auckland"), None)
    )
    for hour in range(72):
        moment = utc("2024-06-20T00:30") + timedelta(hours=hour)
        local_hour = moment.astimezone(ZoneInfo("Pacific/Auckland")).hour
        assert in_zone.open_at(moment) == in_utc.open_at(moment) == (8 <= local_hour < 17)


@pytest.mark.parametrize(
    ("pair", "summer", "winter"),
    [
        (("sunrise", "sunset"), True, False),
        (("sunrise-60", "sunrise+180"), True, False),
        (("sunset", "23:30"), True, False),
        (("sunset-30", "sunrise+30"), False, True),
        (("10:00", "12:00"), False, False),
    ],
)
def test_polar_day_and_night(pair: tuple[str, str], summer: bool, winter: bool) -> None:
    """Tromsø: the sun does not set from about 20 May to 22 July, nor rise from 27 November to 15
    January."""
    schedule = Schedule.parse([pair], TROMSO, OSLO)
    for hour in (0, 3, 15, 23):
        assert schedule.open_at(local("2024-06-20T00:30", OSLO) + timedelta(hours=hour)) == summer
        assert schedule.open_at(local("2024-12-20T00:30", OSLO) + timedelta(hours=hour)) == winter


@pytest.mark.parametrize(
    ("name", "place", "day"),
    [
        ("Asia/Kathmandu", Place(27.7, 85.3), "2024-04-08"),
        ("Asia/Kolkata", Place(22.6, 88.4), "2024-03-29"),
        ("Asia/Tashkent", Place(41.3, 69.2), "2024-05-19"),
        ("UTC", Place(10.0, -84.0), "2024-06-24"),
    ],
)
def test_the_day_on_which_the_sun_crosses_midnight_utc_is_like_its_neighbours(
    name: str, place: Place, day: str
) -> None:
    """astral finds no sunrise (in the Americas no sunset) on one day a year there."""
    zone = ZoneInfo(name)
    for pair, hours in ((("sunrise-60", "sunrise+180"), 4.0), (("sunset", "sunrise"), None)):
        schedule = Schedule.parse([pair], place, zone)
        moment = utc(f"{day}T12:00") - timedelta(days=2)
        changes = []
        while len(changes) < 9:
            change = schedule.changes_after(moment)
            assert change is not None
            changes.append(change)
            moment = change
        spans = [later - earlier for earlier, later in pairwise(changes)]
        for one, after_a_day in zip(spans, spans[2:], strict=False):
            assert abs(one - after_a_day) < timedelta(minutes=3)
        if hours:
            assert {timedelta(hours=hours), timedelta(hours=24 - hours)} == {
                timedelta(hours=round(span / timedelta(hours=1))) for span in spans
            }


# From pole to pole and around the date line, each with its own zone
PLACES = [
    *(
        (Place(78.2, 15.6), "Arctic/Longyearbyen"),
        (Place(69.65, 18.96), "Europe/Oslo"),
        (Place(64.1, -21.9), "UTC"),
    ),
    *(
        (Place(61.2, -149.9), "America/Anchorage"),
        (Place(52.5, 13.4), "Europe/Berlin"),
        (Place(49.0, -1.2), "UTC"),
    ),
    *(
        (Place(41.3, 69.2), "Asia/Tashkent"),
        (Place(40.7, -74.0), "America/New_York"),
        (Place(35.7, 139.7), "Asia/Tokyo"),
    ),
    *(
        (Place(27.7, 85.3), "Asia/Kathmandu"),
        (Place(22.6, 88.4), "Asia/Kolkata"),
        (Place(21.3, -157.9), "Pacific/Honolulu"),
    ),
    *((Place(10.0, -84.0), "America/Costa_Rica"), (Place(1.9, -157.4), "Pacific/Kiritimati")),
    *((Place(-0.2, -78.5), "America/Guayaquil"), (Place(-13.8, -171.8), "Pacific/Apia")),
    *((Place(-22.9, -43.2), "America/Sao_Paulo"), (Place(-36.85, 174.76), "Pacific/Auckland")),
    *(
        (Place(-54.8, -68.3), "America/Argentina/Ushuaia"),
        (Place(-77.85, 166.7), "Antarctica/McMurdo"),
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "name"), PLACES, ids=[f"{p.latitude:g},{p.longitude:g}" for p, _ in PLACES]
)
def test_the_suns_elevation_is_the_judge(place: Place, name: str) -> None:
    """On every day of a leap year, in the place's own zone, without one and in one of the other
    side of the world."""
    observer = Observer(place.latitude, place.longitude)
    judged = 0
    day = [
        Schedule.parse([("sunrise", "sunset")], place, zone)
        for zone in (ZoneInfo(name), None, ZoneInfo("Pacific/Apia"))
    ]
    night = [Schedule.parse([("sunset", "sunrise")], place, schedule.zone) for schedule in day]
    for number in range(366):
        for part in range(4):  # other minutes every day
            moment = utc("2024-01-01T00:00") + timedelta(
                days=number, hours=6 * part, minutes=number * 61 % 360
            )
            height = elevation(observer, moment, with_refraction=False) + 0.833
            if abs(height) < 1.5:
                continue
            judged += 1
            assert [schedule.open_at(moment) for schedule in day] == [height > 0] * 3, moment
            assert [schedule.open_at(moment) for schedule in night] == [height < 0] * 3, moment
    assert judged > 1000


def test_a_polar_night_ends() -> None:
    day = Schedule.parse([("sunrise", "sunset")], TROMSO, OSLO)
    first_light = day.changes_after(local("2024-12-01T12:00", OSLO))
    assert first_light is not None
    assert local("2025-01-13T00:00", OSLO) < first_light < local("2025-01-18T00:00", OSLO)
    dusk = day.changes_after(local("2024-06-01T12:00", OSLO))
    assert dusk is not None
    assert local("2024-07-20T00:00", OSLO) < dusk < local("2024-07-28T00:00", OSLO)


bounds = st.one_of(
    st.times().map(lambda clock: f"{clock:%H:%M}"),
    st.sampled_from(["sunrise", "sunset"]),
    st.builds("{}{:+d}".format, st.sampled_from(["sunrise", "sunset"]), st.integers(-720, 720)),
)
periods = st.lists(
    st.tuples(bounds, bounds).filter(lambda pair: pair[0] != pair[1]), min_size=1, max_size=3
)
places = st.builds(Place, st.floats(-90, 90), st.floats(-180, 180))
zones = st.sampled_from(
    [None, ZONE, OSLO, ZoneInfo("Pacific/Auckland"), ZoneInfo("America/Anchorage")]
)
moments = st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1), timezones=st.just(timezone.utc))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(periods, places, zones, moments, st.floats(0, 1))
@example([("sunrise-60", "sunrise+180")], Place(90.0, 0.0), None, utc("2024-03-20T12:00"), 0.5)
def test_nothing_changes_between_two_changes(
    pairs: list[tuple[str, str]],
    place: Place,
    zone: ZoneInfo | None,
    moment: datetime,
    share: float,
) -> None:
    schedule = Schedule.parse(pairs, place, zone)
    is_open = schedule.open_at(moment)
    change = schedule.changes_after(moment)
    span = timedelta(days=30) if change is None else change - moment
    assert schedule.open_at(moment + span * share * 0.999999) == is_open
    if change is not None:
        assert change > moment
        assert change.utcoffset() == timedelta(0)
        assert schedule.open_at(change) != is_open
