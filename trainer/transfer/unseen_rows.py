"""Labelled rows for tuning without labelled soundscapes: every recording mixed over backgrounds,
scored by heads that have not heard the recording.

As in the field, most rows have no call. Knows no threshold.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.contract.blend import Scores
from edge.contract.taxonomy import NOCALL
from trainer.run import MemberInfo, Run
from trainer.transfer.head_windows import TransferSet
from trainer.transfer.out_of_fold import Scales, unseen_scores

# Share of rows without a call: in the competition's labels it is 0.63.
_QUIET = 0.6
# Recordings of a fold are divided into so many groups, which stand for soundscapes.
_GROUPS = 5


@dataclass(frozen=True)
class UnseenRows:
    """Rows as if of soundscapes, with scores on one scale."""

    scores: Scores  # (kinds, rows, species); NaN where a kind does not know a species
    labels: list[frozenset[str]]  # (rows,)
    group: list[str]  # (rows,) the soundscape that each stands for
    recording: NDArray[np.int64]  # (rows,) number of the recording; -1 for backgrounds


def unseen_rows(run: Run, heads: list[MemberInfo], learning: TransferSet) -> UnseenRows:
    """Rows of all mixed copies of windows in which something calls and whose species a head could
    know, and of backgrounds, which are repeated until they are 60 % of all."""
    found = unseen_scores(run, heads).scaled(Scales.read(run))
    codes = run.taxonomy.codes
    own = np.arange(len(learning.primary)), learning.primary
    # Background species may call in any window: nobody knows, so such rows are left out.
    used = np.flatnonzero(learning.calling & found.trained[own] & ~learning.secondary.any(axis=1))
    copies = found.mixed.shape[1]
    calls = np.concatenate([found.mixed[:, copy, used] for copy in range(copies)], axis=1)
    labels = [frozenset({codes[learning.primary[row]]}) for row in used] * copies
    groups = [
        f"fold{learning.fold[row]}-{learning.recording[row] % _GROUPS}" for row in used
    ] * copies
    quiet = np.arange(found.backgrounds.shape[1])
    repeats = max(1, round(_QUIET / (1 - _QUIET) * len(labels) / max(1, len(quiet))))
    number = np.tile(quiet, repeats)
    groups += [f"fold{learning.background_fold[row]}-{row % _GROUPS}" for row in number]
    return UnseenRows(
        np.concatenate([calls, found.backgrounds[:, number]], axis=1),
        [*labels, *[frozenset({NOCALL})] * len(number)],
        groups,
        np.concatenate([np.tile(learning.recording[used], copies), np.full(len(number), -1)]),
    )
