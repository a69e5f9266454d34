"""Combination of members' scores, neighbouring windows and the prior into one score per species.

The same for tuning and for the station. Knows no network and no file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edge.contract.audio import WINDOW_SAMPLES

Scores = NDArray[np.float32]
KnownSpecies = NDArray[np.bool_]  # (members, species): True where the member knows the species
BlendRule = Literal["mean", "logit"]

# The rest is spread over all species: a bird never recorded here before can still be detected.
_PRIOR_TRUST = 0.8
_SCORE_EDGE = 1e-6
# The plain mean of three windows: a neighbour never weighs more than the window itself.
SMOOTHING_MAX = 1 / 3


@dataclass(frozen=True)
class Blend:
    """Blending rule and weights.

    `kind_weights` are the weights of kinds of member (1 if not named), `prior_weight` that of the
    prior, `smoothing` that of each of the two neighbouring windows (0: each window stands alone).
    """

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

    `known` `(members, species)` marks the species that each member knows, None: all. A mean omits
    members that do not know the species, and is NaN if no member of the kind does.
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
    """Combine members `(members, windows, species)` into `(windows, species)`: plain mean within a
    kind, weighted mean across kinds, over those that know the species (`known`, see kind_means). A
    species that no member knows gets 0."""
    if len(member_scores) == 1 and known is None:
        alone: Scores = member_scores[0]  # a mean over thousands of classes would take time
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
    """Distance in windows to the neighbour that begins 5 s later: 1 at a hop of 5 s, 2 at 2.5 s.

    If the hop does not divide 5 s, the window that begins nearest to that is the neighbour, the
    earlier of two: 4 s later at a hop of 2 s.
    """
    # 5 s / hop, rounded half down
    return -((hop_samples - 2 * WINDOW_SAMPLES) // (2 * hop_samples))


def smooth_neighbours(
    acoustic: Scores, blend: Blend, step: int, stretch: NDArray[np.integer] | None = None
) -> Scores:
    """Acoustic scores `(windows, species)` of successive windows, each averaged with its
    neighbours'.

    `(1 - 2w)·own + w·(earlier + later)` with w = `blend.smoothing`; a neighbour is the window
    `step` places before or after (see `neighbour_step`; the last window of a recording ends with
    the sound and so may begin a little earlier than the step). Where one is missing, the other
    weights are scaled to sum to 1. `stretch` `(windows,)` numbers the unbroken stretch of sound of
    each window, one by default: windows of different stretches are not neighbours.
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
    """Acoustic scores `(windows, species)` blended with prior probabilities of the same shape (or
    one row of them).

    `mean`: `(acoustic + w·prior) / (1 + w)`, as published with w = 0.14. `logit`: `w·log(0.2 +
    0.8·prior·species)` is added to the acoustic log-odds: about w·log 2 for a species twice as
    likely here as by chance, and w·log 0.2 at worst for one that does not live here; the prior
    weighs, it does not mask. Without a prior the acoustic score is unchanged. NaN in the prior is a
    geographic limit, which does mask: the score there is 0 at any weight.
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
    """Mask `(windows,)` of the windows that the student leaves open, which the ensemble decides in
    a cascade.

    Takes the student's acoustic scores `(windows, species)`, the prior that they are blended with
    (None: there is none) and the thresholds `(species,)`. A window is open if for any species
    -below < logit(blended) - logit(threshold) < above. A species beyond its geographic limit opens
    nothing, since no network can pass the threshold there. Neighbours do not count.
    """
    apart = _logit(blend_scores(acoustic, prior, blend)) - _logit(thresholds)
    near = (apart > -below) & (apart < above)
    return np.asarray((near if prior is None else near & ~np.isnan(prior)).any(axis=1))


def _logit(scores: Scores) -> Scores:
    score = np.clip(scores, _SCORE_EDGE, 1.0 - _SCORE_EDGE)
    odds: Scores = np.log(score) - np.log1p(-score)
    return odds


def scaled(scores: Scores, scale: Scores) -> Scores:
    """Scores `(windows, species)` after an affine map of their log-odds; `scale` `(2, species)` is
    slope and offset (Platt, 1999).

    With it one threshold means the same for all species.
    """
    odds = scale[0] * _logit(scores) + scale[1]
    return np.asarray(1.0 / (1.0 + np.exp(-odds)), np.float32)
