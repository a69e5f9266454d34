"""Bundles of networks that take the sound itself: schema 2, on every runtime, from the window to
the record."""

import dataclasses
import hashlib
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.analysis.recognizer import Recognizer, best_recognizer
from edge.analysis.stretch import Analyst
from edge.config import DEMO_FOLDER, RuntimeSettings, load_config
from edge.contract.audio import WAVEFORM, WINDOW_SAMPLES, WindowCutter
from edge.contract.blend import Blend, acoustic_scores, blend_scores, kind_means
from edge.contract.bundle import Bundle, Thresholds, read_bundle, seal_bundle
from edge.contract.errors import BundleError, ConfigError
from edge.contract.taxonomy import Species, Taxonomy, read_names
from edge.engines.engine import answers_of
from edge.engines.onnx import OnnxEngine
from edge.engines.openvino import OpenvinoEngine
from edge.prior.place_table import compute_prior_table, geo_week
from export.agreement import sound_inputs
from export.tune import record, tune
from export.verify import verify
from tests import HANGS_S
from tests.conftest import hiss, write_sound
from tests.helpers.trt_networks import built, export_trt
from tests.helpers.waveform_bundle import CLASSES, CREDIT, make_waveform_bundle, tone

CODES = [s.code for s in CLASSES]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_waveform_bundle(tmp_path_factory.mktemp("waveform") / "bundle", margin=0.5)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of 25 s: hiss, then each class for 5 s but the engine."""
    folder = tmp_path_factory.mktemp("sound")
    parts = [hiss(5.0), *(tone(code) for code in CODES[:4])]
    write_sound(folder / "20260615_060000.wav", np.concatenate(parts).astype(np.float32))
    return folder


def changed(bundle: Bundle, folder: Path, **manifest: Any) -> Bundle:
    """A copy of the bundle whose manifest says something else."""
    shutil.copytree(bundle.folder, folder)
    return seal_bundle(folder, dataclasses.replace(bundle.manifest, **manifest))


# windows


@pytest.mark.parametrize("hop", [80_000, 160_000, 50_400])
def test_the_cutter_gives_the_sound_of_each_window(hop: int) -> None:
    random = np.random.default_rng(1)
    sound = random.standard_normal(650_001).astype(np.float32)
    cutter = WindowCutter(hop, "context", front=WAVEFORM)
    windows = []
    for piece in np.split(sound, np.sort(random.integers(0, len(sound), 25))):
        windows += cutter.push(piece)
        assert cutter.nbytes < 4 * (WINDOW_SAMPLES * 2 + len(piece) + hop)
    windows += cutter.close()
    whole = range(0, len(sound) - WINDOW_SAMPLES + 1, hop)
    rest = [] if whole[-1] + WINDOW_SAMPLES == len(sound) else [len(sound) - WINDOW_SAMPLES]
    assert [window.start for window in windows] == [*whole, *rest]
    for window in windows:
        np.testing.assert_array_equal(
            window.input, sound[window.start : window.start + WINDOW_SAMPLES]
        )


def test_a_short_stretch_has_silence_behind_it() -> None:
    cutter = WindowCutter(front=WAVEFORM)
    cutter.push(np.ones(1000, np.float32))
    (window,) = cutter.close()
    assert window.samples == 1000
    np.testing.assert_array_equal(
        window.input, np.r_[np.ones(1000), np.zeros(WINDOW_SAMPLES - 1000)]
    )
    assert not WindowCutter(front=WAVEFORM).close()


# the blend


def test_means_skip_members_that_do_not_know_a_species() -> None:
    scores = np.array(
        [[[0.2, 0.4, np.nan]], [[0.6, np.nan, np.nan]], [[0.9, 0.1, np.nan]]], np.float32
    )
    known = ~np.isnan(scores[:, 0])
    names, means = kind_means(scores, ["a", "a", "b"], known)
    assert names == ["a", "b"]
    np.testing.assert_allclose(means[:, 0], [[0.4, 0.4, np.nan], [0.9, 0.1, np.nan]])
    found = acoustic_scores(scores, ["a", "a", "b"], Blend("logit", 1.0, {"a": 3.0}), known)
    np.testing.assert_allclose(
        found, [[0.25 * 0.9 + 0.75 * 0.4, 0.25 * 0.1 + 0.75 * 0.4, 0.0]], rtol=1e-6
    )
    full = np.random.default_rng(0).random((4, 3, 5), np.float32)
    wanted = acoustic_scores(full, ["a", "b", "a", "c"], Blend())
    everyone = np.ones((4, 5), np.bool_)
    np.testing.assert_allclose(
        acoustic_scores(full, ["a", "b", "a", "c"], Blend(), everyone), wanted, rtol=1e-6
    )


def test_a_member_without_weight_decides_alone_where_nobody_else_knows() -> None:
    scores = np.array([[[np.nan]], [[0.7]]], np.float32)
    found = acoustic_scores(
        scores, ["a", "b"], Blend("logit", 1.0, {"b": 0.0}), ~np.isnan(scores[:, 0])
    )
    assert np.isfinite(found).all()


# reading


def test_schema_1_reads_on_and_gives_the_same_scores(tmp_path: Path) -> None:
    shipped = read_bundle(DEMO_FOLDER / "bundle")
    raw = json.loads((shipped.folder / "manifest.json").read_text())
    assert raw["schema"] == 1
    assert shipped.id == raw["id"]
    assert (shipped.manifest.prior, shipped.manifest.front, shipped.licence) == (
        "place",
        "image-128x281",
        None,
    )
    copy = tmp_path / "bundle"
    shutil.copytree(shipped.folder, copy)
    again = seal_bundle(copy, shipped.manifest)
    assert json.loads((copy / "manifest.json").read_text())["schema"] == 2
    one, two = (
        Recognizer(found, 1).recognise(found.probe().inputs, None) for found in (shipped, again)
    )
    np.testing.assert_array_equal(one.members, two.members)
    np.testing.assert_array_equal(one.acoustic, two.acoustic)


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [(0, "reads 1 to 2"), (3, "reads 1 to 2"), (True, "reads 1 to 2"), ("2", "reads 1 to 2")],
)
def test_another_schema_is_refused(
    bundle: Bundle, tmp_path: Path, schema: object, wanted: str
) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle.folder, copy)
    raw = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(raw | {"schema": schema}))
    with pytest.raises(BundleError, match=wanted):
        read_bundle(copy)


def test_what_does_not_fit_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    first, second = bundle.manifest.members
    cases: list[tuple[dict[str, Any], str]] = [
        (
            {"members": (dataclasses.replace(first, species=("lowtoo", "nobody")), second)},
            "'nobody' is not in taxonomy",
        ),
        (
            {"members": (dataclasses.replace(first, species=("lowtoo", "lowtoo")), second)},
            "each species once",
        ),
        ({"members": (second,)}, "no member knows the species 'frogxx'"),
        ({"thresholds": Thresholds(2.0, 0.5)}, "thresholds.blended: expected 0 to 1, found 2.0"),
        (
            {"thresholds": Thresholds(0.5, 0.5, {"lowtoo": -1.0})},
            "lowtoo: expected 0 to 1, found -1.0",
        ),
        (
            {"thresholds": Thresholds(0.5, 0.5, {"nobody": 0.5})},
            "thresholds: species: 'nobody' is not in taxonomy",
        ),
        (
            {"members": (first, dataclasses.replace(second, scale="members/none.npy"))},
            "no file members/none.npy",
        ),
        ({"front_end": {"name": "waveform-16k", "rate_hz": 16_000}}, "another front-end"),
        ({"front_end": {"name": WAVEFORM, "rate_hz": 48_000, "samples": 1}}, "another front-end"),
        ({"front_end": {}}, "another front-end"),
    ]
    for number, (manifest, message) in enumerate(cases):
        with pytest.raises(BundleError, match=message) as caught:
            changed(bundle, tmp_path / str(number), **manifest)
        assert "\n" not in str(caught.value)
    copy = tmp_path / "unlicensed"
    shutil.copytree(bundle.folder, copy)
    (copy / "LICENCE.txt").unlink()
    with pytest.raises(BundleError, match=r"LICENCE\.txt: missing"):
        seal_bundle(copy, bundle.manifest)
    wrong = changed(
        bundle, tmp_path / "output", members=(dataclasses.replace(first, output="none"), second)
    )
    with pytest.raises(
        BundleError, match="expected the output none, found scores, embedding, head_scores"
    ):
        Recognizer(wrong)
    wrong = changed(
        bundle,
        tmp_path / "width",
        members=(dataclasses.replace(first, output="head_scores"), second),
    )
    with pytest.raises(
        BundleError, match=r"output head_scores: expected \(batch, 5\), found \['n', 2\]"
    ):
        Recognizer(wrong)
    np.save(tmp_path / "scale.npy", np.ones((2, 3), np.float32))
    shutil.copy(tmp_path / "scale.npy", tmp_path / "output" / "members" / "head.scale.npy")
    with pytest.raises(BundleError, match=r"expected \(2, 2\) finite float32, found \(2, 3\)"):
        Recognizer(seal_bundle(tmp_path / "output", bundle.manifest))


def test_kinds_and_names(bundle: Bundle, tmp_path: Path) -> None:
    assert [bundle.taxonomy[i].code for i in bundle.taxonomy.of_kind(["animal", "human"])] == [
        "frogxx",
        "human1",
    ]
    german = read_bundle(bundle.folder, "de").taxonomy
    assert [s.common_name for s in german][:2] == ["Tieftuter", "Middle Tooter"], (
        "what has no name keeps its own"
    )
    assert german.digest == bundle.taxonomy.digest
    assert read_bundle(bundle.folder, "fr").taxonomy[4].common_name == "Engine"
    with pytest.raises(ConfigError, match=r"station.language: expected one of de, fr, found 'xx'"):
        read_bundle(bundle.folder, "xx")
    with pytest.raises(ConfigError, match=r"station.language: expected no language"):
        read_bundle(DEMO_FOLDER / "bundle", "de")
    path = tmp_path / "taxonomy.csv"
    path.write_text("code,scientific_name,common_name,kind\nab,A b,Ab,dog\n")
    with pytest.raises(
        BundleError, match="line 2: kind: expected bird, animal, human, sound, found 'dog'"
    ):
        Taxonomy.read_csv(path)
    Taxonomy([Species("ab", "A b", "Ab")]).write_csv(path)
    assert path.read_text() == "code,scientific_name,common_name\nab,A b,Ab\n", (
        "as it was before there were kinds"
    )
    with pytest.raises(BundleError, match=r"names\.csv"):
        read_names(tmp_path / "names.csv", "de")


# runtimes


def test_one_file_serves_two_members(bundle: Bundle) -> None:
    probe = bundle.probe()
    members = bundle.manifest.members
    engine = OnnxEngine(answers_of(bundle, members), 1, input_shape=bundle.input_shape)
    assert len(engine._sessions) == 1
    found = engine.scores(probe.inputs)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(probe.member_scores))
    np.testing.assert_allclose(found, probe.member_scores, atol=1e-6)
    np.testing.assert_array_equal(engine.scores(probe.inputs, [1])[0], found[1])
    for size in (1, 2, 3):
        parts = [
            engine.scores(probe.inputs[at : at + size]) for at in range(0, len(probe.inputs), size)
        ]
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), found)


@pytest.mark.parametrize("pairs", [False, True])
def test_openvino_gives_the_same(bundle: Bundle, pairs: bool) -> None:
    probe = bundle.probe()
    answers = answers_of(bundle, bundle.manifest.networks)
    engine = OpenvinoEngine(answers, 1, pairs=pairs, input_shape=bundle.input_shape)
    wanted = np.concatenate([probe.member_scores, probe.student_scores[None]])
    np.testing.assert_allclose(engine.scores(probe.inputs), wanted, atol=1e-4)
    np.testing.assert_allclose(engine.scores(probe.inputs[:1], [1])[0], wanted[1, :1], atol=1e-4)


@pytest.mark.parametrize("members", ["bag", "student", "cascade"])
def test_the_probe_passes_and_a_wrong_one_does_not(
    bundle: Bundle, tmp_path: Path, members: Any
) -> None:
    assert Recognizer(bundle, 1, members=members).check_probe() < 1e-5
    copy = tmp_path / "bundle"
    shutil.copytree(bundle.folder, copy)
    probe = bundle.probe()
    dataclasses.replace(
        probe, member_scores=probe.member_scores * 0.9, student_scores=probe.student_scores * 0.9
    ).write(copy / "probe.npz")
    with pytest.raises(BundleError, match="probe failed"):
        Recognizer(seal_bundle(copy, bundle.manifest), 1, members=members).check_probe()


def test_verify_and_tune(bundle: Bundle, sound: Path, tmp_path: Path) -> None:
    found = verify(bundle.folder)
    assert set(found.members) == {"all", "head"}
    assert (
        max(*found.members.values(), found.blended, found.student or 0.0, found.prior or 0.0) < 1e-5
    )
    assert found.single_against_batch == 0.0
    inputs = sound_inputs(sound, bundle.manifest, 20)
    assert inputs.shape == (5, WINDOW_SAMPLES)
    rows = tune(bundle, inputs, 0.1, ("bag", "cascade"))
    assert all(row.refused is None or "bf16" in row.name for one in rows for row in one.rows), rows
    record(bundle, rows).write(tmp_path)
    settings = RuntimeSettings(engine="auto")
    assert (
        best_recognizer(bundle, settings, tmp_path / "engines", "cascade", "replay").check_probe()
        < 0.02
    )


@pytest.mark.slow
def test_tensorrt_compiles_one_output_of_each(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "engines"
    found = built(bundle.folder, out)
    assert [member.name for member in found.members] == ["all", "head", "student"]
    assert max(member.parity_max for member in found.members) < 1e-4
    plan = export_trt("trt", "--bundle", bundle.folder, "--out", tmp_path / "other", "--dry-run")
    assert plan.returncode == 0, plan.stderr


# the prior


def test_weeks_are_whole_where_birdnets_are() -> None:
    days = np.arange(1, 367, dtype=np.float32)
    weeks = geo_week(days)
    assert weeks.min() >= 1
    assert weeks.max() <= 48
    assert (np.diff(weeks) >= 0).all()
    assert weeks[182] == pytest.approx(24.5, abs=0.1)


def test_the_geo_prior_is_its_chance_over_the_lists_limit(bundle: Bundle) -> None:
    table = compute_prior_table(bundle.folder / "prior", bundle.taxonomy, 20.0, 10.0)
    assert table.shape == (366, 5)
    chance = 1 / (1 + np.exp(-0.2 * 20.0))
    np.testing.assert_allclose(table[:, 0], chance / 0.03 / 5, rtol=1e-5)
    np.testing.assert_allclose(table[:, 2:], 1 / 5)
    assert table[0, 1] < 0.2 * table[200, 1], "there is a season"
    neutral = blend_scores(np.full((1, 5), 0.3, np.float32), table[0], Blend("logit", 1.0))
    np.testing.assert_allclose(neutral[0, 2:], 0.3, rtol=1e-6)
    assert neutral[0, 0] > 0.3 > neutral[0, 1]


@pytest.mark.parametrize(
    "text", ["", "{}", '{"floor": 0, "neutral": []}', '{"floor": 0.03, "neutral": ["x"]}', "[1]"]
)
def test_wrong_facts_of_a_geo_model_are_one_line(bundle: Bundle, tmp_path: Path, text: str) -> None:
    shutil.copytree(bundle.folder / "prior", tmp_path / "prior")
    (tmp_path / "prior" / "geo.json").write_text(text)
    with pytest.raises(BundleError, match=r"geo\.json: not the facts of a geo model") as caught:
        compute_prior_table(tmp_path / "prior", bundle.taxonomy, 0.0, 0.0)
    assert "\n" not in str(caught.value)


# the record


def test_another_network_as_geo_model_and_a_day_that_is_none_are_one_line(
    bundle: Bundle, tmp_path: Path
) -> None:
    shutil.copytree(bundle.folder, tmp_path / "copy")
    shutil.copy(tmp_path / "copy/members/ears.onnx", tmp_path / "copy/prior/geo.onnx")
    with pytest.raises(BundleError, match=r"geo\.onnx: not a geo model: .*") as caught:
        verify(seal_bundle(tmp_path / "copy", bundle.manifest).folder)
    assert "\n" not in str(caught.value)
    dataclasses.replace(bundle.probe(), day_of_year=999).write(tmp_path / "copy/probe.npz")
    with pytest.raises(BundleError, match=r"probe\.npz: day_of_year: expected 1 to 366, found 999"):
        verify(seal_bundle(tmp_path / "copy", bundle.manifest).folder)


def edge(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=HANGS_S,
    )


def rows(config: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(config.parent / "station.db")) as db, db:
        return db.execute(sql).fetchall()


SPECIES = "SELECT DISTINCT species FROM detections ORDER BY species"


def test_a_replay_reports_birds_and_says_whose_model_it_is(
    bundle: Bundle, sound: Path, station_yaml: Callable[..., Path]
) -> None:
    config = station_yaml(
        "windows: {hop_s: 5}",
        bundle=bundle.folder,
        station="id: porch, latitude: 20, longitude: 10, language: de",
    )
    done = edge("replay", "--config", config, sound, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["licence"] == CREDIT
    assert rows(config, SPECIES) == [("lowtoo",), ("midtoo",)], (
        "a prior does not mask; a frog is no bird"
    )
    assert rows(config, "SELECT common_name FROM species WHERE code = 'lowtoo'") == [("Tieftuter",)]
    (identity,), (other,) = rows(
        config, "SELECT id FROM detections GROUP BY species ORDER BY species"
    )
    unlikely = json.loads(edge("why", other, "--config", config, "--json").stdout)
    assert unlikely["odds_moved"] < 0.5, "nobody expects it in the north"
    why = json.loads(edge("why", identity, "--config", config, "--json").stdout)
    assert why["licence"] == CREDIT
    assert set(why["members"]) == {"all", "head"}
    assert why["geo"] == pytest.approx(1 / (1 + np.exp(-4.0)), rel=1e-3)
    assert why["odds_moved"] == pytest.approx(0.2 + 0.8 * why["geo"] / 0.03, rel=1e-2)
    said = edge("why", identity, "--config", config).stdout
    assert "probability by the geo model on that day 98.2%; odds ×" in re.sub(r"[\s│]+", " ", said)


def test_other_kinds_are_reported_if_asked_but_never_voices(
    bundle: Bundle, sound: Path, station_yaml: Callable[..., Path]
) -> None:
    asked = "detect: {kinds: [bird, animal, sound]}"
    place = "id: porch, latitude: 20, longitude: 10"
    config = station_yaml("windows: {hop_s: 5}", asked, bundle=bundle.folder, station=place)
    assert edge("replay", "--config", config, sound).returncode == 0
    assert rows(config, SPECIES) == [("frogxx",), ("lowtoo",), ("midtoo",)]
    ((frog,),) = rows(config, "SELECT id FROM detections WHERE species = 'frogxx'")
    why = json.loads(edge("why", frog, "--config", config, "--json").stdout)
    assert (why["prior"], why["geo"]) == (pytest.approx(1 / 5), None), (
        "the geo model says nothing of frogs"
    )
    wrong = station_yaml("detect: {kinds: [human]}", name="wrong", bundle=bundle.folder)
    with pytest.raises(ConfigError, match=r"detect\.kinds"):
        load_config(wrong)


def test_a_human_class_is_a_matter_of_privacy(
    bundle: Bundle, tmp_path: Path, station_yaml: Callable[..., Path]
) -> None:
    both = tone("lowtoo") + tone("human1")
    write_sound(
        tmp_path / "sound" / "a.wav", np.concatenate([both, tone("midtoo")]).astype(np.float32)
    )
    for human, heard in (("all", [("midtoo",)]), ("off", [("lowtoo",), ("midtoo",)])):
        config = station_yaml(
            "windows: {hop_s: 5}", f"privacy: {{human: {human}}}", name=human, bundle=bundle.folder
        )
        assert edge("replay", "--config", config, tmp_path / "sound").returncode == 0
        assert rows(config, SPECIES) == heard


def test_jobs_and_batches_change_nothing(
    bundle: Bundle, sound: Path, station_yaml: Callable[..., Path]
) -> None:
    found = []
    for name, jobs, batch in (("one", 1, 16), ("two", 2, 3)):
        config = station_yaml(
            f"runtime: {{batch: {batch}, threads: 1}}", name=name, bundle=bundle.folder
        )
        assert edge("replay", "--config", config, sound, "--jobs", jobs).returncode == 0
        found.append(
            rows(config, "SELECT id, score, acoustic, members FROM detections ORDER BY id")
        )
    assert found[0] == found[1] != []


def test_an_archive_is_not_analysed_anew_for_settings_that_were_not_there(
    bundle_folder: Path, station_yaml: Callable[..., Path]
) -> None:
    recognizer = Recognizer(read_bundle(bundle_folder))
    plain = Analyst(load_config(station_yaml()), recognizer).digest()
    named = Analyst(
        load_config(station_yaml(station="id: porch, language: de")), recognizer
    ).digest()
    other = Analyst(
        load_config(station_yaml("detect: {kinds: [bird, sound]}")), recognizer
    ).digest()
    assert plain == named != other
    config = load_config(station_yaml())
    parts = [
        recognizer.bundle.id,
        dataclasses.asdict(config.station),
        dataclasses.asdict(config.windows),
    ]
    parts += [dataclasses.asdict(config.detect), config.members, {}]
    del parts[1]["language"], parts[3]["kinds"]
    as_before = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[
        :32
    ]
    assert plain == as_before


def test_check_names_the_licence(bundle: Bundle, station_yaml: Callable[..., Path]) -> None:
    config = station_yaml(bundle=bundle.folder, station="id: porch, latitude: 20, longitude: 10")
    said = json.loads(edge("check", "--config", config, "--json").stdout)
    (found,) = (one for one in said["checks"] if one["name"] == "bundle")
    assert found["figures"]["licence"] == CREDIT
    assert "1 network and a student, 5 species, with prior" in found["found"]
