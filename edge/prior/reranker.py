"""A second look at the likeliest species of a place and day: many small clues, weighed by a small
network.

A clue is how much more a neighbourhood, or a recordist's own recordings, say of a species than the
mixture does. Numpy only; knows neither files nor how the weights were learnt
(trainer/place/reranker.py).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from edge.contract.blend import Scores
from edge.prior.place import Values

CANDIDATES = 64  # species that are looked at again; the others keep their proportions
COUNTED = 14  # of the neighbourhoods the last so many, the narrowest, also give plain counts
_STRANGE = 4.0  # deviations: further than this from what was learnt is no stronger a clue
_CALM = 0.3  # recordings of the mixture itself that are counted in with each neighbourhood
_FLOOR = 1e-5
REST_MIN = 1e-6  # all other species together, where less than this is nothing
CountArray = NDArray[np.float64]
Neighbourhood = tuple[
    NDArray[np.intp], CountArray
]  # species `(s,)` and the weight of their recordings `(n, s)`


@dataclass(frozen=True)
class Clues:
    """Of `n` places and days and their candidates. `rest`: the probability of all species that are
    no candidates."""

    species: NDArray[np.intp]  # (n, candidates), index into the taxonomy
    probability: Values  # (n, candidates), of the mixture
    rest: Values  # (n,)
    own: Values  # (n, candidates, clues), of one species
    shared: Values  # (n, clues), of the place and day


def gather(
    base: Scores,
    mixed: Scores,
    common: CountArray,
    company: CountArray,
    hoods: Sequence[Neighbourhood],
    more: CountArray,
) -> Clues:
    """Clues from the model's own probabilities and the mixture `(n, species)`, each species' share
    of all recordings and how well it goes with those of the place `(n, species)`, the
    neighbourhoods from wide to narrow, and more clues of the place and day `(n, any)`."""
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
    """Weights of the network: two layers over the clues of a species, which species it is, and the
    clues shared by all of them."""

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
        """Probabilities `(n, species)`: log-odds of the mixture plus what the network adds,
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
        """Raises KeyError naming what is missing."""
        return cls(*(arrays[f"judge_{field.name}"] for field in fields(cls)))


def standardised(values: Values, mean: Values, std: Values) -> Values:
    """Clues in deviations from their mean, within limits: at a place like no other the judge stays
    calm."""
    return np.asarray(np.clip((values - mean) / std, -_STRANGE, _STRANGE), np.float32)
