"""What is damaged or missing in a run is noticed, named and made again, and nothing else is."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.contract.errors import CorpusError
from tests.helpers.trainer_edits import EDITS, LATER
from tests.helpers.trainer_finished import (
    FIRST,
    again,
    as_from_scratch,
    copied,
    damage,
    finished_ground,
)
from tests.helpers.trainer_ground import Ground, overwrite
from tests.helpers.trainer_walk import apart, picture
from trainer.book import STAGES
from trainer.corpus.spectrograms import IMAGES
from trainer.run import Run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with finished_ground(tmp_path_factory.mktemp("damage") / "home") as ground:
        yield ground


@pytest.fixture
def ground(done: Ground, tmp_path: Path) -> Ground:
    return copied(done, tmp_path / "home")


_PRODUCTS = {
    "check-data": ("check.json",),
    "folds": ("folds.csv", "folds.png"),
    "spectrograms": tuple(
        f"spectrograms/{name}"
        for name in ("images.npy", "ranges.npy", "index.csv", "skipped.csv", "cache.json")
    ),
    "fit-cnn": (
        "oof.json",
        *(
            f"members/{FIRST}/{name}"
            for name in ("weights.safetensors", "oof.npz", "member.json", "history.csv")
        ),
    ),
    "fit-metadata": tuple(
        f"metadata/{name}" for name in ("model.onnx", "grid.npz", "features.json", "metrics.json")
    ),
    "bag": ("bag.json",),
    "tune": ("tune.json", "sweep.json"),
    "report": ("report.html",),
}


@pytest.mark.parametrize("how", ["turned", "cut", "removed"])
@pytest.mark.parametrize("stage", STAGES)
def test_what_is_damaged_is_made_again_alone(
    ground: Ground, done: Ground, stage: str, how: str
) -> None:
    expected = picture(Run(done.out))
    for name in _PRODUCTS[stage]:
        damage(ground.out / name, how)
        if stage in STAGES[1:-1]:
            with pytest.raises(
                CorpusError, match=f"{name} is (missing|damaged).*; run: python -m trainer fit-all"
            ):
                Run.open(ground.out, images=True)
        told = again(ground)
        assert (told.refused, told.made) == ("", (stage,)), name
        assert f"{stage}: made again: {name} is " in told.said
        assert told.trained == ((FIRST,) if name.startswith("members/") else ())
        assert apart(picture(Run.open(ground.out, images=True)), expected) == [], name


@pytest.mark.parametrize(
    "name", [name for names in _PRODUCTS.values() for name in names if name.endswith(".json")]
)
def test_what_is_damaged_hinders_no_stage_before_its_own(ground: Ground, name: str) -> None:
    """Everything is to be made again, and not one file can be read that a later stage left."""
    damage(ground.out / name, "cut")
    (ground.out / "folds.csv").unlink(missing_ok=True)
    EDITS["sound replaced"](ground, random.Random(1))
    told = again(ground)
    assert (told.refused, set(told.made) >= LATER) == ("", True)
    assert as_from_scratch(ground) == []


@pytest.mark.parametrize("at", [0, 6, 8, 30, 60, 127])
def test_a_byte_of_an_arrays_header(ground: Ground, done: Ground, at: int) -> None:
    """Some can be read as a header still."""
    path = ground.out / "spectrograms" / IMAGES
    content = path.read_bytes()
    overwrite(path, content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    assert again(ground).made == ("spectrograms",)
    assert path.read_bytes() == (done.out / "spectrograms" / IMAGES).read_bytes()


def test_all_of_the_metadata_model_gone_comes_back(ground: Ground) -> None:
    shutil.rmtree(ground.out / "metadata")
    assert again(ground).made == ("fit-metadata",)
    assert Run.open(ground.out).metadata() is not None


@pytest.mark.parametrize("how", ["turned", "cut", "removed"])
def test_a_damaged_book_is_begun_anew_and_trains_nothing(
    ground: Ground, done: Ground, how: str
) -> None:
    damage(ground.out / "stages.json", how)
    told = again(ground, jobs=4)
    assert told.trained == ()
    assert set(told.made) == set(STAGES)
    assert ("stages.json: " in told.said) == (how != "removed")
    assert Run(ground.out).book.kept("threads") == 1  # as its members have, whatever --jobs is now
    assert apart(picture(Run.open(ground.out)), picture(Run(done.out))) == []


def test_a_number_changed_in_the_book_is_noticed(ground: Ground) -> None:
    path = ground.out / "stages.json"
    path.write_text(path.read_text().replace('"corpus": "corpus"', '"corpus": "another"', 1))
    with pytest.raises(CorpusError, match=r"stages\.json: is damaged"):
        Run.open(ground.out)
    assert again(ground).trained == ()


def test_counts_of_a_damaged_file_are_not_told(ground: Ground) -> None:
    path = ground.out / "check.json"
    assert Run.open(ground.out).provenance()["counts"]["recordings"] == 60
    path.write_text(path.read_text().replace("60", "61"))
    with pytest.raises(CorpusError, match=r"check\.json is damaged: it is not what the stage left"):
        Run.open(ground.out)
    assert Run(ground.out).provenance()["counts"] == {}
    path.unlink()
    assert Run.open(ground.out).provenance()["counts"] == {}
