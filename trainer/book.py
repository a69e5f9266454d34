"""The book of a run: which stage was finished from what, and what it left. Every entry is checked
when it is used.

An entry is taken out before its stage begins and written when all that the stage leaves is in
place. Knows names and digests; stages.py knows what they stand for. What belongs together is told
by three kinds of parts in `made_from`: `stage X` is what stage X had left, `recipe.X` a section of
the recipe, anything else lies outside the run.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edge.contract.errors import CorpusError
from edge.contract.strict import SchemaError, parse
from trainer.contents import ABSENT, Contents
from trainer.files import digest, read_json, write_json

FILE = "stages.json"
STAGES = ("check-data", "folds", "spectrograms", "fit-cnn", "fit-metadata", "bag", "tune", "report")
# what makes a run a finished one: what it measured and drew of itself may be missing
FINISHED = STAGES[1:-1]
ALL_STAGES = "run: python -m trainer fit-all"
_MEMORY = ".contents"  # digests of files by what the file system says of them
_STAGE = "stage "
_RECIPE = "recipe."
_LIBRARIES = ("torch", "timm", "numpy", "catboost", "soundfile")


@cache
def versions() -> dict[str, str]:
    """Of the libraries that results depend on, as they are installed."""
    return {name: version(name) for name in _LIBRARIES}


@dataclass(frozen=True)
class Result:
    """What a stage left: `files` by their names in the run, and the digest of what later stages
    take from it."""

    files: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class StageEntry:
    """A finished stage."""

    made_from: Mapping[str, str]  # part -> digest
    files: Mapping[str, str]  # name in the run -> SHA-256
    result: str
    versions: Mapping[str, str]
    went_in: Mapping[str, Any]  # for people and manifests: corpus, counts
    seconds: float


@dataclass(frozen=True)
class _Pages:
    """stages.json: the entries, and what a run keeps once it was chosen."""

    stages: Mapping[str, StageEntry] = field(default_factory=dict)
    kept: Mapping[str, Any] = field(default_factory=dict)
    sum: str = ""  # digest of both: a byte that turned is noticed, wherever it is


class Book:
    """The entries of one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / FILE
        self.contents = Contents(folder / _MEMORY)

    def _read(self) -> _Pages:
        """Raises CorpusError naming the file."""
        if not self._path.is_file():
            return _Pages()
        raw = read_json(self._path)
        # of a version that kept no book
        if raw.keys().isdisjoint(part.name for part in fields(_Pages)):
            return _Pages()
        try:
            pages: _Pages = parse(_Pages, raw)
        except SchemaError as error:
            raise CorpusError(f"{self._path}: {error}") from None
        if pages.sum != _sum_of(raw.get("stages"), raw.get("kept")):
            raise CorpusError(f"{self._path}: is damaged: it is not what the trainer left")
        return pages

    def entry(self, stage: str) -> StageEntry | None:
        """Of a finished stage. Raises CorpusError if the book is damaged."""
        return self._read().stages.get(stage)

    def entries(self) -> dict[str, StageEntry]:
        """Of all finished stages, in order."""
        stages = self._read().stages
        return {name: stages[name] for name in STAGES if name in stages}

    def kept(self, name: str) -> Any:
        """What the run keeps under this name, or None."""
        return self._read().kept.get(name)

    def keep(self, name: str, value: Any) -> None:
        """Keep a choice for as long as the run lasts, or until another is kept."""
        pages = self._read()
        if pages.kept.get(name) != value:
            self._write(pages.stages, {**pages.kept, name: value})

    def forget_damaged(self) -> str:
        """Begin a new book where this one is damaged; returns in what way, else an empty text.
        Raises CorpusError if the file cannot be read at all."""
        try:
            self._read()
        except CorpusError as error:
            if isinstance(error.__cause__, OSError):
                raise
            self._write({}, {})
            return str(error)
        return ""

    def begin(self, stage: str) -> None:
        """Take the entry of a stage out, before anything of what it left is touched."""
        pages = self._read()
        if stage in pages.stages:
            others = {name: entry for name, entry in pages.stages.items() if name != stage}
            self._write(others, pages.kept)

    def finish(
        self,
        stage: str,
        made_from: Mapping[str, str],
        result: Result,
        went_in: Mapping[str, Any],
        seconds: float,
    ) -> None:
        """Enter a stage whose files are in place."""
        files = {name: self.contents.of(self._folder / name) for name in result.files}
        entry = StageEntry(made_from, files, result.digest, versions(), went_in, round(seconds, 1))
        pages = self._read()
        self._write({**pages.stages, stage: entry}, pages.kept)

    def _write(self, stages: Mapping[str, StageEntry], kept: Mapping[str, Any]) -> None:
        pages = asdict(_Pages(stages, kept))
        write_json(self._path, pages | {"sum": _sum_of(pages["stages"], pages["kept"])})

    def seconds(self) -> dict[str, float]:
        """How long every finished stage took, in order."""
        return {name: entry.seconds for name, entry in self.entries().items()}

    def damaged(self, stage: str, unread: tuple[str, ...] = ()) -> list[str]:
        """Files of a finished stage that are missing or not as it left them, but for those that are
        `unread`."""
        entry = self.entry(stage)
        left = {} if entry is None else entry.files
        return [
            name
            for name, sha256 in left.items()
            if name not in unread and self.contents.of(self._folder / name) != sha256
        ]

    def missing(self, stage: str) -> bool:
        """Whether all that is wrong with what a stage left is that it is not there any more."""
        return all(not (self._folder / name).exists() for name in self.damaged(stage))

    def told(self, damaged: list[str]) -> str:
        """One line on files that `damaged` has found."""
        name = damaged[0]
        missing = self.contents.of(self._folder / name) == ABSENT
        more = f", and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        fault = "is missing" if missing else "is damaged: it is not what the stage left"
        return f"{name} {fault}{more}"

    def changed(self, stage: str, made_from: Mapping[str, str]) -> list[str]:
        """Parts of which a finished stage was made from others than these. What is not among these
        may be any."""
        entry = self.entry(stage)
        before = {} if entry is None else entry.made_from
        return [name for name, found in made_from.items() if before.get(name) != found]

    def require_finished(self, recipe: Mapping[str, Any], unread: tuple[str, ...]) -> None:
        """Raise CorpusError naming the first stage that is missing, damaged, or made from other
        parts than lie in the run, whose recipe is this. Files that are `unread` may be missing."""
        stages = self._read().stages
        for name in STAGES:
            if name not in FINISHED and self.damaged(name) and not self.missing(name):
                raise CorpusError(f"{self._folder}: {self.told(self.damaged(name))}; {ALL_STAGES}")
        for name in FINISHED:
            if name not in stages:
                raise CorpusError(
                    f"{self._folder}: not finished: stage {name} is missing; {ALL_STAGES}"
                )
            if damaged := self.damaged(name, unread):
                raise CorpusError(f"{self._folder}: {self.told(damaged)}; {ALL_STAGES}")
            for part, found in stages[name].made_from.items():
                earlier = part.removeprefix(_STAGE)
                if part.startswith(_STAGE) and (
                    earlier not in stages or stages[earlier].result != found
                ):
                    what = f"{name} was made from another {earlier} than lies here"
                    raise CorpusError(f"{self._folder}: {what}; {ALL_STAGES}")
                key = part.removeprefix(_RECIPE)
                if part.startswith(_RECIPE) and digest(recipe.get(key)) != found:
                    what = f"{name} was made with another {key} than recipe.yaml has now"
                    raise CorpusError(f"{self._folder}: {what}; {ALL_STAGES}")


def _sum_of(stages: object, kept: object) -> str:
    return digest(stages, kept)


def stage_part(stage: str) -> str:
    """The name of the part that is what a stage left."""
    return f"{_STAGE}{stage}"


def recipe_parts(recipe: Mapping[str, Any], *keys: str) -> dict[str, str]:
    """Sections of a recipe as parts."""
    return {f"{_RECIPE}{key}": digest(recipe[key]) for key in keys}
