"""Bag, student and cascade: who answers which window, that a row says so, and what the bag no
longer costs."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from io import StringIO
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jsonschema import Draft202012Validator
from rich.console import Console
from sqlite_utils import Database

from edge.analysis.recognizer import Recognizer, networks_of
from edge.check import model
from edge.check.run import run_checks
from edge.contract.audio import Image, mel_image
from edge.contract.blend import Blend, Scores, open_windows
from edge.contract.bundle import Bundle, read_bundle, seal_bundle
from edge.contract.errors import BundleError, ConfigError
from edge.reports.why import explain, why_tables
from edge.store.record import Store
from edge.store.schema import migrations
from tests import HANGS_S
from tests.conftest import SPECIES, hiss, note, write_sound
from tests.helpers.brokers import Listener, until

StationYaml = Callable[..., Path]
DOCS = Path(__file__).parents[2] / "docs"
VALIDATOR = Draft202012Validator(json.loads((DOCS / "mqtt.schema.json").read_text(encoding="utf8")))
NOISE = (0.001, 0.03, 0.1, 0.3)  # the louder, the less sure is the student, and at last deaf
MARGIN = 1.0  # logits, as in the fixture

# --- which windows are open
# ----------------------------------------------------------------------------------------

scores = hnp.arrays(np.float32, (6, 3), elements=st.floats(0, 1, width=32))
priors = st.none() | hnp.arrays(np.float32, 3, elements=st.floats(0, 1, width=32))
thresholds = hnp.arrays(np.float32, 3, elements=st.floats(0, 1, width=32))
blends = st.builds(Blend, st.sampled_from(["mean", "logit"]), st.floats(0, 2))
margins = st.floats(0, 20)


@given(scores, priors, blends, thresholds, margins, margins, margins)
def test_wider_margins_open_more(
    acoustic: Scores,
    prior: Scores | None,
    blend: Blend,
    at: Scores,
    below: float,
    above: float,
    more: float,
) -> None:
    def opened(low: float, high: float) -> set[int]:
        return set(np.flatnonzero(open_windows(acoustic, prior, blend, at, low, high)))

    assert opened(0, 0) == set()
    assert opened(below, above) <= opened(below + more, above) & opened(below, above + more)
    assert opened(inf, inf) == set(range(6))


def test_the_margins_are_logits_at_the_threshold() -> None:
    def opened(score: float, threshold: float, below: float, above: float) -> bool:
        acoustic = np.array([[0.001, score]], np.float32)
        return bool(
            open_windows(
                acoustic, None, Blend(), np.array([0.9, threshold], np.float32), below, above
            )[0]
        )

    assert [opened(score, 0.5, 1, 2) for score in (0.26, 0.28, 0.5, 0.87, 0.89)] == [
        False,
        True,
        True,
        True,
        False,
    ]
    assert [opened(score, 0.2, 1, 2) for score in (0.08, 0.09, 0.64, 0.66)] == [
        False,
        True,
        True,
        False,
    ]


def test_the_prior_moves_a_window_and_a_species_beyond_its_limit_opens_none() -> None:
    blend = Blend("mean", 1.0)
    at = np.array([0.5], np.float32)
    doubtful = np.array([[0.5]], np.float32)
    sure = np.array([[0.98]], np.float32)
    for acoustic, prior, expected in (
        (doubtful, None, True),
        (doubtful, 0.0, False),
        (sure, None, False),
    ):
        known = None if prior is None else np.array([prior], np.float32)
        assert list(open_windows(acoustic, known, blend, at, 1, 1)) == [expected]
    assert list(open_windows(sure, np.array([0.1], np.float32), blend, at, 1, 1)) == [True]
    assert list(open_windows(doubtful, np.array([np.nan], np.float32), blend, at, inf, inf)) == [
        False
    ]


# --- who answers
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images() -> Image:
    """Each note in each noise, and the noise alone."""
    notes = [note(s.code, 7) for s in SPECIES] + [np.zeros(224_000, np.float32)]
    return np.stack([mel_image(sound + hiss(7, level)) for level in NOISE for sound in notes])


def near(student: Scores) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return open_windows(student, None, Blend(), np.full(3, 0.5, np.float32), MARGIN, MARGIN)


def test_a_cascade_decides_as_the_bag_where_the_student_is_unsure(
    student_bundle: Path, images: Image
) -> None:
    bundle = read_bundle(student_bundle)
    bag, student = (
        Recognizer(bundle, 1, members=m).recognise(images, None) for m in ("bag", "student")
    )
    assert (bag.members.shape, student.members.shape) == ((2, 16, 3), (1, 16, 3))
    assert set(bag.decided_by) == {"bag"}
    assert set(student.decided_by) == {"student"}
    opened = near(student.acoustic)
    assert 3 <= opened.sum() <= 13
    cascade = Recognizer(bundle, 1, members="cascade")
    found = cascade.recognise(images, None, undecided=near)
    assert found.decided_by == tuple("bag" if its else "student" for its in opened)
    np.testing.assert_allclose(found.acoustic[opened], bag.acoustic[opened], atol=1e-6)
    np.testing.assert_allclose(found.acoustic[~opened], student.acoustic[~opened], atol=1e-6)
    assert np.abs(bag.acoustic - student.acoustic)[opened].max() > 0.2, "else nothing is shown"
    assert np.abs(bag.acoustic - student.acoustic)[~opened].max() > 0.2
    np.testing.assert_allclose(found.members[:2, opened], bag.members[:, opened], atol=1e-6)
    np.testing.assert_allclose(found.members[2], student.members[0], atol=1e-6)
    assert np.isnan(found.members[:2, ~opened]).all()
    assert cascade.bag_share == opened.mean()


def test_in_a_hurry_the_student_answers_alone(student_bundle: Path, images: Image) -> None:
    cascade = Recognizer(read_bundle(student_bundle), 1, members="cascade")
    found = cascade.recognise(images, None, few=True, undecided=near)
    assert set(found.decided_by) == {"student"}
    assert np.isnan(found.members[:2]).all()
    np.testing.assert_array_equal(found.acoustic, found.members[2])


def test_in_a_hurry_one_member_of_each_kind_answers(own_bundle: Path, images: Image) -> None:
    manifest = read_bundle(own_bundle).manifest
    first, second = (replace(member, kind="stripes") for member in manifest.members)
    recognizer = Recognizer(seal_bundle(own_bundle, replace(manifest, members=(first, second))), 1)
    whole = recognizer.recognise(images, None)
    few = recognizer.recognise(images, None, few=True)
    np.testing.assert_array_equal(few.members[0], whole.members[0])
    assert np.isnan(few.members[1]).all()
    np.testing.assert_array_equal(few.acoustic, whole.members[0])


def test_without_a_rule_the_bag_decides_and_both_answer(
    student_bundle: Path, images: Image
) -> None:
    cascade = Recognizer(read_bundle(student_bundle), 1, members="cascade")
    found = cascade.recognise(images, None)
    assert set(found.decided_by) == {"bag"}
    assert not np.isnan(found.members).any()
    assert cascade.bag_share is None, "a probe is no sound"
    assert cascade.recognise(images[:0], None, undecided=near).decided_by == ()


def test_no_network_is_loaded_that_is_not_asked(
    student_bundle: Path, tmp_path: Path, images: Image
) -> None:
    bundle = read_bundle(student_bundle)
    names = {
        members: [n.name for n in networks_of(bundle, members)]
        for members in ("bag", "student", "cascade")
    }
    assert names == {
        "bag": ["stripes", "mixup"],
        "student": ["student"],
        "cascade": ["stripes", "mixup", "student"],
    }
    away = Bundle(tmp_path / "bundle", bundle.manifest, bundle.taxonomy)
    (away.folder / "members").mkdir(parents=True)
    (away.folder / "members" / "student.onnx").write_bytes(
        (student_bundle / "members" / "student.onnx").read_bytes()
    )
    alone = Recognizer(away, 1, members="student")
    assert len(alone.engine.scores(images)) == 1
    for members in ("bag", "cascade"):
        with pytest.raises(BundleError, match=r"stripes\.onnx"):
            Recognizer(away, 1, members=members)


@pytest.mark.parametrize("members", ["bag", "student", "cascade"])
def test_the_probe_proves_what_is_loaded(student_bundle: Path, members: Any) -> None:
    recognizer = Recognizer(read_bundle(student_bundle), 1, members=members)
    assert recognizer.check_probe() < 1e-5
    honest = recognizer.engine.scores
    last = len(recognizer.networks) - 1

    def wrong(images: Image, which: Any) -> Scores:
        answers = honest(images, which)
        answers[[index for index, network in enumerate(which) if network == last]] += np.float32(
            0.01
        )
        return answers

    recognizer.engine.scores = wrong  # type: ignore[method-assign]
    with pytest.raises(BundleError, match=r"probe failed on .* differ by 0\.01"):
        recognizer.check_probe()


def test_a_student_that_is_not_there_is_one_line(bundle_folder: Path) -> None:
    for members in ("student", "cascade"):
        with pytest.raises(
            ConfigError, match=f"members: found {members}, but the bundle .* has no student"
        ) as caught:
            Recognizer(read_bundle(bundle_folder), members=members)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


# --- the station
# --------------------------------------------------------------------------------------------------


def edge(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "edge", *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        env=os.environ | {"COLUMNS": "200"},
    )


@pytest.mark.slow
def test_a_station_without_a_student_does_not_start(
    station_yaml: StationYaml, tmp_path: Path
) -> None:
    config = station_yaml("members: cascade", "source: folder", f"folder: {{path: {tmp_path}}}")
    write_sound(tmp_path / "in" / "a.wav", hiss(6))
    for command in (["replay", tmp_path / "in"], ["run"]):
        done = edge(*command, "--config", config)
        assert done.returncode == 78, done.stderr
        assert "members: found cascade" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
    found = {check.name: check for check in run_checks(config, 0, lambda _: None)}
    assert found["members"].verdict == "bad"
    assert found["members"].stops
    assert "has no student" in found["members"].found


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three notes one after the other in each noise."""
    folder = tmp_path_factory.mktemp("recordings")
    for number, level in enumerate(NOISE):
        notes = np.concatenate([note(s.code, 10) for s in SPECIES])
        write_sound(folder / f"{number}_20190601_053000.wav", notes + hiss(30, level))
    return folder


Row = dict[str, Any]


def replayed(recordings: Path, config: Path) -> dict[tuple[str, float, str], Row]:
    """Detections by recording, offset and species."""
    done = edge("replay", recordings, "--config", config)
    assert done.returncode == 0, done.stderr
    with closing(sqlite3.connect(config.parent / "station.db")) as db, db:
        db.row_factory = sqlite3.Row
        rows = db.execute(
            "SELECT d.*, r.path FROM detections d JOIN recordings r ON r.id = d.recording"
        ).fetchall()
    db.close()
    return {(row["path"], row["offset_s"], row["species"]): dict(row) for row in rows}


@pytest.mark.slow
def test_a_replayed_row_says_who_decided(
    recordings: Path, station_yaml: StationYaml, student_bundle: Path, mosquitto: int
) -> None:
    broker = f"mqtt: {{host: 127.0.0.1, port: {mosquitto}}}"
    bag, student = (
        replayed(recordings, station_yaml(f"members: {m}", name=m, bundle=student_bundle))
        for m in ("bag", "student")
    )
    config = station_yaml("members: cascade", broker, name="cascade", bundle=student_bundle)
    with Listener(mosquitto) as listener:
        cascade = replayed(recordings, config)
        assert until(lambda: len(listener.messages) == len(cascade))
    by = {key: row["decided_by"] for key, row in cascade.items()}
    assert {row["decided_by"] for row in bag.values()} == {"bag"}
    assert {row["decided_by"] for row in student.values()} == {"student"}
    assert set(by.values()) == {"bag", "student"}
    for key, row in cascade.items():
        same = (bag if by[key] == "bag" else student)[key]
        assert row["score"] == pytest.approx(same["score"], abs=1e-5)
        members = json.loads(row["members"])
        if key in student:
            assert members[2] == pytest.approx(json.loads(student[key]["members"])[0], abs=2e-5)
        answered = (
            json.loads(bag[key]["members"]) + members[2:] if by[key] == "bag" else members[2:]
        )
        assert (row["member_low"], row["member_high"]) == pytest.approx(
            (min(answered), max(answered)), abs=2e-5
        )
        assert (None in members) == (by[key] == "student")
    sure = {key for key, row in bag.items() if key not in student and key not in cascade}
    assert sure, "where the student is sure and wrong the bag is not asked"
    _why_says_so(config, cascade)
    for payload in map(json.loads, listener.payloads("birdstation/v1/porch/detection")):
        VALIDATOR.validate(payload)
        assert (
            payload["decided_by"]
            == by[payload["recording"], payload["offset_s"], payload["species_code"]]
        )


def _why_says_so(config: Path, rows: dict[tuple[str, float, str], Row]) -> None:
    for by, words in (
        ("bag", "since the student was not sure of this window"),
        ("student", "the ensemble was not run"),
    ):
        row = next(row for row in rows.values() if row["decided_by"] == by)
        with Store(config.parent / "station.db") as store:
            why = explain(store, row["id"])
        assert list(why["members"]) == ["stripes", "mixup", "student"]
        assert (why["members"]["stripes"] is None) == (by == "student")
        assert (why["loaded"], why["decided_by"]) == ("cascade", by)
        console = Console(width=200, file=StringIO())
        console.print(why_tables(why))
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert words in shown
        assert ("│ not run │" in shown) == (by == "student")


@pytest.mark.parametrize("members", ["bag", "student", "cascade"])
def test_speed_is_measured_for_those_that_answer(
    members: str, station_yaml: StationYaml, student_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "_MEASURE_S", 0.2)
    config = station_yaml(
        f"members: {members}", "source: folder", "folder: {path: .}", bundle=student_bundle
    )
    found = {check.name: check for check in run_checks(config, 0, lambda _: None)}
    assert "2 networks and a student" in found["bundle"].found
    assert f"members: {members}" in found["runtime"].found
    assert ("of the windows by the ensemble" in found["runtime"].found) == (members == "cascade")
    share = found["runtime"].figures["bag_share"]
    assert isinstance(share, float)
    assert {"bag": share == 1, "student": share == 0, "cascade": 0 <= share <= 1}[members]


# --- the record
# --------------------------------------------------------------------------------------------------


def test_rows_of_the_version_before_were_decided_by_the_bag(tmp_path: Path) -> None:
    database = tmp_path / "station.db"
    db = Database(sqlite3.connect(database))
    migrations.apply(db, stop_before="decided_by")
    members = [{"name": name, "kind": name[:-1]} for name in ("a1", "a2", "b1")]
    db.execute(
        "INSERT INTO bundles VALUES ('b', ?, '2019-06-01T00:00:00.000Z')",
        [json.dumps({"members": members})],
    )
    db.execute("INSERT INTO species VALUES ('x', 'X x', 'X')")
    db.execute(
        "INSERT INTO recordings (id, station, path, bytes, mtime_ns, state, bundle, analysis) "
        "VALUES ('r', 'porch', 'a.wav', 1, 2, 'analysed', 'b', 'a')"
    )
    for name, scored, shed in (("whole", [0.8, 0.7, 0.9], 0), ("few", [0.8, 0.9], 2)):
        db.execute(
            "INSERT INTO detections VALUES (?, 'r', 'b', 'x', '2019-06-01T05:30:00.000Z', "
            "'2019-06-01T05:30:05.000Z', 0.0, 0.9, 0.9, NULL, 0.5, 'bundle', 0.8, 0.95, -30.0, ?, "
            "'[]', ?, NULL)",
            (name, json.dumps(scored), shed),
        )
    db.conn.commit()
    db.close()
    with Store(database) as store:
        assert store.rows("SELECT id, decided_by FROM detections ORDER BY id") == [
            ("few", "bag"),
            ("whole", "bag"),
        ]
        assert explain(store, "whole")["members"] == {"a1": 0.8, "a2": 0.7, "b1": 0.9}
        few = explain(store, "few")
        assert (few["members"], few["loaded"]) == ({"a1": 0.8, "b1": 0.9}, "bag")
