"""Databases, bundles and settings of earlier versions work as they did then.

How they were made: tests/data/README.md."""

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from edge.__main__ import app as station
from edge.config import load_config
from export.__main__ import app as export
from tests.helpers.older import (
    EXPECTED,
    KEPT,
    STATION,
    copy_station,
    kept_database,
    replayed,
    rows,
    run,
    tables,
)

SCORE_TOLERANCE = 1e-4  # another ONNX Runtime, another processor
# What is called otherwise today: the key of then -> the key and the value of now.
RENAMED: dict[str, tuple[str, object]] = {}
# Of a detection, what is exactly the same on every machine, and what is computed.
_EXACT = (
    *("species", "start_utc", "end_utc", "offset_s", "bundle"),
    *("threshold", "rule", "shed", "decided_by"),
)
_SCORES = ("score", "acoustic", "prior", "member_low", "member_high", "level_dbfs")


@pytest.fixture(params=[STATION, "station-0.1", "station-before-0.1"])
def older(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """station.yaml of a copy, and the database as it was kept."""
    kept = tmp_path / "kept.db"
    kept.write_bytes(kept_database(request.param))
    return copy_station(tmp_path / "station", request.param), kept


def first_detection(database: Path) -> str:
    return str(rows(database, "detections")[0]["id"])


def same_where_both_know(found: list[dict[str, Any]], kept: list[dict[str, Any]]) -> bool:
    """Whether these are the kept rows; columns that came or went since then do not count."""
    columns = sorted(found[0].keys() & kept[0].keys()) if found and kept else []
    assert bool(columns) == bool(found or kept)
    here = Counter(repr([row[column] for column in columns]) for row in found)
    return here == Counter(repr([row[column] for column in columns]) for row in kept)


def test_every_row_is_still_there(older: tuple[Path, Path]) -> None:
    settings, kept = older
    database = settings.parent / "station.db"
    run(station, "why", first_detection(kept), "--config", settings)
    filled = [name for name in tables(kept) if rows(kept, name)]
    assert {"recordings", "detections", "effort", "outbox", "species", "bundles"} <= set(filled)
    for name in set(filled) - {"effort"}:
        assert same_where_both_know(rows(database, name), rows(kept, name)), name
    for path in (kept, database):
        analysed_s = sum(row["analysed_s"] for row in rows(path, "effort"))
        assert analysed_s == pytest.approx(29.054, abs=1e-6)
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    (gap,) = rows(database, "gaps")
    assert gap["seconds"] == pytest.approx(3.946, abs=1e-6)
    assert (gap["reason"], gap["detail"][:10]) == ("damaged", "incomplete")


def test_a_detection_is_explained_and_reviewed(older: tuple[Path, Path]) -> None:
    settings, kept = older
    for detection in rows(kept, "detections"):
        told = run(station, "why", detection["id"], "--json", "--config", settings)
        said = json.loads(told.splitlines()[-1])
        assert detection["id"] in said.values()
        assert str(detection["species"]) in json.dumps(said)
    before = rows(kept, "reviews") if "reviews" in tables(kept) else []
    one = detection["id"]
    review = ("review", one, "correct", "--note", "heard it", "--reviewer", "ben")
    run(station, *review, "--config", settings)
    reviews = rows(settings.parent / "station.db", "reviews")
    assert len(reviews) == len(before) + 1
    (new,) = [row for row in reviews if row["reviewer"] == "ben"]
    assert (new["detection"], new["verdict"], new["note"]) == (one, "correct", "heard it")


def test_the_newest_of_them_has_a_row_of_each_kind(tmp_path: Path) -> None:
    database = copy_station(tmp_path / "station").parent / "station.db"
    empty = {name for name in tables(database) if not rows(database, name)}
    assert empty <= {"attempts", "clips_going", "clock"}
    for clip in rows(database, "clips"):
        assert (tmp_path / "station" / "clips" / clip["path"]).stat().st_size == clip["bytes"]


def test_its_boots_are_listed(tmp_path: Path) -> None:
    settings = copy_station(tmp_path / "station")
    (boot,) = rows(settings.parent / "station.db", "boots")
    assert boot["known"] == "fixed"
    assert boot["boot"] in run(station, "clock", "show", "--config", settings)


@pytest.mark.parametrize("kept", [STATION, "station-0.1"])
def test_what_was_analysed_then_is_not_analysed_again(kept: str, tmp_path: Path) -> None:
    settings = copy_station(tmp_path / "station", kept)
    database = settings.parent / "station.db"
    run(station, "why", rows(database, "detections")[0]["id"], "--config", settings)
    before = {name: rows(database, name) for name in tables(database)}
    summary = replayed(settings)
    assert (summary["recordings"], summary["unchanged"], summary["new_detections"]) == (2, 2, 0)
    assert (summary["detections"], summary["species"]) == (8, 3)
    after = {name: rows(database, name) for name in tables(database)}
    changed = {name for name in after if after[name] != before[name]}
    assert changed <= {"files"}  # which knows the times of the copies


@pytest.mark.parametrize("kept", [STATION, "station-0.1"])
def test_a_bundle_hears_what_it_heard(kept: str, tmp_path: Path) -> None:
    settings = copy_station(tmp_path / "station", kept)
    database, before = settings.parent / "station.db", tmp_path / "before.db"
    database.rename(before)
    assert replayed(settings)["new_detections"] == 8
    for found, then in zip(heard(database), heard(before), strict=True):
        for column in then:
            expected = then[column]
            if column in _SCORES:
                expected = pytest.approx(expected, abs=SCORE_TOLERANCE)
            assert found[column] == expected, column
    if kept == STATION:  # 0.1 did not know recordings by their bytes, so its ids are others
        for table in ("recordings", "detections", "gaps"):
            assert ids(database, table) == ids(before, table)


def ids(database: Path, table: str) -> set[str]:
    return {str(row["id"]) for row in rows(database, table)}


def heard(database: Path) -> list[dict[str, Any]]:
    """What its detections say of birds, in order."""
    columns = (*_EXACT, *_SCORES)
    found = [{column: row[column] for column in columns} for row in rows(database, "detections")]
    return sorted(found, key=lambda row: (row["start_utc"], row["species"]))


def test_a_cascade_decides_as_it_did(tmp_path: Path) -> None:
    settings = copy_station(tmp_path / "station")
    (settings.parent / "station.db").unlink()
    with settings.open("a") as file:
        file.write("members: cascade\n")
    replayed(settings)
    found = {row["id"]: row for row in rows(settings.parent / "station.db", "detections")}
    assert len(found) == len(EXPECTED["cascade"])
    assert {row["decided_by"] for row in found.values()} == {"bag", "student"}
    for detection, species, offset_s, score, decided_by in EXPECTED["cascade"]:
        row = found[detection]
        assert (row["species"], row["offset_s"]) == (species, offset_s)
        assert row["decided_by"] == decided_by
        assert row["score"] == pytest.approx(score, abs=SCORE_TOLERANCE)


@pytest.mark.parametrize("kept", [STATION, "station-0.1"])
def test_a_bundle_is_whole_and_right(kept: str) -> None:
    """By the scores in its probe."""
    found = json.loads(run(export, "verify", KEPT / kept / "bundle", "--json").splitlines()[-1])
    assert len(found["members"]) == 2
    assert (found["student"] is None) == (kept != STATION)
    differences = [*found["members"].values(), found["blended"], found["prior"]]
    assert max(*differences, found["student"] or 0.0) <= SCORE_TOLERANCE


def test_settings_mean_what_they_meant() -> None:
    settings = KEPT / "settings.yaml"
    found = flat(asdict(load_config(settings)), settings.parent)
    assert len(EXPECTED["settings"]) > 60
    for key, value in EXPECTED["settings"].items():
        key_now, value_now = RENAMED.get(key, (key, value))
        assert found[key_now] == value_now, key


def flat(value: Any, folder: Path, name: str = "") -> dict[str, Any]:
    """Dotted key -> value, as JSON has it; paths are relative to the folder."""
    if isinstance(value, Mapping):
        below = [flat(part, folder, f"{name}.{key}".strip(".")) for key, part in value.items()]
        return {key: part for parts in below for key, part in parts.items()}
    if isinstance(value, Path):
        value = value.relative_to(folder.resolve()).as_posix()
    return {name: json.loads(json.dumps(value))}
