"""Recipes: every number of a training as one YAML file, parsed strictly into frozen dataclasses.

A key that is unknown, missing or out of range is refused in one line. Knows no corpus and no network.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from edge.contract.audio import CROPS_MAX, FRAME_HOP, RATE_HZ, WINDOW_SAMPLES, Padding
from edge.contract.blend import BlendRule
from edge.contract.errors import ConfigError
from edge.contract.folders import entries_of
from edge.contract.strict import Refused, parse
from edge.contract.text import NotText, text_of

RECIPES = Path(__file__).parent / "recipes"
Span = tuple[float, float]
Normalise = Literal["none", "bands", "standard", "imagenet"]
MetadataKind = Literal["published", "better"]
Keep = Literal["best", "last", "soundscapes"]
ThresholdBy = Literal["global", "species", "quantile"]
STUDENT_CROPS_MAX = 120  # ten minutes of a recording: it is held in memory while its images are made
CLIP_CROPS_MAX = 6  # six crops of 7 s, 4.66 s apart, are 30.3 s


def _need(allowed: bool, key: str, found: object, expected: str) -> None:
    if not allowed:
        raise ValueError(f"{key}: expected {expected}, found {found!r}")


@dataclass(frozen=True)
class FoldRecipe:
    """Folds, and the side of the cells (degrees) into which the dense areas are cut."""

    count: int
    cell_deg: float

    def __post_init__(self) -> None:
        _need(2 <= self.count <= 20, "count", self.count, "2 to 20 folds")
        _need(0 < self.cell_deg <= 45, "cell_deg", self.cell_deg, "a cell of up to 45 degrees")


@dataclass(frozen=True)
class SpectrogramRecipe:
    """How many crops of a recording are kept."""

    crops_max: int

    def __post_init__(self) -> None:
        _need(1 <= self.crops_max <= CROPS_MAX, "crops_max", self.crops_max, f"1 to {CROPS_MAX}")


@dataclass(frozen=True)
class LabelRecipe:
    """Targets of the primary species, of those heard behind it and of all others. `call_probability` multiplies the
    first two, crop by crop, by how probable it is that anything calls there (trainer/calls.py)."""

    primary: float
    secondary: float
    other: float
    call_probability: bool = False

    def __post_init__(self) -> None:
        for key in ("primary", "secondary", "other"):
            _need(0 <= getattr(self, key) <= 1, key, getattr(self, key), "0 to 1")


@dataclass(frozen=True)
class SamplingRecipe:
    """What an epoch is: so many random crops of each recording; `balance` 0 takes recordings as they are, 1 draws
    every species equally often, between them by number of recordings to the power 1 - balance."""

    crops_per_recording: int
    balance: float

    def __post_init__(self) -> None:
        _need(1 <= self.crops_per_recording <= CROPS_MAX, "crops_per_recording", self.crops_per_recording, "1 to 10")
        _need(0 <= self.balance <= 1, "balance", self.balance, "0 to 1")


@dataclass(frozen=True)
class ValidationRecipe:
    """How epochs and members are compared: by F1 on the fold left out or, with `bootstrap` draws of its recordings, by
    the lower end of the 95 % interval of F1: a lucky epoch on few recordings does not win."""

    bootstrap: int = 0

    def __post_init__(self) -> None:
        _need(self.bootstrap == 0 or 20 <= self.bootstrap <= 10_000, "bootstrap", self.bootstrap, "0 or 20 to 10000")


@dataclass(frozen=True)
class LossRecipe:
    """Binary cross-entropy; `rating_weight` weighs each recording by rating / max(rating)."""

    rating_weight: bool


@dataclass(frozen=True)
class Augment:
    """What is done to a batch on the device. Shares are of samples; zero is off."""

    power: Span  # exponent of the image in [0, 1], uniform
    stripes: float  # share that gets stripes in both directions
    mixup: float  # share that is mixed with another sample
    mixup_alpha: float = 1.0  # lambda ~ Beta(alpha, alpha), one per batch
    power_each: bool = False  # one exponent per sample instead of one per batch: fairer to batch norm's averages
    pink: float = 0.0  # share that gets pink noise
    nocall: float = 0.0  # share that gets a background from the folder --nocall
    empty: float = 0.0  # share that is replaced by such a background, with no species in it
    snr_db: Span = (0.0, 3.0)  # of either, uniform

    def __post_init__(self) -> None:
        _need(0 < self.power[0] <= self.power[1], "power", list(self.power), "[low, high] above 0")
        _need(self.snr_db[0] <= self.snr_db[1], "snr_db", list(self.snr_db), "[low, high]")
        for key in ("stripes", "mixup", "pink", "nocall", "empty"):
            _need(0 <= getattr(self, key) <= 1, key, getattr(self, key), "a share of 0 to 1")
        shares = [self.pink, self.nocall, self.empty]
        _need(sum(shares) <= 1, "pink", shares, "pink, nocall and empty of 1 at most together")
        _need(self.mixup_alpha > 0, "mixup_alpha", self.mixup_alpha, "a number above 0")

    @property
    def backgrounds(self) -> bool:
        """Whether it needs backgrounds of any kind."""
        return self.pink + self.nocall + self.empty > 0


@dataclass(frozen=True)
class MemberRecipe:
    """A kind of member: one network per fold and seed."""

    kind: str
    architecture: str  # name in timm
    epochs: int
    seeds: tuple[int, ...]
    augment: Augment
    stem_pool: int = 1  # the image is averaged over so many pixels first: tiny networks on a CPU
    normalise: Normalise = "none"  # bands: each band minus its mean over the crop: steady noise goes
    clip_crops: int = 1  # a sample is so many crops in a row, joined in feature space: 6 are 30 s

    def __post_init__(self) -> None:
        _need(self.kind.isidentifier(), "kind", self.kind, "a word of letters, digits and _")
        _need(self.epochs >= 1, "epochs", self.epochs, "1 or more")
        _need(len(set(self.seeds)) == len(self.seeds) > 0, "seeds", list(self.seeds), "different numbers, at least one")
        _need(self.stem_pool in (1, 2, 4), "stem_pool", self.stem_pool, "1, 2 or 4")
        _need(1 <= self.clip_crops <= CLIP_CROPS_MAX, "clip_crops", self.clip_crops, f"1 to {CLIP_CROPS_MAX}")


@dataclass(frozen=True)
class OptimiserRecipe:
    """Optimiser, its rates (cosine from the first to the last step) and the samples per step."""

    name: Literal["adam", "adamw"]
    learning_rate: float
    learning_rate_min: float
    batch: int
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        rates = [self.learning_rate_min, self.learning_rate]
        _need(0 <= rates[0] <= rates[1] and rates[1] > 0, "learning_rate", rates[::-1], "0 <= minimum <= rate")
        _need(self.batch >= 2, "batch", self.batch, "2 or more")
        _need(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")


@dataclass(frozen=True)
class MetadataRecipe:
    """From place and day to species. `published` is CatBoost on nine features; `learning_rate: auto` leaves the rate to
    it. `borders` is how finely it cuts a feature, `leaf_steps` how many gradient steps lead to a leaf's values; null
    leaves them to it as well. `better` is neighbours and networks; of the numbers it takes `validation` and, as a limit
    to the networks' epochs, `iterations`. Species that nobody recorded within `limit_km` of a place are never reported
    there; null is no limit."""

    iterations: int
    depth: int
    learning_rate: float | Literal["auto"]
    validation: float
    kind: MetadataKind = "published"
    limit_km: float | None = None
    borders: int | None = None
    leaf_steps: int | None = None

    def __post_init__(self) -> None:
        _need(self.iterations >= 1, "iterations", self.iterations, "1 or more")
        _need(1 <= self.depth <= 16, "depth", self.depth, "1 to 16")
        rate = self.learning_rate
        _need(rate == "auto" or rate > 0, "learning_rate", rate, "auto or a number above 0")
        _need(0 < self.validation < 1, "validation", self.validation, "a share between 0 and 1")
        _need(self.limit_km is None or self.limit_km > 0, "limit_km", self.limit_km, "null or kilometres above 0")
        _need(self.borders is None or 1 <= self.borders <= 255, "borders", self.borders, "null or 1 to 255")
        _need(self.leaf_steps is None or self.leaf_steps >= 1, "leaf_steps", self.leaf_steps, "null or 1 or more")


@dataclass(frozen=True)
class BagRecipe:
    """How many members of a fold may enter the bag; each fold gives one at least."""

    per_fold_max: int

    def __post_init__(self) -> None:
        _need(self.per_fold_max >= 1, "per_fold_max", self.per_fold_max, "1 or more")


@dataclass(frozen=True)
class BlendSearch:
    """One blend rule and the weights of the prior to try with it."""

    rule: BlendRule
    prior_weight: tuple[float, ...]

    def __post_init__(self) -> None:
        good = bool(self.prior_weight) and all(w >= 0 for w in self.prior_weight)
        _need(good, "prior_weight", list(self.prior_weight), "numbers of 0 or more, at least one")


@dataclass(frozen=True)
class Sweep:
    """Thresholds to try: low, low + step, … up to high."""

    low: float
    high: float
    step: float

    def __post_init__(self) -> None:
        _need(0 <= self.low <= self.high <= 1, "low", [self.low, self.high], "0 <= low <= high <= 1")
        _need(0 < self.step <= 1, "step", self.step, "above 0, up to 1")


@dataclass(frozen=True)
class TuneRecipe:
    """What is searched on the labelled soundscapes. `smoothing`: weights of the two neighbouring windows to try.
    `threshold_by`: one threshold of the best F1, one per species, or the quantile of scores that names as many rows
    nocall as the labels do. `optimise`: evaluations of an optimiser over the weights of kinds, prior and neighbours (as
    many again for each soundscape that is held out); 0 is off."""

    padding: tuple[Padding, ...]
    hop_s: float
    blend: tuple[BlendSearch, ...]
    threshold: Sweep
    smoothing: tuple[float, ...] = (0.0,)
    threshold_by: ThresholdBy = "global"
    optimise: int = 0

    def __post_init__(self) -> None:
        _need(bool(self.padding), "padding", list(self.padding), "at least one padding")
        _need(bool(self.blend), "blend", list(self.blend), "at least one rule")
        hop = round(self.hop_s * RATE_HZ)
        good = 0 < hop <= WINDOW_SAMPLES and WINDOW_SAMPLES % hop == 0 and hop % FRAME_HOP == 0
        _need(good, "hop_s", self.hop_s, "5, 2.5, 1.25, 1, 0.5: every labelled row must be a window")
        good = bool(self.smoothing) and all(0 <= weight <= 1 / 3 for weight in self.smoothing)
        _need(good, "smoothing", list(self.smoothing), "weights of 0 to 1/3, at least one")
        _need(0 <= self.optimise <= 10_000, "optimise", self.optimise, "0 to 10000")


@dataclass(frozen=True)
class StudentRecipe:
    """The small network that learns to answer as the bag does (python -m trainer distil). `views`: how often the bag is
    asked about every crop, each time augmented otherwise; epochs take them in turn. `crops_max`: how much of each
    unlabelled recording is used. `held_out`: share of recordings that it is judged on. Optimiser and batch are the
    members', the learning rate is its own."""

    architecture: str
    epochs: int
    views: int
    learning_rate: float
    augment: Augment
    stem_pool: int = 1
    normalise: Normalise = "none"
    crops_max: int = 60
    held_out: float = 0.1

    def __post_init__(self) -> None:
        _need(self.epochs >= 1, "epochs", self.epochs, "1 or more")
        _need(1 <= self.views <= 1000, "views", self.views, "1 to 1000")
        _need(self.learning_rate > 0, "learning_rate", self.learning_rate, "a number above 0")
        _need(self.stem_pool in (1, 2, 4), "stem_pool", self.stem_pool, "1, 2 or 4")
        _need(1 <= self.crops_max <= STUDENT_CROPS_MAX, "crops_max", self.crops_max, f"1 to {STUDENT_CROPS_MAX}")
        _need(0 < self.held_out < 1, "held_out", self.held_out, "a share between 0 and 1")


_STUDENT = StudentRecipe(
    architecture="mobilenetv4_conv_small.e2400_r224_in1k",
    epochs=40,
    views=8,
    learning_rate=1e-3,
    augment=Augment(
        power=(0.5, 2.0), power_each=True, stripes=0.0, mixup=0.5, nocall=0.5, empty=0.05, snr_db=(-5.0, 15.0)
    ),
)


@dataclass(frozen=True)
class Recipe:
    """Every number of a training. `pretrained` starts from ImageNet weights, or refuses to start."""

    name: str
    seed: int
    pretrained: bool
    keep: Keep  # the epoch whose weights stay: of the best F1 on the fold left out or on soundscapes, or the last
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
    student: StudentRecipe = _STUDENT

    def __post_init__(self) -> None:
        kinds = [m.kind for m in self.members]
        _need(len(set(kinds)) == len(kinds) > 0, "members", kinds, "members of different kinds, at least one")

    def as_dict(self) -> dict[str, Any]:
        """Plain lists, texts and numbers, as YAML and JSON know them."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    def as_yaml(self) -> str:
        return yaml.safe_dump(self.as_dict(), sort_keys=False, allow_unicode=True)

    def differences(self, other: "Recipe") -> list[str]:
        """Key paths whose values are not the same."""
        mine, theirs = _flat(self.as_dict(), ""), _flat(other.as_dict(), "")
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
    """Recipes that come with the trainer."""
    return [path.stem for path in entries_of(RECIPES) if path.suffix == ".yaml"]


def find_recipe(name_or_path: str) -> Recipe:
    """A recipe by its name in trainer/recipes or by the path of a YAML file. Raises ConfigError."""
    if name_or_path in recipe_names():
        return read_recipe(RECIPES / f"{name_or_path}.yaml")
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        allowed = f"{', '.join(recipe_names())} or the path of a .yaml file"
        raise ConfigError(f"recipe {name_or_path!r}: unknown; allowed: {allowed}")
    return read_recipe(path)


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe. Raises ConfigError in one line: file, key, what was found, what is allowed."""
    try:
        raw = yaml.load(text_of(path.read_bytes()), Loader=_Loader)
    except (OSError, NotText, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    try:
        recipe: Recipe = parse(Recipe, raw)
    except Refused as error:
        raise ConfigError(f"{path}: {error}") from None
    return recipe


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key written twice; PyYAML would silently take the second."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is written twice", node.start_mark)
        return super().construct_mapping(node, deep)
