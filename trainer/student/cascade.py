"""The cascade of student and bag: agreement of their decisions, and the margins within which the
bag is asked.

A cascade decides as on the station: the student scores every window, the bag those that it leaves
open; then follow neighbours, prior and thresholds as usual. Knows no networks and no files.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.contract.blend import Blend, Scores, blend_scores, open_windows, smooth_neighbours
from trainer.training.dataset import Ints

AGREEMENT = 0.995  # target share of windows in which a cascade decides like the bag
MARGIN_MAX = 30.0  # logits; opens everything, since logits end at 13.8
_MARGINS: list[float] = [0.0, *np.geomspace(0.1, MARGIN_MAX, 40).round(3).tolist()]
_PER_WINDOW = ("bag", "student", "prior", "stretch")
_FOLDS = 5
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Answers:
    """Scores of bag and student for the same windows, one every 5 s, ordered by recording."""

    bag: Scores  # (windows, species) acoustic, without smoothing
    student: Scores
    prior: Scores  # (windows, species); NaN rows without a prior
    stretch: Ints  # (windows,) index of the recording
    own: Scores  # (species,) thresholds of blended scores
    alone: Scores  # (species,) thresholds of scores without a prior
    blend: Blend

    def __len__(self) -> int:
        return len(self.bag)

    def take(self, kept: Mask) -> "Answers":
        """The windows where `kept` is true, which are those of whole recordings."""
        arrays: dict[str, Any] = {name: getattr(self, name)[kept] for name in _PER_WINDOW}
        return replace(self, **arrays)

    def join(self, other: "Answers") -> "Answers":
        """The windows of both, which have no recordings in common."""
        arrays: dict[str, Any] = {
            name: np.concatenate([getattr(self, name), getattr(other, name)])
            for name in _PER_WINDOW
        }
        arrays["stretch"][len(self) :] += self.stretch.max(initial=-1) + 1
        return replace(self, **arrays)

    @cached_property
    def placed(self) -> Mask:
        """Mask of the windows with a prior."""
        return np.asarray(~np.isnan(self.prior).all(axis=1))

    @cached_property
    def thresholds(self) -> Scores:
        """Thresholds of all windows, `(windows, species)`."""
        return np.where(self.placed[:, None], self.own, self.alone)

    def blended(self, acoustic: Scores) -> Scores:
        """Acoustic scores smoothed over neighbours and blended with the prior."""
        scores = smooth_neighbours(acoustic, self.blend, 1, self.stretch)
        if self.placed.any():
            scores = scores.copy()
            scores[self.placed] = blend_scores(
                scores[self.placed], self.prior[self.placed], self.blend
            )
        return scores

    def decided(self, acoustic: Scores) -> Mask:
        """Mask of the species reported, `(windows, species)`."""
        return np.asarray(self.blended(acoustic) >= self.thresholds)

    def opened(self, below: float, above: float) -> Mask:
        """Mask `(windows,)` of the windows that go to the bag."""
        opened = open_windows(self.student, None, self.blend, self.alone, below, above)
        if self.placed.any():
            there = self.student[self.placed], self.prior[self.placed]
            opened[self.placed] = open_windows(*there, self.blend, self.own, below, above)
        return opened

    def cascade(self, opened: Mask) -> Mask:
        """Mask of the species that a cascade reports, `(windows, species)`."""
        return self.decided(np.where(opened[:, None], self.bag, self.student))

    def agreement(self, opened: Mask) -> float:
        """Share of windows in which the cascade reports the same as the bag."""
        return float((self.cascade(opened) == self._bag).all(axis=1).mean())

    @cached_property
    def _bag(self) -> Mask:
        return self.decided(self.bag)


@dataclass(frozen=True)
class Margins:
    """Margins below and above the threshold, in logits."""

    below: float
    above: float


@dataclass(frozen=True)
class MarginScore:
    """Margins, with their agreement and share of opened windows on recordings that they were not
    chosen on."""

    margins: Margins
    agreement: float
    opened: float


def judge_margins(answers: Answers, goal: float = AGREEMENT) -> MarginScore:
    """Choose margins on all windows. Their figures are cross-validated: pooled over five parts of
    the recordings, each with margins chosen on the other four."""
    opened = np.zeros(len(answers), np.bool_)
    for fold in range(_FOLDS):
        mine = answers.stretch % _FOLDS == fold
        if mine.any() and not mine.all():
            margins = choose_margins(answers.take(~mine), goal)
            opened[mine] = answers.opened(margins.below, margins.above)[mine]
    return MarginScore(
        choose_margins(answers, goal), answers.agreement(opened), float(opened.mean())
    )


def choose_margins(answers: Answers, goal: float = AGREEMENT) -> Margins:
    """The narrowest margins whose cascade reaches the goal with a safety margin: its mistakes m,
    plus sqrt(m + 1), stay within those allowed. So 99.5 % needs 200 windows without a mistake; with
    fewer windows, the widest margins open all of them. Below and above are equal: chosen separately
    they opened less, but held less well on other recordings (docs/log.md), since there is little
    data to learn them from."""
    for margin in _MARGINS:
        missed = (1.0 - answers.agreement(answers.opened(margin, margin))) * len(answers)
        if missed + (missed + 1.0) ** 0.5 <= (1.0 - goal) * len(answers) + 1e-6:
            return Margins(margin, margin)
    return Margins(MARGIN_MAX, MARGIN_MAX)
