"""Rules for thresholds from labelled rows: one for all species, one per species, or a quantile of
the scores.

Knows no blend and no file. All three are always computed, so that the report can compare them.
"""

from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from edge.contract.blend import Scores
from trainer.recipe import ThresholdBy
from trainer.tuning import sweep
from trainer.tuning.sweep import LabelledRows, PassCounts

RULES: tuple[ThresholdBy, ...] = get_args(ThresholdBy)
POSITIVES_MIN = 5  # labelled rows that a species needs for a threshold of its own
# Recordings with those rows: one bird that sings all night says little about its species.
RECORDINGS_MIN = 2
# A species with this many positive rows gets the mean of its own best threshold and the global one.
PULL = 10


@dataclass(frozen=True)
class ThresholdSet:
    """A threshold for all species, and different ones for single species, by index."""

    threshold: float
    species: dict[int, float]

    def of_all(self, count: int) -> Scores:
        """The thresholds of all `count` species."""
        values = np.full(count, self.threshold, np.float32)
        for index, value in self.species.items():
            values[index] = value
        return values


def cut_by(
    rule: ThresholdBy, rows: LabelledRows, scores: Scores, thresholds: NDArray[np.float32]
) -> ThresholdSet:
    """Thresholds by one rule, from scores `(rows, species)`."""
    if rule == "quantile":
        return ThresholdSet(_rounded(by_quantile(rows, scores)), {})
    counts = sweep.count(rows, scores, thresholds)
    at = sweep.steady_threshold_of(sweep.row_f1s(rows, counts), rows.recordings)
    own = by_species(rows, scores, thresholds, at) if rule == "species" else {}
    return ThresholdSet(
        _rounded(thresholds[at]), {index: _rounded(value) for index, value in own.items()}
    )


def by_quantile(rows: LabelledRows, scores: Scores) -> float:
    """The threshold that makes as many rows nocall as the labels have (second place of BirdCLEF
    2021): midway between the best scores of two rows. Uses only the share of nocall of the
    labels."""
    best = np.sort(scores.max(axis=1))
    silent = int((~rows.calls).sum())
    edges = np.concatenate([[0.0], best, [1.0]])
    return float(edges[silent : silent + 2].mean())


def by_species(
    rows: LabelledRows, scores: Scores, thresholds: NDArray[np.float32], at: int
) -> dict[int, float]:
    """Thresholds of the species that occur often enough, by index.

    Each has the best row-wise F1 while all others stay at the global threshold (`thresholds[at]`).
    It is then shrunk towards the global one: `(n·own + 10·global) / (n + 10)` with n positive rows.
    """
    everywhere = sweep.count_at(rows, scores, float(thresholds[at]))
    recordings = np.asarray(rows.recordings)
    found = {}
    for index in np.flatnonzero(rows.truth.sum(axis=0) >= POSITIVES_MIN).tolist():
        there = rows.truth[:, index]
        if len(set(recordings[there])) < RECORDINGS_MIN:
            continue
        passed = scores[:, index, None] >= thresholds  # (rows, thresholds)
        concerned = there | passed[:, 0]  # other rows do not change
        here = passed[concerned]
        hits = passed[concerned] & there[concerned, None]
        counts = PassCounts(
            everywhere.passed[concerned] - here[:, at, None] + here,
            everywhere.hits[concerned] - hits[:, at, None] + hits,
        )
        curve = sweep.row_f1s(rows.take(concerned), counts).mean(axis=0)
        positives = int(there.sum())
        own = float(thresholds[sweep.best_threshold(curve)])
        found[index] = (positives * own + PULL * float(thresholds[at])) / (positives + PULL)
    return found


def f1_at(rows: LabelledRows, scores: Scores, cut: ThresholdSet) -> sweep.Floats:
    """F1 of each row `(rows,)` at these thresholds."""
    found: sweep.Floats = sweep.row_f1s(
        rows, sweep.count_at(rows, scores, cut.of_all(scores.shape[1]))
    )[:, 0]
    return found


def _rounded(value: float) -> float:
    return round(float(value), 4)
