"""What people, disks and clocks do to the ground of a training between two fit-alls, with what it must and may cost.

An edit is a function of the ground and of chance. It returns what it touches, or None where it cannot be done now.
"""

import dataclasses
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio

from edge.contract.errors import BirdstationError
from tests.conftest import hiss, write_sound
from tests.trainer_corpus import CODES, row
from tests.trainer_ground import Ground, Row, overwrite, turned
from trainer.corpus import METADATA
from trainer.recipe import Recipe
from trainer.run import Run
from trainer.soundscapes import LABELS, SITES
from trainer.stages import STAGES

Stages = frozenset[str]
ALL: Stages = frozenset(STAGES)
NOTHING: Stages = frozenset()
LATER = frozenset({"fit-cnn", "bag", "tune", "report"})  # from the networks on
COUNTED = frozenset({"check-data", "report"})
TUNED = frozenset({"tune", "report"})


@dataclass(frozen=True)
class Touched:
    """Stages that must be made again for an edit alone, and those that may be. `refused` is a part of the line where
    the edit cannot be gone on with; it is taken back then. `trained`: networks that may be; None: all."""

    must: Stages = NOTHING
    may: Stages = NOTHING
    refused: str = ""
    trained: tuple[str, ...] | None = None


Edit = Callable[[Ground, random.Random], Touched | None]
EDITS: dict[str, Edit] = {}


def edit(function: Edit) -> Edit:
    """An edit by its name."""
    EDITS[function.__name__.replace("_", " ")] = function
    return function


# sound


def _other_sound(path: Path, chance: random.Random) -> None:
    """Noise of the same length and size; the file's times as before."""
    sound = path.with_name("other.wav")
    samples = (path.stat().st_size - 44) // 2
    write_sound(sound, hiss(samples / 32_000, 0.1, chance.randrange(1 << 30)))
    assert sound.stat().st_size == path.stat().st_size
    overwrite(path, sound.read_bytes())
    sound.unlink()


def _some_sound(ground: Ground, chance: random.Random, more_than: int = 6) -> Path | None:
    sounds = ground.sounds()
    return chance.choice(sounds) if len(sounds) > more_than else None


_SOUND = LATER | {"check-data", "spectrograms"}


@edit
def sound_replaced(ground: Ground, chance: random.Random) -> Touched | None:
    path = _some_sound(ground, chance)
    if path is None or path.stat().st_size < 10_000 or path.stat().st_size % 2:
        return None
    _other_sound(path, chance)
    return Touched(_SOUND, _SOUND | {"folds"})


@edit
def sound_of_another_name(ground: Ground, chance: random.Random) -> Touched | None:
    one, other = chance.sample(ground.sounds(), 2)
    if one.read_bytes() == other.read_bytes():
        return None
    shutil.copyfile(other, one)
    return Touched(_SOUND | {"folds"}, ALL - {"fit-metadata"})


@edit
def sound_removed(ground: Ground, chance: random.Random) -> Touched | None:
    path = _some_sound(ground, chance)
    if path is None:
        return None
    path.unlink()
    return Touched(_SOUND | {"folds"}, ALL - {"fit-metadata"})


@edit
def sound_cut_short(ground: Ground, chance: random.Random) -> Touched | None:
    path = _some_sound(ground, chance)
    if path is None or path.stat().st_size < 1000:
        return None
    content = path.read_bytes()
    overwrite(path, content[: len(content) // 2])
    return Touched(frozenset({"check-data", "spectrograms"}), ALL - {"fit-metadata"})


@edit
def sound_of_no_sound(ground: Ground, chance: random.Random) -> Touched | None:
    path = _some_sound(ground, chance)
    if path is None:
        return None
    overwrite(path, b"<html>404</html>" * chance.randrange(1, 9))
    return Touched(frozenset({"check-data", "spectrograms"}), ALL - {"fit-metadata"})


@edit
def sound_added(ground: Ground, chance: random.Random) -> Touched | None:
    if ground.extra > 4:
        return None
    ground.extra += 1
    code, name = chance.choice(CODES), f"XC9{ground.extra:02}{chance.randrange(1 << 30)}.wav"
    write_sound(ground.data / "train_short_audio" / code / name, hiss(2.0, 0.05, chance.randrange(1 << 30)))
    ground.edit(METADATA, lambda rows: rows.append(row(code, name, date="2015-07-08", longitude="-80.5")))
    return Touched(ALL - TUNED - {"bag"}, ALL)


# tables


def _key(row: Row) -> tuple[str, str]:
    return row["primary_label"], row["filename"]


def _change(ground: Ground, chance: random.Random, sounding: bool, **cells: str) -> bool:
    """Other values in the cells of one row; whether that changed anything."""
    changed = []

    def change(rows: list[Row]) -> None:
        first = {_key(r): r for r in reversed(rows)}.values()  # of rows that are there twice
        heard = ground.sounding_rows(list(first))
        found = chance.choice(heard if sounding else [r for r in first if r not in heard])
        if any(found[key] != value for key, value in cells.items()):
            found.update(cells)
            changed.append(found)

    ground.edit(METADATA, change)
    return bool(changed)


@edit
def columns_for_people(ground: Ground, chance: random.Random) -> Touched | None:
    key = chance.choice(("url", "license", "author", "type", "time"))
    if not _change(ground, chance, chance.random() < 0.5, **{key: f"other {chance.random()}"}):
        return None
    return Touched()


@edit
def names_corrected(ground: Ground, chance: random.Random) -> Touched | None:
    key, code = chance.choice(("scientific_name", "common_name")), chance.choice(CODES)

    def change(rows: list[Row]) -> None:
        for found in rows:
            if found["primary_label"] == code:
                found[key] = f"Other {code}"

    before = ground.rows()
    ground.edit(METADATA, change)
    return Touched(frozenset({"report"}), COUNTED) if ground.rows() != before else None


@edit
def species_of_another_code(ground: Ground, chance: random.Random) -> Touched | None:
    _change(ground, chance, False, primary_label="newbird")
    return Touched(refused="other species")


@edit
def species_taken_for_the_other(ground: Ground, chance: random.Random) -> Touched | None:
    """Its file is not where it would be then."""
    before = ground.rows()
    _change(ground, chance, chance.random() < 0.3, primary_label=chance.choice(CODES))
    return Touched(frozenset({"check-data", "folds"}), ALL) if ground.rows() != before else None


@edit
def background_species(ground: Ground, chance: random.Random) -> Touched | None:
    sounding = chance.random() < 0.8
    heard = repr(list(chance.sample(CODES, chance.randrange(3))))
    before = ground.rows()
    _change(ground, chance, sounding, secondary_labels=heard)
    may = (LATER if sounding else NOTHING) | COUNTED
    return Touched(NOTHING, may) if ground.rows() != before else None


@edit
def rating(ground: Ground, chance: random.Random) -> Touched | None:
    """The recipe weighs none by it."""
    if not _change(ground, chance, chance.random() < 0.5, rating=chance.choice(("1.0", "2.5", "11", "?"))):
        return None
    return Touched(frozenset({"check-data"}), COUNTED)


@edit
def place_and_day(ground: Ground, chance: random.Random) -> Touched | None:
    cells = chance.choice(
        (
            {"latitude": f"{chance.uniform(-30, 60):.3f}", "longitude": f"{chance.uniform(-120, 30):.3f}"},
            {"date": f"2014-{chance.randrange(1, 13):02}-{chance.randrange(1, 28):02}"},
            {"latitude": "", "longitude": ""},
            {"date": chance.choice(("", "2014-00-00"))},
        )
    )
    if not _change(ground, chance, chance.random() < 0.5, **cells):
        return None
    return Touched(frozenset({"check-data"}), ALL - {"spectrograms"})


@edit
def row_removed(ground: Ground, chance: random.Random) -> Touched | None:
    rows = ground.rows()
    if len(rows) < 56:
        return None
    at = chance.randrange(len(rows))
    if [_key(r) for r in rows].count(_key(rows[at])) > 1:
        return None
    ground.edit(METADATA, lambda rows: rows.pop(at))
    return Touched(frozenset({"check-data", "folds", "spectrograms", "fit-metadata"}), ALL)


@edit
def row_twice(ground: Ground, chance: random.Random) -> Touched | None:
    at = chance.randrange(len(ground.rows()))
    ground.edit(METADATA, lambda rows: rows.append(rows[at]))
    return Touched(frozenset({"check-data"}), COUNTED)


@edit
def row_moved(ground: Ground, chance: random.Random) -> Touched | None:
    ground.edit(METADATA, lambda rows: rows.append(rows.pop(chance.randrange(10))))
    return Touched(frozenset({"folds", "spectrograms"}), ALL)


@edit
def soundscape_labels(ground: Ground, chance: random.Random) -> Touched | None:
    before = ground.rows(LABELS)
    heard = chance.choice((*CODES, "nocall", " ".join(CODES)))
    ground.edit(LABELS, lambda rows: chance.choice(rows).update(birds=heard))
    return Touched(NOTHING, TUNED | {"check-data"}) if ground.rows(LABELS) != before else None


@edit
def soundscape_row_twice(ground: Ground, chance: random.Random) -> Touched | None:
    at, differs = chance.randrange(len(ground.rows(LABELS))), chance.random() < 0.5

    def change(rows: list[Row]) -> None:
        birds = "nocall" if differs and rows[at]["birds"] != "nocall" else rows[at]["birds"]
        rows.append(rows[at] | {"birds": birds})

    ground.edit(LABELS, change)
    return Touched(frozenset({"check-data"}), TUNED | {"check-data"})


@edit
def site_moved(ground: Ground, chance: random.Random) -> Touched | None:
    ground.edit(SITES, lambda rows: rows[0].update(lat=f"{chance.uniform(-20, 50):.2f}"))
    return Touched(NOTHING, TUNED | {"check-data"})


@edit
def site_renamed(ground: Ground, chance: random.Random) -> Touched | None:
    ground.edit(SITES, lambda rows: rows[0].update(place_name=f"Wood {chance.random()}"))
    return Touched()


@edit
def soundscape_replaced(ground: Ground, chance: random.Random) -> Touched | None:
    if not ground.soundscapes():
        return None
    path = chance.choice(ground.soundscapes())
    kind = chance.randrange(3)
    if kind == 0:
        overwrite(path, path.read_bytes()[: path.stat().st_size // 2])
    elif kind == 1:
        shutil.copyfile(chance.choice(ground.sounds()), path)  # the soundscape is trained on now
    else:
        write_sound(path, hiss(chance.choice((4.0, 15.0)), 0.1, chance.randrange(1 << 30)))
    return Touched(NOTHING, TUNED | {"check-data"})


@edit
def soundscape_removed(ground: Ground, chance: random.Random) -> Touched | None:
    if not ground.soundscapes():
        return None
    chance.choice(ground.soundscapes()).unlink()
    return Touched(frozenset({"check-data"}), TUNED | {"check-data"})


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
    ground.rasters, ground.layers_changed = not ground.rasters, True
    return Touched(frozenset({"fit-metadata"}), TUNED | {"fit-metadata", "folds"})


# recipe


def _recipe(name: str, change: Callable[[Recipe, random.Random], Recipe], may: Stages) -> None:
    def do(ground: Ground, chance: random.Random) -> Touched | None:
        now = ground.recipe_now()
        other = change(now, chance)
        if other == now:
            return None
        ground.set_recipe(other)
        return Touched(NOTHING, may | {"report"})

    EDITS[f"recipe: {name}"] = do


def _section(section: str, key: str, *values: object) -> Callable[[Recipe, random.Random], Recipe]:
    def change(recipe: Recipe, chance: random.Random) -> Recipe:
        part = dataclasses.replace(getattr(recipe, section), **{key: chance.choice(values)})
        return dataclasses.replace(recipe, **{section: part})

    return change


def _epochs(recipe: Recipe, chance: random.Random) -> Recipe:
    return dataclasses.replace(recipe, members=(dataclasses.replace(recipe.members[0], epochs=chance.choice((1, 2))),))


def _seed(recipe: Recipe, chance: random.Random) -> Recipe:
    return dataclasses.replace(recipe, seed=chance.choice((1, 2)))


_recipe("tune", _section("tune", "padding", ("zeros",), ("image",)), TUNED)
_recipe("bag", _section("bag", "per_fold_max", 1, 2), frozenset({"bag"}))
_recipe("metadata", _section("metadata", "iterations", 2, 3), TUNED | {"fit-metadata"})
_recipe("metadata limit", _section("metadata", "limit_km", None, 500.0), TUNED | {"fit-metadata"})
_recipe("student", _section("student", "epochs", 90, 100), NOTHING)
_recipe("members", _epochs, LATER)
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
    """Nobody knows what was made from what: all is made again, but for members, who know themselves."""
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
