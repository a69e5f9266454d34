"""A sweep over thresholds and blends on labelled rows, and a robust choice among them. Knows no
sound, network or file.

Row-wise F1 as in edge.contract.metrics, for all thresholds at once: the scores of a row are counted
in the gaps between thresholds, and cumulative counts from above give the number of species that
pass each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge.contract.audio import Padding
from edge.contract.blend import Blend, Scores
from edge.contract.metrics import NOCALL_ROW, Labels
from edge.contract.taxonomy import Taxonomy

Floats = NDArray[np.float64]

# Weights over neighbouring thresholds: one lucky threshold is not a peak.
_SMOOTHING = np.array([1.0, 2.0, 3.0, 2.0, 1.0])
MARGIN = 1e-3  # smaller differences in F1 are ties
_DRAWS = 1000


@dataclass(frozen=True)
class LabelledRows:
    """Labelled rows: the species in each, and its recording."""

    ids: tuple[str, ...]
    recordings: tuple[str, ...]
    labels: tuple[Labels, ...]
    truth: NDArray[np.bool_]  # (rows, species)
    # (rows,) number of labels that are not in the taxonomy; they can only be missed
    others: NDArray[np.int64]

    @classmethod
    def of(cls, labelled: Sequence[tuple[str, str, Labels]], taxonomy: Taxonomy) -> "LabelledRows":
        """Make labelled rows from tuples (row id, recording, labels)."""
        truth = np.zeros((len(labelled), len(taxonomy)), bool)
        others = np.zeros(len(labelled), np.int64)
        for row, (_, _, labels) in enumerate(labelled):
            for label in () if labels == NOCALL_ROW else labels:
                if label in taxonomy:
                    truth[row, taxonomy.index(label)] = True
                else:
                    others[row] += 1
        ids = tuple(row for row, _, _ in labelled)
        recordings = tuple(recording for _, recording, _ in labelled)
        return cls(ids, recordings, tuple(labels for _, _, labels in labelled), truth, others)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, kept: NDArray[np.bool_]) -> "LabelledRows":
        """The rows where `kept` is true."""
        at = np.flatnonzero(kept).tolist()
        ids, recordings = (tuple(v[i] for i in at) for v in (self.ids, self.recordings))
        return LabelledRows(
            ids, recordings, tuple(self.labels[i] for i in at), self.truth[at], self.others[at]
        )

    @property
    def calls(self) -> NDArray[np.bool_]:
        """Mask of the rows with any species."""
        return self.truth.any(axis=1) | (self.others > 0)

    def found(
        self, scores: Scores, threshold: float | Scores, codes: Sequence[str]
    ) -> dict[str, Labels]:
        """Labels by row id as the station would report them: species that pass the threshold (one
        for all or `(species,)`)."""
        passed = scores >= np.asarray(threshold, np.float32)
        return {
            row: frozenset(codes[i] for i in np.flatnonzero(found).tolist()) or NOCALL_ROW
            for row, found in zip(self.ids, passed, strict=True)
        }


@dataclass(frozen=True)
class PassCounts:
    """Number of species that pass, and of those of them that are true, for each row and threshold
    `(rows, thresholds)`."""

    passed: NDArray[np.int64]
    hits: NDArray[np.int64]


def thresholds_of(low: float, high: float, step: float) -> NDArray[np.float32]:
    """The thresholds low, low + step, … up to high."""
    return (low + step * np.arange(int(np.floor((high - low) / step + 1e-6)) + 1)).astype(
        np.float32
    )


def count(rows: LabelledRows, scores: Scores, thresholds: NDArray[np.float32]) -> PassCounts:
    """Count the species that pass each threshold; a score equal to it passes."""
    high = np.flatnonzero(scores >= thresholds[0])  # most scores pass none
    # Number of thresholds that each score passes.
    gap = np.searchsorted(thresholds, scores.ravel()[high], side="right")
    width = len(thresholds) + 1
    cell = gap + width * (high // scores.shape[1])

    def above(cells: NDArray[np.int64]) -> NDArray[np.int64]:
        histogram = np.bincount(cells, minlength=width * len(rows)).reshape(len(rows), width)
        return histogram[:, ::-1].cumsum(axis=1)[:, -2::-1]

    return PassCounts(above(cell), above(cell[rows.truth.ravel()[high]]))


def count_at(rows: LabelledRows, scores: Scores, threshold: float | Scores) -> PassCounts:
    """Count the species that pass one threshold, the same for all species or one for each
    `(species,)`."""
    passed = scores >= np.asarray(threshold, np.float32)
    return PassCounts(
        passed.sum(axis=1, keepdims=True), (passed & rows.truth).sum(axis=1, keepdims=True)
    )


def row_f1s(rows: LabelledRows, counts: PassCounts) -> Floats:
    """F1 of each row at each threshold, `(rows, thresholds)`; an empty set is the set {nocall}."""
    positives = (rows.truth.sum(axis=1) + rows.others)[:, None]
    f1 = 2.0 * counts.hits / (np.maximum(positives, 1) + np.maximum(counts.passed, 1))
    return np.where((positives == 0) & (counts.passed == 0), 1.0, f1)


def micro_f1(rows: LabelledRows, counts: PassCounts) -> Floats:
    """F1 over all (row, species) pairs at each threshold, `(thresholds,)`."""
    positives = int(rows.truth.sum() + rows.others.sum())
    return np.asarray(
        2.0 * counts.hits.sum(axis=0) / np.maximum(positives + counts.passed.sum(axis=0), 1)
    )


def smooth(curves: Floats) -> Floats:
    """Weighted mean over neighbouring thresholds, `(…, thresholds)`; at the ends over those that
    exist."""
    half = len(_SMOOTHING) // 2
    padded = np.pad(curves, [(0, 0)] * (curves.ndim - 1) + [(half, half)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(_SMOOTHING), axis=-1)
    inside = np.convolve(np.ones(curves.shape[-1]), _SMOOTHING, mode="full")[half:-half]
    return np.asarray(windows @ _SMOOTHING / inside)


def best_threshold(curve: Floats) -> int:
    """Index of the best threshold by F1 `(thresholds,)`: the centre of the plateau around the
    smoothed peak."""
    smoothed = smooth(curve)
    return _middle(int(np.argmax(smoothed)), smoothed >= smoothed.max() - MARGIN)


def steady_threshold(sums: Floats, rows: NDArray[np.int64]) -> int:
    """Index of a robust threshold by sums of F1 over the rows of each recording `(recordings,
    thresholds)`.

    It is the centre of the range around the smoothed peak within one standard error of it, over
    recordings: with few soundscapes the peak itself is mostly luck, and the edge of a plateau is a
    risk.
    """
    mine = smooth(sums)
    peak = int(np.argmax(mine.sum(axis=0)))
    short, error = _shortfall(mine[:, peak, None] - mine, rows)
    return _middle(peak, short <= np.maximum(error, MARGIN))


def _middle(peak: int, enough: NDArray[np.bool_]) -> int:
    """The middle of the contiguous range of `enough` around `peak`."""
    low = high = peak
    while low > 0 and enough[low - 1]:
        low -= 1
    while high + 1 < len(enough) and enough[high + 1]:
        high += 1
    return (low + high) // 2


def _shortfall(short: Floats, rows: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Mean over rows of per-recording sums `(recordings, choices)`, and its standard error over
    recordings."""
    count = len(rows)
    spread = short - short.mean(axis=0)
    error = np.sqrt((spread**2).sum(axis=0) * count / max(count - 1, 1)) / rows.sum()
    return short.sum(axis=0) / rows.sum(), error


@dataclass(frozen=True)
class ThresholdCandidate:
    """A padding and a blend, and the F1 of each row at each threshold with them."""

    padding: Padding
    blend: Blend
    f1s: Floats  # (rows, thresholds)

    @property
    def peak(self) -> float:
        """The highest point of the smoothed curve, by which candidates are compared."""
        return float(smooth(self.f1s.mean(axis=0)).max())

    def take(self, kept: NDArray[np.bool_]) -> "ThresholdCandidate":
        """The same for the rows where `kept` is true."""
        return replace(self, f1s=self.f1s[kept])


@dataclass(frozen=True)
class SweepChoice:
    """The choice of the sweep: indices of a candidate and a threshold."""

    candidate: int
    threshold: int


def _choose(sums: Floats, rows: NDArray[np.int64]) -> SweepChoice:
    """Choose by sums of F1 over the rows of each recording, `(recordings, candidates, thresholds)`,
    and their numbers of rows.

    Takes the first candidate whose shortfall against the best one is within one standard error of
    that difference over recordings: with few soundscapes the best of many is mostly luck.
    """
    peaks = smooth(sums.sum(axis=0) / rows.sum())
    at = np.arange(len(peaks)), peaks.argmax(axis=1)
    best = int(peaks[at].argmax())
    mine = smooth(sums)[:, at[0], at[1]]  # (recordings, candidates)
    short, error = _shortfall(mine[:, best, None] - mine, rows)
    first = int(np.flatnonzero(short <= np.maximum(error, MARGIN))[0])
    return SweepChoice(first, steady_threshold(sums[:, first], rows))


def steady_threshold_of(f1s: Floats, recordings: Sequence[str]) -> int:
    """`steady_threshold` for F1 `(rows, thresholds)` of a single candidate."""
    sums, rows = _by_recording([ThresholdCandidate("context", Blend(), f1s)], recordings)
    return steady_threshold(sums[:, 0], rows)


def _by_recording(
    candidates: Sequence[ThresholdCandidate], recordings: Sequence[str]
) -> tuple[Floats, NDArray[np.int64]]:
    """The arguments of `_choose`."""
    names, group = np.unique(np.asarray(recordings), return_inverse=True)
    sums = np.zeros((len(names), len(candidates), candidates[0].f1s.shape[1]))
    for c, candidate in enumerate(candidates):
        np.add.at(sums[:, c], group, candidate.f1s)
    return sums, np.bincount(group)


def choose(candidates: Sequence[ThresholdCandidate], recordings: Sequence[str]) -> SweepChoice:
    """Choose a candidate and a threshold by row-wise F1; `recordings` are those of the rows.
    Earlier candidates are preferred when in doubt."""
    return _choose(*_by_recording(candidates, recordings))


def without_each(recordings: Sequence[str]) -> list[NDArray[np.bool_]]:
    """Masks `(rows,)` of the rows of all other recordings, for each recording. Empty with a single
    recording."""
    names, group = np.unique(np.asarray(recordings), return_inverse=True)
    return [group != g for g in range(len(names))] if len(names) > 1 else []


def curve_interval(f1s: Floats, recordings: Sequence[str], seed: int = 0) -> tuple[Floats, Floats]:
    """Lower and upper end `(thresholds,)` of the 95 % bootstrap interval of the mean F1 at each
    threshold, resampling whole recordings."""
    names, group = np.unique(np.asarray(recordings), return_inverse=True)
    sums = np.zeros((len(names), f1s.shape[1]))
    np.add.at(sums, group, f1s)
    rows = np.bincount(group, minlength=len(names))
    drawn = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), _DRAWS
    )
    low, high = np.quantile(drawn @ sums / (drawn @ rows)[:, None], [0.025, 0.975], axis=0)
    return low, high


def recording_of(rows: LabelledRows) -> Mapping[str, str]:
    """Recordings by row id, for edge.contract.metrics.score_rows."""
    return dict(zip(rows.ids, rows.recordings, strict=True))
