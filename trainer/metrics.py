"""Scores of crops and of places: balanced accuracy, F1, average precision, log-loss. Needs numpy
only; knows no model.

The competition's row-wise F1 is in edge.contract.metrics.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]


@dataclass(frozen=True)
class ClassF1:
    """F1 with one label per sample: mean over classes, mean weighted by number of samples, and over
    all samples."""

    macro: float
    weighted: float
    micro: float  # equals the accuracy, since every sample has one label and one answer


def recalls(truth: Ints, found: Ints, classes: int) -> Floats:
    """Recall of each class `(classes,)`: share of its samples `(n,)` that were found. NaN for a
    class without samples."""
    samples = np.bincount(truth, minlength=classes)
    hits = np.bincount(truth[truth == found], minlength=classes)
    return np.where(samples > 0, hits / np.maximum(samples, 1), np.nan)


def balanced_accuracy(truth: Ints, found: Ints, classes: int) -> float:
    """Mean recall over the classes that have samples: a rare species counts as much as a common
    one."""
    return float(np.nanmean(recalls(truth, found, classes)))


def class_f1(truth: Ints, found: Ints, classes: int) -> ClassF1:
    """F1 of the answers `found` `(n,)` against `truth` `(n,)`, over the classes that occur in
    either."""
    hits = np.bincount(truth[truth == found], minlength=classes)
    samples = np.bincount(truth, minlength=classes)
    answers = np.bincount(found, minlength=classes)
    present = samples + answers > 0
    f1 = 2.0 * hits[present] / (samples + answers)[present]
    weighted = float(np.average(f1, weights=samples[present]))
    return ClassF1(float(f1.mean()), weighted, float(hits.sum() / len(truth)))


def average_precision(truth: NDArray[np.bool_], scores: Floats) -> float:
    """Mean precision at the rank of each positive `(n,)`; equal scores share a rank. NaN without a
    positive.

    The same sum over steps of recall as in scikit-learn's average_precision_score.
    """
    if not truth.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    hits = np.cumsum(truth[order])
    last = np.append(ranked[1:] != ranked[:-1], True)  # of each group of equal scores
    hits = hits[last]
    ranks = np.flatnonzero(last) + 1
    return float(np.sum(np.diff(hits, prepend=0) * hits / ranks) / hits[-1])


def average_precisions(truth: Ints, scores: Floats) -> Floats:
    """Average precision of each column of scores `(n, classes)` against the samples' classes
    `(n,)`."""
    return np.array([average_precision(truth == c, scores[:, c]) for c in range(scores.shape[1])])


def log_loss(truth: Ints, probabilities: Floats) -> float:
    """Mean negative logarithm of the probability `(n, classes)` given to the true class `(n,)`,
    floored at 1e-15."""
    given = probabilities[np.arange(len(truth)), truth]
    return float(-np.log(np.maximum(given, 1e-15)).mean())


def top_k(truth: Ints, probabilities: Floats, k: int) -> float:
    """Share of samples whose class is among the k most probable ones."""
    k = min(k, probabilities.shape[1])
    best = np.argpartition(-probabilities, k - 1, axis=1)[:, :k]
    return float((best == truth[:, None]).any(axis=1).mean())
