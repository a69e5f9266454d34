"""Killed at any stage and started again, fit-all ends with the same run as one that nobody
disturbed."""

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import HANGS_S
from tests.helpers.trainer_corpus import make_corpus
from tests.helpers.trainer_run import make_rasters
from tests.trainer.test_fit import QUIET, alive, children, fit_here, tiny_recipe, wait_for
from trainer import file_digests as contents
from trainer.files import read_json
from trainer.pipeline.stages import STAGES, Options, run_stages
from trainer.run import Run
from trainer.training import fit
from trainer.training.history import read_history

pytestmark = pytest.mark.slow

RECORDINGS = 26  # of two species: a metadata model wants 50


@dataclasses.dataclass(frozen=True)
class Ground:
    """What a training is made from."""

    data: Path
    rasters: Path
    recipe: Path

    def options(self, out: Path) -> Options:
        return Options(self.data, out, str(self.recipe), self.rasters, None, 1, "cpu")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    folder = tmp_path_factory.mktemp("ground")
    tiny = tiny_recipe()
    recipe = dataclasses.replace(
        tiny,
        members=(dataclasses.replace(tiny.members[0], epochs=4),),
        sampling=dataclasses.replace(tiny.sampling, crops_per_recording=1),
        optimiser=dataclasses.replace(tiny.optimiser, batch=8),
    )
    (folder / "recipe.yaml").write_text(recipe.as_yaml())
    data = make_corpus(folder / "corpus", RECORDINGS, 2.0, soundscape=True)
    return Ground(data, make_rasters(folder / "rasters"), folder / "recipe.yaml")


@pytest.fixture(scope="module")
def straight(ground: Ground, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Nobody disturbed it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "_train_all", fit_here)
        # a fast machine is done before its files are old enough to be known
        patch.setattr(contents, "_YOUNG_S", 0.0)
        return run_stages(
            ground.options(tmp_path_factory.mktemp("straight") / "run"), STAGES, QUIET
        )


def assert_same_run(one: Run, other: Run) -> None:
    assert files(one.folder) == files(other.folder)
    for name in (
        "folds.csv",
        "spectrograms/images.npy",
        "spectrograms/index.csv",
        "metadata/model.onnx",
    ):
        assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes(), name
    for name in (
        "check.json",
        "oof.json",
        "bag.json",
        "tune.json",
        "sweep.json",
        "metadata/metrics.json",
    ):
        assert untimed(read_json(one.folder / name)) == untimed(read_json(other.folder / name)), (
            name
        )
    for name in one.wanted():
        weights = [
            (r.member_folder(name) / "weights.safetensors").read_bytes() for r in (one, other)
        ]
        assert weights[0] == weights[1], name
        assert np.array_equal(one.out_of_fold(name).scores, other.out_of_fold(name).scores)
        curves = [
            [(e.train_loss, e.valid_loss, e.valid_f1) for e in read_history(r.member_folder(name))]
            for r in (one, other)
        ]
        assert curves[0] == curves[1]


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def untimed(value: Any) -> Any:
    """Without the seconds that something took."""
    if isinstance(value, dict):
        return {key: untimed(item) for key, item in value.items() if "seconds" not in key}
    return value


def test_killed_before_every_file_it_ends_the_same(
    ground: Ground, straight: Run, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "tests.helpers.trainer_kill",
        ground.data,
        out,
        ground.recipe,
        ground.rasters,
    ]
    told = subprocess.run(command, capture_output=True, text=True, timeout=HANGS_S, check=False)
    assert told.returncode == 0, told.stderr
    killed = told.stdout.split()
    assert {
        "run.json",
        "folds.csv",
        "metadata",
        "bag.json",
        "tune.json",
        "oof.json",
        "report.html",
    } <= set(killed)
    assert {
        "spectrograms/index.csv",
        *(f"members/{name}/member.json" for name in straight.wanted()),
    } <= set(killed)
    assert_same_run(straight, Run(out))


def begun(stage: str) -> Callable[[Path], bool]:
    """The stage before it is done."""
    before = STAGES[STAGES.index(stage) - 1]
    return lambda out: (
        (out / "stages.json").is_file() and before in read_json(out / "stages.json")["stages"]
    )


def some_spectrograms(out: Path) -> bool:
    journal = out / "spectrograms" / "progress.csv"
    return journal.is_file() and 0 < journal.read_bytes().count(b"\n") < 2 * RECORDINGS


def an_epoch(out: Path) -> bool:
    return any(out.glob("members/*/history.csv"))


def test_killed_with_its_workers_it_ends_the_same(
    ground: Ground, straight: Run, tmp_path: Path
) -> None:
    """As a person has it: the command, its worker processes, SIGKILL wherever it is when it has got
    so far."""
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "trainer",
        "fit-all",
        "--data",
        ground.data,
        "--rasters",
        ground.rasters,
    ]
    command += ["--out", out, "--recipe", ground.recipe, "--jobs", "1", "--no-track"]
    # where workers are, and where none are any more
    moments = [some_spectrograms, an_epoch, begun("tune")]
    killed = 0
    for moment in moments:
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as trainer:
            wait_for(moment.__name__, lambda: moment(out) or trainer.poll() is not None)  # noqa: B023
            workers = children(trainer.pid)
            os.kill(trainer.pid, signal.SIGKILL)
        killed += trainer.returncode == -signal.SIGKILL
        wait_for("the workers to end", lambda: not any(alive(pid) for pid in workers), 30.0)  # noqa: B023
    assert killed == len(moments)
    run_stages(ground.options(out), STAGES, QUIET)
    assert_same_run(straight, Run(out))
