"""A model that cannot be told from guessing, or hears no birds, gives warnings: in the stages, the
report and the export."""

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.helpers.trainer_run import finish, make_corpus, make_run
from trainer.files import read_json, write_json
from trainer.pipeline.stages import tell_cautions
from trainer.report.report import write_report
from trainer.run import Run
from trainer.tuning.bag import choose_bag
from trainer.tuning.cautions import cautions, guessing
from trainer.tuning.out_of_fold import CropTable, score_crops
from trainer.tuning.tune import tune

CODES = ("a", "b", "c", "d")


def table(recordings: int, right: float, seed: int = 1) -> CropTable:
    """Two crops of each recording, `recordings` per species; a share of `right` is found, the rest
    guessed."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(4), 2 * recordings)
    scores = rng.uniform(0, 0.4, (len(label), 4)).astype(np.float32)
    known = rng.random(len(label)) < right
    scores[known, label[known]] += 0.5
    nowhere = np.full(len(label), np.nan, np.float32)
    return CropTable(
        scores=scores,
        label=label,
        recordings=tuple(f"{CODES[k]}/{i // 2}.ogg" for i, k in enumerate(label)),
        codes=tuple(CODES[k] for k in label),
        ignored=np.zeros(scores.shape, bool),
        latitude=nowhere,
        longitude=nowhere,
        day_of_year=nowhere,
    )


@pytest.mark.parametrize(("right", "learned"), [(0.0, False), (0.7, True)])
def test_guessing_is_told_from_knowing(right: float, learned: bool) -> None:
    crops = table(8, right)
    score = score_crops(crops, CODES)
    bound = guessing(crops, score)
    assert bound["guessing"] == 0.25
    assert 0.25 < bound["guessing_high"] < 0.45
    assert (score.balanced_accuracy > bound["guessing_high"]) == learned


def test_a_species_without_crops_is_not_guessed_at() -> None:
    crops = table(8, 0.5)
    wider = replace(
        crops,
        scores=np.pad(crops.scores, ((0, 0), (0, 1))),
        ignored=np.pad(crops.ignored, ((0, 0), (0, 1))),
    )
    assert guessing(wider, score_crops(wider, (*CODES, "e")))["guessing"] == 0.25


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("verdict")
    corpus = make_corpus(folder / "data")
    run = make_run(folder / "run", corpus)
    choose_bag(run)
    tune(run, corpus)
    finish(run)
    return Run.open(folder / "run")


def set_figures(run: Run, balanced: float, f1: float) -> None:
    oof = {"balanced_accuracy": balanced, "guessing": 0.3333, "guessing_high": 0.5}
    write_json(run.folder / "oof.json", oof)
    tuning = run.tuning()
    blended = {**tuning.scores["blended"], "f1": f1, "f1_all_nocall": 0.4}
    run.write_tuning(replace(tuning, scores={**tuning.scores, "blended": blended}))


def test_a_good_run_has_no_warning(finished: Run) -> None:
    set_figures(finished, 0.9, 0.8)
    assert cautions(finished) == []


def test_a_run_that_learned_nothing_says_so_everywhere(finished: Run) -> None:
    set_figures(finished, 0.34, 0.4)
    said = io.StringIO()
    tell_cautions(finished, Console(file=said, width=500))
    assert said.getvalue().count("warning: ") == 2
    assert "cannot be told from guessing" in said.getvalue()
    assert "no better than saying 'no bird' throughout" in said.getvalue()
    corpus = make_corpus(finished.folder.parent / "again")
    page = write_report(finished, corpus).read_text(encoding="utf8")
    assert page.count('<p class="caution">') == 2


def test_networks_that_are_never_sure_are_named(finished: Run) -> None:
    set_figures(finished, 0.9, 0.8)
    files = [finished.member_folder(name) / "member.json" for name in finished.wanted()]
    before = {path: read_json(path) for path in files}
    try:
        for path, info in before.items():
            write_json(path, {**info, "valid_f1": 0.0})
        (line,) = cautions(finished)
        assert "ever sure" in line
    finally:
        for path, info in before.items():
            write_json(path, info)


@pytest.mark.slow
def test_export_warns_and_says_what_comes_next(finished: Run, tmp_path: Path) -> None:
    set_figures(finished, 0.34, 0.8)
    finish(finished)
    command = [
        sys.executable,
        "-m",
        "export",
        "onnx",
        "--run",
        finished.folder,
        "--out",
        tmp_path / "my bundle",
    ]
    done = subprocess.run(
        [*command, "--per-kind", "1", "--no-half"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "warning: this model cannot be told from guessing" in done.stderr
    assert f"in station.yaml, bundle: {tmp_path / 'my bundle'}" in done.stderr
    assert f"verify '{tmp_path / 'my bundle'}'" in done.stderr
