"""A run of an earlier version is finished, exports to the scores that it had, and predicts what it
did."""

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
    """File -> content; what is remembered of files that were read, and the lock, are of their
    moment."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    moment = {".contents", ".lock"}
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in files
        if path.name not in moment
    }


def test_all_its_stages_are_done(ground: Path) -> None:
    before = made(ground / "run")
    assert {
        "tune.json",
        "report.html",
        "members/only-fold0-seed1/weights.safetensors",
    } <= before.keys()
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
    run(
        export,
        "onnx",
        "--run",
        ground / "run",
        "--out",
        bundle,
        "--per-kind",
        1,
        "--no-half",
        "--no-report",
    )
    with np.load(bundle / "probe.npz") as probe:
        for name, expected in EXPECTED["exported"].items():
            assert np.array(expected).size > 0
            np.testing.assert_allclose(
                probe[name], expected, rtol=0, atol=SCORE_TOLERANCE, err_msg=name
            )
    found = json.loads(run(export, "verify", bundle, "--json").splitlines()[-1])
    assert max(*found["members"].values(), found["blended"], found["student"]) <= SCORE_TOLERANCE


def test_it_predicts_what_it_did(ground: Path, tmp_path: Path) -> None:
    corpus, table = ground / "corpus", tmp_path / "birds.csv"
    where = (
        "--soundscapes",
        corpus / "train_soundscapes",
        "--sites",
        corpus / "soundscape_sites.csv",
    )
    run(trainer, "predict", "--run", ground / "run", *where, "--out", table, "--device", "cpu")
    with table.open(newline="", encoding="utf8") as file:
        assert list(csv.reader(file)) == EXPECTED["predicted"]
