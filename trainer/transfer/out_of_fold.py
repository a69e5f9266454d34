"""Scores of heads and backbone for windows that the heads were not trained on, and the scales that
make one threshold mean the same for every species.

A scale is a slope and an offset of log-odds (Platt 1999), for each kind of member and species,
fitted so that calls and everything else count the same. Knows no sound and no training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.optimize
from numpy.typing import NDArray

from edge.contract.blend import Scores, scaled
from edge.contract.bundle import read_bundle
from trainer.files import read_npz, write_npz
from trainer.run import MemberInfo, Run
from trainer.transfer.backbone import FOLDER as BACKBONE
from trainer.transfer.embeddings import FOLDER, Embeddings, known_classes
from trainer.transfer.head_windows import KIND, HeadScores, TransferSet, head_scores

FILE = "scales.npz"
OWN = "own"
KINDS = (KIND, OWN)  # in the order of their names, as blends have them
# Strength with which a species' scale is held to that of all species together: what few recordings
# say of slope and offset is mostly luck.
_HELD = (0.01, 0.002)
_BOUNDS = ((0.1, 3.0), (-15.0, 15.0))  # of slope and offset
_EDGE = 1e-6
_ARRAYS = ("head", "own", "known")
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Scales:
    """scales.npz: slopes and offsets of log-odds."""

    head: Scores  # (2, species)
    own: Scores  # (2, species); only those of `known` mean anything
    known: Mask  # (species,) the species that the backbone knows

    def write(self, path: Path) -> None:
        write_npz(path, vars(self))

    @classmethod
    def read(cls, run: Run) -> "Scales":
        """The scales of a run. Raises CorpusError naming the file."""
        return cls(
            **read_npz(run.folder / FILE, _ARRAYS, "remove it and run: python -m trainer fit-all")
        )


@dataclass(frozen=True)
class UnseenScores:
    """Raw scores by kind for windows that the heads were not trained on; NaN where no head of the
    fold, or no backbone, knows a species."""

    windows: Scores  # (kinds, n, species) as they are
    mixed: Scores  # (kinds, copies, n, species) over backgrounds
    backgrounds: Scores  # (kinds, m, species)
    trained: Mask  # (n, species) a head was trained on the species without this window

    def scaled(self, scales: Scales) -> "UnseenScores":
        """The same scores on one scale."""

        def both(scores: Scores) -> Scores:
            each = [scaled(scores[0], scales.head), scaled(scores[1], scales.own)]
            return np.stack(each)

        return UnseenScores(
            both(self.windows), both(self.mixed), both(self.backgrounds), self.trained
        )


def unseen_scores(run: Run, heads: Sequence[MemberInfo]) -> UnseenScores:
    """Raw scores of all windows by the heads of their folds, averaged, and by the backbone."""
    taxonomy = run.taxonomy
    classes = known_classes(taxonomy, read_bundle(run.folder / BACKBONE).taxonomy)
    embeddings = Embeddings(run.folder / FOLDER)
    heard, empty = embeddings.read(), embeddings.backgrounds()
    count, species = heard.own.shape[1], len(taxonomy)
    copies = len(heard.embedding) - 1
    windows = np.full((2, count, species), np.nan, np.float32)
    mixed = np.full((2, copies, count, species), np.nan, np.float32)
    nothing = np.full((2, len(empty.own), species), np.nan, np.float32)
    trained = np.zeros((count, species), bool)
    for fold in sorted({head.fold for head in heads}):
        found = [head_scores(run, head.name) for head in heads if head.fold == fold]
        rows, quiet, known = found[0].rows, found[0].background_rows, found[0].known
        for part, at, name in (
            (windows[0], rows, "scores"),
            (nothing[0], quiet, "backgrounds"),
        ):
            part[at] = _mean(found, name)
            part[np.ix_(at, ~known)] = np.nan
        mixed[0][:, rows] = _mean(found, "mixed")
        mixed[0][:, rows[:, None], np.flatnonzero(~known)] = np.nan
        trained[np.ix_(rows, known)] = True
    mine = [taxonomy.index(code) for code in classes]
    windows[1][:, mine], mixed[1][:, :, mine] = heard.own[0], heard.own[1:]
    nothing[1][:, mine] = empty.own
    return UnseenScores(windows, mixed, nothing, trained)


def _mean(found: Sequence[HeadScores], name: str) -> Scores:
    mean: Scores = np.mean([getattr(one, name) for one in found], axis=0, dtype=np.float32)
    return mean


def fit_scales(unseen: UnseenScores, learning: TransferSet) -> Scales:
    """Scales of both kinds, from the mixed windows in which something calls, and the
    backgrounds."""
    known = np.isfinite(unseen.windows[1]).any(axis=0)
    calling = learning.calling
    truth = np.eye(learning.classes, dtype=bool)[learning.primary]
    found = []
    for kind in range(len(KINDS)):
        odds, target = [], []
        for index in range(learning.classes):
            counted = calling & ~learning.secondary[:, index]
            parts = [view[counted, index] for view in unseen.mixed[kind]]
            parts.append(unseen.backgrounds[kind][:, index])
            labels = [truth[counted, index]] * (len(parts) - 1) + [np.zeros(len(parts[-1]), bool)]
            scores, heard = np.concatenate(parts), np.concatenate(labels)
            there = np.isfinite(scores)
            odds.append(_log_odds(scores[there]))
            target.append(heard[there])
        pooled = _platt(np.concatenate(odds), np.concatenate(target), (1.0, 0.0), (1e-3, 1e-4))
        each = [
            _platt(mine, heard, pooled, _HELD)
            if heard.any() and not heard.all()
            else pooled  # nothing to judge it by
            for mine, heard in zip(odds, target, strict=True)
        ]
        found.append(np.array(each, np.float32).T)
    return Scales(found[0], found[1], known)


def _log_odds(scores: Scores) -> NDArray[np.float64]:
    p = np.clip(scores.astype(np.float64), _EDGE, 1 - _EDGE)
    return np.log(p / (1 - p))


def _platt(
    odds: NDArray[np.float64],
    heard: Mask,
    held_to: tuple[float, float],
    held: tuple[float, float],
) -> tuple[float, float]:
    """Slope and offset that make `odds` log-odds of a call, calls and others counting the same."""
    if not heard.any() or heard.all():
        return held_to
    weight = np.where(heard, 0.5 / heard.sum(), 0.5 / (~heard).sum())
    sign = np.where(heard, 1.0, -1.0)

    def loss(at: NDArray[np.float64]) -> float:
        slope, offset = at
        fit = float(np.sum(weight * np.logaddexp(0.0, -sign * (slope * odds + offset))))
        apart = slope - held_to[0], offset - held_to[1]
        return float(fit + held[0] * apart[0] ** 2 + held[1] * apart[1] ** 2)

    best = scipy.optimize.minimize(loss, held_to, method="L-BFGS-B", bounds=_BOUNDS).x
    return float(best[0]), float(best[1])


def window_scores(run: Run, heads: Sequence[MemberInfo]) -> tuple[NDArray[np.int64], Scores]:
    """Rows and scores `(n, species)` of all windows as they are, both kinds on one scale and
    averaged; 0 for species that nobody could know there."""
    found = unseen_scores(run, heads).scaled(Scales.read(run))
    scores = mean_of_kinds(found.windows)
    return np.arange(len(scores)), scores


def mean_of_kinds(scores: Scores) -> Scores:
    """Mean over kinds `(kinds, …, species)` of those that know a species; 0 where none does."""
    there = np.isfinite(scores)
    total = np.where(there, scores, np.float32(0)).sum(axis=0, dtype=np.float32)
    mean: Scores = (total / np.maximum(there.sum(axis=0), 1)).astype(np.float32)
    return mean
