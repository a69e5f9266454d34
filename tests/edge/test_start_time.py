"""Start times: what each recorder writes, what is not believed, and that garbage never raises."""

import os
import struct
from datetime import datetime, timedelta, timezone, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.capture.start_time import StartTime, start_of
from edge.contract.errors import RecordingError

NOW = datetime(2024, 6, 1, tzinfo=timezone.utc)
EAST = timezone(timedelta(hours=3))


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=timezone.utc)  # type: ignore[arg-type,misc]


def chunk(name: bytes, data: bytes, *, pad: bool = True) -> bytes:
    return name + struct.pack("<I", len(data)) + data + (b"\0" if pad and len(data) % 2 else b"")


FMT = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 32_000, 64_000, 2, 16))
DATA = chunk(b"data", bytes(64))


def riff(*chunks: bytes, kind: bytes = b"RIFF") -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return kind + struct.pack("<I", len(body)) + body


def guano(text: str) -> bytes:
    return chunk(b"guan", text.encode())


def icmt(text: str) -> bytes:
    return chunk(
        b"LIST", b"INFO" + chunk(b"IART", b"AudioMoth") + chunk(b"ICMT", text.encode() + b"\0")
    )


def bext(date: str, time: str) -> bytes:
    return chunk(b"bext", bytes(320) + date.encode() + time.encode() + bytes(264))


def started(
    folder: Path,
    content: bytes = b"",
    name: str = "x.wav",
    zone: tzinfo | None = None,
    duration_s: float = 0.0,
) -> StartTime:
    path = folder / name
    path.write_bytes(content)
    ended = utc(2024, 5, 31, 12).timestamp()
    os.utime(path, (ended, ended))
    return start_of(path, zone=zone, duration_s=duration_s, now=NOW)


NAMES = [
    ("20240512_034500.WAV", utc(2024, 5, 12, 3, 45)),  # AudioMoth
    ("20240512_034500T.WAV", utc(2024, 5, 12, 3, 45)),
    ("S4A03895_20190522_063000.wav", utc(2019, 5, 22, 6, 30)),  # Wildlife Acoustics
    ("FLOOD_0+1_20170725_123456.wav", utc(2017, 7, 25, 12, 34, 56)),
    ("flood_0+1_1_20170725_123456_123.wav", utc(2017, 7, 25, 12, 34, 56, 123_000)),
    ("SITE_A$20170725$123456.wav", utc(2017, 7, 25, 12, 34, 56)),
    ("SM4BAT_20230101_235959_000.wav", utc(2023, 1, 1, 23, 59, 59)),
    ("20230101T235959_REC.flac", utc(2023, 1, 1, 23, 59, 59)),  # Frontier Labs without an offset
    ("S20240512T034500_E20240512T044500.wav", utc(2024, 5, 12, 3, 45)),
    ("20240512034500.wav", utc(2024, 5, 12, 3, 45)),
    ("2024-05-12-birdnet-03:45:00.mp3", utc(2024, 5, 12, 3, 45)),  # BirdNET-Pi
    ("2024-05-12_03-45-00.wav", utc(2024, 5, 12, 3, 45)),
    ("H02_20230420_074000.ogg", utc(2023, 4, 20, 7, 40)),  # BirdCLEF 2025
    ("BLKFR-10-CPL_20190611_093000.pt540.mp3", utc(2019, 6, 11, 9, 30)),
    ("99999999_999999_20240512_034500.wav", utc(2024, 5, 12, 3, 45)),
]


@pytest.mark.parametrize(("name", "local"), NAMES)
def test_a_name_is_local_time_in_the_callers_zone(
    tmp_path: Path, name: str, local: datetime
) -> None:
    found = started(tmp_path, name=name)
    assert (found.start_utc, found.source, found.zone_source) == (local, "name", "assumed_utc")
    assert not found.date_only
    assert not found.offset_known
    assert found.utc_offset_minutes == 0
    found = started(tmp_path, name=name, zone=EAST)
    assert (found.start_utc, found.zone_source) == (local - timedelta(hours=3), "config")
    assert found.utc_offset_minutes == 180


@pytest.mark.parametrize(
    ("name", "start", "offset"),
    [
        ("20240512T034500+1000_REC.flac", utc(2024, 5, 11, 17, 45), 600),
        ("20240512T034500-0330.wav", utc(2024, 5, 12, 7, 15), -210),
        ("20240512T034500.250000+10:00.wav", utc(2024, 5, 11, 17, 45, 0, 250_000), 600),
        ("20240512T034500Z.wav", utc(2024, 5, 12, 3, 45), 0),
        ("5AFCD4F4.WAV", utc(2018, 5, 17, 1, 3, 48), 180),  # an instant: the zone is the caller's
    ],
)
def test_a_name_with_its_own_zone_beats_the_callers(
    tmp_path: Path, name: str, start: datetime, offset: int
) -> None:
    found = started(tmp_path, name=name, zone=EAST)
    assert (found.start_utc, found.source, found.zone_source) == (start, "name", "recorded")
    assert found.utc_offset_minutes == offset
    assert found.offset_known


@pytest.mark.parametrize(
    ("name", "day", "site"),
    [
        ("7019_COR_20190904.ogg", (2019, 9, 4), "COR"),
        ("10534_SSW_20170429.ogg", (2017, 4, 29), "SSW"),
        ("2019-07-08_toast_T0001436.WAV", (2019, 7, 8), None),
        ("20240512.wav", (2024, 5, 12), None),
    ],
)
def test_a_day_without_an_hour_says_so_and_midnight_in_the_zone_stands_for_it(
    tmp_path: Path, name: str, day: tuple[int, int, int], site: str | None
) -> None:
    found = started(tmp_path, name=name, zone=EAST)
    assert found.start_utc == utc(*day) - timedelta(hours=3)
    assert found.date_only
    assert found.source == "date"
    assert found.site == site


@pytest.mark.parametrize(
    "name",
    [
        "99999999_999999.wav",
        "20240230_120000x.wav",
        "20250101_000000.wav",  # after now
        "19700101_000000.wav",  # a clock that was never set
        "DEADBEEF.WAV",
        "00000001.WAV",
        "XC688576.mp3",
        "soundscape_12.ogg",
        "test.wav",
        "X20190904.wav",
        "20240512T034500+9900.wav",
        "٢٠٢٤٠٥١٢_٠٣٤٥٠٠.wav",  # Arabic digits are digits to \d
    ],
)
def test_no_time_in_a_name_leaves_the_file_time_less_the_duration(
    tmp_path: Path, name: str
) -> None:
    found = started(tmp_path, name=name, zone=EAST, duration_s=600.0)
    assert found.source == "mtime"
    assert found.start_utc == utc(2024, 5, 31, 11, 50)
    assert found.zone_source == "recorded"
    assert found.utc_offset_minutes == 180


def test_guano_gives_time_offset_and_place(tmp_path: Path) -> None:
    text = (
        "GUANO|Version: 1.0\nTimestamp: 2024-05-12T03:45:00.5+02:00\nLoc Position: 54.68 "
        "25.28\nMake: X\n\0"
    )
    for content in (riff(FMT, guano(text), DATA), riff(FMT, DATA, guano(text))):
        found = started(tmp_path, content, "20200101_000000.wav")
        assert found.start_utc == utc(2024, 5, 12, 1, 45, 0, 500_000)
        assert (found.source, found.zone_source, found.utc_offset_minutes) == (
            "guano",
            "recorded",
            120,
        )
        assert (found.latitude, found.longitude) == (54.68, 25.28)


@pytest.mark.parametrize(
    ("stamp", "start", "zone_source"),
    [
        ("2024-05-12T03:45:00Z", utc(2024, 5, 12, 3, 45), "recorded"),
        ("2024-05-12T03:45:00+0530", utc(2024, 5, 11, 22, 15), "recorded"),
        ("2024-05-12 03:45", utc(2024, 5, 12, 0, 45), "config"),
        ("2024-05-12T03:45:00.123456789", utc(2024, 5, 12, 0, 45, 0, 123_456), "config"),
    ],
)
def test_guano_stamps(tmp_path: Path, stamp: str, start: datetime, zone_source: str) -> None:
    found = started(tmp_path, riff(FMT, DATA, guano(f"Timestamp: {stamp}")), zone=EAST)
    assert (found.start_utc, found.source, found.zone_source) == (start, "guano", zone_source)


@pytest.mark.parametrize(
    "place", ["91 0", "10 181", "0 0", "0.0 -0.0", "north", "1", "nan nan", "1" + " " * 60_000]
)
def test_an_impossible_place_is_no_place(tmp_path: Path, place: str) -> None:
    found = started(tmp_path, riff(FMT, guano(f"Loc Position: {place}"), DATA))
    assert found.latitude is None
    assert found.longitude is None


def test_places_on_the_equator_and_in_names(tmp_path: Path) -> None:
    found = started(tmp_path, riff(guano("Loc Position: 0, -1.5")))
    assert (found.latitude, found.longitude) == (0.0, -1.5)
    found = started(tmp_path, name="20240512T034500+1000_REC [-27.3866 152.8761].flac")
    assert (found.latitude, found.longitude) == (-27.3866, 152.8761)


@pytest.mark.parametrize(
    ("comment", "start", "offset"),
    [
        (
            "Recorded at 03:45:00 12/05/2024 by AudioMoth 24F3190361CBE9A5",
            utc(2024, 5, 12, 3, 45),
            0,
        ),
        ("Recorded at 03:45:00 12/05/2024 (UTC) by AudioMoth 24F3", utc(2024, 5, 12, 3, 45), 0),
        ("Recorded at 03:45:00 12/05/2024 (UTC+1) by AudioMoth 24F3", utc(2024, 5, 12, 2, 45), 60),
        (
            "Recorded at 03:45:00 12/05/2024 (UTC-3:30) during deployment A1",
            utc(2024, 5, 12, 7, 15),
            -210,
        ),
    ],
)
def test_audiomoth_comment(tmp_path: Path, comment: str, start: datetime, offset: int) -> None:
    found = started(tmp_path, riff(FMT, icmt(comment), DATA), "20200101_000000.WAV", EAST)
    assert (found.start_utc, found.utc_offset_minutes) == (start, offset)
    assert (found.source, found.zone_source) == ("audiomoth", "recorded")


@pytest.mark.parametrize(("date", "time"), [("2024-05-12", "03-45-00"), ("2024:05:12", "03:45:00")])
def test_bext_is_local_time(tmp_path: Path, date: str, time: str) -> None:
    found = started(tmp_path, riff(bext(date, time), FMT, DATA), "x.wav", EAST)
    assert (found.start_utc, found.source) == (utc(2024, 5, 12, 0, 45), "bext")
    assert started(tmp_path, riff(bext("0000-00-00", time), FMT, DATA)).source == "mtime"


def test_the_order_of_sources_and_what_is_not_believed(tmp_path: Path) -> None:
    sources = [
        guano("Timestamp: 2024-05-12T01:00:00Z"),
        icmt("Recorded at 02:00:00 12/05/2024 (UTC) by AudioMoth 24F3"),
        bext("2024-05-12", "03-00-00"),
    ]
    name = "20240512_040000.wav"
    for index, (source, hour) in enumerate(
        zip(("guano", "audiomoth", "bext", "name"), range(1, 5), strict=True)
    ):
        found = started(tmp_path, riff(FMT, *reversed(sources[index:]), DATA), name)
        assert (found.source, found.start_utc) == (source, utc(2024, 5, 12, hour))
    unset = riff(
        guano("Timestamp: 1970-01-01T00:00:00Z"),
        icmt("Recorded at 00:00:00 01/01/2030 (UTC) by A"),
        FMT,
    )
    assert started(tmp_path, unset, name).source == "name"


def test_chunk_sizes_that_lie_or_are_not_padded(tmp_path: Path) -> None:
    wanted = guano("Timestamp: 2024-05-12T03:45:00Z")
    odd = chunk(b"junk", b"abc", pad=False)
    assert started(tmp_path, riff(FMT, odd, wanted)).source == "guano"
    huge = b"guan" + struct.pack("<I", 2**32 - 1) + b"Timestamp: 2024-05-12T03:45:00Z\n"
    assert started(tmp_path, riff(FMT, huge)).source == "guano"
    endless = b"data" + struct.pack("<I", 2**32 - 1) + bytes(100)
    assert started(tmp_path, riff(FMT, endless, wanted)).source == "mtime"
    ds64 = chunk(b"ds64", struct.pack("<QQQI", 0, 100, 50, 0))
    assert started(tmp_path, riff(ds64, FMT, endless, wanted, kind=b"RF64")).source == "guano"
    # bounded
    assert started(tmp_path, riff(*[chunk(b"junk", b"")] * 2_000, wanted)).source == "mtime"


def test_daylight_saving_takes_the_first_of_a_repeated_hour(tmp_path: Path) -> None:
    try:
        berlin = ZoneInfo("Europe/Berlin")
    except ZoneInfoNotFoundError:
        pytest.skip("no time zone data here")
    assert started(tmp_path, name="20231029_023000.wav", zone=berlin).start_utc == utc(
        2023, 10, 29, 0, 30
    )
    found = started(tmp_path, name="20230326_023000.wav", zone=berlin)  # an hour that did not exist
    assert found.start_utc == utc(2023, 3, 26, 1, 30)
    assert started(tmp_path, name="20240112_120000.wav", zone=berlin).utc_offset_minutes == 60
    assert started(tmp_path, name="20240512_120000.wav", zone=berlin).utc_offset_minutes == 120


def test_a_missing_file_is_a_recording_error(tmp_path: Path) -> None:
    with pytest.raises(RecordingError):
        start_of(tmp_path / "20240512_034500.wav", zone=None)


def test_a_name_that_no_file_system_takes_is_a_recording_error(tmp_path: Path) -> None:
    with pytest.raises(RecordingError):
        start_of(tmp_path / ("x" * 5_000 + ".wav"), zone=None)


def test_nonsense_in_the_file_system(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(b"")
    os.utime(path, (-1e9, -1e9))
    assert start_of(path, zone=EAST, duration_s=1e30).start_utc == utc(1970, 1, 1)


TEXTS = (
    b"Timestamp: |Loc Position: |Recorded at 03:45:00 12/05/2024 (UTC+99|9999-12-31T23:59:59-14:00|"
    b"0001-01-01T00:00:00+14:00|\n|1 2|guan|bext|LIST|INFO|ICMT|ds64|data|\xff\xff\xff\xff|\0\0\0\0"
)
FRAGMENTS = st.sampled_from([*TEXTS.split(b"|"), FMT])


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    kind=st.sampled_from([b"RIFF", b"RF64", b"BW64", b"FORM", b""]),
    parts=st.lists(st.one_of(FRAGMENTS, st.binary(max_size=20)), max_size=30),
    stem=st.text(alphabet="0123456789_TZ+-[]. SABCDEF$", max_size=30),
)
def test_garbage_never_raises(tmp_path: Path, kind: bytes, parts: list[bytes], stem: str) -> None:
    found = started(tmp_path, kind + b"\0\0\0\0WAVE" + b"".join(parts), f"_{stem}.wav", EAST)
    assert found.start_utc.tzinfo is timezone.utc
    assert found.start_utc.year >= 1989


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.integers(0, 1_000), byte=st.integers(0, 255), cut=st.integers(0, 1_000))
def test_a_damaged_header_never_raises(tmp_path: Path, place: int, byte: int, cut: int) -> None:
    whole = riff(
        FMT,
        icmt("Recorded at 03:45:00 12/05/2024 (UTC+1) by AudioMoth 24F3"),
        guano("Timestamp: 2024-05-12T03:45:00Z\nLoc Position: 1 2"),
        bext("2024-05-12", "03-45-00"),
        DATA,
    )
    damaged = bytearray(whole)
    damaged[place % len(damaged)] = byte
    found = started(tmp_path, bytes(damaged[: len(damaged) - cut % len(damaged)]))
    assert found.start_utc.tzinfo is timezone.utc
