"""The Run: the folder that carries a training from stage to stage and on to export.

Knows names, shapes and what is finished; the stages know how. Everything is written whole or not at all.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edge.contract.audio import Padding
from edge.contract.blend import Blend
from edge.contract.bundle import Thresholds
from edge.contract.errors import BundleError, ConfigError, CorpusError, UsageError
from edge.contract.folders import entries_of, holds_nothing
from edge.contract.strict import Refused, parse
from edge.contract.taxonomy import Taxonomy
from trainer.checkpoint import read_weights
from trainer.files import read_json, replacing, write_json
from trainer.model import build_network
from trainer.recipe import Normalise, Recipe, read_recipe

Precision = Literal["fp32", "bf16"]
SCHEMA = 1
STAGES = ("check-data", "folds", "spectrograms", "fit-cnn", "fit-metadata", "bag", "tune", "report")
LOCK = ".lock"  # held while a trainer is at work
_SPECIES, _RECIPE, _FACTS = "taxonomy.csv", "recipe.yaml", "run.json"  # written in this order when a run begins
_VERSIONS = ("torch", "timm", "numpy", "catboost", "soundfile")


@dataclass(frozen=True)
class MemberInfo:
    """One trained network, as member.json says."""

    name: str
    kind: str
    architecture: str
    fold: int
    seed: int
    classes: int
    stem_pool: int
    valid_f1: float  # micro F1 at 0.5 on the crops of the fold left out
    epochs: int
    kept_epoch: int  # counted from 1
    parameters: int
    seconds: float  # of training, all epochs
    inputs: str  # digest of what it was trained from
    normalise: Normalise = "none"
    precision: Precision = "fp32"  # of the training; the weights are float32
    valid_f1_low: float | None = None  # lower end of its interval with validation.bootstrap, else the same
    data_wait: float = 0.0  # share of its epochs that the loop waited for batches
    images: str = "memory"  # what held them: device memory, memory or disk


@dataclass(frozen=True)
class Tuning:
    """What tuning on soundscapes chose; `scores` are the figures of the report."""

    padding: Padding
    blend: Blend
    thresholds: Thresholds
    scores: Mapping[str, Any]


@dataclass(frozen=True)
class OutOfFold:
    """Scores that a member gives to the crops of the fold it has not seen."""

    rows: NDArray[np.int64]  # index into spectrograms/images.npy
    scores: NDArray[np.float32]  # (rows, species)


def check_out(folder: Path) -> None:
    """Raise UsageError unless a folder holds a run, or the beginning of one, or nothing: others' files stay what they
    are."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; --out is the folder of a run")
    if (folder / _FACTS).is_file():
        if not {"schema", "created", "versions"} <= read_json(folder / _FACTS).keys():
            raise UsageError(f"{folder}: holds a {_FACTS} that is not a run's; choose a new or empty folder for --out")
    elif not holds_nothing(folder):
        there = {path.name for path in entries_of(folder)}
        begun = (folder / LOCK).is_file() and there in ({_SPECIES}, {_SPECIES, _RECIPE})
        if not begun:
            other = min(there - {_SPECIES, _RECIPE}, default=min(there))
            raise UsageError(f"{folder}: holds {other}, and is no run; choose a new or empty folder for --out")


def member_name(kind: str, fold: int, seed: int) -> str:
    return f"{kind}-fold{fold}-seed{seed}"


class Run:
    """A training's folder. `Run.create` begins or resumes one, `Run.open` takes a finished one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / _RECIPE
        if not path.is_file():
            raise CorpusError(f"{folder}: no run here (recipe.yaml is missing); make one: python -m trainer fit-all")
        self.recipe = read_recipe(path)
        found = read_json(folder / _FACTS).get("schema")
        if found != SCHEMA:
            raise CorpusError(f"{folder / _FACTS}: schema {found!r}; this version reads {SCHEMA}; train again")
        try:
            self.taxonomy = Taxonomy.read_csv(folder / _SPECIES)
        except BundleError as error:
            raise CorpusError(str(error)) from error

    @classmethod
    def create(cls, folder: Path, recipe: Recipe, corpus_name: str, taxonomy: Taxonomy) -> "Run":
        """Begin a run, or take up the one that is there. Raises ConfigError if that one has another recipe,
        CorpusError if it knows other species."""
        if not (folder / _FACTS).is_file():
            versions = {name: version(name) for name in _VERSIONS}
            with replacing(folder / _SPECIES) as temporary:
                taxonomy.write_csv(temporary)
            with replacing(folder / _RECIPE) as temporary:
                temporary.write_text(recipe.as_yaml(), encoding="utf8")
            created = datetime.now(timezone.utc).isoformat(timespec="seconds")
            write_json(
                folder / _FACTS,
                {"schema": SCHEMA, "data": corpus_name, "created": created, "versions": versions},
            )
        run = cls(folder)
        if run.recipe.digest != recipe.digest:
            differs = ", ".join(run.recipe.differences(recipe)[:3])
            raise ConfigError(f"{folder}: made with another recipe (it differs in {differs}); choose another folder")
        if run.taxonomy.digest != taxonomy.digest:
            raise CorpusError(f"{folder}: made from a corpus with other species; choose another folder")
        return run

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """A finished run. Raises CorpusError naming the first stage that is missing."""
        run = cls(folder)
        needed = {
            "folds": "folds.csv",
            "spectrograms": "spectrograms/index.csv",
            "fit-cnn": "oof.json",
            "bag": "bag.json",
            "tune": "tune.json",
        }
        for stage, file in needed.items():
            if not (folder / file).is_file():
                raise CorpusError(f"{folder}: not finished: stage {stage} is missing; run: python -m trainer fit-all")
        run.bag()
        return run

    # what is finished

    def _stages(self) -> dict[str, Any]:
        path = self.folder / "stages.json"
        return read_json(path) if path.is_file() else {}

    def done(self, stage: str, inputs: str) -> bool:
        """Whether the stage was finished from inputs of this digest."""
        return bool(self._stages().get(stage, {}).get("inputs") == inputs)

    def has(self, stage: str) -> bool:
        """Whether the stage was ever finished."""
        return stage in self._stages()

    def mark(self, stage: str, inputs: str, seconds: float) -> None:
        """Note that a stage is finished, from which inputs and how long it took."""
        done = {"inputs": inputs, "seconds": round(seconds, 1)}
        write_json(self.folder / "stages.json", self._stages() | {stage: done})

    def seconds(self) -> dict[str, float]:
        """How long every finished stage took, in order."""
        done = self._stages()
        return {name: float(done[name]["seconds"]) for name in STAGES if name in done}

    # members

    def member_folder(self, name: str) -> Path:
        return self.folder / "members" / name

    def wanted(self) -> list[str]:
        """Names of all members that the recipe asks for."""
        folds = range(self.recipe.folds.count)
        return [member_name(m.kind, fold, seed) for m in self.recipe.members for seed in m.seeds for fold in folds]

    def member(self, name: str) -> MemberInfo:
        """What is known of a finished member. Raises CorpusError naming the file."""
        path = self.member_folder(name) / "member.json"
        try:
            info: MemberInfo = parse(MemberInfo, read_json(path))
        except Refused as error:
            raise CorpusError(f"{path}: {error}") from None
        return info

    def members(self) -> list[MemberInfo]:
        """All finished members that the recipe asks for, in its order."""
        return [self.member(name) for name in self.wanted() if (self.member_folder(name) / "member.json").is_file()]

    def out_of_fold(self, name: str) -> OutOfFold:
        """Scores of a member on its validation crops."""
        path = self.member_folder(name) / "oof.npz"
        try:
            with np.load(path, allow_pickle=False) as file:
                return OutOfFold(file["rows"].astype(np.int64), file["scores"].astype(np.float32))
        except (OSError, ValueError, KeyError) as error:
            raise CorpusError(f"{path}: not readable: {error}") from error

    def load_network(self, name: str) -> nn.Module:
        """The member's network: eval, CPU, float32, every weight from its file. Raises CorpusError naming the file."""
        info = self.member(name)
        network = build_network(info.architecture, info.classes, stem_pool=info.stem_pool, normalise=info.normalise)
        read_weights(self.member_folder(name) / "weights.safetensors", network)
        return network.eval()

    # what was chosen

    def bag(self) -> list[MemberInfo]:
        """Members of the bag."""
        names = read_json(self.folder / "bag.json").get("members")
        if not isinstance(names, list) or not names:
            raise CorpusError(f"{self.folder / 'bag.json'}: members: expected a list of names, found {names!r}")
        return [self.member(name) for name in names]

    def tuning(self) -> Tuning:
        """Padding, blend and thresholds. Raises CorpusError naming the file."""
        path = self.folder / "tune.json"
        try:
            tuning: Tuning = parse(Tuning, read_json(path))
        except Refused as error:
            raise CorpusError(f"{path}: {error}") from None
        return tuning

    def write_tuning(self, tuning: Tuning) -> None:
        write_json(self.folder / "tune.json", asdict(tuning))

    def metadata(self) -> Path | None:
        """The folder of the metadata model, or None where it could not be trained."""
        folder = self.folder / "metadata"
        return folder if (folder / "model.onnx").is_file() else None

    def provenance(self) -> dict[str, Any]:
        """Where the members come from, for people and manifests; no absolute paths."""
        run, check, oof = (read_json(self.folder / name) for name in ("run.json", "check.json", "oof.json"))
        return {
            "recipe": self.recipe.name,
            "recipe_digest": self.recipe.digest,
            "corpus": run["data"],
            "created": run["created"],
            "versions": run["versions"],
            "counts": check.get("counts", {}),
            "out_of_fold": oof,
            "members": {info.name: {"valid_f1": info.valid_f1, "epochs": info.epochs} for info in self.bag()},
            "tuning": dict(self.tuning().scores),
        }
