"""The Run: the folder that carries a training from stage to stage and on to export.

Knows names, shapes and which parts are finished; the stages know how to make them. Files are
written atomically.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge.contract.audio import Padding
from edge.contract.blend import Blend
from edge.contract.bundle import Thresholds
from edge.contract.errors import BundleError, ConfigError, CorpusError, UsageError
from edge.contract.folders import entries_of, holds_nothing
from edge.contract.strict import SchemaError, parse
from edge.contract.taxonomy import Taxonomy
from trainer.book import ALL_STAGES, Book, versions
from trainer.book import FILE as BOOK
from trainer.files import digest, read_json, read_npz, replacing, write_json
from trainer.recipe import Normalise, Recipe, read_recipe

TrainingPrecision = Literal["fp32", "bf16"]
SCHEMA = 2
_WITHOUT_BOOK = 1  # of versions before 0.3, which recorded fewer inputs
LOCK = ".lock"  # held while a trainer is at work
# Written in this order when a run begins.
_SPECIES = "taxonomy.csv"
_RECIPE = "recipe.yaml"
_FACTS = "run.json"
CALLS = "calls.npz"  # probability of a call in each crop
# Files of a member, beside member.json.
WEIGHTS = "weights.safetensors"
SCORES = "oof.npz"
HISTORY = "history.csv"


@dataclass(frozen=True)
class MemberInfo:
    """One trained network, as recorded in member.json."""

    name: str
    kind: str
    architecture: str
    fold: int
    seed: int
    classes: int
    stem_pool: int
    valid_f1: float  # micro F1 at threshold 0.5 on the crops of its validation fold
    epochs: int
    kept_epoch: int  # counted from 1
    parameters: int
    seconds: float  # of training, all epochs
    inputs: str  # digest of its training inputs
    normalise: Normalise = "none"
    precision: TrainingPrecision = "fp32"  # during training; the weights are float32
    # Lower end of its confidence interval with validation.bootstrap, else the same.
    valid_f1_low: float | None = None
    data_wait: float = 0.0  # share of the time that the loop waited for batches
    images: str = "memory"  # where they were kept: device memory, memory or disk
    device: str | None = None  # cpu or cuda
    threads: int = 0  # of its process: results depend on it
    versions: Mapping[str, str] = field(default_factory=dict)  # of the libraries that trained it
    files: Mapping[str, str] = field(default_factory=dict)  # name -> SHA-256


@dataclass(frozen=True)
class Tuning:
    """The choices of tuning on soundscapes; `scores` are the figures for the report."""

    padding: Padding
    blend: Blend
    thresholds: Thresholds
    scores: Mapping[str, Any]


@dataclass(frozen=True)
class OutOfFold:
    """Scores of a member for the crops of its validation fold."""

    rows: NDArray[np.int64]  # index into spectrograms/images.npy
    scores: NDArray[np.float32]  # (rows, species)


def check_out(folder: Path) -> None:
    """Raise UsageError unless a folder contains a run, the beginning of one, or nothing: other
    files are never touched."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; --out is the folder of a run")
    if (folder / _FACTS).is_file():
        if not {"schema", "created", "versions"} <= read_json(folder / _FACTS).keys():
            raise UsageError(
                f"{folder}: contains a {_FACTS} that is not a run's; choose a new or empty folder "
                "for --out"
            )
    elif not holds_nothing(folder):
        there = {path.name for path in entries_of(folder)}
        begun = (folder / LOCK).is_file() and there in ({_SPECIES}, {_SPECIES, _RECIPE})
        if not begun:
            other = min(there - {_SPECIES, _RECIPE}, default=min(there))
            raise UsageError(
                f"{folder}: contains {other} and is not a run; choose a new or empty folder for "
                "--out"
            )


def member_name(kind: str, fold: int, seed: int) -> str:
    return f"{kind}-fold{fold}-seed{seed}"


@dataclass(frozen=True)
class _Facts:
    """run.json: the beginnings of a run."""

    schema: int
    data: str  # name of the corpus
    created: str  # ISO 8601
    versions: Mapping[str, str]
    species: str | None = None  # digest of the taxonomy

    def __post_init__(self) -> None:
        try:
            datetime.fromisoformat(self.created)
        except ValueError:
            raise ValueError(
                f"created: expected a time in ISO 8601, found {self.created!r}"
            ) from None


class Run:
    """The folder of a training. `Run.create` begins or resumes one, `Run.open` opens a finished
    one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / _RECIPE
        if not path.is_file():
            raise CorpusError(
                f"{folder}: no run here (recipe.yaml is missing); make one: python -m trainer "
                "fit-all"
            )
        self.recipe = read_recipe(path)
        self.book = Book(folder)
        raw = read_json(folder / _FACTS)
        self.schema = raw.get("schema")
        if self.schema not in (_WITHOUT_BOOK, SCHEMA):
            raise CorpusError(
                f"{folder / _FACTS}: schema: expected {SCHEMA}, found {self.schema!r}; train again"
            )
        try:
            self._facts: _Facts = parse(_Facts, raw)
        except SchemaError as error:
            raise CorpusError(f"{folder / _FACTS}: {error}") from None
        self._opened = digest(folder / BOOK)
        try:
            self.taxonomy = Taxonomy.read_csv(folder / _SPECIES)
        except BundleError as error:
            raise CorpusError(str(error)) from error
        if self._facts.species not in (None, self.taxonomy.digest):
            where = folder / _SPECIES
            raise CorpusError(
                f"{where}: is damaged: its species are not those that the run began with; put it "
                "back"
            )

    @classmethod
    def create(cls, folder: Path, recipe: Recipe, corpus_name: str, taxonomy: Taxonomy) -> "Run":
        """Begin a run, or resume the one that is there. Raises ConfigError if that one has another
        recipe, CorpusError if it has other species."""
        if not (folder / _FACTS).is_file():
            with replacing(folder / _SPECIES) as temporary:
                taxonomy.write_csv(temporary)
            with replacing(folder / _RECIPE) as temporary:
                temporary.write_text(recipe.as_yaml(), encoding="utf8")
            created = datetime.now(timezone.utc).isoformat(timespec="seconds")
            write_json(
                folder / _FACTS,
                {"schema": SCHEMA, "data": corpus_name, "created": created, "versions": versions()}
                | {"species": taxonomy.digest},
            )
        run = cls(folder)
        if run.schema != SCHEMA:
            advice = "it can be exported and used for predictions; to train, choose another folder"
            raise ConfigError(
                f"{folder}: made by an older version, which recorded no inputs of its stages; "
                f"{advice}"
            )
        if run.recipe.digest != recipe.digest:
            differs = ", ".join(run.recipe.differences(recipe)[:3])
            advice = (
                f"choose another folder, or change {folder / _RECIPE}: what the change touches is "
                "made again"
            )
            raise ConfigError(
                f"{folder}: made with another recipe (it differs in {differs}); {advice}"
            )
        if run.taxonomy.digest != taxonomy.digest:
            raise CorpusError(
                f"{folder}: made from a corpus with other species; choose another folder"
            )
        # The same classes, with corrected names.
        if run.taxonomy.species != taxonomy.species:
            with replacing(folder / _SPECIES) as temporary:
                taxonomy.write_csv(temporary)
            run.taxonomy = taxonomy
        return run

    @classmethod
    def open(cls, folder: Path, images: bool = False) -> "Run":
        """Open a finished run and check that its parts fit together; with `images`, the images of
        its crops too. Raises CorpusError naming the first part that is missing, damaged or made
        from other inputs."""
        run = cls(folder)
        if run.schema == SCHEMA:
            run.book.require_finished(run.recipe.as_dict(), () if images else run.unread())
        else:
            for name in ("folds.csv", "oof.json", "bag.json", "tune.json"):
                if not (folder / name).is_file():
                    raise CorpusError(f"{folder}: not finished: {name} is missing; {ALL_STAGES}")
        run.bag()
        return run

    def unread(self) -> tuple[str, ...]:
        """Files that only training reads: images and embeddings. They may be deleted afterwards."""
        entry = self.book.entry("embeddings")
        heard = (
            () if entry is None else (n for n in entry.files if n.startswith("embeddings/parts/"))
        )
        return ("spectrograms/images.npy", "spectrograms/ranges.npy", *heard)

    def require_unchanged(self) -> None:
        """Raise CorpusError if a trainer changed this run since it was opened: what was read may
        not fit together."""
        if digest(self.folder / BOOK) != self._opened:
            raise CorpusError(
                f"{self.folder}: was changed by a training while it was read; run the same command "
                "again"
            )

    # members

    def member_folder(self, name: str) -> Path:
        return self.folder / "members" / name

    def wanted(self) -> list[str]:
        """Names of all members that the recipe asks for."""
        folds = range(self.recipe.folds.count)
        if self.recipe.transfer is not None:
            heads = self.recipe.transfer.heads
            return [member_name(head, fold, self.recipe.seed) for head in heads for fold in folds]
        return [
            member_name(m.kind, fold, seed)
            for m in self.recipe.members
            for seed in m.seeds
            for fold in folds
        ]

    def member(self, name: str) -> MemberInfo:
        """The record of a finished member. Raises CorpusError naming the file."""
        path = self.member_folder(name) / "member.json"
        try:
            info: MemberInfo = parse(MemberInfo, read_json(path))
        except SchemaError as error:
            raise CorpusError(f"{path}: {error}") from None
        return info

    def members(self) -> list[MemberInfo]:
        """All finished members that the recipe asks for, in its order."""
        return [
            self.member(name)
            for name in self.wanted()
            if (self.member_folder(name) / "member.json").is_file()
        ]

    def out_of_fold(self, name: str) -> OutOfFold:
        """Scores of a member for its validation crops."""
        path = self.member_folder(name) / SCORES
        file = read_npz(
            path, ("rows", "scores"), f"remove {path.parent} and run: python -m trainer fit-all"
        )
        return OutOfFold(file["rows"].astype(np.int64), file["scores"].astype(np.float32))

    @property
    def crops_index(self) -> Path:
        """The table of crops, or of windows with heads on a published model, that the rows of
        out-of-fold scores refer to."""
        return (
            self.folder / ("embeddings" if self.recipe.transfer else "spectrograms") / "index.csv"
        )

    # choices

    def bag(self) -> list[MemberInfo]:
        """Members of the bag."""
        names = read_json(self.folder / "bag.json").get("members")
        known = set(self.wanted())
        if not isinstance(names, list) or not names or not known.issuperset(map(str, names)):
            raise CorpusError(
                f"{self.folder / 'bag.json'}: members: expected names of members, found {names!r}"
            )
        if len(set(names)) < len(names):
            raise CorpusError(
                f"{self.folder / 'bag.json'}: members: expected each name once, found {names!r}"
            )
        return [self.member(name) for name in names]

    def tuning(self) -> Tuning:
        """Padding, blend and thresholds. Raises CorpusError naming the file."""
        path = self.folder / "tune.json"
        try:
            tuning: Tuning = parse(Tuning, read_json(path))
        except SchemaError as error:
            raise CorpusError(f"{path}: {error}") from None
        return tuning

    def write_tuning(self, tuning: Tuning) -> None:
        write_json(self.folder / "tune.json", asdict(tuning))

    def metadata(self) -> Path | None:
        """The folder of the metadata model, or None if it could not be trained."""
        folder = self.folder / "metadata"
        return folder if (folder / "model.onnx").is_file() else None

    def provenance(self) -> dict[str, Any]:
        """The origin of the members, for readers and manifests: their actual inputs, without
        absolute paths."""
        bag = self.bag()
        trained = self.book.entry("fit-heads" if self.recipe.transfer else "fit-cnn")
        facts = self._facts
        return {
            "recipe": self.recipe.name,
            "recipe_digest": self.recipe.digest,
            "corpus": trained.went_in.get("corpus") if trained else facts.data,
            "created": facts.created,
            "versions": together([info.versions for info in bag]) or dict(facts.versions),
            "counts": self._counts(),
            "out_of_fold": read_json(self.folder / "oof.json"),
            "members": {info.name: _of_member(info) for info in bag},
            "place_model": self._place_model(),
            "stages": {
                name: {
                    "made_from": dict(entry.made_from),
                    "versions": dict(entry.versions),
                    **entry.went_in,
                }
                for name, entry in self.book.entries().items()
            },
            "tuning": dict(self.tuning().scores),
        }

    def _counts(self) -> dict[str, Any]:
        """Counts of the corpus; empty unless check-data counted the one that the members were
        trained on."""
        entries = self.book.entries()
        parts = [
            entries[name].made_from.get("sound")
            for name in ("check-data", "embeddings" if self.recipe.transfer else "spectrograms")
            if name in entries
        ]
        if (len(parts) == 2 and parts[0] != parts[1]) or self.book.damaged("check-data"):
            return {}
        if "check-data" not in entries or self.book.damaged("check-data"):
            return {}
        counts: dict[str, Any] = read_json(self.folder / "check.json").get("counts", {})
        return counts

    def _place_model(self) -> dict[str, Any]:
        """Facts about the metadata model, or the reason why there is none."""
        folder = self.metadata()
        if folder is None:
            path = self.folder / "metadata" / "absent.json"
            return {"absent": read_json(path).get("reason") if path.is_file() else "not trained"}
        found = read_json(folder / "metrics.json")
        return {
            key: found[key] for key in ("kind", "rows", "species", "validation") if key in found
        }


def _of_member(info: MemberInfo) -> dict[str, Any]:
    about: dict[str, Any] = {
        "valid_f1": info.valid_f1,
        "epochs": info.epochs,
        "precision": info.precision,
    }
    if info.files:
        about |= {"device": info.device, "threads": info.threads, "versions": dict(info.versions)}
        about["weights_sha256"] = info.files[WEIGHTS]
    return about


def together(versions: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Library versions that several things were made with, merged: `1.13.0, 2.9.1` where they
    differ."""
    names = sorted({name for found in versions for name in found})
    return {
        name: ", ".join(sorted({found[name] for found in versions if name in found}))
        for name in names
    }
