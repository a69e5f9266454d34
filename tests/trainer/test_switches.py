"""Switches on sound and labels, in training: each changes what it says; all off is as if they were
not there."""

import dataclasses
import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console

from edge.contract.errors import ConfigError, CorpusError
from tests.conftest import hiss, write_sound
from tests.helpers.trainer_corpus import make_corpus
from trainer.corpus.backgrounds import FILE as BACKGROUNDS
from trainer.corpus.backgrounds import background_source, read_backgrounds
from trainer.corpus.folds import read_folds
from trainer.corpus.recordings import Corpus
from trainer.corpus.spectrograms import Spectrograms
from trainer.file_digests import Contents
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
from trainer.run import CALLS, Run
from trainer.training.calls import read_calls
from trainer.training.dataset import crop_set
from trainer.training.member import Member, MemberTask

pytestmark = pytest.mark.slow

QUIET = Console(quiet=True)
PLAIN = Augment((0.5, 3.0), 0.5, 0.5, power_each=True)
KIND = MemberRecipe("only", "test_efficientnet", 1, (1,), PLAIN, stem_pool=4)


def recipe(kind: MemberRecipe = KIND, call_probability: bool = False) -> Recipe:
    base = find_recipe("demo")
    return dataclasses.replace(
        base,
        name="tiny",
        folds=FoldRecipe(2, 5.0),
        members=(kind,),
        labels=dataclasses.replace(base.labels, call_probability=call_probability),
        sampling=SamplingRecipe(2, 0.0),
        optimiser=OptimiserRecipe("adam", 3e-3, 1e-5, 4),
    )


def options(data: Path, out: Path, asked: Recipe, nocall: Path | None) -> Options:
    path = out.parent / f"{out.name}.yaml"
    path.write_text(asked.as_yaml())
    return Options(data, out, str(path), None, None, 1, "cpu", nocall=nocall)


ALL_ON = recipe(
    dataclasses.replace(
        KIND, augment=dataclasses.replace(PLAIN, pink=0.3, nocall=0.3), clip_crops=2
    ),
    True,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("switches") / "corpus", 4, 17.0)


@pytest.fixture(scope="module")
def nocall(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nocall")
    for seed in range(3):
        write_sound(folder / f"{seed}.wav", hiss(5.0, 0.05, seed))
    return folder


@pytest.fixture(scope="module")
def run(data: Path, nocall: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All switches on, from the command line's side: folds, spectrograms, backgrounds, calls,
    members."""
    out = tmp_path_factory.mktemp("run") / "run"
    return run_stages(
        options(data, out, ALL_ON, nocall), ("folds", "spectrograms", "fit-cnn"), QUIET
    )


def member(run: Run, data: Path, asked: Recipe) -> Member:
    """A member of fold 0 of `asked`, over the images of `run`."""
    run = Run(run.folder)
    run.recipe = asked
    corpus = Corpus.read(data)
    folds = {p.recording: p.fold for p in read_folds(run.folder / "folds.csv")}
    crops = crop_set(
        Spectrograms(run.folder / "spectrograms").entries, corpus.recordings, folds, corpus.taxonomy
    )
    return Member(run, MemberTask(run.folder, asked.members[0], 0, 1, crops, "", "cpu", 1, None))


def trained(run: Run, data: Path, asked: Recipe) -> str:
    """Digest of the weights after an epoch."""
    found = member(run, data, asked)
    found.epoch()
    weights = found.network.state_dict()
    assert all(value.isfinite().all() for value in weights.values())
    return hashlib.sha256(
        b"".join(value.numpy().tobytes() for value in weights.values())
    ).hexdigest()


@pytest.fixture(scope="module")
def plain(run: Run, data: Path) -> str:
    return trained(run, data, recipe())


def test_all_on_ends_with_members_and_is_done_then(run: Run, data: Path) -> None:
    assert [info.epochs for info in run.members()] == [1, 1]
    again = Console(record=True, width=200)
    # --nocall is remembered
    run_stages(options(data, run.folder, ALL_ON, None), ("spectrograms", "fit-cnn"), again)
    assert again.export_text().count("done already") == 2


SWITCHES = {
    "pink": recipe(dataclasses.replace(KIND, augment=dataclasses.replace(PLAIN, pink=0.5))),
    "nocall": recipe(dataclasses.replace(KIND, augment=dataclasses.replace(PLAIN, nocall=0.5))),
    "nocall, other ratio": recipe(
        dataclasses.replace(
            KIND, augment=dataclasses.replace(PLAIN, nocall=0.5, snr_db=(-3.0, 0.0))
        )
    ),
    "clips": recipe(dataclasses.replace(KIND, clip_crops=3)),
    "standard": recipe(dataclasses.replace(KIND, normalise="standard")),
    "imagenet": recipe(dataclasses.replace(KIND, normalise="imagenet")),
    "call probability": recipe(call_probability=True),
}


def test_every_switch_trains_something_else(run: Run, data: Path, plain: str) -> None:
    found = {name: trained(run, data, asked) for name, asked in SWITCHES.items()}
    assert len({plain, *found.values()}) == 1 + len(SWITCHES)
    assert trained(run, data, SWITCHES["nocall"]) == found["nocall"]


def test_all_off_is_as_if_they_were_not_there(
    run: Run, data: Path, plain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwanted(*_: object) -> None:
        raise AssertionError("asked for though off")

    for name in ("read_backgrounds", "read_calls"):
        monkeypatch.setattr(f"trainer.training.member.{name}", unwanted)
    assert trained(run, data, recipe()) == plain
    assert (
        trained(run, data, recipe(dataclasses.replace(KIND, clip_crops=1, normalise="none")))
        == plain
    )


def test_clips_are_for_training_single_crops_for_validation(run: Run, data: Path) -> None:
    found = member(run, data, SWITCHES["clips"])
    shapes = []
    found.network.register_forward_pre_hook(
        lambda net, args: shapes.append((net.training, args[0].shape[1]))
    )
    found.epoch()
    assert set(shapes) == {(True, 3), (False, 1)}


def test_labels_follow_the_calls(run: Run, data: Path) -> None:
    found = member(run, data, ALL_ON)
    calls = read_calls(run.folder / CALLS)
    rows = found.train.first[:, None] + torch.arange(2).numpy()
    batch = found._batch(found.train, torch.arange(len(rows)).numpy(), rows)
    primary = batch.target[torch.arange(len(rows)), torch.from_numpy(found.train.primary)]
    assert torch.allclose(primary, torch.from_numpy(0.995 * calls[rows].max(axis=1)))


def test_calls_without_backgrounds_are_refused_at_once(data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^recipe tiny: labels\.call_probability is true: .*: --nocall DIR$"
    ):
        run_stages(options(data, tmp_path / "run", ALL_ON, None), ("spectrograms",), QUIET)
    assert not (
        tmp_path / "run"
    ).exists()  # and no recipe is pinned: the next try may be another one
    with pytest.raises(ConfigError, match="no sound file in it"):
        run_stages(
            options(data, tmp_path / "none", ALL_ON, tmp_path / "nowhere"), ("spectrograms",), QUIET
        )


def test_pink_noise_stands_in_for_backgrounds_and_it_is_said(data: Path, tmp_path: Path) -> None:
    console = Console(record=True, width=200)
    run = run_stages(
        options(data, tmp_path / "run", SWITCHES["nocall"], None), ("spectrograms",), console
    )
    assert (
        "augment of only mixes backgrounds; without --nocall DIR pink noise is used"
        in console.export_text()
    )
    assert read_backgrounds(run.folder / BACKGROUNDS).real == 0


def test_backgrounds_given_and_not_wanted_are_not_used(
    data: Path, nocall: Path, tmp_path: Path
) -> None:
    console = Console(record=True, width=200)
    run = run_stages(options(data, tmp_path / "run", recipe(), nocall), ("spectrograms",), console)
    assert "--nocall is not used: recipe tiny mixes no backgrounds" in console.export_text()
    assert not (run.folder / BACKGROUNDS).exists()


def test_other_backgrounds_are_another_training(run: Run, nocall: Path, tmp_path: Path) -> None:
    used = read_backgrounds(run.folder / BACKGROUNDS).source
    assert used == run.book.kept("backgrounds") == background_source(nocall, Contents())
    write_sound(tmp_path / "other.wav", hiss(5.0, 0.05, 9))
    assert background_source(tmp_path, Contents()) != used
    assert background_source(None, Contents()) != used


@pytest.mark.parametrize("lost", ["the file", "the folder it was made of"])
def test_backgrounds_that_are_gone_are_asked_for_and_not_replaced(
    run: Run, data: Path, tmp_path: Path, lost: str
) -> None:
    """By pink noise, that is: a start with another folder that was killed leaves the file of the
    one before."""
    copied = Run(Path(shutil.copytree(run.folder, tmp_path / "run")))
    if lost == "the file":
        (copied.folder / BACKGROUNDS).unlink()
    else:
        copied.book.keep("backgrounds", "another folder's")
    with pytest.raises((ConfigError, CorpusError), match="--nocall"):
        run_stages(options(data, copied.folder, ALL_ON, None), ("spectrograms",), QUIET)


def test_a_lost_book_takes_the_backgrounds_that_are_there(
    run: Run, data: Path, tmp_path: Path
) -> None:
    copied = Run(Path(shutil.copytree(run.folder, tmp_path / "run")))
    (copied.folder / "stages.json").unlink()
    run_stages(options(data, copied.folder, ALL_ON, None), ("folds", "spectrograms"), QUIET)
    assert (copied.folder / BACKGROUNDS).read_bytes() == (run.folder / BACKGROUNDS).read_bytes()


def test_clips_want_feature_maps(data: Path, tmp_path: Path) -> None:
    asked = recipe(dataclasses.replace(KIND, architecture="test_vit", clip_crops=2))
    with pytest.raises(ConfigError, match="'test_vit': gives no feature maps"):
        run_stages(
            options(data, tmp_path / "vit", asked, None),
            ("folds", "spectrograms", "fit-cnn"),
            QUIET,
        )
