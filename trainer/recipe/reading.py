"""Reads a recipe: every number of a training in one YAML file, parsed strictly into frozen
dataclasses.

A key that is unknown, missing or out of range gives an error of one line. Knows no corpus and no
network.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from edge.contract.errors import ConfigError
from edge.contract.folders import entries_of
from edge.contract.strict import SchemaError, parse
from edge.contract.text import TextError, text_of
from edge.contract.yaml_loader import DecimalLoader
from trainer.recipe.sections import (
    SEED_MAX,
    STUDENT,
    BagRecipe,
    FoldRecipe,
    Keep,
    LabelRecipe,
    LossRecipe,
    MemberRecipe,
    MetadataRecipe,
    OptimiserRecipe,
    SamplingRecipe,
    SpectrogramRecipe,
    StudentRecipe,
    TransferRecipe,
    TuneRecipe,
    ValidationRecipe,
    need,
    need_number,
)

RECIPES = Path(__file__).parents[1] / "recipes"


@dataclass(frozen=True)
class Recipe:
    """Every number of a training. With `pretrained` it starts from ImageNet weights, or not at
    all. With `transfer` it trains heads on a published model, and `members` is empty."""

    name: str
    seed: int
    pretrained: bool
    # The epoch whose weights are kept: with the best F1 on the validation fold or on soundscapes,
    # or the last.
    keep: Keep
    folds: FoldRecipe
    spectrograms: SpectrogramRecipe
    labels: LabelRecipe
    sampling: SamplingRecipe
    loss: LossRecipe
    members: tuple[MemberRecipe, ...]
    optimiser: OptimiserRecipe
    metadata: MetadataRecipe
    bag: BagRecipe
    tune: TuneRecipe
    validation: ValidationRecipe = field(default_factory=ValidationRecipe)
    student: StudentRecipe = STUDENT
    transfer: TransferRecipe | None = None

    def __post_init__(self) -> None:
        need_number(self, "seed", 0, SEED_MAX)
        kinds = [m.kind for m in self.members]
        if self.transfer is not None:
            need(not kinds, "members", kinds, "none beside transfer, whose heads are the members")
            need(not self.pretrained, "pretrained", self.pretrained, "false beside transfer")
            need(self.keep == "last", "keep", self.keep, "last beside transfer")
            each = self.sampling.crops_per_recording
            need(each == 1, "sampling: crops_per_recording", each, "1 beside transfer")
            calls = self.labels.call_probability
            need(not calls, "labels: call_probability", calls, "false beside transfer")
            return
        need(
            len(set(kinds)) == len(kinds) > 0,
            "members",
            kinds,
            "members of different kinds, at least one",
        )

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain dicts, lists, texts and numbers, for YAML and JSON. Without
        `transfer` it has no such key, so that its digest equals that of earlier versions."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        if self.transfer is None:
            del plain["transfer"]
        return plain

    def as_yaml(self) -> str:
        return yaml.safe_dump(self.as_dict(), sort_keys=False, allow_unicode=True)

    def differences(self, other: "Recipe") -> list[str]:
        """Key paths whose values differ."""
        mine = _flat(self.as_dict(), "")
        theirs = _flat(other.as_dict(), "")
        return [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]

    @property
    def digest(self) -> str:
        """SHA-256 of all values: two recipes with the same digest train the same."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()


def _flat(value: Any, path: str) -> dict[str, object]:
    """Nested values by their key paths, as messages name them."""
    if isinstance(value, dict):
        pairs = [(f"{path}.{key}" if path else key, item) for key, item in value.items()]
    elif isinstance(value, list):
        pairs = [(f"{path}[{i}]", item) for i, item in enumerate(value)]
    else:
        return {path: value}
    return {key: leaf for inner, item in pairs for key, leaf in _flat(item, inner).items()}


def recipe_names() -> list[str]:
    """Names of the recipes that come with the trainer."""
    return [path.stem for path in entries_of(RECIPES) if path.suffix == ".yaml"]


def find_recipe(name_or_path: str) -> Recipe:
    """A recipe by its name in trainer/recipes or by the path of a YAML file. Raises ConfigError."""
    if name_or_path in recipe_names():
        return read_recipe(RECIPES / f"{name_or_path}.yaml")
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(
            f"recipe {name_or_path!r}: unknown; allowed: {', '.join(recipe_names())} or FILE.yaml"
        )
    if not path.is_file():
        raise ConfigError(
            f"{path}: expected a recipe in YAML, found "
            f"{'no file' if path.exists() else 'nothing there'}"
        )
    return read_recipe(path)


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe. Raises ConfigError in one line: file, key, value found, values
    allowed."""
    try:
        raw = yaml.load(text_of(path.read_bytes()), Loader=DecimalLoader)
    except (OSError, TextError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path}: not readable as YAML: {' '.join(str(error).split())}"
        ) from error
    try:
        recipe: Recipe = parse(Recipe, raw)
    except SchemaError as error:
        raise ConfigError(f"{path}: {error}") from None
    return recipe
