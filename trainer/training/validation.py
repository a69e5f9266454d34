"""F1 of one epoch and the lower bound of its bootstrap interval, on the crops of the validation
fold.

Knows no network and no file.
"""

import numpy as np
from numpy.typing import NDArray

from trainer.training.dataset import Ints

THRESHOLD = 0.5  # for the F1 by which epochs are compared, as in the published training code
_LOW = 0.025


def micro_f1(scores: NDArray[np.float32], primary: Ints) -> float:
    """F1 over all crops and species of `score >= 0.5` `(n, species)` against the primary species
    `(n,)`; background species do not count as true (their target is below 0.5)."""
    found, hits = _counts(scores, primary)
    return float(2.0 * hits.sum() / (found.sum() + len(primary)))


def micro_f1_low(
    scores: NDArray[np.float32], primary: Ints, recordings: Ints, draws: int, seed: int
) -> float:
    """Lower end of the 95 % bootstrap interval of `micro_f1`, resampling whole recordings
    (`recordings` `(n,)`: that of each crop). A seed draws the same recordings for every epoch, so
    that epochs can be compared."""
    _, index = np.unique(recordings, return_inverse=True)
    found, hits = (np.bincount(index, weights=values) for values in _counts(scores, primary))
    crops = np.bincount(index)
    rng = np.random.default_rng(seed)
    f1 = np.empty(draws)
    for draw in range(draws):  # one at a time: all at once would take gigabytes
        drawn = rng.integers(0, len(crops), len(crops))
        f1[draw] = 2.0 * hits[drawn].sum() / (found[drawn].sum() + crops[drawn].sum())
    return float(np.quantile(f1, _LOW))


def _counts(scores: NDArray[np.float32], primary: Ints) -> tuple[Ints, Ints]:
    """Number of species above the threshold, and 1 if the primary one is, for each crop."""
    passed = scores >= THRESHOLD
    return passed.sum(axis=1), passed[np.arange(len(primary)), primary].astype(np.int64)
