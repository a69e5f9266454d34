"""An optimiser of the weights of the blend: kinds of members, prior and neighbours together. Knows
no file.

The recipe lists a few blends; this searches between them by differential evolution (Storn and
Price, 1997), since F1 is a step function without a useful gradient. Deterministic: the same rows,
seed and evaluations give the same blend.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, differential_evolution

from edge.contract.blend import SMOOTHING_MAX, Blend, BlendRule
from trainer.tuning import sweep
from trainer.tuning.soundscape_scores import ScoredRows
from trainer.tuning.sweep import ThresholdCandidate

PRIOR_WEIGHT_MAX: dict[BlendRule, float] = {"mean": 1.0, "logit": 2.0}
KIND_OCTAVES = 3.0  # the weight of a kind is an eighth to eight times that of the first
_POPULATION = 10  # blends per weight that is optimised
_GENERATIONS_MIN = 8  # with few evaluations, the population is made smaller for these
_POPULATION_MIN = 5  # minimum of differential evolution


@dataclass(frozen=True)
class Optimum:
    """The best blend found, and the course of the search."""

    candidate: ThresholdCandidate
    peaks: tuple[float, ...]  # best smoothed peak of F1 so far, after each evaluation


def optimise(
    scored: ScoredRows,
    start: ThresholdCandidate,
    thresholds: NDArray[np.float32],
    evaluations: int,
    seed: int,
) -> Optimum:
    """Optimise the weights for the highest smoothed peak of row-wise F1, with the padding and rule
    of `start`, beginning at its blend.

    The rows of `scored` all have a prior, or none has; then its weight is not optimised. About
    `evaluations` blends are tried (at least five).
    """
    kinds = scored.kinds[1:]  # the first has weight 1
    with_prior = bool(scored.placed.any())
    spans = [(-KIND_OCTAVES, KIND_OCTAVES)] * len(kinds) + [(0.0, SMOOTHING_MAX)]
    spans += [(0.0, PRIOR_WEIGHT_MAX[start.blend.rule])] if with_prior else []
    low, high = np.array(spans).T
    peaks: list[float] = []

    def candidate(x: Sequence[float]) -> ThresholdCandidate:
        blend = _blend(start.blend, scored.kinds, x, with_prior)
        counts = sweep.count(scored.rows, scored.blended(start.padding, blend), thresholds)
        return ThresholdCandidate(start.padding, blend, sweep.row_f1s(scored.rows, counts))

    def shortfall(x: NDArray[np.float64]) -> float:
        peaks.append(candidate(x.tolist()).peak)
        return -peaks[-1]

    size = int(np.clip(evaluations // _GENERATIONS_MIN, _POPULATION_MIN, _POPULATION * len(spans)))
    begin = (
        [0.0] * len(kinds)
        + [start.blend.smoothing]
        + ([start.blend.prior_weight] if with_prior else [])
    )
    found = differential_evolution(
        shortfall,
        Bounds(low, high),
        init=low + (high - low) * np.random.default_rng(seed).random((size, len(spans))),
        x0=np.clip(begin, low, high),
        maxiter=max(0, evaluations // size - 1),
        tol=0.0,
        polish=False,
        seed=seed,
    )
    return Optimum(candidate(found.x.tolist()), tuple(np.maximum.accumulate(peaks).tolist()))


def _blend(start: Blend, kinds: Sequence[str], x: Sequence[float], with_prior: bool) -> Blend:
    """The blend for a point `x`: octaves of the kinds after the first, smoothing, and weight of the
    prior, rounded as in a manifest."""
    octaves = x[: len(kinds) - 1]
    rest = x[len(kinds) - 1 :]
    weights = {
        kind: round(2.0**octave, 3) for kind, octave in zip(kinds, [0.0, *octaves], strict=True)
    }
    blend = replace(
        start,
        kind_weights=weights if octaves else {},
        smoothing=min(round(rest[0], 3), SMOOTHING_MAX),
    )
    return replace(blend, prior_weight=round(rest[1], 3)) if with_prior else blend
