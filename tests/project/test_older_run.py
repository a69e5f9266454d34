"""A run of an earlier version is finished, exports to its scores of then, and predicts what it did.

How it was made: tests/data/README.md."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from export.__main__ import app as export
from tests.helpers.older import EXPECTED, copy_ground, run
from trainer.__main__ import app as trainer

SCORE_TOLERANCE = 1e-4  # another PyTorch, another processor


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Corpus, rasters, weights, recipe and run; nobody changes what is in it."""
    return copy_ground(tmp_path_factory.mktemp("ground"))


def made(folder: Path) -> dict[str, bytes]:
    """File -> content, but for the lock and for what is remembered of files that were read."""
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {name: files[name].read_bytes() for name in files.keys() - {".contents", ".lock"}}


def test_all_its_stages_are_done(ground: Path) -> None:
    before = made(ground / "run")
    weights = "members/only-fold0-seed1/weights.safetensors"
    assert {"tune.json", "report.html", weights} <= before.keys()
    said = run(
        trainer,
        "fit-all",
        *("--data", ground / "corpus", "--out", ground / "run", "--recipe", ground / "recipe.yaml"),
        *("--rasters", ground / "rasters", "--weights", ground / "weights"),
        *("--jobs", 1, "--device", "cpu", "--no-track"),
    )
    stages = json.loads(before["stages.json"])["stages"]
    assert len(stages) == 8
    assert all(f"{stage}: done already" in said for stage in stages)
    assert made(ground / "run") == before


@pytest.mark.slow
def test_it_exports_to_the_scores_that_it_had(ground: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    small = ("--per-kind", 1, "--no-half", "--no-report")
    run(export, "onnx", "--run", ground / "run", "--out", bundle, *small)
    with np.load(bundle / "probe.npz") as probe:
        for name, expected in EXPECTED["exported"].items():
            assert np.array(expected).size > 0
            assert probe[name] == pytest.approx(np.array(expected), abs=SCORE_TOLERANCE), name
    found = json.loads(run(export, "verify", bundle, "--json").splitlines()[-1])
    assert max(*found["members"].values(), found["blended"], found["student"]) <= SCORE_TOLERANCE


def test_it_predicts_what_it_did(ground: Path, tmp_path: Path) -> None:
    corpus, table = ground / "corpus", tmp_path / "birds.csv"
    sound, sites = corpus / "train_soundscapes", corpus / "soundscape_sites.csv"
    given = ("--run", ground / "run", "--soundscapes", sound, "--sites", sites, "--device", "cpu")
    run(trainer, "predict", *given, "--out", table)
    with table.open(newline="", encoding="utf8") as file:
        assert list(csv.reader(file)) == EXPECTED["predicted"]
