"""The ground of a training that changes under it: a tiny corpus, rasters, a recipe and the run, all
in one folder.

Two species, ten recordings of 2 s (one of 12 s) with sound, 50 rows without, two labelled
soundscapes of 15 s. Sound is WAV, so that other sound can have the same size.
"""

import dataclasses
import hashlib
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.conftest import hiss, write_sound
from tests.helpers.trainer_corpus import CODES, row, song, write_table
from tests.helpers.trainer_run import make_rasters
from trainer.corpus.recordings import METADATA
from trainer.corpus.soundscapes import LABELS, SITES
from trainer.files import read_csv
from trainer.pipeline.stages import Options
from trainer.recipe import Augment, FoldRecipe, MemberRecipe, Recipe, find_recipe, read_recipe

# with sound; without: a metadata model wants 50
RECORDINGS = 10
SILENT_ROWS = 50
_SOUND_S = 2.0
_LONG_S = 12.0
Row = dict[str, str]


def walk_recipe() -> Recipe:
    """Two folds, one small network for one epoch, three trees."""
    demo = find_recipe("demo")
    member = MemberRecipe(
        "only", "test_efficientnet", 1, (1,), Augment((0.5, 3.0), 0.5, 0.0), stem_pool=4
    )
    return dataclasses.replace(
        demo,
        name="walk",
        folds=FoldRecipe(2, 5.0),
        spectrograms=dataclasses.replace(demo.spectrograms, crops_max=2),
        sampling=dataclasses.replace(demo.sampling, crops_per_recording=1),
        members=(member,),
        optimiser=dataclasses.replace(demo.optimiser, batch=4),
        metadata=dataclasses.replace(demo.metadata, iterations=3, depth=2),
        tune=dataclasses.replace(demo.tune, padding=("zeros",), blend=demo.tune.blend[:1]),
    )


def make_ground_corpus(data: Path) -> None:
    """Write the corpus."""
    rows = []
    for i in range(RECORDINGS + SILENT_ROWS):
        code = CODES[i % 2]
        name = f"XC{i:03}.wav"
        where = {"latitude": f"{35 + i % 7}.5", "longitude": f"{-100 + 3 * (i % 9)}.25"}
        if i >= RECORDINGS:  # each species in a land of its own
            where = {"latitude": f"{10 + i % 5}.5", "longitude": f"{-100 + 60 * (i % 2) + i % 3}.5"}
        rows.append(
            row(
                code,
                name,
                date=f"20{10 + i % 9}-{1 + i % 12:02}-{1 + i % 28:02}",
                author=f"A{i % 4}",
                **where,
            )
        )
        if i < RECORDINGS:
            write_sound(
                data / "train_short_audio" / code / name,
                song(code, _LONG_S if i == 3 else _SOUND_S, i),
            )
    write_table(data / METADATA, rows)
    labels = []
    for number in (7, 8):
        sound = np.concatenate(
            [song(CODES[0], 5, number), hiss(5, 0.002, number), song(CODES[1], 5, number)]
        )
        write_sound(data / "train_soundscapes" / f"{number}_ABC_20190504.ogg", sound)
        for end, heard in ((5, CODES[0]), (10, "nocall"), (15, CODES[1])):
            about = {"row_id": f"{number}_ABC_{end}", "site": "ABC", "audio_id": str(number)}
            labels.append(about | {"seconds": str(end), "birds": heard})
    write_table(data / LABELS, labels)
    write_table(
        data / SITES,
        [
            {
                "id": "ABC",
                "place_name": "A",
                "country": "B",
                "lat": "40.0",
                "lon": "-95.0",
                "geog": "",
            }
        ],
    )


@dataclass
class Ground:
    """Where all lies, and how the next fit-all is asked. Folders have the same names wherever they
    are moved to."""

    home: Path
    corpus_in: str = "here"
    run_in: str = "here"
    rasters: bool = True  # whether the run's metadata model is made of them
    extra: int = 0  # recordings that were added
    asked: dict[str, object] = field(default_factory=dict)  # of the next fit-all alone
    layers_changed: bool = False  # since the last one

    @property
    def data(self) -> Path:
        return self.home / self.corpus_in / "corpus"

    @property
    def out(self) -> Path:
        return self.home / self.run_in / "run"

    @property
    def layers(self) -> Path:
        return self.home / "rasters"

    @property
    def recipe(self) -> Path:
        return self.home / "recipe.yaml"

    def options(self) -> Options:
        """What is asked for next; `--rasters` unless the run has none or it is left out."""
        usual = {"rasters": self.layers if self.rasters else None, "no_rasters": not self.rasters}
        return self._options(self.out, usual | self.asked)

    def from_scratch(self, out: Path) -> Options:
        """The same of a new folder."""
        return self._options(out, {"rasters": self.layers if self.rasters else None})

    def _options(self, out: Path, changes: dict[str, object]) -> Options:
        plain = Options(self.data, out, str(self.recipe), None, None, 1, "cpu")
        return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]

    # tables

    def rows(self, name: str = METADATA) -> list[Row]:
        return read_csv(self.data / name, ())

    def edit(self, name: str, change: Callable[[list[Row]], object]) -> None:
        """Change the rows of a table in place."""
        rows = self.rows(name)
        change(rows)
        write_table(self.data / name, rows)

    # sound

    def sounds(self) -> list[Path]:
        """Recordings that have sound, in order."""
        return sorted((self.data / "train_short_audio").glob("*/*.wav"))

    def soundscapes(self) -> list[Path]:
        return sorted((self.data / "train_soundscapes").glob("*.ogg"))

    def sounding_rows(self, rows: list[Row]) -> list[Row]:
        there = {
            path.relative_to(self.data / "train_short_audio").as_posix() for path in self.sounds()
        }
        return [r for r in rows if f"{r['primary_label']}/{r['filename']}" in there]

    def set_recipe(self, recipe: Recipe) -> None:
        """Change the recipe of the run, as a person who edits RUN/recipe.yaml."""
        for path in (self.recipe, self.out / "recipe.yaml"):
            path.write_text(recipe.as_yaml())

    def recipe_now(self) -> Recipe:
        return read_recipe(self.recipe)

    # states

    def state(self) -> str:
        """Digest of all that a run is made from."""
        total = hashlib.sha256(self.recipe.read_bytes())
        for folder in (self.data, *([self.layers] if self.rasters else [])):
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                total.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
        return total.hexdigest()

    def keep(self, name: str) -> None:
        """Remember corpus, rasters and recipe under a name."""
        kept = self.home / "kept" / name
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.data, kept / "corpus")
        shutil.copytree(self.layers, kept / "rasters")
        shutil.copy2(self.recipe, kept / "recipe.yaml")

    def put_back(self, name: str) -> None:
        """All as it was when it was kept, the files' times too."""
        kept = self.home / "kept" / name
        for source, folder in ((kept / "corpus", self.data), (kept / "rasters", self.layers)):
            shutil.rmtree(folder)
            shutil.copytree(source, folder)
        if self.recipe.read_bytes() != (kept / "recipe.yaml").read_bytes():
            self.set_recipe(read_recipe(kept / "recipe.yaml"))


def make_ground(home: Path) -> Ground:
    """Corpus, rasters and recipe; no run yet. What they are now is kept as `first`."""
    ground = Ground(home)
    make_ground_corpus(ground.data)
    make_rasters(ground.layers)
    ground.recipe.write_text(walk_recipe().as_yaml())
    ground.keep("first")
    return ground


def overwrite(path: Path, content: bytes, times_kept: bool = True) -> None:
    """Other bytes in the same file, written in place; its times of before, as far as anyone can set
    them."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()
    if times_kept:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def turned(content: bytes, chance: random.Random) -> bytes:
    """One bit of one byte turned."""
    at = chance.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]
