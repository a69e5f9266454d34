"""The clock at the place in the record of a station that listens, after its clock was mended, and
in records of earlier versions. The microphone and its clock are tests/edge/test_live.py's."""

import sqlite3
from collections.abc import Callable
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlite_utils import Database

from edge.analysis.recognizer import Recognizer
from edge.config import Config, load_config
from edge.contract.bundle import read_bundle
from edge.store.clock import ClockTable
from edge.store.days import of_day
from edge.store.record import Store
from edge.store.schema import decided_by, first_schema, migrations, station_schema
from edge.types import Gap
from tests.conftest import hiss, note
from tests.edge.test_live import Scene, accounted, listening, play, rows

StationYaml = Callable[..., Path]


@pytest.fixture(scope="module")
def recognizer(bundle_folder: Path) -> Recognizer:
    return Recognizer(read_bundle(bundle_folder))


def unix(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp()


def in_zone(station_yaml: StationYaml, zone: str) -> Config:
    return load_config(station_yaml(station=f"id: porch, timezone: {zone}"))


def days(config: Config) -> list[tuple[Any, ...]]:
    return rows(config, "SELECT day, analysed_s, lost_s, off_s FROM effort_by_day ORDER BY day")


def test_live_sound_over_a_local_midnight(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    config = in_zone(station_yaml, "Asia/Kathmandu")
    scene = Scene(unix("2024-05-11 18:14:30"))
    scene.sound(np.concatenate([hiss(20), note("midtoo", 30), hiss(10)]))
    with listening(config, scene, recognizer) as live:
        play(live, scene)
    assert rows(
        config, "SELECT hour_utc, utc_offset_minutes, analysed_s FROM effort ORDER BY hour_utc"
    ) == [
        ("2024-05-11T17:15:00.000Z", 345, 30.0),
        ("2024-05-11T18:15:00.000Z", 345, 30.0),
    ]
    assert days(config) == [("2024-05-11", 30.0, 0.0, 0.0), ("2024-05-12", 30.0, 0.0, 0.0)]
    heard = rows(config, "SELECT day, first, last FROM species_by_day ORDER BY day")
    assert [day for day, _, _ in heard] == ["2024-05-11", "2024-05-12"]
    assert heard[0][1] >= "23:59:45"
    assert heard[1][2] <= "00:00:20"


def test_an_outage_over_midnights_stays_one_row_and_counts_on_each_day(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    config = in_zone(station_yaml, "Asia/Kolkata")
    scene = Scene(unix("2024-05-11 18:00:00"))
    scene.sound(hiss(10))
    with listening(config, scene, recognizer) as live:
        play(live, scene)
        for hours in (0.25, 20, 40):
            scene.silent = Gap(scene.end_s, 3600 * hours, "no device")  # type: ignore[assignment]
            scene.at_s = scene.end_s + 3600 * hours
            live.step()
            assert rows(config, "SELECT seconds, utc_offset_minutes FROM gaps") == [
                (3600 * hours, 330)
            ]
        scene.silent = None
        scene.gap(3600 * 40, "no device")
        scene.sound(hiss(10))
        play(live, scene)
    assert days(config) == [
        ("2024-05-11", 10.0, 1790.0, 0.0),
        ("2024-05-12", 0.0, 86_400.0, 0.0),
        ("2024-05-13", 10.0, 3600 * 40 - 1790.0 - 86_400.0, 0.0),
    ]
    assert sum(more for _, more in scene.lost) == pytest.approx(3600 * 40)


def test_an_outage_over_a_change_of_clocks_is_a_row_for_each_offset(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    """In Lord Howe the clocks are set back by half an hour at 15:00 UTC; the day has 24 and a
    half."""
    config = in_zone(station_yaml, "Australia/Lord_Howe")
    scene = Scene(unix("2024-04-06 14:00:00"))
    scene.sound(hiss(10))
    with listening(config, scene, recognizer) as live:
        play(live, scene)
        for minutes in (30, 90, 120):
            scene.silent = Gap(scene.end_s, 60.0 * minutes, "no device")  # type: ignore[assignment]
            scene.at_s = scene.end_s + 60.0 * minutes
            live.step()
        scene.silent = None
        scene.gap(3600 * 30, "no device")
        play(live, scene)
    assert rows(
        config,
        "SELECT start_utc, end_utc, seconds, utc_offset_minutes FROM gaps ORDER BY start_utc",
    ) == [
        ("2024-04-06T14:00:10.000Z", "2024-04-06T15:00:00.000Z", 3590.0, 660),
        ("2024-04-06T15:00:00.000Z", "2024-04-07T20:00:10.000Z", 3600 * 29 + 10.0, 630),
    ]
    assert days(config) == [
        ("2024-04-07", 10.0, 3600 * 23.5 - 10, 0.0),
        ("2024-04-08", 0.0, 3600 * 6.5 + 10, 0.0),
    ]


def test_the_time_off_counts_on_each_day(station_yaml: StationYaml, recognizer: Recognizer) -> None:
    config = in_zone(station_yaml, "America/Santiago")
    for wall in ("2024-04-06 02:00:00", "2024-04-08 12:00:00"):
        scene = Scene(unix(wall))
        scene.sound(hiss(10))
        with listening(config, scene, recognizer) as live:
            play(live, scene)
    assert rows(config, "SELECT day, off_s FROM effort_by_day ORDER BY day") == [
        ("2024-04-05", 3590.0),
        ("2024-04-06", 25 * 3600.0),  # at midnight it was eleven again
        ("2024-04-07", 24 * 3600.0),
        ("2024-04-08", 8 * 3600.0),
    ]


def test_a_clock_that_is_mended_has_its_offsets_looked_up_again(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    """The boot thought that it was winter; in truth summer time began in the middle of what it
    heard and missed."""
    config = in_zone(station_yaml, "Europe/Berlin")
    scene = Scene(unix("2024-03-30 18:59:30"))
    scene.sound(note("midtoo", 60))
    scene.gap(7200, "unplugged")
    scene.sound(note("midtoo", 10))
    with listening(config, scene, recognizer) as live:
        play(live, scene)
    before = rows(config, "SELECT id, start_utc, utc_offset_minutes FROM detections ORDER BY id")
    assert {minutes for _, _, minutes in before} == {60}
    spent = accounted(config)
    boot = rows(config, "SELECT boot FROM recordings")[0][0]
    with ClockTable(config.database) as table:
        table.fix(boot, 5 * 3600.0, zone=config.zone)  # from 00:59:30 on: an hour before the change
    assert accounted(config) == pytest.approx(spent)
    assert rows(
        config, "SELECT start_utc, seconds, utc_offset_minutes FROM gaps ORDER BY start_utc"
    ) == [
        ("2024-03-31T00:00:30.000Z", 3570.0, 60),
        ("2024-03-31T01:00:00.000Z", 3630.0, 120),
    ]
    told = rows(
        config,
        "SELECT hour_utc, utc_offset_minutes, round(analysed_s, 3) FROM effort ORDER BY hour_utc",
    )
    assert told == [
        ("2024-03-30T23:00:00.000Z", 60, 30.0),
        ("2024-03-31T00:00:00.000Z", 60, 30.0),
        ("2024-03-31T02:00:00.000Z", 120, 10.0),
    ]
    assert dict(rows(config, "SELECT hour, detections FROM hourly_activity")) == {
        "00": 11,
        "01": 11,
        "04": 3,
    }
    assert days(config) == [("2024-03-31", 70.0, 7200.0, 0.0)]
    with ClockTable(config.database) as table:
        table.fix(boot, 3600.0, zone=config.zone)
        table.fix(boot, -6 * 3600.0, zone=config.zone)
    assert (
        rows(config, "SELECT id, start_utc, utc_offset_minutes FROM detections ORDER BY id")
        == before
    )
    assert accounted(config) == pytest.approx(spent)
    assert days(config) == [("2024-03-30", 70.0, 7200.0, 0.0)]


def test_a_record_of_the_version_before_keeps_its_rows(tmp_path: Path) -> None:
    """As decided_by left it, in a zone of half an hour: its views said two days of one moment."""
    database = tmp_path / "station.db"
    db = Database(sqlite3.connect(database))
    for step in (first_schema, station_schema, decided_by):
        step(db)
        name = migrations.pending(db)[0].name
        db.table("_sqlite_migrations").insert(
            {"migration_set": "birdstation", "name": name, "applied_at": "then"}
        )
    db.execute("INSERT INTO bundles VALUES ('b', '{}', '2024-05-01T00:00:00.000Z')")
    db.execute("INSERT INTO species VALUES ('x', 'X x', 'X')")
    for recording, start, minutes in (
        ("kolkata", "2024-05-11T18:25:00.000Z", 330),
        ("paris", "2024-05-11T21:55:00.000Z", 120),
        ("refused", None, None),
    ):
        db.execute(
            "INSERT INTO recordings (id, station, path, bytes, mtime_ns, start_utc, "
            "utc_offset_minutes, state, bundle, analysis, audio_s) VALUES (?, 'porch', ?, 1, 2, ?, "
            "?, 'analysed', 'b', 'a', 600.0)",
            (recording, recording, start, minutes),
        )
    for number, (recording, start) in enumerate(
        (
            ("kolkata", "18:29:55"),
            ("kolkata", "18:30:00"),
            ("paris", "21:59:55"),
            ("paris", "22:00:00"),
        )
    ):
        db.execute(
            "INSERT INTO detections (id, recording, bundle, species, start_utc, end_utc, offset_s, "
            "score, acoustic, threshold, rule, member_low, member_high) VALUES (?, ?, 'b', 'x', ?, "
            "'', 0, 0.9, 0.9, 0.5, 'bundle', 0, 1)",
            (f"d{number}", recording, f"2024-05-11T{start}.000Z"),
        )
    db.execute("INSERT INTO effort VALUES ('kolkata', '2024-05-11T18:00:00.000Z', 0, 400.0)")
    db.execute("INSERT INTO effort VALUES ('kolkata', '2024-05-11T18:00:00.000Z', 1, 200.0)")
    db.execute("INSERT INTO effort VALUES ('paris', '2024-05-11T21:00:00.000Z', 0, 300.0)")
    db.execute("INSERT INTO effort VALUES ('paris', '2024-05-11T22:00:00.000Z', 0, 300.0)")
    db.execute(
        "INSERT INTO gaps VALUES ('g', 'porch', 'replay', 'kolkata', '2024-05-11T18:29:00.000Z', "
        "'2024-05-11T18:31:00.000Z', 120.0, 'damaged', '', 330, 'recorder', NULL, 0)"
    )
    db.conn.commit()
    db.close()
    with Store(database) as store:
        assert store.rows("SELECT count(*) FROM detections") == [(4,)]
        assert store.rows(
            "SELECT recording, hour_utc, shed, analysed_s FROM effort ORDER BY recording, 2, 3"
        ) == [
            ("kolkata", "2024-05-11T17:30:00.000Z", 0, 300.0),
            ("kolkata", "2024-05-11T18:30:00.000Z", 0, 100.0),
            ("kolkata", "2024-05-11T18:30:00.000Z", 1, 200.0),
            ("paris", "2024-05-11T21:00:00.000Z", 0, 300.0),
            ("paris", "2024-05-11T22:00:00.000Z", 0, 300.0),
        ]
        assert store.rows("SELECT day, detections, first, last FROM species_by_day") == [
            ("2024-05-11", 2, "23:59:55", "23:59:55"),
            ("2024-05-12", 2, "00:00:00", "00:00:00"),
        ]
        assert store.rows("SELECT hour, detections, days FROM hourly_activity") == [
            ("00", 2, 1),
            ("23", 2, 1),
        ]
        assert store.rows("SELECT day, analysed_s, reduced_s, lost_s FROM effort_by_day") == [
            ("2024-05-11", 600.0, 0.0, 60.0),
            ("2024-05-12", 600.0, 200.0, 60.0),
        ]
        assert of_day(store, "porch", date(2024, 5, 12)) == pytest.approx(
            (600.0, 60.0, 2), abs=1e-3
        )
    with Store(database) as store:
        assert store.rows("SELECT sum(analysed_s) FROM effort") == [(1200.0,)], "brought up once"
