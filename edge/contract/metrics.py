"""The competition's score: row-wise F1 over 5-s rows, with its parts and its confidence interval.
Knows no model and no file.

BirdCLEF 2021: each row's prediction and truth are sets of labels, `nocall` being one; F1 of the two
sets per row, mean over rows. Most rows are nocall, so the score of predicting only nocall is always
given as a baseline.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.contract.taxonomy import NOCALL

Labels = frozenset[str]
NOCALL_ROW: Labels = frozenset({NOCALL})


def labels_of(text: str) -> Labels:
    """`"amered comyel"` as a set of labels. An empty text is nocall, in any case (NoCall): no
    species has this name."""
    return (
        frozenset(NOCALL if label.lower() == NOCALL else label for label in text.split())
        or NOCALL_ROW
    )


def row_f1(truth: Labels, found: Labels) -> float:
    """F1 of two label sets: 2·|both| / (|truth| + |found|)."""
    return 2.0 * len(truth & found) / (len(truth) + len(found))


@dataclass(frozen=True)
class RowScore:
    """Row-wise F1 with its parts. NaN if there are no such rows; the interval is 95 % over
    recordings."""

    rows: int
    f1: float
    f1_low: float
    f1_high: float
    f1_all_nocall: float
    f1_call_rows: float
    f1_nocall_rows: float


def interval(
    values: NDArray[np.float64], groups: Sequence[str], *, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of `values`.

    Whole groups (recordings) are drawn with replacement, since rows of one recording are not
    independent.
    """
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.bincount(index, weights=values, minlength=len(names))
    counts = np.bincount(index, minlength=len(names))
    drawn = np.random.default_rng(seed).integers(0, len(names), (draws, len(names)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def score_rows(
    truth: Mapping[str, Labels], found: Mapping[str, Labels], recording: Mapping[str, str]
) -> RowScore:
    """Score predictions by row id against the truth; a row that was not predicted counts as nocall.

    `recording` maps a row id to its recording. Raises ValueError if the truth is empty.
    """
    if not truth:
        raise ValueError("no labelled rows to score against")
    rows = sorted(truth)
    scores = np.array([row_f1(truth[row], found.get(row, NOCALL_ROW)) for row in rows])
    calls = np.array([truth[row] != NOCALL_ROW for row in rows])
    low, high = interval(scores, [recording[row] for row in rows])
    return RowScore(
        rows=len(rows),
        f1=float(scores.mean()),
        f1_low=low,
        f1_high=high,
        f1_all_nocall=float(np.mean([row_f1(truth[row], NOCALL_ROW) for row in rows])),
        f1_call_rows=float(scores[calls].mean()) if calls.any() else float("nan"),
        f1_nocall_rows=float(scores[~calls].mean()) if not calls.all() else float("nan"),
    )
