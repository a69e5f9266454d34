"""How members' scores and the prior become one score per species. The same for tuning and for the station."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]
BlendRule = Literal["mean", "logit"]

_PRIOR_TRUST = 0.8  # the rest is spread over all species: a bird nobody recorded here before can still be heard
_SCORE_EDGE = 1e-6


@dataclass(frozen=True)
class Blend:
    """Rule and weights. `kind_weights` weighs the kinds of member (1 where not named); `prior_weight` the prior."""

    rule: BlendRule = "mean"
    prior_weight: float = 0.14
    kind_weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rule not in get_args(BlendRule):
            raise ValueError(f"blend rule must be one of {', '.join(get_args(BlendRule))}; got {self.rule!r}")
        if not self.prior_weight >= 0 or not all(w >= 0 for w in self.kind_weights.values()):
            raise ValueError("blend weights must not be negative")


def acoustic_scores(member_scores: Scores, kinds: Sequence[str], blend: Blend) -> Scores:
    """Members `(members, windows, species)` to `(windows, species)`: plain mean within a kind, weighted mean across."""
    names = sorted(set(kinds))
    weights = np.array([blend.kind_weights.get(name, 1.0) for name in names], np.float32)
    rows = {name: [i for i, kind in enumerate(kinds) if kind == name] for name in names}
    means = np.stack([member_scores[rows[name]].mean(axis=0, dtype=np.float32) for name in names])
    return np.tensordot(weights / weights.sum(), means, axes=1).astype(np.float32)


def blend_scores(acoustic: Scores, prior: Scores | None, blend: Blend) -> Scores:
    """Acoustic scores `(windows, species)` with prior probabilities of the same shape (or one row of them).

    `mean`: `(acoustic + w·prior) / (1 + w)`, as published with w = 0.14. `logit`: the acoustic log-odds are moved by
    `w·log(0.2 + 0.8·prior·species)`: about w·log 2 up for a species twice as likely here as by chance, w·log 0.2 down
    at most for one that does not live here; the prior weighs, it does not mask. Without a prior the acoustic score
    stands as it is.
    """
    if prior is None or blend.prior_weight == 0:
        return acoustic
    if blend.rule == "mean":
        mean = (acoustic + blend.prior_weight * prior) / (1.0 + blend.prior_weight)
        return np.asarray(np.minimum(mean, 1.0), np.float32)  # rounding can exceed 1 by a bit
    score = np.clip(acoustic, _SCORE_EDGE, 1.0 - _SCORE_EDGE)
    evidence = np.log(1.0 - _PRIOR_TRUST + _PRIOR_TRUST * prior * acoustic.shape[-1])
    odds = np.log(score) - np.log1p(-score) + blend.prior_weight * evidence
    return np.asarray(1.0 / (1.0 + np.exp(-odds)), np.float32)
