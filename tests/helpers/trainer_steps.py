"""A random walk: one to three edits, fit-all, a look at what it did; then the next. Collects what
is wrong."""

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import reduce
from types import SimpleNamespace

import pytest

from edge.contract.errors import BirdstationError, CorpusError
from tests.helpers.trainer_edits import ALL, EDITS, NOTHING, Touched
from tests.helpers.trainer_ground import Ground, turned
from tests.helpers.trainer_killed import Killer
from tests.helpers.trainer_walk import Scratch, Told, apart, fit_all, picture
from trainer import book
from trainer import file_digests as contents
from trainer.book import versions
from trainer.pipeline.stages import STAGES
from trainer.pipeline.work import NONE
from trainer.run import Run

CLOCK = "clock set back"
LIBRARIES = "other libraries"
KILLED = "killed"
BEGINNING = "beginning damaged"
ALONE = "one stage alone"
WAYS = (CLOCK, LIBRARIES, BEGINNING, ALONE, *4 * (KILLED,))
_AFTER_A_KILL = (
    "sound replaced",
    "background species",
    "place and day",
    "recipe: tune",
    "product damaged",
)
# about as many as a fit-all puts in place
_DAY_S = 86_400.0
_FILES = 20


@dataclass
class Tally:
    """What a walk has come to."""

    steps: int = 0
    edits: Counter[str] = field(default_factory=Counter)
    made: Counter[str] = field(default_factory=Counter)  # stages
    trained: int = 0  # networks
    scratch: int = 0  # runs from scratch
    kills: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Walk:
    """One ground, one run, and what comes over them. Within `trainer_walk.here`."""

    def __init__(self, ground: Ground, seed: int) -> None:
        self.ground, self.tally, self.scratch = ground, Tally(), Scratch()
        self._chance, self._deck = random.Random(seed), list[str]()
        self._killer: Killer | None = None
        self._lost = False  # a step could not be gone on with, and was taken back to the beginning
        told = fit_all(ground.options())
        assert told.made == STAGES, told
        self._compare("begin")

    def close(self) -> None:
        """End what was started."""
        if self._killer is not None:
            self._killer.close()

    def step(self) -> None:
        """Edits, fit-all, a look at it, and a second fit-all that has nothing to do."""
        ground = self.ground
        chance = self._chance
        tally = self.tally
        tally.steps += 1
        ground.asked.clear()
        ground.layers_changed = False
        self._lost = False
        ground.keep("before")
        with pytest.MonkeyPatch.context() as patch:
            touched, names = self._edits(patch)
            where = f"step {tally.steps} ({', '.join(names)})"
            killed = KILLED in names
            if killed and self._killed():
                if chance.random() < 0.5:
                    ground.put_back("before")
                elif found := EDITS[chance.choice(_AFTER_A_KILL)](ground, chance):
                    touched.append(found)
            told = self._fit(where)
            if told is None:
                return
            self._look(where, told, touched, alone=len(names) == 1 and not killed)
            self._compare(where)
            ground.asked.clear()
            again = fit_all(ground.options())
            if again.made or again.refused:
                tally.wrong.append(f"{where}: made again for nothing: {again.made} {again.refused}")
        versions.cache_clear()

    def _draw(self) -> str:
        if not self._deck:
            self._deck = [*EDITS, *WAYS, *3 * ("product damaged",)]
            self._chance.shuffle(self._deck)
        return self._deck.pop()

    def _edits(self, patch: pytest.MonkeyPatch) -> tuple[list[Touched], list[str]]:
        """Some edits, done; what is refused is seen to and taken back."""
        touched = list[Touched]()
        names = list[str]()
        number = self._chance.choice((1, 1, 2, 3))
        while len(names) < number:
            name = self._draw()
            if name in WAYS:
                self._way(name, patch)
                found: Touched | None = Touched() if name not in names else None
            elif name in names:
                continue
            else:
                found = EDITS[name](self.ground, self._chance)
            if found is None:
                continue
            self.tally.edits[name] += 1
            names.append(name)
            if name == KILLED:
                number = max(number, 2)  # where there is nothing to do, nothing is killed
            if found.refused:
                self._refusal(name, found.refused)
            else:
                touched.append(found)
            if name == "product damaged" and found.must & set(STAGES[1:-1]):
                self._require_noticed(found)
        return touched, names

    def _require_noticed(self, damaged: Touched) -> None:
        """A run with a damaged product is not exported or predicted with."""
        try:
            Run.open(self.ground.out, images=True)
        except CorpusError:
            return
        self.tally.wrong.append(
            f"step {self.tally.steps}: a damaged product of {damaged.must} is opened as finished"
        )

    def _way(self, name: str, patch: pytest.MonkeyPatch) -> None:
        if name == CLOCK:
            patch.setattr(contents, "time", SimpleNamespace(time=lambda: time.time() - _DAY_S))
        elif name == LIBRARIES:
            patch.setattr(book, "version", lambda _: f"9.{self.tally.steps}")
            versions.cache_clear()
        elif name == BEGINNING:
            self._beginning()
        elif name == ALONE:
            self._alone()

    def _refusal(self, name: str, part: str) -> None:
        told = fit_all(self.ground.options())
        if part not in told.refused:
            self.tally.wrong.append(
                f"{name}: expected a refusal with {part!r}, found {told.refused!r}"
            )
        self._refused(told.refused)
        self.ground.asked.clear()
        self.ground.put_back("before")

    def _refused(self, line: str) -> None:
        self.tally.refused[line.replace(str(self.ground.home), "HOME")] += 1

    def _beginning(self) -> None:
        """What a run began with is damaged, noticed or not, and brought back."""
        path = self.ground.out / self._chance.choice(("run.json", "recipe.yaml", "taxonomy.csv"))
        before = path.read_bytes()
        cut = before[: self._chance.randrange(len(before))]
        path.write_bytes(cut if self._chance.random() < 0.5 else turned(before, self._chance))
        told = fit_all(self.ground.options())
        if told.refused:
            self._refused(told.refused)
        path.write_bytes(before)

    def _alone(self) -> None:
        """One stage by itself, which may say that others come first."""
        told = fit_all(self.ground.options(), (self._chance.choice(STAGES),))
        if told.refused:
            self._refused(told.refused)

    def _killed(self) -> bool:
        if self._killer is None:
            self._killer = Killer()
        killed = self._killer(self.ground.options(), self._chance.randrange(1, _FILES))
        self.tally.kills += killed
        return killed

    def _fit(self, where: str) -> Told | None:
        """Fit-all to its end: with what a refusal asks for, or on the ground as it was. None if
        that does not help."""
        ground = self.ground
        told = fit_all(ground.options())
        if not told.refused:
            return self._drawn(where, told)
        self._refused(told.refused)
        if "add --rasters FOLDER" in told.refused:
            ground.asked.pop("rasters", None)
        else:
            expected = self.scratch.of(ground)
            if not isinstance(expected, str) or _unplaced(expected) != _unplaced(told.refused):
                self.tally.wrong.append(
                    f"{where}: refused: {told.refused}; from scratch: {str(expected)[:200]}"
                )
            ground.put_back("first")
            ground.asked.clear()
            self._lost = True
        more = fit_all(ground.options())
        if more.refused:
            self.tally.wrong.append(f"{where}: refused for good: {more.refused}")
            return None
        return self._drawn(where, more)

    def _drawn(self, where: str, told: Told) -> Told:
        """Folds that were made without rasters show no land, and say so: with them, the picture
        alone is made again."""
        drawn = Run(self.ground.out).book.entry("folds")
        if not self.ground.rasters or drawn is None or drawn.made_from["map"] != NONE:
            return told
        if "folds" in told.made and "folds.png shows no land" not in told.said:
            self.tally.wrong.append(f"{where}: not a word on the map")
        self.ground.asked.pop("rasters", None)
        again = fit_all(self.ground.options())
        if again.made != ("folds",):
            self.tally.wrong.append(f"{where}: expected another map alone, made {again.made}")
        return told

    def _look(self, where: str, told: Told, touched: list[Touched], alone: bool) -> None:
        """Whether no stage was made for nothing, and none left out."""
        tally = self.tally
        first = set(told.made)
        tally.made.update(told.made)
        tally.trained += len(told.trained)
        may = reduce(frozenset.union, (t.may for t in touched), NOTHING)
        if self._lost:
            may = ALL
        for stage in sorted(first - may):
            tally.wrong.append(f"{where}: {stage} was made again for nothing: {_why(told, stage)}")
        if alone and touched and not self._lost:
            for stage in sorted(touched[0].must - first):
                tally.wrong.append(f"{where}: {stage} was not made again")
        if not self._lost and all(t.trained is not None for t in touched if "fit-cnn" in t.may):
            allowed = {name for t in touched for name in t.trained or ()}
            if others := set(told.trained) - allowed:
                tally.wrong.append(f"{where}: trained again for nothing: {sorted(others)}")

    def _compare(self, where: str) -> None:
        expected = self.scratch.of(self.ground)
        self.tally.scratch = self.scratch.made
        if isinstance(expected, str):
            self.tally.wrong.append(f"{where}: from scratch it is refused: {expected}")
            return
        try:
            differs = apart(picture(Run.open(self.ground.out, images=True)), expected)
        except BirdstationError as error:
            self.tally.wrong.append(f"{where}: not finished: {error}")
            return
        if differs:
            self.tally.wrong.append(f"{where}: differs from scratch in {', '.join(differs)}")


def _why(told: Told, stage: str) -> str:
    return next(
        (line for line in told.said.splitlines() if line.startswith(f"{stage}: ")), "no word"
    )


def _unplaced(line: str) -> str:
    """A refusal without the folder of the run."""
    return line.split("/run", 1)[-1]
