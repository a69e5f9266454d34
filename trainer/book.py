"""The book of a run: the inputs and outputs of every finished stage, checked whenever an entry is
used.

An entry is removed before its stage begins, and written once all output of the stage is in place.
Knows names and digests; stages.py knows what they stand for. `made_from` has three kinds of inputs:
`stage X` is the output of stage X, `recipe.X` a section of the recipe; anything else lies outside
the run.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edge.contract.errors import CorpusError
from edge.contract.strict import SchemaError, parse
from trainer.file_digests import ABSENT, Contents
from trainer.files import digest, read_json, write_json

FILE = "stages.json"
STAGES = ("check-data", "folds", "spectrograms", "fit-cnn", "fit-metadata", "bag", "tune", "report")
# With heads on a published model instead of networks on images.
HEAD_STAGES = tuple(
    {"spectrograms": "embeddings", "fit-cnn": "fit-heads"}.get(name, name) for name in STAGES
)
ALL_STAGES = "run: python -m trainer fit-all"
_MEMORY = ".contents"  # digests of files, by identity in the file system
_STAGE = "stage "
_RECIPE = "recipe."
_LIBRARIES = ("torch", "timm", "numpy", "catboost", "soundfile")


@cache
def versions() -> dict[str, str]:
    """Installed versions of the libraries that results depend on."""
    return {name: version(name) for name in _LIBRARIES}


@dataclass(frozen=True)
class Result:
    """The output of a stage: `files` by their names in the run, and the digest of what later stages
    use."""

    files: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class StageEntry:
    """A finished stage."""

    made_from: Mapping[str, str]  # part -> digest
    files: Mapping[str, str]  # name in the run -> SHA-256
    result: str
    versions: Mapping[str, str]
    went_in: Mapping[str, Any]  # for readers and manifests: corpus, counts
    seconds: float


@dataclass(frozen=True)
class _Pages:
    """stages.json: the entries, and the choices that a run keeps."""

    stages: Mapping[str, StageEntry] = field(default_factory=dict)
    kept: Mapping[str, Any] = field(default_factory=dict)
    sum: str = ""  # digest of both: reveals damage anywhere in the file


class Book:
    """The entries of one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / FILE
        self.contents = Contents(folder / _MEMORY)

    def _read(self) -> _Pages:
        """The book as it is on disk. Raises CorpusError naming the file."""
        if not self._path.is_file():
            return _Pages()
        raw = read_json(self._path)
        # Written by a version that kept no book.
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
        """The entry of a finished stage, or None. Raises CorpusError if the book is damaged."""
        return self._read().stages.get(stage)

    def entries(self) -> dict[str, StageEntry]:
        """The entries of all finished stages, in order."""
        stages = self._read().stages
        return {
            name: stages[name] for name in dict.fromkeys((*STAGES, *HEAD_STAGES)) if name in stages
        }

    def kept(self, name: str) -> Any:
        """The value that the run keeps under this name, or None."""
        return self._read().kept.get(name)

    def keep(self, name: str, value: Any) -> None:
        """Keep a value under a name, replacing an earlier one."""
        pages = self._read()
        if pages.kept.get(name) != value:
            self._write(pages.stages, {**pages.kept, name: value})

    def forget_damaged(self) -> str:
        """Start a new book if this one is damaged. Returns the damage, or an empty text. Raises
        CorpusError if the file cannot be read at all."""
        try:
            self._read()
        except CorpusError as error:
            if isinstance(error.__cause__, OSError):
                raise
            self._write({}, {})
            return str(error)
        return ""

    def begin(self, stage: str) -> None:
        """Remove the entry of a stage, before any of its output is touched."""
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
        """Write the entry of a stage whose files are in place."""
        files = {name: self.contents.of(self._folder / name) for name in result.files}
        entry = StageEntry(made_from, files, result.digest, versions(), went_in, round(seconds, 1))
        pages = self._read()
        self._write({**pages.stages, stage: entry}, pages.kept)

    def _write(self, stages: Mapping[str, StageEntry], kept: Mapping[str, Any]) -> None:
        pages = asdict(_Pages(stages, kept))
        write_json(self._path, pages | {"sum": _sum_of(pages["stages"], pages["kept"])})

    def seconds(self) -> dict[str, float]:
        """Duration of every finished stage in seconds, in order."""
        return {name: entry.seconds for name, entry in self.entries().items()}

    def damaged(self, stage: str, unread: tuple[str, ...] = ()) -> list[str]:
        """Files of a finished stage that are missing or changed, except those that are `unread`."""
        entry = self.entry(stage)
        left = {} if entry is None else entry.files
        return [
            name
            for name, sha256 in left.items()
            if name not in unread and self.contents.of(self._folder / name) != sha256
        ]

    def missing(self, stage: str) -> bool:
        """True if the damaged files of a stage are all missing, none of them changed."""
        return all(not (self._folder / name).exists() for name in self.damaged(stage))

    def told(self, damaged: list[str]) -> str:
        """One line about the files that `damaged` returned."""
        name = damaged[0]
        missing = self.contents.of(self._folder / name) == ABSENT
        more = f", and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        fault = "is missing" if missing else "is damaged: it is not what the stage left"
        return f"{name} {fault}{more}"

    def changed(self, stage: str, made_from: Mapping[str, str]) -> list[str]:
        """Names of the inputs in `made_from` that differ from those of the finished stage. Inputs
        that are not in `made_from` are not compared."""
        entry = self.entry(stage)
        before = {} if entry is None else entry.made_from
        return [name for name, found in made_from.items() if before.get(name) != found]

    def require_finished(self, recipe: Mapping[str, Any], unread: tuple[str, ...]) -> None:
        """Raise CorpusError naming the first stage that is missing, damaged, or made from other
        inputs than the run now has; `recipe` is the run's. Files that are `unread` may be
        missing."""
        stages = self._read().stages
        chain = HEAD_STAGES if recipe.get("transfer") else STAGES
        # A run is finished with these; the check of the corpus and the report may be missing.
        needed = chain[1:-1]
        for name in chain:
            if name not in needed and self.damaged(name) and not self.missing(name):
                raise CorpusError(f"{self._folder}: {self.told(self.damaged(name))}; {ALL_STAGES}")
        for name in needed:
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
                    what = f"{name} was made from another {earlier} than the run has now"
                    raise CorpusError(f"{self._folder}: {what}; {ALL_STAGES}")
                key = part.removeprefix(_RECIPE)
                if part.startswith(_RECIPE) and digest(recipe.get(key)) != found:
                    what = f"{name} was made with another {key} than recipe.yaml has now"
                    raise CorpusError(f"{self._folder}: {what}; {ALL_STAGES}")


def _sum_of(stages: object, kept: object) -> str:
    return digest(stages, kept)


def stage_part(stage: str) -> str:
    """The name under which a stage's output is an input of others."""
    return f"{_STAGE}{stage}"


def recipe_parts(recipe: Mapping[str, Any], *keys: str) -> dict[str, str]:
    """Digests of sections of a recipe, as inputs of a stage."""
    return {f"{_RECIPE}{key}": digest(recipe[key]) for key in keys}
