"""How members' scores, a window's neighbours and the prior become one score per species.

The same for tuning and for the station. Knows no network and no file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edge.contract.audio import WINDOW_SAMPLES

Scores = NDArray[np.float32]
KnownSpecies = NDArray[np.bool_]  # (members, species): which species each member knows
BlendRule = Literal["mean", "logit"]

# the rest is spread over all species: a bird nobody recorded here before can still be heard
_PRIOR_TRUST = 0.8
_SCORE_EDGE = 1e-6
SMOOTHING_MAX = (
    1 / 3
)  # the plain mean of three windows: a neighbour never weighs more than the window itself


@dataclass(frozen=True)
class Blend:
    """Rule and weights. `kind_weights` weighs the kinds of member (1 where not named);
    `prior_weight` the prior; `smoothing` each of the two neighbouring windows (0: every window
    stands alone)."""

    rule: BlendRule = "mean"
    prior_weight: float = 0.14
    kind_weights: Mapping[str, float] = field(default_factory=dict)
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.rule not in get_args(BlendRule):
            raise ValueError(
                f"blend rule: expected one of {', '.join(get_args(BlendRule))}, found {self.rule!r}"
            )
        if not self.prior_weight >= 0 or not all(w >= 0 for w in self.kind_weights.values()):
            raise ValueError("blend weights must not be negative")
        if not 0 <= self.smoothing <= SMOOTHING_MAX:
            raise ValueError(f"blend smoothing: expected 0 to 1/3, found {self.smoothing!r}")


def kind_means(
    member_scores: Scores, kinds: Sequence[str], known: KnownSpecies | None = None
) -> tuple[list[str], Scores]:
    """Names of the kinds, and the means `(kinds, windows, species)` of their members `(members,
    windows, species)`.

    `known` `(members, species)` says which species each member knows, None: all; a mean skips those
    who do not, and is NaN where nobody of the kind does.
    """
    names = sorted(set(kinds))
    rows = {name: [i for i, kind in enumerate(kinds) if kind == name] for name in names}
    if known is None:
        return names, np.stack(
            [member_scores[rows[name]].mean(axis=0, dtype=np.float32) for name in names]
        )
    means = np.full((len(names), *member_scores.shape[1:]), np.nan, np.float32)
    for mean, name in zip(means, names, strict=True):
        theirs = known[rows[name]]
        some = theirs.any(axis=0)
        sums = np.where(theirs[:, None, :], member_scores[rows[name]], np.float32(0)).sum(
            axis=0, dtype=np.float32
        )
        mean[:, some] = sums[:, some] / theirs.sum(axis=0).astype(np.float32)[some]
    return names, means


def acoustic_scores(
    member_scores: Scores, kinds: Sequence[str], blend: Blend, known: KnownSpecies | None = None
) -> Scores:
    """Members `(members, windows, species)` to `(windows, species)`: plain mean within a kind,
    weighted mean across, over those who know the species (`known`, see kind_means). What nobody
    knows is 0."""
    if len(member_scores) == 1 and known is None:
        alone: Scores = member_scores[
            0
        ]  # a mean of one is itself, and of thousands of classes it takes time
        return alone
    names, means = kind_means(member_scores, kinds, known)
    weights = np.array([blend.kind_weights.get(name, 1.0) for name in names], np.float32)
    if known is None:
        return np.tensordot(weights / weights.sum(), means, axes=1).astype(np.float32)
    theirs = np.stack([known[[kind == name for kind in kinds]].any(axis=0) for name in names])
    shares = weights[:, None] * theirs
    total = np.maximum(shares.sum(axis=0), np.float32(1e-12))
    parts = np.where(theirs[:, None, :], means, np.float32(0)) * (shares / total)[:, None, :]
    return np.asarray(parts.sum(axis=0), np.float32)


def neighbour_step(hop_samples: int) -> int:
    """How many windows on the neighbour lies that begins 5 s later: 1 at a hop of 5 s, 2 at 2.5 s.
    Where the hop does not divide 5 s it is the window that begins nearest to that, the earlier of
    two: 4 s later at a hop of 2 s."""
    return -(
        (hop_samples - 2 * WINDOW_SAMPLES) // (2 * hop_samples)
    )  # 5 s / hop, rounded, a half downwards


def smooth_neighbours(
    acoustic: Scores, blend: Blend, step: int, stretch: NDArray[np.integer] | None = None
) -> Scores:
    """Acoustic scores `(windows, species)` of successive windows, each with a part of its
    neighbours'.

    `(1 - 2w)·own + w·(earlier + later)` with w = `blend.smoothing`; a neighbour is the window
    `step` places before or behind (see `neighbour_step`; the last one of a recording ends with the
    sound and so may begin a little sooner than the others would). Where there is none, the weights
    of the rest are scaled to sum to 1. `stretch` `(windows,)` says which unbroken stretch of sound
    each window belongs to, one by default: others are no neighbours.
    """
    weight = blend.smoothing
    if not weight:
        return acoustic
    same = (
        np.ones(max(len(acoustic) - step, 0), bool)
        if stretch is None
        else stretch[step:] == stretch[:-step]
    )
    beside = np.where(same, weight, 0.0)
    total = np.float32(1 - 2 * weight) * acoustic
    share = np.full(len(acoustic), 1 - 2 * weight)
    near = beside.astype(np.float32)[:, None]
    total[step:] += near * acoustic[:-step]
    share[step:] += beside
    total[:-step] += near * acoustic[step:]
    share[:-step] += beside
    mean = total / share.astype(np.float32)[:, None]
    return np.asarray(np.minimum(mean, 1.0), np.float32)  # rounding can exceed 1 by a bit


def blend_scores(acoustic: Scores, prior: Scores | None, blend: Blend) -> Scores:
    """Acoustic scores `(windows, species)` with prior probabilities of the same shape (or one row
    of them).

    `mean`: `(acoustic + w·prior) / (1 + w)`, as published with w = 0.14. `logit`: the acoustic
    log-odds are moved by `w·log(0.2 + 0.8·prior·species)`: about w·log 2 up for a species twice as
    likely here as by chance, w·log 0.2 down at most for one that does not live here; the prior
    weighs, it does not mask. Without a prior the acoustic score stands as it is. NaN in the prior
    is a geographic limit, which does mask: the score there is 0 at any weight.
    """
    if prior is None:
        return acoustic
    beyond = np.isnan(prior)
    if beyond.any():
        scores = blend_scores(acoustic, np.where(beyond, np.float32(0), prior), blend)
        return np.where(beyond, np.float32(0), scores)
    if blend.prior_weight == 0:
        return acoustic
    if blend.rule == "mean":
        mean = (acoustic + blend.prior_weight * prior) / (1.0 + blend.prior_weight)
        return np.asarray(np.minimum(mean, 1.0), np.float32)  # rounding can exceed 1 by a bit
    evidence = np.log(1.0 - _PRIOR_TRUST + _PRIOR_TRUST * prior * acoustic.shape[-1])
    odds = _logit(acoustic) + blend.prior_weight * evidence
    return np.asarray(1.0 / (1.0 + np.exp(-odds)), np.float32)


def open_windows(
    acoustic: Scores,
    prior: Scores | None,
    blend: Blend,
    thresholds: Scores,
    below: float,
    above: float,
) -> NDArray[np.bool_]:
    """Which windows the student leaves open `(windows,)`: those that the bag decides in a cascade.

    From the student's acoustic scores `(windows, species)`, the prior that they are blended with
    (None: there is none) and the thresholds `(species,)`: open if for any species -below <
    logit(blended) - logit(threshold) < above. A species beyond its geographic limit opens nothing,
    since no network can pass it there. Neighbours do not count.
    """
    apart = _logit(blend_scores(acoustic, prior, blend)) - _logit(thresholds)
    near = (apart > -below) & (apart < above)
    return np.asarray((near if prior is None else near & ~np.isnan(prior)).any(axis=1))


def _logit(scores: Scores) -> Scores:
    score = np.clip(scores, _SCORE_EDGE, 1.0 - _SCORE_EDGE)
    odds: Scores = np.log(score) - np.log1p(-score)
    return odds


def scaled(scores: Scores, scale: Scores) -> Scores:
    """Scores `(windows, species)` after an affine map of their log-odds, `scale` `(2, species)`
    being slope and offset (Platt, 1999), so that one threshold means the same for all species."""
    odds = scale[0] * _logit(scores) + scale[1]
    return np.asarray(1.0 / (1.0 + np.exp(-odds)), np.float32)
