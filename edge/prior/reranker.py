"""Re-ranking of the likeliest species of a place and day: many small clues, weighed by a small
network.

A clue is how much more a neighbourhood, or a recordist's own recordings, indicates a species than
the mixture does. Numpy only; knows neither files nor how the weights were learnt
(trainer/place/reranker.py).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from edge.contract.blend import Scores
from edge.prior.place import Values

CANDIDATES = 64  # species that are re-ranked; the others keep their proportions
COUNTED = 14  # this many of the narrowest neighbourhoods, the last ones, also give plain counts
_STRANGE = 4.0  # standard deviations at which clues are clipped
_CALM = 0.3  # smoothing: recordings with the mixture's proportions added to each neighbourhood
_FLOOR = 1e-5
REST_MIN = 1e-6  # less probability of all other species together counts as none
CountArray = NDArray[np.float64]
# Species `(s,)` and the weight of their recordings `(n, s)`.
Neighbourhood = tuple[NDArray[np.intp], CountArray]


@dataclass(frozen=True)
class Clues:
    """Clues for `n` places and days and their candidates; `rest` is the probability of all other
    species."""

    species: NDArray[np.intp]  # (n, candidates), index into the taxonomy
    probability: Values  # (n, candidates), of the mixture
    rest: Values  # (n,)
    own: Values  # (n, candidates, clues) of each species
    shared: Values  # (n, clues) of the place and day


def gather(
    base: Scores,
    mixed: Scores,
    common: CountArray,
    company: CountArray,
    hoods: Sequence[Neighbourhood],
    more: CountArray,
) -> Clues:
    """Clues from the parts of the model.

    `base` and `mixed` `(n, species)` are the model's own probabilities and the mixture, `common`
    `(n, species)` each species' fraction of all recordings, `company` `(n, species)` its affinity
    to the species of the place, `hoods` the neighbourhoods from wide to narrow, and `more` `(n,
    any)` further clues of the place and day.
    """
    species = np.argsort(-mixed, axis=1, kind="stable")[:, :CANDIDATES]
    chosen = np.take_along_axis(mixed, species, axis=1).astype(np.float64)
    expected = chosen + _FLOOR
    below = np.take_along_axis(base, species, axis=1)
    share = np.take_along_axis(common, species, axis=1)
    own = [np.log(expected), np.log(below + _FLOOR), np.log(share + _FLOOR)]
    own.append(np.take_along_axis(company, species, axis=1))
    shared = [more]
    for left, (present, counts) in zip(range(len(hoods), 0, -1), hoods, strict=True):
        dense = np.zeros(mixed.shape)
        dense[:, present] = counts
        total = dense.sum(axis=1, keepdims=True)
        here = np.take_along_axis(dense, species, axis=1)
        own.append(np.log((here + _CALM * expected) / ((total + _CALM) * expected)))
        if left <= COUNTED:
            own.append(np.log1p(here))
        shared += [
            np.log(total + 0.1),
            (dense**2).sum(axis=1, keepdims=True) / np.maximum(total, 0.1) ** 2,
        ]
    return Clues(
        species,
        chosen.astype(np.float32),
        np.maximum(1 - chosen.sum(axis=1), 0.0).astype(np.float32),
        np.stack(own, axis=-1).astype(np.float32),
        np.concatenate(shared, axis=1).astype(np.float32),
    )


@dataclass(frozen=True)
class Reranker:
    """Weights of the network: two layers over the clues of a species, the species itself, and the
    shared clues."""

    own_mean: Values
    own_std: Values
    shared_mean: Values
    shared_std: Values
    own: Values  # (clues of a species, width)
    species: Values  # (species, width)
    shared: Values  # (shared clues, width)
    bias: Values
    inner: Values  # (width, width)
    inner_bias: Values
    out: Values  # (width,)
    out_species: Values  # (species,)
    rest: Values  # (shared clues,)
    rest_bias: Values  # ()

    def weigh(self, mixed: Scores, clues: Clues) -> Scores:
        """Probabilities `(n, species)`: log-odds of the mixture plus the network's output,
        normalised."""
        shared = standardised(clues.shared, self.shared_mean, self.shared_std)
        own = standardised(clues.own, self.own_mean, self.own_std)
        x = (
            own @ self.own
            + self.species[clues.species]
            + (shared @ self.shared + self.bias)[:, None]
        )
        x = np.maximum(np.maximum(x, 0.0) @ self.inner + self.inner_bias, 0.0) @ self.out
        x = x + self.out_species[clues.species] + np.log(clues.probability + REST_MIN)
        some = clues.rest > REST_MIN
        others = np.where(
            some,
            np.log(np.maximum(clues.rest, REST_MIN)) + shared @ self.rest + self.rest_bias,
            -np.inf,
        )
        odds = np.concatenate([x, others[:, None]], axis=1)
        odds = np.exp(odds - odds.max(axis=1, keepdims=True))
        found = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
        weighed = mixed * (found[:, -1] / np.where(some, clues.rest, 1.0))[:, None]
        np.put_along_axis(weighed, clues.species, found[:, :-1], axis=1)
        return np.asarray(weighed, np.float32)

    def arrays(self) -> dict[str, Values]:
        """The weights by the names that `of` reads."""
        return {f"judge_{name}": values for name, values in asdict(self).items()}

    @classmethod
    def of(cls, arrays: dict[str, Values]) -> "Reranker":
        """From arrays by name. Raises KeyError naming a missing one."""
        return cls(*(arrays[f"judge_{field.name}"] for field in fields(cls)))


def standardised(values: Values, mean: Values, std: Values) -> Values:
    """Clues in standard deviations from their mean, clipped: unusual places must not give extreme
    clues."""
    return np.asarray(np.clip((values - mean) / std, -_STRANGE, _STRANGE), np.float32)
