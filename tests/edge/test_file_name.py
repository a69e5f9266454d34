"""Times and places in file names: what people and recorders write, and what must not be taken for a
time."""

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.capture.file_name import tells_more, told_agree, told_by_name
from edge.capture.start_time import StartTime, start_of

NOW = datetime(2024, 6, 1, tzinfo=timezone.utc)
ENDED = datetime(2024, 5, 31, 12, tzinfo=timezone.utc)
EAST = timezone(timedelta(hours=3))


def started(folder: Path, stem: str) -> StartTime:
    path = folder / f"{stem}.wav"
    path.write_bytes(b"")
    os.utime(path, (ENDED.timestamp(),) * 2)
    return start_of(path, zone=EAST, now=NOW)


MINUTES = [  # 06:23 on 12 May 2024
    "20240512_0623",
    "2024-05-12_06-23",
    "creek-2024-05-12_06-23",  # Arbimon
    "2024-05-12 06_23",  # Merlin
    "2024-05-12 06:23",
    "2024-05-12 06.23",
    "2024-05-12 06\ua78923",  # a colon for systems that allow none
    "2024_05_12_06_23",
    "2024.05.12_0623",
    "2024-05-12T0623",
    "20240512T0623_garden",
    "20240512-0623",
    "20240512 0623",
    "20240512$0623",
    "20240512_06h23",
    "20240512_6h23",
    "2024-05-12 6:23",
    "2024-05-12 06 23",
    "2024 05 12 0623",
    "2024-05-12 06h23m",
    "202405120623",
    "REC_20240512_0623_001",
    "20240512_0623 (2)",
    "20240512_0623-0653",  # until
    "2024-05-12_06-23-001",
    "dawn chorus 2024-05-12 at 06.23",
    "240512_0623",  # Sony
    "12.05.2024 06-23",
    "12.05.2024_0623",
    "Aufnahme 12.05.2024 06.23",
    "2024-05-12 6.23 AM",
    "2024-05-12 at 6:23 a.m.",
]
SECONDS = [
    "2024_05_12__06_23_00",
    "20240512-062300",
    "2024-05-12 at 06.23.00",
    "WhatsApp Audio 2024-05-12 at 06.23.00",
    "2024-05-12 06.23.00 AM",
    "2024-05-12 at 6.23.00\u202fAM",  # as a Mac writes it
    "2024-05-12 06h23m00s",
    "Voice 240512_062300",  # Samsung
    "671629352.240512062300",  # SoundTrap
    "5145.240512062300",
    "Recording_20240512_062300",
    "PAM_20240512_062300_000",
    "R20240512-062300",
    "12.05.2024 06-23-00",
    "2024-05-12-birdnet-06:23:00",
    "2024-05-12-birdnet-RTSP_1-06:23:00",
    "20240512.062300",
]


@pytest.mark.parametrize("stem", MINUTES + SECONDS)
def test_a_clock_behind_a_date(tmp_path: Path, stem: str) -> None:
    found = started(tmp_path, stem)
    assert found.start_utc == datetime(2024, 5, 12, 3, 23, tzinfo=timezone.utc)
    assert (found.source, found.zone_source, found.date_only) == ("name", "config", False)
    assert told_by_name(stem) == "2024-05-12T06:23:00"


@pytest.mark.parametrize(
    ("stem", "local"),
    [
        ("2024-05-12 06.23.00 PM", "18:23"),
        ("2024-05-12 at 6.23 PM", "18:23"),
        ("20240512_062300PM", "18:23"),
        ("2024-05-12 12.00 AM", "00:00"),
        ("2024-05-12 12.30.00 p.m.", "12:30"),
        ("2024-05-12 18.23 PM", "18:23"),  # both, as some telephones write it
        ("20240512_0000", "00:00"),  # midnight, where somebody wrote it
        ("20240512_2359", "23:59"),
    ],
)
def test_clocks_of_twelve_hours_and_the_ends_of_the_day(
    tmp_path: Path, stem: str, local: str
) -> None:
    found = started(tmp_path, stem)
    assert (found.start_utc.astimezone(EAST).strftime("%d %H:%M"), found.source) == (
        f"12 {local}",
        "name",
    )


@pytest.mark.parametrize(
    ("stem", "offset"),
    [
        ("2024-05-12T0623Z", 0),
        ("20240512_062300Z", 0),
        ("2024-05-12 06.23 UTC", 0),
        ("20240512_0623UTC", 0),
        ("20240512_0623_UTC+2", 120),
        ("20240512_062300(UTC-3)", -180),
        ("2024-05-12 06.23 (GMT+5:45) garden", 345),
        ("S4A_20240512_062300_(UTC)", 0),
        ("20240512T0623+0530", 330),
        ("20240512_062300+10", 600),
        ("2024-05-12T06:23:00-07:00", -420),
        ("2024-05-12T0623-0330", -210),
        ("SwiftOne_20240512_062300_-0400", -240),
        ("20240512 0623 +0200", 120),
        ("2024-05-12T06-23-00+02-00", 120),  # as programs replace colons
        ("2024-05-12T06_23_00.000000-07-00", -420),
        ("AMAR123.20240512T062300Z", 0),
        ("20240512_062300_utc", 0),
    ],
)
def test_a_zone_behind_a_clock(tmp_path: Path, stem: str, offset: int) -> None:
    found = started(tmp_path, stem)
    assert found.start_utc == datetime(2024, 5, 12, 6, 23, tzinfo=timezone.utc) - timedelta(
        minutes=offset
    )
    assert (found.source, found.zone_source, found.utc_offset_minutes) == (
        "name",
        "recorded",
        offset,
    )


@pytest.mark.parametrize(
    "stem",
    [
        "20240512_062300-0700",  # a serial, or the end
        "20240512_0623-1200",
        "20240512_062300_1234",
        "20240512_062300_-12.34567+78.98102",  # a latitude
    ],
)
def test_no_zone_behind_a_clock(tmp_path: Path, stem: str) -> None:
    found = started(tmp_path, stem)
    assert found.start_utc == datetime(2024, 5, 12, 3, 23, tzinfo=timezone.utc)
    assert found.zone_source == "config"


@pytest.mark.parametrize(
    "stem",
    [
        "20240512_246000",
        "20240512_240000",
        "20240512_2560",
        "20240512_9999",
        "2024-05-12_24-60",
        "2024-05-12_06-23-99",
        "2024-05-12 13.23 AM",
        "2024-05-12 00.23 PM",
        "20240512T062300+9900",
        "202405122460",
        "12-05-2024 06-23-00",  # 12 May, or 5 December
        "12-05-2024",
        "32.05.2024_0623",
        "240512_246000",
        "240512_0001",  # Tascam counts
        "240512_001",  # Zoom
        "240512",
        "20240512T06Z",
        "123456_654321",
        "A240512_0623",
        "XC240512",
        "0612345678",
        "9999999999",
        "2024-5-12_6-23",
        "20240230_0623",
        "2024-13-12_0623",
    ],
)
def test_what_cannot_be_or_may_be_something_else_is_the_file_time(
    tmp_path: Path, stem: str
) -> None:
    found = started(tmp_path, stem)
    assert (found.source, found.start_utc) == ("mtime", ENDED)
    assert told_by_name(stem) == ""


@pytest.mark.parametrize(
    "stem",
    [
        "20240512",
        "20240512_001",
        "20240512_06",
        "20240512_12345",
        "7019_COR_20240512",
        "2024-05-12_site_12",
        "20240512_1500Hz",
        "0623_20240512",  # a clock, or a number
        "AUD-20240512-WA0001",  # the day on which somebody sent it
        "2024-05-12_6-23",
        "2024-05-12_6.23",
        "2024-05-12_2024-05-13",
        "12.05.2024",
        "20240512 toast_T0001436",
    ],
)
def test_a_day_without_an_hour_says_so(tmp_path: Path, stem: str) -> None:
    found = started(tmp_path, stem)
    assert (found.source, found.date_only, found.zone_source) == ("date", True, "config")
    assert found.start_utc == datetime(2024, 5, 11, 21, tzinfo=timezone.utc)
    assert told_by_name(stem).startswith("2024-05-12")
    assert "T" not in told_by_name(stem)


@pytest.mark.parametrize(
    ("day", "stem"), [(25, "25-05-2024_06-23"), (25, "05_25_2024 0623"), (5, "05-05-2024 06.23")]
)
def test_day_and_month_in_the_only_order_that_can_be(tmp_path: Path, day: int, stem: str) -> None:
    assert started(tmp_path, stem).start_utc == datetime(2024, 5, day, 3, 23, tzinfo=timezone.utc)


@pytest.mark.parametrize("stem", ["1715494980", "1715494980000", "66405F44", "66405f44"])
def test_seconds_since_1970_are_an_instant(tmp_path: Path, stem: str) -> None:
    found = started(tmp_path, stem)
    assert abs(found.start_utc - datetime(2024, 5, 12, 6, 23, tzinfo=timezone.utc)) < timedelta(
        minutes=5
    )
    assert (found.source, found.zone_source, found.utc_offset_minutes) == ("name", "recorded", 180)


@pytest.mark.parametrize(
    ("stem", "place"),
    [
        (
            "S20240512T040000.982648+1000_E20240512T040100.967555+1000_-12.34567+78.98102",
            (-12.34567, 78.98102),
        ),
        ("20240512T040000+1000_REC_+40.20361-075.00417", (40.20361, -75.00417)),
        ("20240512T040000-0300_-23.55-46.63", (-23.55, -46.63)),
        ("20240512_040000_+40.1213-075.0015+2.79CRSWGS_84", (40.1213, -75.0015)),
        ("20240512_040000_N40.20361E075.00417", (40.20361, 75.00417)),
        ("S40.20361W075.00417_20240512_040000", (-40.20361, -75.00417)),
        ("20240512T040000+1000_REC [-27.3866 152.8761]", (-27.3866, 152.8761)),
        ("20240512_040000_-27.2819 90.1361_x", (-27.2819, 90.1361)),
        ("20240512_040000_+0.00000+0.00000", None),  # no fix
        ("20240512_040000_-91.34567+78.98102", None),
        ("20240512_040000_+12.34567-190.00000", None),
        ("20240512_040000_-3.5+12.0", None),  # too coarse to be sure
        ("20240512T040000+1000_E20240512T050000+1000", None),
        ("20240512_040000 12.34", None),
    ],
)
def test_places(tmp_path: Path, stem: str, place: tuple[float, float] | None) -> None:
    found = started(tmp_path, stem)
    assert (found.latitude, found.longitude) == (place or (None, None))
    assert (found.source, found.start_utc.minute) == ("name", 0)
    told = told_by_name(stem).split()
    assert told[0].startswith("2024-05-12T04:00:00")
    assert len(told) == (3 if place else 1)


def test_what_a_name_tells_does_not_depend_on_what_stands_around_it() -> None:
    for same in (
        [
            "20240512_060000",
            "dawn 20240512_060000",
            "S4A_20240512_060000_000",
            "2024-05-12 06.00.00 (1)",
            "20240512_0600",
        ],
        ["20240512T060000+0200", "REC 20240512T060000+0200_x", "2024-05-12 0600 UTC+2"],
        ["10_COR_20190904", "7019_COR_20190904"],
        [
            "S20240512T060000_E20240512T070000_-12.34567+78.98102",
            "20240512_060000 [-12.34567 78.98102]",
        ],
        ["", "soundscape_12", "XC688576", "REC0001", "20240512_246000"],
    ):
        assert len({told_by_name(stem) for stem in same}) == 1
    assert told_by_name("10_COR_20190904") == "2019-09-04 COR"
    assert told_by_name("10_COR_20190904") != told_by_name("10_SSW_20190904")
    assert told_by_name("20240512_060000") != told_by_name("20240512_060000Z") != ""


FORMS = """%Y%m%d_%H%M|%Y-%m-%d_%H-%M|%Y-%m-%d %H:%M|%Y%m%dT%H%M|%d.%m.%Y %H.%M|%Y-%m-%d %I.%M %p
%Y%m%d_%H%M%S
%Y-%m-%d at %H.%M.%S|%Y_%m_%d__%H_%M_%S|%Y%m%d%H%M%S|%Y-%m-%d_%I-%M-%S %p"""


@given(
    time=st.datetimes(datetime(1990, 1, 1), datetime(2024, 5, 30)),
    form=st.sampled_from(FORMS.replace("\n", "|").split("|")),
    zone=st.sampled_from(
        [("", ""), ("Z", "+00:00"), ("+0545", "+05:45"), ("+01:00", "+01:00"), (" UTC-3", "-03:00")]
    ),
    around=st.sampled_from(
        [("", ""), ("REC_", "_001"), ("garden ", " (2)"), ("S4A03895_0+1_", "_x"), ("a-", ".pt540")]
    ),
)
def test_every_minute_is_read_as_it_was_written(
    time: datetime, form: str, zone: tuple[str, str], around: tuple[str, str]
) -> None:
    whole = time.replace(second=time.second if "%S" in form else 0, microsecond=0)
    written, offset = zone if "%p" not in form else ("", "")
    told = told_by_name(around[0] + time.strftime(form) + written + around[1])
    assert told[:19] == whole.isoformat()
    assert told[19:].removeprefix(".001000") == offset  # _001 may be milliseconds


@given(stem=st.text(alphabet="0123456789_TZ+-[]. :$APMatm", max_size=40))
def test_any_stem_tells_something_or_nothing(stem: str) -> None:
    told = told_by_name(stem)
    assert told == "" or len(told.split()) <= 3
    assert told_by_name(stem) == told


@pytest.mark.parametrize(
    ("stem", "other", "zone", "agree"),
    [
        ("REC1", "20240512_040000", None, True),
        ("20240512_040000", "2024-05-12T04:00:00Z", None, True),
        ("20240512_040000", "20240512_040000Z", "Asia/Kathmandu", False),
        ("20240512_040000", "20240511_221500Z", "Asia/Kathmandu", True),
        ("2024-05-12", "20240511_221500Z", "Asia/Kathmandu", True),
        ("2024-05-12", "20240511_041500Z", "Asia/Kathmandu", False),
        (
            "20241027_023000",
            "20241027_003000Z",
            "Europe/Berlin",
            True,
        ),  # of the hour that comes twice, the first
        ("20240512_040000_[52.1 13.4]", "20240512_040000_[52.10 13.40]", None, True),
        ("20240512_040000_[52.1 13.4]", "20240512_040000_[52.1 13.5]", None, False),
        ("7_COR_20240512", "8_SSW_20240512", None, False),
        ("7_COR_20240512", "20240512_040000", None, True),
        ("99991231_235959-0300", "99991231", "Asia/Kathmandu", True),
        ("99991231T235959-0300", "99991231T235959-0400", "Asia/Kathmandu", False),
    ],
)
def test_names_that_agree(stem: str, other: str, zone: str | None, agree: bool) -> None:
    told = told_by_name(stem)
    its = told_by_name(other)
    here = ZoneInfo(zone) if zone else None
    assert told_agree(told, its, here) is told_agree(its, told, here) is agree


def test_names_that_tell_more() -> None:
    rising = [
        "REC1",
        "2024-05-12",
        "7_COR_20240512",
        "20240512_040000",
        "20240512_040000_[52.1 13.4]",
    ]
    told = [told_by_name(stem) for stem in rising]
    for at, text in enumerate(told):
        assert [tells_more(text, other) for other in told] == [
            other < at for other in range(len(told))
        ]
    assert not tells_more(told_by_name("20240512_040000Z"), told_by_name("20240512_040000"))
