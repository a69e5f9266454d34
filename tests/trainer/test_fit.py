"""Fit: members learn, resume exactly after SIGKILL, leave no process behind; the run keeps its
recipe."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from rich.console import Console

from edge.contract.errors import ConfigError, CorpusError
from tests import HANGS_S
from tests.helpers.trainer_corpus import make_corpus
from trainer.networks.model import load_network
from trainer.pipeline.stages import Options, run_stages
from trainer.recipe import (
    Augment,
    FoldRecipe,
    MemberRecipe,
    OptimiserRecipe,
    Recipe,
    SamplingRecipe,
    find_recipe,
)
from trainer.run import Run
from trainer.training import fit, member
from trainer.training.history import read_history
from trainer.training.member import micro_f1, set_rate

pytestmark = pytest.mark.slow

QUIET = Console(quiet=True)
EPOCHS = 12
BEFORE = ("folds", "spectrograms")


def tiny_recipe(**changes: object) -> Recipe:
    """Two folds, one network of 0.1 M weights."""
    augment = Augment((0.5, 3.0), 0.5, 0.0, power_each=True)
    return dataclasses.replace(
        find_recipe("demo"),
        name="tiny",
        folds=FoldRecipe(2, 5.0),
        members=(MemberRecipe("only", "test_efficientnet", EPOCHS, (1,), augment, stem_pool=2),),
        sampling=SamplingRecipe(8, 0.0),
        optimiser=OptimiserRecipe("adam", 3e-3, 1e-5, 4),
        **changes,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("fit") / "corpus", 4, 8.0)


def options(data: Path, out: Path, recipe: Recipe | None = None) -> Options:
    path = out.parent / f"{out.name}.yaml"
    path.write_text((recipe or tiny_recipe()).as_yaml())
    return Options(data, out, str(path), None, None, 1, "cpu")


def children(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found[1:]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(what: str, condition, seconds: float = HANGS_S) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.02)


def fit_here(_run: Run, tasks: list[member.MemberTask], *_: object) -> None:
    """In place of worker processes, whose start takes longer than this training."""
    for task in tasks:
        member.fit_member(task)


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trained without a break."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "_train_all", fit_here)
        return run_stages(
            options(data, tmp_path_factory.mktemp("straight") / "run"), (*BEFORE, "fit-cnn"), QUIET
        )


def test_members_learn_two_notes(straight: Run) -> None:
    figures = json.loads((straight.folder / "oof.json").read_text())
    assert figures["balanced_accuracy"] >= 0.75
    assert figures["crops"] == 8
    history = read_history(straight.member_folder("only-fold0-seed1"))
    assert [e.epoch for e in history] == list(range(1, EPOCHS + 1))
    assert history[-1].valid_loss < history[0].valid_loss


def test_a_finished_member_is_whole(straight: Run) -> None:
    infos = straight.members()
    assert [i.name for i in infos] == straight.wanted() == ["only-fold0-seed1", "only-fold1-seed1"]
    for info in infos:
        assert (info.classes, info.epochs, info.kept_epoch, info.stem_pool) == (
            2,
            EPOCHS,
            EPOCHS,
            2,
        )
        names = {path.name for path in straight.member_folder(info.name).iterdir()}
        assert names == {"weights.safetensors", "member.json", "history.csv", "oof.npz"}
    scored = np.sort(np.concatenate([straight.out_of_fold(i.name).rows for i in infos]))
    assert scored.tolist() == list(range(8))


def test_the_saved_network_gives_the_scores_of_the_fold(straight: Run) -> None:
    images = np.load(straight.folder / "spectrograms" / "images.npy")
    oof = straight.out_of_fold("only-fold1-seed1")
    network = load_network(straight, "only-fold1-seed1")
    assert not network.training
    with torch.inference_mode():
        scores = torch.sigmoid(network(torch.from_numpy(images[oof.rows][:, None]).float())).numpy()
    assert np.abs(scores - oof.scores).max() < 2e-3  # they are kept as float16


def test_killed_and_resumed_it_ends_the_same_and_leaves_no_process(
    data: Path, straight: Run, tmp_path: Path
) -> None:
    asked = options(data, tmp_path / "run")
    run = run_stages(asked, BEFORE, QUIET)
    history = run.member_folder("only-fold0-seed1") / "history.csv"
    command = [
        sys.executable,
        "-m",
        "trainer",
        "fit-cnn",
        "--data",
        data,
        "--out",
        asked.out,
        "--jobs",
        "1",
    ]
    command.append("--no-track")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as trainer:
        wait_for(
            "three epochs", lambda: history.is_file() and len(read_history(history.parent)) >= 3
        )
        workers = children(trainer.pid)
        assert workers
        os.kill(trainer.pid, signal.SIGKILL)
    wait_for("the workers to end", lambda: not any(alive(pid) for pid in workers), 30.0)
    assert not (history.parent / "member.json").exists(), "it was over before the kill"
    epochs = len(read_history(history.parent))
    assert 3 <= epochs < EPOCHS
    run_stages(asked, ("fit-cnn",), QUIET)
    for name in straight.wanted():
        before, after = (
            safetensors.torch.load_file(r.member_folder(name) / "weights.safetensors")
            for r in (straight, run)
        )
        assert all(torch.equal(before[key], after[key]) for key in before), name
        losses = [
            [e.train_loss for e in read_history(r.member_folder(name))] for r in (straight, run)
        ]
        assert losses[0] == losses[1]


def test_what_is_done_is_not_done_again(
    data: Path, straight: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (straight.member_folder("only-fold0-seed1") / "weights.safetensors").stat().st_mtime_ns
    run_stages(options(data, straight.folder), (*BEFORE, "fit-cnn"), Console())
    assert capsys.readouterr().out.splitlines() == [
        f"{s}: done already" for s in (*BEFORE, "fit-cnn")
    ]
    assert (
        straight.member_folder("only-fold0-seed1") / "weights.safetensors"
    ).stat().st_mtime_ns == before


def test_a_run_keeps_its_recipe(data: Path, straight: Run) -> None:
    with pytest.raises(ConfigError, match=r"made with another recipe \(it differs in seed\)"):
        run_stages(options(data, straight.folder, tiny_recipe(seed=2)), ("folds",), QUIET)


def test_a_run_keeps_its_species(straight: Run, tmp_path: Path) -> None:
    other = make_corpus(tmp_path / "other", 1, 1.0)
    table = other / "train_metadata.csv"
    table.write_text(table.read_text().replace("midtoo", "newtoo"))
    with pytest.raises(CorpusError, match="with other species"):
        run_stages(options(other, straight.folder), ("folds",), QUIET)


def test_a_stage_names_the_one_that_comes_before(data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CorpusError, match="stage folds comes before fit-cnn; run: python -m trainer folds"
    ):
        run_stages(options(data, tmp_path / "run"), ("fit-cnn",), QUIET)


def test_a_new_run_wants_a_recipe_a_begun_one_has_it(data: Path, tmp_path: Path) -> None:
    asked = options(data, tmp_path / "run")
    with pytest.raises(
        ConfigError, match="to start one, add --recipe demo, improved, published, small"
    ):
        run_stages(dataclasses.replace(asked, recipe=None), ("folds",), QUIET)
    run_stages(asked, ("folds",), QUIET)
    assert (
        run_stages(dataclasses.replace(asked, recipe=None), ("folds",), QUIET).recipe
        == tiny_recipe()
    )


def test_an_unfinished_run_is_not_opened(straight: Run, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="stage fit-metadata is missing"):
        Run.open(straight.folder)
    with pytest.raises(CorpusError, match="no run here"):
        Run.open(tmp_path)


def test_pretrained_without_weights_stops_before_any_work(data: Path, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    asked = options(data, tmp_path / "run", tiny_recipe(pretrained=True))
    asked = dataclasses.replace(asked, weights=tmp_path / "weights")
    run = run_stages(asked, BEFORE, QUIET)
    with pytest.raises(ConfigError, match=r"test_efficientnet\.safetensors: no such file"):
        run_stages(asked, ("fit-cnn",), QUIET)
    assert not (run.folder / "members").exists()


def test_two_trainers_do_not_share_a_run(data: Path, straight: Run) -> None:
    held = (
        "import fcntl,sys,time; f=open(sys.argv[1],'w'); fcntl.flock(f,fcntl.LOCK_EX); print(); "
        "time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", held, straight.folder / ".lock"], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        other.stdout.readline()
        with pytest.raises(ConfigError, match="in use by another trainer"):
            run_stages(options(data, straight.folder), ("folds",), QUIET)
        other.kill()


def test_a_loss_that_is_not_finite_is_said(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = options(data, tmp_path / "run")
    run = run_stages(asked, BEFORE, QUIET)
    monkeypatch.setattr(member, "augment", lambda grey, target, *_: (grey * float("nan"), target))
    monkeypatch.setattr(fit, "_train_all", fit_here)
    with pytest.raises(
        ConfigError,
        match=r"loss of epoch 1 is not finite, first for a batch of .*XC.*; lower optim",
    ):
        run_stages(asked, ("fit-cnn",), QUIET)
    assert run.members() == []


def test_the_rate_falls_as_a_cosine() -> None:
    recipe = find_recipe("published").optimiser
    adam = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1.0)
    rates = []
    for progress in (0.0, 0.5, 1.0):
        set_rate(adam, recipe, progress)
        rates.append(adam.param_groups[0]["lr"])
    assert rates == pytest.approx([8e-4, (8e-4 + 1e-5) / 2, 1e-5])


def test_micro_f1_asks_for_the_primary_species_only() -> None:
    scores = np.array([[0.9, 0.1], [0.6, 0.7], [0.2, 0.1]], np.float32)
    assert micro_f1(scores, np.array([0, 1, 1])) == pytest.approx(2 * 2 / (3 + 3))
