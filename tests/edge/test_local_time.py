"""One local day and hour everywhere: rows, views, messages, clips, the prior and today's counters,
as a replay makes them."""

import io
import json
from collections import Counter
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from edge.analysis.recognizer import Recognizer
from edge.analysis.stretch import Analyst, Stretch
from edge.config import load_config
from edge.contract.bundle import read_bundle
from edge.prior.place_table import DAYS, _keep
from edge.types import GapRow, Place, RecordingRow
from tests.conftest import hiss, note, write_sound
from tests.edge.test_clips import guano_of
from tests.helpers.clocked_station import StationYaml, damaged, station, utc


@pytest.fixture(scope="module")
def recognizer(bundle_folder: Path) -> Recognizer:
    return Recognizer(read_bundle(bundle_folder))


def test_kathmandu_over_midnight(
    tmp_path: Path, station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    """Of a recording from 23:59:45 on each day has its part, in a zone in which midnight is 18:15
    UTC."""
    write_sound(tmp_path / "in" / "20240511_235945.wav", note("midtoo", 40))
    here = station(
        station_yaml,
        recognizer,
        "Asia/Kathmandu",
        utc("2024-05-12 01:00"),
        "mqtt: {host: localhost}",
    )
    here.replay(tmp_path / "in")
    assert here.rows(
        "SELECT hour_utc, utc_offset_minutes, analysed_s FROM effort ORDER BY hour_utc"
    ) == [
        ("2024-05-11T17:15:00.000Z", 345, 15.0),
        ("2024-05-11T18:15:00.000Z", 345, 25.0),
    ]
    assert here.rows("SELECT day, analysed_s FROM effort_by_day ORDER BY day") == [
        ("2024-05-11", 15.0),
        ("2024-05-12", 25.0),
    ]
    assert here.rows("SELECT day, detections, first, last FROM species_by_day") == [
        ("2024-05-11", 6, "23:59:45", "23:59:57"),
        ("2024-05-12", 9, "00:00:00", "00:00:20"),
    ]
    assert here.rows("SELECT hour, detections, days FROM hourly_activity") == [
        ("00", 9, 1),
        ("23", 6, 1),
    ]
    assert {
        json.loads(text)["utc_offset_minutes"]
        for (text,) in here.rows("SELECT payload FROM outbox")
    } == {345}
    assert here.today() == here.killed().today() == (25.0, 0.0, 9)


AUDIOMOTH = "Recorded at 20:00:00 12/05/2024 (UTC) by AudioMoth 24F31901603710E5 at medium gain."


def commented(path: Path, comment: str, samples: Any) -> Path:
    """A WAV with a LIST chunk of type INFO, as AudioMoths write it."""
    data = write_sound(path, samples).read_bytes()
    text = comment.encode() + b"\0" * (2 - len(comment) % 2)
    info = b"INFOICMT" + len(text).to_bytes(4, "little") + text
    body = data[12:] + b"LIST" + len(info).to_bytes(4, "little") + info
    path.write_bytes(b"RIFF" + (len(body) + 4).to_bytes(4, "little") + b"WAVE" + body)
    return path


@pytest.mark.parametrize(
    ("zone", "comment", "day", "hour", "offset"),
    [
        ("Australia/Sydney", AUDIOMOTH, "2024-05-13", "06", 600),
        ("Pacific/Chatham", AUDIOMOTH, "2024-05-13", "08", 765),
        ("America/St_Johns", AUDIOMOTH.replace("20:00", "02:00"), "2024-05-11", "23", -150),
        ("Asia/Kolkata", AUDIOMOTH.replace("UTC", "UTC+10"), "2024-05-12", "15", 330),
        (
            None,
            AUDIOMOTH.replace("20:00", "23:00").replace("UTC", "UTC-9:30"),
            "2024-05-12",
            "23",
            -570,
        ),
    ],
)
def test_a_recorders_clock_says_when_and_the_zone_which_day(
    tmp_path: Path,
    station_yaml: StationYaml,
    recognizer: Recognizer,
    zone: str | None,
    comment: str,
    day: str,
    hour: str,
    offset: int,
) -> None:
    commented(tmp_path / "in" / "20240512_200000.WAV", comment, note("midtoo", 20))
    here = station(station_yaml, recognizer, zone, utc("2024-05-20"), "mqtt: {host: localhost}")
    here.replay(tmp_path / "in")
    assert here.rows("SELECT time_source, zone_source, utc_offset_minutes FROM recordings") == [
        ("audiomoth", "recorded", offset)
    ]
    assert here.rows(
        "SELECT utc_offset_minutes FROM detections UNION SELECT utc_offset_minutes FROM effort"
    ) == [(offset,)]
    assert here.rows(
        "SELECT DISTINCT day FROM species_by_day UNION SELECT day FROM effort_by_day"
    ) == [(day,)]
    assert here.rows("SELECT hour FROM hourly_activity") == [(hour,)]
    assert {
        json.loads(text)["utc_offset_minutes"]
        for (text,) in here.rows("SELECT payload FROM outbox")
    } == {offset}


@pytest.mark.parametrize(
    ("zone", "name", "first", "second"),
    # the recorder keeps one offset all night; both rows are (hour of the clock at the place,
    # offset, seconds)
    [
        ("Europe/Paris", "20241027T005950Z", ("02", 120, 10.0), ("02", 60, 30.0)),
        ("Europe/Paris", "20240331T005950Z", ("01", 60, 10.0), ("03", 120, 30.0)),
        ("Australia/Lord_Howe", "20240406T145950Z", ("01", 660, 10.0), ("01", 630, 30.0)),
        ("Australia/Lord_Howe", "20241005T152950Z", ("01", 630, 10.0), ("02", 660, 30.0)),
        ("America/Santiago", "20240407T025950Z", ("23", -180, 10.0), ("23", -240, 30.0)),
        ("America/Santiago", "20240908T035950Z", ("23", -240, 10.0), ("01", -180, 30.0)),
        ("America/St_Johns", "20101107T023050Z", ("00", -150, 10.0), ("23", -210, 30.0)),
    ],
)
def test_a_change_of_clocks_inside_a_recording(
    tmp_path: Path,
    station_yaml: StationYaml,
    recognizer: Recognizer,
    zone: str,
    name: str,
    first: tuple[str, int, float],
    second: tuple[str, int, float],
) -> None:
    write_sound(tmp_path / "in" / f"{name}.wav", note("midtoo", 40))
    here = station(station_yaml, recognizer, zone, utc("2025-01-01"))
    here.replay(tmp_path / "in")
    hours = here.rows(
        "SELECT strftime('%H', hour_utc, utc_offset_minutes || ' minutes'), utc_offset_minutes, "
        "analysed_s FROM effort"
    )
    assert hours == [first, second]
    told = Counter(minutes for (minutes,) in here.rows("SELECT utc_offset_minutes FROM detections"))
    assert told == {first[1]: 4, second[1]: 11}
    assert here.rows("SELECT sum(detections) FROM hourly_activity") == [(15,)]
    assert set(here.rows("SELECT DISTINCT hour FROM hourly_activity")) == {
        (first[0],),
        (second[0],),
    }
    start = datetime.strptime(name, "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
    days = Counter(
        str((start + timedelta(seconds=2.5 * n)).astimezone(ZoneInfo(zone)).date())
        for n in range(15)
    )
    assert dict(here.rows("SELECT day, detections FROM species_by_day")) == days


def test_a_gap_after_midnight_is_the_next_days(
    tmp_path: Path, station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    """Cut off 10 s before midnight, with 30 s missing; and one whose loss alone lies over
    midnight."""
    damaged(tmp_path / "in" / "20240511_235930.wav", 20, 50)
    damaged(tmp_path / "in" / "20240512_235950.wav", 20, 3 * 3600)
    here = station(station_yaml, recognizer, "Asia/Kolkata", utc("2024-05-12 12:00"))
    here.replay(tmp_path / "in")
    assert here.rows("SELECT day, analysed_s, lost_s FROM effort_by_day ORDER BY day") == [
        ("2024-05-11", 20.0, 10.0),
        ("2024-05-12", 10.0, 20.0),
        ("2024-05-13", 10.0, 10_780.0),
    ]
    assert here.rows("SELECT count(*), sum(seconds) FROM gaps") == [(2, 10_810.0)], (
        "a gap stays one row"
    )
    assert here.today()[:2] == here.killed().today()[:2] == (10.0, 20.0)


def test_a_gap_inside_a_recording_is_not_todays_sound(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    """Two stretches with half an hour between them, in which local midnight lies."""
    here = station(station_yaml, recognizer, "Asia/Kathmandu", utc("2024-05-12 01:00"))
    start = utc("2024-05-11 18:00")
    zone = here.config.zone
    row = RecordingRow(
        "r", "T.WAV", 1, 1, "", start, "audiomoth", "recorded", 345, None, "folder", zone=zone
    )
    store = here.ledger.store()
    bundle_id = here.analyst.bundle.id
    store.begin(row, "porch", bundle_id, "a")
    stretch = Stretch(here.analyst, row)
    for part in (stretch, None):
        stretch = part or stretch.after(1800)
        stretch.push(note("midtoo", 10))
        stretch.close()
        for found in stretch.found():
            store.add(row.id, bundle_id, found.detections, found.messages, found.effort)
            here.vitals.found(found)
    store.finish(row.id, 20.0, stretch.windows, None)
    gap = GapRow(
        "g", "folder", start + timedelta(seconds=10), 1800.0, "damaged", recording_id="r", zone=zone
    )
    store.add_gaps("porch", [gap])
    here.vitals.missed(gap, gap.seconds)
    assert here.rows("SELECT day, analysed_s, lost_s FROM effort_by_day ORDER BY day") == [
        ("2024-05-11", 10.0, 890.0),
        ("2024-05-12", 10.0, 910.0),
    ]
    assert here.today() == here.killed().today() == (10.0, 910.0, 3)


def test_what_a_folders_daemon_analyses_again_counts_once(
    tmp_path: Path, station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    """Another threshold, and another start: the seconds stay, the detections are the new ones."""
    damaged(tmp_path / "in" / "20240512_063000.wav", 20, 30)
    lines = ("source: folder", f"folder: {{path: {tmp_path / 'in'}}}")
    now = utc("2024-05-12 12:00")
    here = station(station_yaml, recognizer, "Asia/Kolkata", now, *lines)
    here.replay(tmp_path / "in")
    assert here.today() == here.killed().today() == (20.0, 10.0, 7)
    here = station(
        station_yaml, recognizer, "Asia/Kolkata", now, *lines, "detect: {threshold: 1.0}"
    )
    here.replay(tmp_path / "in")
    assert here.today() == here.killed().today() == (20.0, 10.0, 0)


def test_todays_counters_follow_the_recorders_day_without_a_zone(
    tmp_path: Path, station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    """By a recorder two hours ahead it is the 13th already; its sound counts when the station's day
    has come."""
    write_sound(tmp_path / "in" / "20240513T000500+0200_a.wav", note("midtoo", 20))
    here = station(station_yaml, recognizer, None, utc("2024-05-12 23:00"))
    here.replay(tmp_path / "in")
    assert here.rows("SELECT day FROM species_by_day UNION SELECT day FROM effort_by_day") == [
        ("2024-05-13",)
    ]
    assert here.today() == here.killed().today() == (0.0, 0.0, 0)
    here.now = utc("2024-05-13 00:10")
    here.clock.check()
    assert here.today() == here.killed().today() == (20.0, 0.0, 7)


def test_a_clip_lies_on_the_day_of_its_start(
    tmp_path: Path, station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    """A recording begins before midnight, in summer time; the bird calls after midnight, and after
    the change."""
    write_sound(
        tmp_path / "in" / "20240407T025940Z_a.wav",
        np.concatenate([hiss(60), note("midtoo", 5), hiss(9)]),
    )
    write_sound(
        tmp_path / "in" / "20240512T035930Z_a.wav",
        np.concatenate([hiss(60), note("midtoo", 5), hiss(9)]),
    )
    here = station(
        station_yaml,
        recognizer,
        "America/Santiago",
        utc("2025-01-01"),
        "clips: {of_recordings: true}",
    )
    here.replay(tmp_path / "in")
    clips = [path for (path,) in here.rows("SELECT path FROM clips ORDER BY start_utc")]
    assert [path.split("/")[0] for path in clips] == ["2024-04-06", "2024-05-12"]
    told = [guano_of(here.config.clips_folder / path)["Timestamp"] for path in clips]
    assert [text[:17] + text[-6:] for text in told] == [
        "2024-04-06T23:00:-04:00",
        "2024-05-12T00:00:-04:00",
    ]


def test_the_prior_asks_for_the_local_day(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    config = load_config(
        station_yaml(
            station="id: porch, latitude: -44.0, longitude: -176.5, timezone: Pacific/Chatham"
        )
    )
    table = np.repeat(
        np.arange(DAYS, dtype=np.float32)[:, None], len(recognizer.bundle.taxonomy), axis=1
    )
    content = io.BytesIO()
    np.save(content, table)
    _keep(
        config.state / "priors" / f"prior_{recognizer.bundle.id[:16]}_-44.000000_-176.500000.npy",
        content.getvalue(),
    )
    analyst = Analyst(config, recognizer)
    for start, day in (("2023-12-31 10:14:59", 364), ("2023-12-31 10:15:00", 0)):
        row = RecordingRow(
            "r", "a.wav", 1, 1, "", utc(start), "name", "config", 825, Place(-44.0, -176.5)
        )
        prior = analyst.prior(row)
        assert prior is not None
        assert prior[0] == day


def test_of_a_recording_known_by_date_only_no_hour_is_told(
    tmp_path: Path, station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    """Its day counts, like those of others; its hour is not known."""
    write_sound(tmp_path / "in" / "20240512_061500.wav", note("midtoo", 5))
    write_sound(tmp_path / "in" / "1_AAA_20240512.ogg", note("midtoo", 10))
    write_sound(tmp_path / "in" / "2_AAA_20240513.ogg", note("lowtoo", 10))
    here = station(station_yaml, recognizer, "Asia/Kolkata", utc("2024-05-12 12:00"))
    here.replay(tmp_path / "in")
    assert here.rows("SELECT time_source FROM recordings ORDER BY path") == [
        ("date",),
        ("name",),
        ("date",),
    ]
    assert here.rows(
        "SELECT day, species, detections, first, last FROM species_by_day ORDER BY day"
    ) == [
        ("2024-05-12", "midtoo", 4, "06:15:00", "06:15:00"),
        ("2024-05-13", "lowtoo", 3, None, None),
    ]
    assert here.rows("SELECT species, hour, detections, days FROM hourly_activity") == [
        ("midtoo", "06", 1, 1)
    ]
    assert here.rows("SELECT day, analysed_s FROM effort_by_day ORDER BY day") == [
        ("2024-05-12", 15.0),
        ("2024-05-13", 10.0),
    ]
