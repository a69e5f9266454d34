"""Detections explained, reviewed, and moved to the right time, as a person does it at the
station."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge.analysis.recognizer import Recognizer
from edge.analysis.stretch import Analyst, Stretch
from edge.config import load_config
from edge.contract.bundle import read_bundle
from edge.daemon.ledger import Ledger
from edge.reports.boots import boots_text
from edge.store.clock import Boot
from edge.store.record import Store
from edge.types import GapRow, LoadLevel, Place
from tests import HANGS_S
from tests.conftest import hiss, note
from tests.helpers.clip_station import START, stretch

StationYaml = Callable[..., Path]


@pytest.fixture
def station(station_yaml: StationYaml, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A station that heard a low tooter at 1:30 of its night, under a clock that nobody had set."""
    # before that night: else its time is wrong
    monkeypatch.setattr("edge.host.clock.installed_s", lambda: 0.0)
    place = "id: porch, latitude: 52.1, longitude: 13.6"
    path = station_yaml("detect: {thresholds: {higtoo: 0.9}}", station=place)
    config = load_config(path)
    bundle = read_bundle(config.bundle_folder)
    analyst = Analyst(config, Recognizer(bundle))
    ledger = Ledger(config.database, "porch", bundle)
    row = replace(stretch("night"), place=Place(52.1, 13.6), clock_state="unsynced", boot="b1")
    heard = Stretch(analyst, row)
    ledger.begin(row, analyst.digest())
    for samples, shed in (
        (note("lowtoo", 10), 0),
        (hiss(10), 0),
        (note("midtoo", 10), LoadLevel.NETWORKS),
    ):
        heard.shed = shed
        heard.push(samples)
        for found in heard.found():
            ledger.found(found)
    heard.close()
    for found in heard.found():
        ledger.found(found)
    ledger.finish(row, heard.heard_s, heard.windows)
    ledger.gap(
        GapRow("g", "microphone", START, 5.0, "unplugged", boot="b1", clock_state="unsynced")
    )
    ledger.clock_step("b1", START, 3600.0)
    ledger.close()
    return path


def edge(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "edge", *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        env=os.environ | {"COLUMNS": "200"},
    )


def rows(config: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(config.parent / "station.db")) as db, db:
        found = db.execute(sql).fetchall()
    db.close()
    return found


@pytest.mark.slow
def test_a_detection_says_why_it_is_there(station: Path) -> None:
    ((wanted,),) = rows(
        station, "SELECT id FROM detections WHERE species = 'lowtoo' ORDER BY start_utc LIMIT 1"
    )
    why = json.loads(edge("why", wanted[:13], "--config", station, "--json").stdout)
    assert why["id"] == wanted
    assert set(why["members"]) == {"stripes", "mixup"}
    assert why["acoustic"] == pytest.approx(sum(why["members"].values()) / 2, abs=1e-4)
    assert 0 < why["prior"] < 1
    assert why["score"] >= why["threshold"] == 0.5
    assert why["rule"] == "bundle"
    assert set(why["runner_ups"]) == {"midtoo", "higtoo"}
    assert why["clock_state"] == "unsynced"
    assert why["local_time"] == "2019-05-22 01:30:00", "two hours ahead of UTC"
    shown = edge("why", wanted, "--config", station).stdout
    for text in (
        "Low Tooter",
        "stripes",
        "mixup",
        "0.500, the model's",
        "prior, place and day",
        "unsynced",
        why["local_time"],
    ):
        assert text in shown


@pytest.mark.slow
def test_in_a_hurry_fewer_members_answer_and_it_says_so(station: Path) -> None:
    found = rows(station, "SELECT id, shed FROM detections WHERE species = 'midtoo' AND shed > 0")
    assert found
    why = json.loads(edge("why", found[0][0], "--config", station, "--json").stdout)
    assert why["shed"] == LoadLevel.NETWORKS
    assert "one member of each kind" in edge("why", found[0][0], "--config", station).stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wanted", "message"), [("zzz", "no detection in"), ("", " detections in")]
)
def test_no_such_detection(station: Path, wanted: str, message: str) -> None:
    done = edge("why", wanted, "--config", station)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_without_a_record_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "station.yaml").write_text("station: {id: porch}\n")
    for command in (
        ("why", "12"),
        ("review", "12", "correct"),
        ("clock", "show"),
        ("retention",),
        ("pictures",),
    ):
        done = edge(*command, "--config", tmp_path / "station.yaml")
        assert done.returncode == 1
        assert "no such database: nothing has been stored with these settings" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["station.yaml"]


@pytest.mark.slow
def test_a_review_is_kept_and_the_last_word_counts(station: Path) -> None:
    ((wanted,),) = rows(station, "SELECT id FROM detections ORDER BY start_utc LIMIT 1")
    for verdict in ("unsure", "correct"):
        done = edge(
            "review",
            wanted[:12],
            verdict,
            "--reviewer",
            "ann",
            "--note",
            "a clear toot",
            "--config",
            station,
        )
        assert done.returncode == 0, done.stderr
    assert rows(station, "SELECT detection, reviewer, verdict, note FROM reviews") == [
        (wanted, "ann", "correct", "a clear toot")
    ]
    assert "correct (ann)" in edge("why", wanted, "--config", station).stdout
    assert edge("review", wanted, "perhaps", "--config", station).returncode == 2


@pytest.mark.slow
def test_a_wrong_clock_is_mended_afterwards(station: Path) -> None:
    """The stretch began at 23:30 and lies in one hour; an hour and 40 minutes later it lies in
    another."""
    listed = json.loads(edge("clock", "show", "--config", station, "--json").stdout)
    assert [(b["boot"], b["clock_state"], b["stretches"], b["steps"]) for b in listed] == [
        ("b1", "unsynced", 1, [3600])
    ]
    assert "+3600.0 s" in edge("clock", "show", "--config", station).stdout
    before = rows(station, "SELECT id, start_utc FROM detections ORDER BY id")
    analysed = rows(station, "SELECT sum(analysed_s) FROM effort")
    done = edge("clock", "fix", "--boot", "b1", "--seconds", "6000", "--config", station)
    assert done.returncode == 0, done.stderr
    assert "1 stretches, 1 gaps" in done.stdout
    after = rows(station, "SELECT id, start_utc FROM detections ORDER BY id")
    assert [i for i, _ in after] == [i for i, _ in before]
    assert before[0][1].startswith("2019-05-21T23:30")
    assert after[0][1].startswith("2019-05-22T01:10")
    assert rows(station, "SELECT start_utc, clock_fix_s FROM recordings") == [
        ("2019-05-22T01:10:00.250Z", 6000.0)
    ]
    assert rows(station, "SELECT start_utc, end_utc, clock_fix_s FROM gaps") == [
        ("2019-05-22T01:10:00.250Z", "2019-05-22T01:10:05.250Z", 6000.0)
    ]
    assert rows(station, "SELECT DISTINCT hour_utc FROM effort") == [("2019-05-22T01:00:00.000Z",)]
    assert rows(station, "SELECT sum(analysed_s) FROM effort") == analysed
    assert rows(station, "SELECT boot, seconds FROM clock WHERE kind = 'fix'") == [("b1", 6000.0)]
    edge("clock", "fix", "--boot", "b1", "--seconds", "-6000", "--config", station)
    assert rows(station, "SELECT id, start_utc FROM detections ORDER BY id") == before
    assert rows(station, "SELECT clock_fix_s FROM recordings") == [(0.0,)]


@pytest.mark.slow
def test_only_rows_of_that_clock_move(station: Path) -> None:
    done = edge(
        "clock", "fix", "--boot", "b1", "--seconds", "60", "--state", "synced", "--config", station
    )
    assert done.returncode == 2
    assert "rows (b1)" in done.stderr
    assert (
        edge("clock", "fix", "--boot", "no", "--seconds", "1", "--config", station).returncode == 2
    )


def test_views_are_what_people_ask_for(station: Path) -> None:
    with Store(station.parent / "station.db") as store:
        (day, species, *_), *_ = store.rows(
            "SELECT day, species, detections FROM species_by_day ORDER BY species"
        )
        assert (day, species) == ("2019-05-22", "lowtoo"), (
            "days are those of the place, two hours ahead"
        )
        assert store.rows("SELECT hour FROM hourly_activity WHERE species = 'lowtoo'") == [("01",)]
        assert store.rows(
            "SELECT day, source, analysed_s, lost_s FROM effort_by_day WHERE analysed_s > 0"
        ) == [("2019-05-22", "microphone", 30.0, 0.0)]


@pytest.mark.parametrize(
    ("known", "stretches", "words"),
    [
        ("unsynced", 0, ("the time is not known", "no live sound; the station started at a")),
        (
            "fixed",
            2,
            ("the time is known: fixed", "2 stretches, the first from a, the last from b"),
        ),
    ],
)
def test_boots_say_whether_their_time_is_known(
    known: str, stretches: int, words: tuple[str, str]
) -> None:
    boot = Boot("1", "unsynced", "a", "b", stretches, 3, 0.0, known, ())
    assert all(word in boots_text([boot]) for word in words)
