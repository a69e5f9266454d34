"""The re-ranker of the likeliest species of a place and day, learnt from recordings that are left
out of the memory.

The clues themselves, and the network that weighs them, are in edge/prior/reranker.py; this module
fits it with torch. Does not know which model gives the probabilities below the mixture, only that
it was not trained on the recording.
"""

import sys
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

from edge.contract.blend import Scores
from edge.prior.nearby import Nearby
from edge.prior.place import Values
from edge.prior.reranker import REST_MIN, Clues, Reranker, standardised
from trainer.place.neighbours import left_out

_WIDTH = 32
_DROPOUT = 0.1
_EPOCHS = 6
_BATCH = 128
_RATE = 3e-3
_WEIGHT_DECAY = 0.05
_DEVIATION_MIN = 0.01


@dataclass(frozen=True)
class _Rows:
    """Clues of recordings, and the index of the true candidate, or the number of candidates if none
    is true."""

    species: NDArray[np.intp]
    own: Values  # float16: 40,000 recordings of 64 candidates are 320 MB
    shared: Values
    odds: Values  # logarithm of the candidates' probabilities and, last, of all others'
    truth: NDArray[np.int64]


def fit_judge(nearby: Nearby, rows: NDArray[np.int64], base: Scores, seed: int) -> Reranker:
    """Fit the re-ranker with the best log-likelihood for the recordings `rows` of `nearby`, each
    left out of its own neighbourhood. `base` `(rows, species)` are the model's probabilities for
    them."""
    found = _clues(nearby, rows, base)
    sample = (
        found.own[:: max(1, len(rows) // 5000)].reshape(-1, found.own.shape[-1]).astype(np.float32)
    )
    own = _scale(sample)
    shared = _scale(found.shared)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = _Net(found.own.shape[-1], found.shared.shape[-1], base.shape[1])
        _train(net, found, own, shared)
    weights = {
        name: np.asarray(values.detach().numpy(), np.float32)
        for name, values in net.named_parameters()
    }
    return Reranker(
        *own,
        *shared,
        own=weights["own.weight"].T,
        species=weights["species.weight"],
        shared=weights["shared.weight"].T,
        bias=weights["own.bias"],
        inner=weights["inner.weight"].T,
        inner_bias=weights["inner.bias"],
        out=weights["out.weight"][0],
        out_species=weights["out_species.weight"][:, 0],
        rest=weights["rest.weight"][0],
        rest_bias=weights["rest.bias"][0],
    )


class _Net(nn.Module):
    """The computation of `Reranker.weigh` before the softmax."""

    def __init__(self, own: int, shared: int, species: int) -> None:
        super().__init__()
        self.species = nn.Embedding(species, _WIDTH)
        self.out_species = nn.Embedding(species, 1)
        self.own = nn.Linear(own, _WIDTH)
        self.shared = nn.Linear(shared, _WIDTH, bias=False)
        self.inner = nn.Linear(_WIDTH, _WIDTH)
        self.out = nn.Linear(_WIDTH, 1, bias=False)
        self.rest = nn.Linear(shared, 1)
        # Initially the mixture is unchanged.
        for layer in (self.out, self.rest, self.species, self.out_species):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.rest.bias)
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, species: Tensor, own: Tensor, shared: Tensor, odds: Tensor) -> Tensor:
        x = self.dropout(
            torch.relu(self.own(own) + self.species(species) + self.shared(shared)[:, None])
        )
        x = (self.out(torch.relu(self.inner(x))) + self.out_species(species))[..., 0]
        return odds + torch.cat([x, self.rest(shared)], dim=1)


def _train(
    net: _Net, rows: _Rows, own: tuple[Values, Values], shared: tuple[Values, Values]
) -> None:
    count = len(rows.truth)
    batch = min(_BATCH, len(rows.truth))
    steps = _EPOCHS * count // batch
    optimiser = torch.optim.AdamW(net.parameters(), _RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
    order = torch.cat([torch.randperm(count) for _ in range(_EPOCHS)])
    for step in track(range(steps), "second look", transient=True, disable=not sys.stderr.isatty()):
        some = order[step * batch : (step + 1) * batch].numpy()
        clues = torch.from_numpy(standardised(rows.own[some].astype(np.float32), *own))
        about = torch.from_numpy(standardised(rows.shared[some], *shared))
        odds = torch.from_numpy(rows.odds[some])
        truth = torch.from_numpy(rows.truth[some])
        loss = functional.cross_entropy(
            net(torch.from_numpy(rows.species[some]), clues, about, odds), truth
        )
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
    net.eval()


def _clues(nearby: Nearby, rows: NDArray[np.int64], base: Scores) -> _Rows:
    parts: list[Clues] = []
    order: list[NDArray[np.intp]] = []
    for part in left_out(nearby, rows, "clues"):
        mixed = nearby.mix(base[part.here], part.levels)
        parts.append(
            nearby.clues(base[part.here], mixed, part.levels, part.away, part.days, part.own)
        )
        order.append(part.here)
    back = np.argsort(np.concatenate(order))
    species = np.concatenate([part.species for part in parts])[back]
    hit = species == nearby.label[rows][:, None]
    odds = [
        np.log(np.column_stack([part.probability + REST_MIN, np.maximum(part.rest, REST_MIN)]))
        for part in parts
    ]
    return _Rows(
        species,
        np.concatenate([part.own.astype(np.float16) for part in parts])[back],
        np.concatenate([part.shared for part in parts])[back],
        np.concatenate(odds)[back].astype(np.float32),
        np.where(hit.any(axis=1), hit.argmax(axis=1), species.shape[1]),
    )


def _scale(values: Values) -> tuple[Values, Values]:
    return values.mean(axis=0), np.maximum(values.std(axis=0), _DEVIATION_MIN)
