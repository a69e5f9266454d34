"""The trust in recordings made nearby, learnt from recordings that are left out of their own
neighbourhood.

The estimates themselves, and their mixture, are in edge/prior/nearby.py. Does not know which model
gives the probabilities below them, only that it was not trained on the recording.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from edge.contract.blend import Scores
from edge.prior.nearby import GATE_TERMS, LEVELS, Nearby, gate_inputs, gate_shares
from edge.prior.place import Values
from edge.prior.reranker import Neighbourhood

_STEPS = 600
_RATE = 0.03
_START = (-3.0, 0.5, 0.0, 0.0)  # little trust, growing with the number of recordings
_VANISHING = 1e-4  # rounding error after a recording is left out
# Deviation of a normal prior around the start: with few recordings the trust stays near it.
_START_DEVIATION = 2.0


@dataclass(frozen=True)
class LeaveOneOut:
    """Recordings of one place, each with its neighbourhoods, which exclude itself."""

    here: NDArray[np.intp]  # indices into the rows asked for
    own: NDArray[np.int64]  # indices into the recordings
    away: NDArray[np.float64]
    days: NDArray[np.int_]
    levels: list[Neighbourhood]


def fit_gates(nearby: Nearby, rows: NDArray[np.int64], base: Scores) -> Values:
    """Gates `(levels, 4)` with the best log-likelihood for the recordings `rows` of `nearby`, each
    left out of its own neighbourhood (Duin 1976 for kernels; here for their mixture). `base`
    `(rows, species)` are the model's probabilities for them."""
    total, squares, own = _left_out(nearby, rows)
    inputs = torch.from_numpy(
        np.stack([gate_inputs(*level) for level in zip(total, squares, strict=True)])
    )
    empty = torch.from_numpy(total <= 0)
    share_of_truth = torch.from_numpy(own / np.where(total > 0, total, 1.0))
    below = torch.from_numpy(base[np.arange(len(rows)), nearby.label[rows]].astype(np.float64))
    start = torch.tensor(_START, dtype=torch.float64).expand(len(LEVELS), GATE_TERMS)
    gates = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([gates], _RATE)
    for step in track(
        range(_STEPS), "trust in neighbours", transient=True, disable=not sys.stderr.isatty()
    ):
        optimiser.param_groups[0]["lr"] = _RATE * (1.0 if step < 2 * _STEPS // 3 else 0.3)
        shares = torch.sigmoid((inputs * gates[:, None, :]).sum(-1)).masked_fill(empty, 0.0)
        probability = below
        for share, truth in zip(shares, share_of_truth, strict=True):
            probability = share * truth + (1 - share) * probability
        away = (((gates - start) / _START_DEVIATION) ** 2).sum() / (2 * len(rows))
        loss = away - probability.clamp(min=1e-12).log().mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    return np.asarray(gates.detach().numpy(), np.float32)


def left_out(nearby: Nearby, rows: NDArray[np.int64], name: str) -> Iterator[LeaveOneOut]:
    """Yield the recordings `rows` of `nearby` place by place, with the levels as they would be
    without each of them: its own weight is 1 at every level. `name` is shown beside the
    progress."""
    spots = np.stack([nearby.latitude[rows], nearby.longitude[rows]], axis=1)
    places, where = np.unique(spots, axis=0, return_inverse=True)
    order = np.argsort(where.ravel(), kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(where.ravel(), minlength=len(places)))[:-1])
    for here in track(parts, name, transient=True, disable=not sys.stderr.isatty()):
        own = rows[here]
        away = nearby.away_km(float(nearby.latitude[own[0]]), float(nearby.longitude[own[0]]))
        days = nearby.day_of_year[own].astype(int)
        levels = []
        for present, counts in nearby.counts(away, days):
            one = (np.arange(len(own)), np.searchsorted(present, nearby.label[own]))
            counts = counts.copy()
            counts[one] -= 1
            counts[counts < _VANISHING] = 0.0
            levels.append((present, counts))
        yield LeaveOneOut(here, own, away, days, levels)


def _left_out(nearby: Nearby, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], ...]:
    """Total weight, sum of squared weights and weight of the row's own species for each level and
    row `(levels, n)`, without the row itself."""
    total, squares, own = np.zeros((3, len(LEVELS), len(rows)))
    for part in left_out(nearby, rows, "neighbours"):
        for level, (present, counts) in enumerate(part.levels):
            total[level, part.here] = counts.sum(axis=1)
            squares[level, part.here] = (counts**2).sum(axis=1)
            mine = np.searchsorted(present, nearby.label[part.own])
            own[level, part.here] = counts[np.arange(len(mine)), mine]
    return total, squares, own


def level_shares(nearby: Nearby, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean share `(1 + levels,)` of the model and of each level in the probabilities for the
    recordings `rows`."""
    total, squares, _ = _left_out(nearby, rows)
    left = np.ones(len(rows))
    shares = []
    for gate, level_total, level_squares in zip(
        nearby.gates[::-1], total[::-1], squares[::-1], strict=True
    ):
        trust = gate_shares(gate, level_total, level_squares)
        shares.append(float((left * trust).mean()))
        left = left * (1 - trust)
    return np.array([float(left.mean()), *shares[::-1]])
