"""What people, disks and clocks do to the ground of a training between two fit-alls: EDITS has them
all.

Here are those of rasters, of the recipe and of the run; trainer_edits_corpus.py has those of the
corpus.
"""

import dataclasses
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio

import tests.helpers.trainer_edits_corpus  # noqa: F401  into the list, before those below
from edge.contract.errors import BirdstationError
from tests.helpers.trainer_ground import Ground, overwrite, turned
from tests.helpers.trainer_touched import ALL, EDITS, LATER, NOTHING, TUNED, Stages, Touched, edit
from trainer.recipe import Recipe
from trainer.run import Run

__all__ = ["ALL", "EDITS", "LATER", "NOTHING", "Touched"]

# rasters


@edit
def raster_edited(ground: Ground, chance: random.Random) -> Touched | None:
    """In place, with its size and time."""
    if not ground.rasters or "rasters" in ground.asked:
        return None
    ground.layers_changed = True
    name = chance.choice(("elevation", "bio1", "bio12"))
    path = ground.layers / f"{name}.tif"
    before = path.stat()
    with rasterio.open(path, "r+") as raster:
        values = raster.read(1)
        values[chance.randrange(60, 80), :] += np.float32(chance.uniform(1, 9))
        raster.write(values, 1)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return Touched(frozenset({"fit-metadata"}), TUNED | {"fit-metadata", "folds"})


@edit
def rasters_left_out(ground: Ground, _: random.Random) -> Touched | None:
    """Nothing is said of them: the run goes on with what it has."""
    if ground.layers_changed:
        return None
    ground.asked["rasters"] = None
    return Touched()


@edit
def no_rasters(ground: Ground, _: random.Random) -> Touched | None:
    if "rasters" in ground.asked:
        return None
    ground.rasters = not ground.rasters
    ground.layers_changed = True
    return Touched(frozenset({"fit-metadata"}), TUNED | {"fit-metadata", "folds"})


# recipe


def _recipe(name: str, change: Callable[[Recipe, random.Random], Recipe], may: Stages) -> None:
    def do(ground: Ground, chance: random.Random) -> Touched | None:
        now = ground.recipe_now()
        other = change(now, chance)
        if other == now:
            return None
        ground.set_recipe(other)
        # epochs are chosen as rows are tuned
        rows = LATER if other.keep == "soundscapes" and may == TUNED else NOTHING
        return Touched(NOTHING, may | rows | {"report"})

    EDITS[f"recipe: {name}"] = do


def _section(section: str, key: str, *values: object) -> Callable[[Recipe, random.Random], Recipe]:
    def change(recipe: Recipe, chance: random.Random) -> Recipe:
        part = dataclasses.replace(getattr(recipe, section), **{key: chance.choice(values)})
        return dataclasses.replace(recipe, **{section: part})

    return change


def _epochs(recipe: Recipe, chance: random.Random) -> Recipe:
    return dataclasses.replace(
        recipe, members=(dataclasses.replace(recipe.members[0], epochs=chance.choice((1, 2))),)
    )


def _keep(recipe: Recipe, chance: random.Random) -> Recipe:
    return dataclasses.replace(recipe, keep=chance.choice(("last", "best", "soundscapes")))


def _noise(recipe: Recipe, chance: random.Random) -> Recipe:
    augment = dataclasses.replace(recipe.members[0].augment, pink=chance.choice((0.0, 0.5)))
    return dataclasses.replace(
        recipe, members=(dataclasses.replace(recipe.members[0], augment=augment),)
    )


def _seed(recipe: Recipe, chance: random.Random) -> Recipe:
    return dataclasses.replace(recipe, seed=chance.choice((1, 2)))


_recipe("tune", _section("tune", "padding", ("zeros",), ("image",)), TUNED)
_recipe("bag", _section("bag", "per_fold_max", 1, 2), frozenset({"bag"}))
_recipe("metadata", _section("metadata", "iterations", 2, 3), TUNED | {"fit-metadata"})
_recipe("metadata limit", _section("metadata", "limit_km", None, 500.0), TUNED | {"fit-metadata"})
_recipe("student", _section("student", "epochs", 90, 100), NOTHING)
_recipe("members", _epochs, LATER)
_recipe("keep", _keep, LATER)
_recipe("backgrounds", _noise, LATER | {"spectrograms"})
_recipe("folds", _section("folds", "cell_deg", 4.0, 5.0), LATER | {"folds"})
_recipe("crops", _section("spectrograms", "crops_max", 1, 2), LATER | {"spectrograms"})
_recipe("seed", _seed, ALL - {"check-data", "spectrograms"})


@edit
def other_recipe(ground: Ground, chance: random.Random) -> Touched | None:
    ground.asked["recipe"] = chance.choice(("small", "demo"))
    return Touched(refused="another recipe")


# the run


def _damage(path: Path, chance: random.Random) -> None:
    content = path.read_bytes() if path.is_file() else b""
    kind = chance.randrange(3)
    if kind == 0 or not content:
        path.unlink(missing_ok=True)
    else:
        overwrite(path, turned(content, chance) if kind == 1 else content[: len(content) // 2])


@edit
def product_damaged(ground: Ground, chance: random.Random) -> Touched | None:
    """One byte turned, cut in half or removed, of anything that a stage left."""
    try:
        entries = Run(ground.out).book.entries()
    except BirdstationError:
        return None
    if not entries:
        return None
    stage = chance.choice(sorted(entries))
    name = chance.choice(sorted(entries[stage].files))
    _damage(ground.out / name, chance)
    of_member = (name.split("/")[1],) if name.startswith("members/") else ()
    return Touched(frozenset({stage}), frozenset({stage}), trained=of_member)


@edit
def book_damaged(ground: Ground, chance: random.Random) -> Touched | None:
    """Nobody knows what was made from what: all is made again, but for members, who know
    themselves."""
    if not (ground.out / "stages.json").is_file():
        return None
    _damage(ground.out / "stages.json", chance)
    return Touched(ALL, ALL, trained=())


@edit
def memory_damaged(ground: Ground, chance: random.Random) -> Touched | None:
    if not (ground.out / ".contents").is_file():
        return None
    _damage(ground.out / ".contents", chance)
    return Touched()


@edit
def run_moved(ground: Ground, _: random.Random) -> Touched | None:
    ground.run_in = _moved(ground.home, ground.out, ground.run_in)
    return Touched()


@edit
def corpus_moved(ground: Ground, _: random.Random) -> Touched | None:
    ground.corpus_in = _moved(ground.home, ground.data, ground.corpus_in)
    return Touched()


@edit
def corpus_copied(ground: Ground, _: random.Random) -> Touched | None:
    """With other times."""
    copy = ground.data.with_name("copy")
    shutil.copytree(ground.data, copy, copy_function=shutil.copyfile)
    shutil.rmtree(ground.data)
    copy.rename(ground.data)
    return Touched()


def _moved(home: Path, folder: Path, now: str) -> str:
    there = "there" if now == "here" else "here"
    (home / there).mkdir(exist_ok=True)
    folder.rename(home / there / folder.name)
    return there


@edit
def more_jobs(ground: Ground, _: random.Random) -> Touched | None:
    ground.asked["jobs"] = 4
    return Touched()


@edit
def put_back(ground: Ground, _: random.Random) -> Touched | None:
    """All as it was at first."""
    if "rasters" in ground.asked:
        return None
    ground.layers_changed = True
    ground.put_back("first")
    return Touched(NOTHING, ALL)
