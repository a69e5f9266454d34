"""The sections of a recipe: what each number means, and its range. Knows no file.

A number that is out of range gives an error of one line."""

from dataclasses import dataclass
from typing import Literal

from edge.contract.audio import CROPS_MAX, FRAME_HOP, RATE_HZ, WINDOW_SAMPLES, Padding
from edge.contract.blend import BlendRule

ValueSpan = tuple[float, float]
Normalise = Literal["none", "bands", "standard", "imagenet"]
MetadataKind = Literal["published", "better"]
Keep = Literal["best", "last", "soundscapes"]
ThresholdBy = Literal["global", "species", "quantile"]
HeadForm = Literal["logistic", "mlp"]
# Ten minutes of a recording, which is kept in memory while its images are made.
STUDENT_CROPS_MAX = 120
CLIP_CROPS_MAX = 6  # six crops of 7 s, 4.66 s apart, are 30.3 s
SEED_MAX = 2**32 - 1  # scipy's optimiser takes no larger one
# Larger numbers are taken for typing errors.
EPOCHS_MAX = 10_000
_ITERATIONS_MAX = 100_000
_BATCH_MAX = 65_536
# Outside of this range, nothing is learnt.
_RATE_MIN = 1e-9
_RATE_MAX = 10.0


def need(allowed: bool, key: str, found: object, expected: str) -> None:
    if not allowed:
        raise ValueError(f"{key}: expected {expected}, found {found!r}")


def need_number(section: object, key: str, low: float, high: float, unit: str = "") -> None:
    """Raise ValueError if a number lies outside low to high, both allowed."""
    number = getattr(section, key)
    need(low <= number <= high, key, number, f"{low:.10g} to {high:.10g}{unit}")


def need_share(section: object, key: str) -> None:
    """Raise ValueError if a share leaves nothing on one of the two sides."""
    number = getattr(section, key)
    need(0.001 <= number < 1, key, number, "a share between 0 and 1, 0.001 or more")


@dataclass(frozen=True)
class FoldRecipe:
    """Number of folds, and the side (degrees) of the cells into which the dense areas are
    divided."""

    count: int
    cell_deg: float

    def __post_init__(self) -> None:
        need_number(self, "count", 2, 20, " folds")
        good = 0.01 <= self.cell_deg <= 45
        need(good, "cell_deg", self.cell_deg, "a cell of 0.01 to 45 degrees")


@dataclass(frozen=True)
class SpectrogramRecipe:
    """Maximum number of crops of a recording."""

    crops_max: int

    def __post_init__(self) -> None:
        need_number(self, "crops_max", 1, CROPS_MAX)


@dataclass(frozen=True)
class LabelRecipe:
    """Targets for the primary species, for those in the background and for all others.
    `call_probability` multiplies the first two, crop by crop, by the probability of a call
    (trainer/training/calls.py)."""

    primary: float
    secondary: float
    other: float
    call_probability: bool = False

    def __post_init__(self) -> None:
        for key in ("primary", "secondary", "other"):
            need_number(self, key, 0, 1)
        need(self.other < self.primary, "other", self.other, f"less than primary, {self.primary}")


@dataclass(frozen=True)
class SamplingRecipe:
    """The samples of an epoch: so many random crops of each recording. With `balance` 0 every
    recording is drawn equally often, with 1 every species; in between, a species is drawn in
    proportion to its number of recordings to the power 1 - balance."""

    crops_per_recording: int
    balance: float

    def __post_init__(self) -> None:
        need_number(self, "crops_per_recording", 1, CROPS_MAX)
        need_number(self, "balance", 0, 1)


@dataclass(frozen=True)
class ValidationRecipe:
    """Comparison of epochs and members: by F1 on the validation fold or, with `bootstrap` resamples
    of its recordings, by the lower end of the 95 % confidence interval of F1, so that a lucky epoch
    on few recordings does not win."""

    bootstrap: int = 0

    def __post_init__(self) -> None:
        need(
            self.bootstrap == 0 or 20 <= self.bootstrap <= 10_000,
            "bootstrap",
            self.bootstrap,
            "0 or 20 to 10000",
        )


@dataclass(frozen=True)
class LossRecipe:
    """Binary cross-entropy; `rating_weight` weights each recording by rating / max(rating)."""

    rating_weight: bool


@dataclass(frozen=True)
class Augment:
    """Augmentation of a batch, on the device. Shares are of its samples; zero is off."""

    power: ValueSpan  # exponent of the image in [0, 1], uniform
    stripes: float  # share that gets stripes in both directions
    mixup: float  # share that is mixed with another sample
    mixup_alpha: float = 1.0  # lambda ~ Beta(alpha, alpha), one per batch
    # one exponent per sample instead of one per batch: fairer to batch norm's averages
    power_each: bool = False
    pink: float = 0.0  # share that gets pink noise
    nocall: float = 0.0  # share that gets a background from the folder --nocall
    empty: float = 0.0  # share that is replaced by such a background, with no species in it
    snr_db: ValueSpan = (0.0, 3.0)  # of either, uniform

    def __post_init__(self) -> None:
        need(
            0.01 <= self.power[0] <= self.power[1] <= 100,
            "power",
            list(self.power),
            "[low, high] of 0.01 to 100",
        )
        # Far beyond, the mixture is not a finite number.
        good = -60 <= self.snr_db[0] <= self.snr_db[1] <= 60
        need(good, "snr_db", list(self.snr_db), "[low, high] of -60 to 60")
        for key in ("stripes", "mixup", "pink", "nocall", "empty"):
            need(0 <= getattr(self, key) <= 1, key, getattr(self, key), "a share of 0 to 1")
        shares = [self.pink, self.nocall, self.empty]
        need(sum(shares) <= 1, "pink", shares, "pink, nocall and empty of 1 at most together")
        need_number(self, "mixup_alpha", 0.01, 100)

    @property
    def backgrounds(self) -> bool:
        """True if it needs backgrounds of any kind."""
        return self.pink + self.nocall + self.empty > 0


@dataclass(frozen=True)
class MemberRecipe:
    """A kind of member: one network per fold and seed."""

    kind: str
    architecture: str  # name in timm
    epochs: int
    seeds: tuple[int, ...]
    augment: Augment
    # average pooling of the image by this factor first: for small networks on a CPU
    stem_pool: int = 1
    # bands: each band minus its mean over the crop, which removes steady noise
    normalise: Normalise = "none"
    clip_crops: int = 1  # consecutive crops in a sample, joined as feature maps: 6 are 30 s

    def __post_init__(self) -> None:
        # folders are named for it
        good = self.kind.isidentifier() and self.kind.isascii() and len(self.kind) <= 40
        need(good, "kind", self.kind, "a word of up to 40 letters (a to z), digits and _")
        need_number(self, "epochs", 1, EPOCHS_MAX)
        need(
            len(set(self.seeds)) == len(self.seeds) > 0,
            "seeds",
            list(self.seeds),
            "different numbers, at least one",
        )
        good = all(0 <= seed <= SEED_MAX for seed in self.seeds)
        need(good, "seeds", list(self.seeds), f"numbers of 0 to {SEED_MAX}")
        need(self.stem_pool in (1, 2, 4), "stem_pool", self.stem_pool, "1, 2 or 4")
        need_number(self, "clip_crops", 1, CLIP_CROPS_MAX)


@dataclass(frozen=True)
class OptimiserRecipe:
    """Optimiser, its learning rates (cosine from the first to the last step) and samples per
    step."""

    name: Literal["adam", "adamw"]
    learning_rate: float
    learning_rate_min: float
    batch: int
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        rates = [self.learning_rate_min, self.learning_rate]
        good = 0 <= rates[0] <= rates[1] <= _RATE_MAX and rates[1] >= _RATE_MIN
        need(
            good,
            "learning_rate",
            rates[::-1],
            f"0 <= minimum <= rate, {_RATE_MIN:g} to {_RATE_MAX:g}",
        )
        need_number(self, "batch", 2, _BATCH_MAX)
        need_number(self, "weight_decay", 0, _RATE_MAX)


@dataclass(frozen=True)
class MetadataRecipe:
    """The metadata model: species by place and day. Kind `published` is CatBoost on nine features:
    `borders` is its number of split points of a feature, `leaf_steps` the number of gradient steps
    for the values of a leaf; `learning_rate: auto` and null leave the choice to CatBoost. Kind
    `better` is neighbours and networks; it uses only `validation` and, as the maximum number of
    epochs, `iterations`. Species that nobody recorded within `limit_km` of a place are never
    reported there; null is no limit."""

    iterations: int
    depth: int
    learning_rate: float | Literal["auto"]
    validation: float
    kind: MetadataKind = "published"
    limit_km: float | None = None
    borders: int | None = None
    leaf_steps: int | None = None

    def __post_init__(self) -> None:
        need_number(self, "iterations", 1, _ITERATIONS_MAX)
        need_number(self, "depth", 1, 16)
        rate = self.learning_rate
        good = rate == "auto" or _RATE_MIN <= rate <= _RATE_MAX
        need(good, "learning_rate", rate, f"auto or {_RATE_MIN:g} to {_RATE_MAX:g}")
        need_share(self, "validation")
        good = self.limit_km is None or 1 <= self.limit_km <= 20_000
        need(good, "limit_km", self.limit_km, "null or 1 to 20000 kilometres")
        need(
            self.borders is None or 1 <= self.borders <= 255,
            "borders",
            self.borders,
            "null or 1 to 255",
        )
        steps = self.leaf_steps
        need(steps is None or 1 <= steps <= 1000, "leaf_steps", steps, "null or 1 to 1000")


@dataclass(frozen=True)
class BagRecipe:
    """Maximum number of members per fold in the bag; each fold contributes at least one."""

    per_fold_max: int

    def __post_init__(self) -> None:
        need_number(self, "per_fold_max", 1, 1000)


@dataclass(frozen=True)
class BlendSearch:
    """A blend rule, and the weights of the prior to try with it."""

    rule: BlendRule
    prior_weight: tuple[float, ...]

    def __post_init__(self) -> None:
        good = bool(self.prior_weight) and all(0 <= w <= 100 for w in self.prior_weight)
        need(good, "prior_weight", list(self.prior_weight), "numbers of 0 to 100, at least one")


@dataclass(frozen=True)
class Sweep:
    """Thresholds to try: low, low + step, … up to high."""

    low: float
    high: float
    step: float

    def __post_init__(self) -> None:
        need(0 <= self.low <= self.high <= 1, "low", [self.low, self.high], "0 <= low <= high <= 1")
        span = self.high - self.low or 1.0  # any step will do for a single threshold
        good = 0.0001 <= self.step <= span + 1e-9
        need(good, "step", self.step, f"0.0001 to {span:g}, the distance from low to high")


@dataclass(frozen=True)
class TuneRecipe:
    """The search on the labelled soundscapes. `smoothing`: weights of the two neighbouring windows
    to try. `threshold_by`: one threshold with the best F1, one per species, or the quantile of
    scores that makes as many rows nocall as the labels do. `optimise`: number of evaluations of an
    optimiser over the weights of kinds, prior and neighbours (as many again for each soundscape
    that is held out); 0 is off."""

    padding: tuple[Padding, ...]
    hop_s: float
    blend: tuple[BlendSearch, ...]
    threshold: Sweep
    smoothing: tuple[float, ...] = (0.0,)
    threshold_by: ThresholdBy = "global"
    optimise: int = 0

    def __post_init__(self) -> None:
        need(bool(self.padding), "padding", list(self.padding), "at least one padding")
        need(bool(self.blend), "blend", list(self.blend), "at least one rule")
        hop = self.hop_s * RATE_HZ
        good = 0 < hop <= WINDOW_SAMPLES and WINDOW_SAMPLES % hop == 0 and hop % FRAME_HOP == 0
        need(good, "hop_s", self.hop_s, "5, 2.5, 1.25, 1, 0.5: every labelled row must be a window")
        good = bool(self.smoothing) and all(0 <= weight <= 1 / 3 for weight in self.smoothing)
        need(good, "smoothing", list(self.smoothing), "weights of 0 to 1/3, at least one")
        need_number(self, "optimise", 0, 10_000)


@dataclass(frozen=True)
class StudentRecipe:
    """The small network that imitates the bag (python -m trainer distil). `views`: number of
    augmented versions of every crop that the bag scores; epochs take them in turn. `crops_max`:
    maximum number of crops of each unlabelled recording. `held_out`: share of recordings for its
    evaluation. Optimiser and batch size are those of the members."""

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
        need_number(self, "epochs", 1, EPOCHS_MAX)
        need_number(self, "views", 1, 1000)
        need_number(self, "learning_rate", _RATE_MIN, _RATE_MAX)
        need(self.stem_pool in (1, 2, 4), "stem_pool", self.stem_pool, "1, 2 or 4")
        need_number(self, "crops_max", 1, STUDENT_CROPS_MAX)
        need_share(self, "held_out")


STUDENT = StudentRecipe(
    architecture="mobilenetv4_conv_small.e2400_r224_in1k",
    epochs=40,
    views=8,
    learning_rate=1e-3,
    augment=Augment(
        power=(0.5, 2.0),
        power_each=True,
        stripes=0.0,
        mixup=0.5,
        nocall=0.5,
        empty=0.05,
        snr_db=(-5.0, 15.0),
    ),
)


@dataclass(frozen=True)
class TransferRecipe:
    """Heads on the embedding of a published model instead of networks of our own.

    `heads`: forms of head, each trained once per fold. `copies`: mixed copies of each window, over
    a background at `snr_db`. `empty`: weight of all backgrounds against all calls. `ridge` is that
    of the logistic head; `width` of the hidden layer, `epochs`, `dropout` and `mixup_alpha` are
    those of the MLP (trainer/transfer/heads.py)."""

    heads: tuple[HeadForm, ...]
    copies: int
    snr_db: ValueSpan
    empty: float
    ridge: float
    width: int
    epochs: int
    dropout: float
    mixup_alpha: float

    def __post_init__(self) -> None:
        good = len(set(self.heads)) == len(self.heads) > 0
        need(good, "heads", list(self.heads), "different heads, at least one")
        need_number(self, "copies", 1, 10)
        good = -60 <= self.snr_db[0] <= self.snr_db[1] <= 60
        need(good, "snr_db", list(self.snr_db), "[low, high] of -60 to 60")
        need_number(self, "empty", 0.01, 100)
        need_number(self, "ridge", 0, 100)
        need_number(self, "width", 2, 4096)
        need_number(self, "epochs", 1, EPOCHS_MAX)
        need_number(self, "dropout", 0, 0.9)
        need_number(self, "mixup_alpha", 0.01, 100)
