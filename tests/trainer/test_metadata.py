"""The metadata model learns places, is exported exactly, and its absence is said and leaves nothing
stale."""

import json
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edge.contract.errors import CorpusError
from edge.contract.folders import files_under
from edge.prior.place import CATEGORY, NUMERIC, FeatureSpec, Grid, place_columns
from tests.helpers.trainer_run import CODES, make_corpus, make_rasters, make_run, write_raster
from trainer.corpus.recordings import Corpus
from trainer.place.metadata import ONNX_DIFFERENCE_MAX, fit_metadata
from trainer.place.place_prior import place_scores
from trainer.place.places import Places, feature_spec, split
from trainer.place.trees import fit_trees
from trainer.run import Run


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Corpus, Path]:
    folder = tmp_path_factory.mktemp("metadata")
    corpus = make_corpus(folder / "data", soundscapes=0)
    run = make_run(folder / "run", corpus)
    rasters = make_rasters(folder / "rasters")
    fit_metadata(run, corpus, rasters)
    return run, corpus, rasters


def test_it_learns_where_species_live(fitted: tuple[Run, Corpus, Path]) -> None:
    run, _, _ = fitted
    folder = run.metadata()
    assert folder is not None
    found = json.loads((folder / "metrics.json").read_text(encoding="utf8"))
    assert found["rows"] == {
        "used": 87,
        "training": 70,
        "validation": 17,
        "without_place": 0,
        "without_date": 3,
    }
    assert found["validation"]["top1"] > 0.9 > found["baseline_majority"]["top1"]
    assert found["validation"]["top5"] == 1.0
    assert found["grid_agrees"]["forest_type"] == 1.0
    east = place_scores(
        folder, run.taxonomy, *(np.array([v], np.float32) for v in (10.0, -20.0, 150.0))
    )
    assert east.shape == (1, 3)
    assert CODES[int(east[0].argmax())] == "comyel"
    assert np.isclose(east.sum(), 1.0, atol=1e-5)


def test_onnx_gives_catboosts_probabilities(
    fitted: tuple[Run, Corpus, Path], tmp_path: Path
) -> None:
    folder = fitted[0].folder / "metadata"
    spec = FeatureSpec.read(folder / "features.json")
    grid = Grid.read(folder / "grid.npz")
    random = np.random.default_rng(0)
    places = [
        random.uniform(low, high, 200).astype(np.float32)
        for low, high in ((-90, 90), (-180, 180), (1, 366))
    ]
    features = spec.encode(place_columns(grid, *places))
    run, corpus, _ = fitted
    told = Places.of(corpus, run.taxonomy)
    train, valid = split(told.label, run.recipe.metadata.validation, run.recipe.seed)
    learnt = spec.encode(place_columns(grid, told.latitude, told.longitude, told.day_of_year))
    model = fit_trees(
        run.recipe.metadata, run.recipe.seed, learnt, told.label, train, valid, tmp_path
    )
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(["probabilities"], {"features": features})
    assert found.dtype == np.float32
    assert found.shape == (200, len(spec.classes))
    assert np.abs(found - model.predict_proba(features)).max() <= ONNX_DIFFERENCE_MAX


def test_onnx_file_is_as_the_station_wants_it(fitted: tuple[Run, Corpus, Path]) -> None:
    model = onnx.load(fitted[0].folder / "metadata" / "model.onnx")
    assert [node.op_type for node in model.graph.node] == ["TreeEnsembleClassifier"]
    assert [i.name for i in model.graph.input] == ["features"]
    assert [o.name for o in model.graph.output] == ["probabilities"]


def test_importances_are_of_the_nine_features(fitted: tuple[Run, Corpus, Path]) -> None:
    lines = (
        (fitted[0].folder / "metadata" / "importances.csv")
        .read_text(encoding="utf8")
        .splitlines()[1:]
    )
    found = dict(line.split(",") for line in lines)
    assert set(found) == {*NUMERIC, CATEGORY}
    assert np.isclose(sum(map(float, found.values())), 100.0, atol=0.1)


def test_same_again_and_nothing_strewn_about(
    fitted: tuple[Run, Corpus, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, corpus, rasters = fitted
    folder = run.folder / "metadata"
    before = (folder / "model.onnx").read_bytes()
    monkeypatch.chdir(tmp_path)
    fit_metadata(run, corpus, rasters)
    assert (folder / "model.onnx").read_bytes() == before
    assert not list(tmp_path.iterdir())
    assert not (run.folder / ".birdstation-metadata").exists()
    names = {"model.onnx", "features.json", "grid.npz", "metrics.json", "importances.csv"}
    assert {path.name for path in folder.iterdir()} == names


@pytest.mark.parametrize(
    ("recordings", "placed", "with_rasters", "reason"),
    [
        (30, False, True, "found 0 of 0 ("),
        (
            5,
            True,
            True,
            "expected at least 50 recordings of 2 species with place and date, found 12 of 3",
        ),
        (30, True, False, "no rasters were given"),
    ],
    ids=["no coordinates", "too few", "no rasters"],
)
def test_absence_is_said_and_clears_an_older_model(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    recordings: int,
    placed: bool,
    with_rasters: bool,
    reason: str,
) -> None:
    corpus = make_corpus(tmp_path / "data", recordings=recordings, placed=placed, soundscapes=0)
    run = make_run(tmp_path / "run", corpus)
    stale = run.folder / "metadata"
    stale.mkdir()
    (stale / "model.onnx").write_bytes(b"from an earlier attempt")
    fit_metadata(run, corpus, make_rasters(tmp_path / "rasters") if with_rasters else None)
    assert run.metadata() is None
    assert [path.name for path in stale.iterdir()] == ["absent.json"]
    assert reason in json.loads((stale / "absent.json").read_text(encoding="utf8"))["reason"]
    said = capsys.readouterr().out
    assert reason in said
    assert said.count("\n") == 1


def test_layers_that_miss_many_recordings_are_named(
    fitted: tuple[Run, Corpus, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, corpus, _ = fitted
    run = make_run(tmp_path / "run", corpus)
    rasters = make_rasters(tmp_path / "rasters")
    write_raster(rasters / "bio15.tif", lambda _, lon: np.where(lon > -80, np.nan, 5))
    fit_metadata(run, corpus, rasters)
    cover = json.loads((run.folder / "metadata" / "metrics.json").read_text(encoding="utf8"))[
        "cover"
    ]
    assert cover == dict.fromkeys(cover, 1.0) | {"bio15": pytest.approx(1 / 3, abs=0.01)}
    assert (
        "warning: bio15.tif has a value at 33% of the recordings; the others count as av"
        in capsys.readouterr().out
    )
    write_raster(rasters / "bio15.tif", lambda *_: np.array(np.nan))
    with pytest.raises(
        CorpusError,
        match=r"bio15\.tif \(latitude -90.*found not a single value; give --rasters that",
    ):
        fit_metadata(run, corpus, rasters)


def test_one_place_and_day_tell_no_species(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = make_corpus(tmp_path / "data", soundscapes=0)
    day = date(2015, 5, 5)
    here = [replace(r, latitude=45.0, longitude=-90.0, date=day) for r in corpus.recordings]
    run = make_run(tmp_path / "run", corpus)
    fit_metadata(run, replace(corpus, recordings=tuple(here)), make_rasters(tmp_path / "rasters"))
    assert run.metadata() is None
    assert capsys.readouterr().out.startswith(
        "metadata: no model: all recordings are of one place and day"
    )


def test_missing_raster_is_an_error_of_one_line(
    fitted: tuple[Run, Corpus, Path], tmp_path: Path
) -> None:
    run, corpus, _ = fitted
    rasters = make_rasters(tmp_path / "rasters")
    (rasters / "bio15.tif").unlink()
    with pytest.raises(CorpusError, match=r"bio15\.tif: missing"):
        fit_metadata(run, corpus, rasters)


def test_every_species_is_trained_on() -> None:
    label = np.array([0] * 40 + [1, 2], np.int64)
    for seed in range(20):
        train, valid = split(label, 0.5, seed)
        assert set(label[train]) == {0, 1, 2}
        assert sorted([*train, *valid]) == list(range(42))


def test_features_of_training_rows_have_mean_0_and_deviation_1(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "data", soundscapes=0)
    places = Places.of(corpus, corpus.taxonomy)
    random = np.random.default_rng(0)
    columns = {name: random.normal(5, 3, len(places.label)).astype(np.float32) for name in NUMERIC}
    columns["bio1"][:3] = np.nan
    columns["bio12"][:] = 7.0
    columns[CATEGORY] = np.where(np.arange(len(places.label)) % 2, 4.0, np.nan).astype(np.float32)
    train = np.arange(50)
    features = feature_spec(columns, train, places.codes).encode(columns)
    assert features.shape[1] == len(NUMERIC) + 1
    assert np.isfinite(features).all()
    varied = [i for i, name in enumerate(NUMERIC) if name not in ("bio1", "bio12")]
    assert np.allclose(features[train][:, varied].mean(axis=0), 0, atol=1e-3)
    assert np.allclose(features[train][:, varied].std(axis=0), 1, atol=1e-3)
    assert (features[:3, NUMERIC.index("bio1")] == 0).all()
    assert (features[:, NUMERIC.index("bio12")] == 0).all()


def test_the_model_holds_no_path_of_this_machine(fitted: tuple[Run, Corpus, Path]) -> None:
    folder = fitted[0].folder
    assert [
        path
        for path in files_under(folder / "metadata")
        if str(folder).encode() in path.read_bytes()
    ] == []


@pytest.mark.parametrize("damage", ["cut", "turned", "empty", "text", "another network", "missing"])
def test_a_damaged_model_is_one_line(
    fitted: tuple[Run, Corpus, Path], tmp_path: Path, damage: str
) -> None:
    run = fitted[0]
    folder = shutil.copytree(run.folder / "metadata", tmp_path / "metadata")
    path = folder / "model.onnx"
    whole = path.read_bytes()
    turned = bytearray(whole)
    turned[2] ^= 0x41
    if damage == "another network":
        other = onnx.load(path)
        other.graph.output[0].name = other.graph.node[0].output[1] = "others"
        whole = other.SerializeToString()
    kept = {
        "cut": whole[: len(whole) // 2],
        "turned": bytes(turned),
        "empty": b"",
        "text": b"no network",
    }
    path.write_bytes(kept.get(damage, whole))
    if damage == "missing":
        path.unlink()
    place = (np.array([value], np.float32) for value in (10.0, -20.0, 150.0))
    with pytest.raises(CorpusError) as refusal:
        place_scores(folder, run.taxonomy, *place)
    said = str(refusal.value)
    assert said.startswith(f"{path}: ONNX Runtime cannot run it: ")
    assert said.endswith(f"; remove {folder} and run: python -m trainer fit-all")
    assert "\n" not in said


@pytest.mark.parametrize("name", ["grid.npz", "features.json"])
def test_damage_beside_the_model_is_one_line(
    fitted: tuple[Run, Corpus, Path], tmp_path: Path, name: str
) -> None:
    run = fitted[0]
    folder = shutil.copytree(run.folder / "metadata", tmp_path / "metadata")
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    place = (np.array([value], np.float32) for value in (10.0, -20.0, 150.0))
    with pytest.raises(CorpusError) as refusal:
        place_scores(folder, run.taxonomy, *place)
    said = str(refusal.value)
    assert said.startswith(f"{folder / name}: not ")
    assert said.endswith(f"; remove {folder} and run: python -m trainer fit-all")
    assert "\n" not in said
