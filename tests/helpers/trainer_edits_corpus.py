"""Edits of a corpus: its sound, its tables, its soundscapes."""

import random
import shutil
from pathlib import Path

from edge.capture.recording import open_recording
from edge.contract.errors import RecordingError
from tests.conftest import hiss, write_sound
from tests.helpers.trainer_corpus import CODES, row
from tests.helpers.trainer_ground import Ground, Row, overwrite
from tests.helpers.trainer_touched import ALL, COUNTED, LATER, NOTHING, TUNED, Stages, Touched, edit
from trainer.corpus.recordings import METADATA
from trainer.corpus.soundscapes import LABELS, SITES

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


def _is_heard(path: Path) -> bool:
    try:
        open_recording(path)
    except RecordingError:
        return False
    return True


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
    # it had no image
    must = _SOUND if _is_heard(path) else frozenset({"check-data", "spectrograms"})
    path.unlink()
    return Touched(must | {"folds"}, ALL - {"fit-metadata"})


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
    code = chance.choice(CODES)
    name = f"XC9{ground.extra:02}{chance.randrange(1 << 30)}.wav"
    write_sound(
        ground.data / "train_short_audio" / code / name, hiss(2.0, 0.05, chance.randrange(1 << 30))
    )
    ground.edit(
        METADATA, lambda rows: rows.append(row(code, name, date="2015-07-08", longitude="-80.5"))
    )
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
    key = chance.choice(("scientific_name", "common_name"))
    code = chance.choice(CODES)

    def change(rows: list[Row]) -> None:
        for found in rows:
            if found["primary_label"] == code:
                found[key] = f"Other {code}"

    before = ground.rows()
    ground.edit(METADATA, change)
    # a species has the names of its first row
    first = next(found for found in before if found["primary_label"] == code)
    must = frozenset({"report"}) if first[key] != f"Other {code}" else NOTHING
    return Touched(must, COUNTED) if ground.rows() != before else None


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
    if not _change(
        ground, chance, chance.random() < 0.5, rating=chance.choice(("1.0", "2.5", "11", "?"))
    ):
        return None
    return Touched(frozenset({"check-data"}), COUNTED)


@edit
def place_and_day(ground: Ground, chance: random.Random) -> Touched | None:
    cells = chance.choice(
        (
            {
                "latitude": f"{chance.uniform(-30, 60):.3f}",
                "longitude": f"{chance.uniform(-120, 30):.3f}",
            },
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


def _tuned(ground: Ground) -> Stages:
    """What labelled soundscapes touch; the networks, too, where they choose epochs."""
    return TUNED | LATER if ground.recipe_now().keep == "soundscapes" else TUNED


@edit
def soundscape_labels(ground: Ground, chance: random.Random) -> Touched | None:
    before = ground.rows(LABELS)
    heard = chance.choice((*CODES, "nocall", " ".join(CODES)))
    ground.edit(LABELS, lambda rows: chance.choice(rows).update(birds=heard))
    return (
        Touched(NOTHING, _tuned(ground) | {"check-data"}) if ground.rows(LABELS) != before else None
    )


@edit
def soundscape_row_twice(ground: Ground, chance: random.Random) -> Touched | None:
    at = chance.randrange(len(ground.rows(LABELS)))
    differs = chance.random() < 0.5

    def change(rows: list[Row]) -> None:
        birds = "nocall" if differs and rows[at]["birds"] != "nocall" else rows[at]["birds"]
        rows.append(rows[at] | {"birds": birds})

    ground.edit(LABELS, change)
    return Touched(frozenset({"check-data"}), _tuned(ground) | {"check-data"})


@edit
def site_moved(ground: Ground, chance: random.Random) -> Touched | None:
    ground.edit(SITES, lambda rows: rows[0].update(lat=f"{chance.uniform(-20, 50):.2f}"))
    return Touched(NOTHING, _tuned(ground) | {"check-data"})


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
    return Touched(NOTHING, _tuned(ground) | {"check-data"})


@edit
def soundscape_removed(ground: Ground, chance: random.Random) -> Touched | None:
    if not ground.soundscapes():
        return None
    chance.choice(ground.soundscapes()).unlink()
    return Touched(frozenset({"check-data"}), _tuned(ground) | {"check-data"})
