"""The company that species keep: which are recorded at the same places, oftener or more seldom than
by chance.

So a place's few recordings tell of its habitat, and of species that nobody recorded there. Numpy
only; knows no probabilities.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.prior.reranker import CountArray, Neighbourhood

_CALM = 0.5  # of the places expected by chance that are counted in with those found
_RARE = 0.02  # places more that are expected of any two
_PRESENT = 0.05  # recordings, weighed by distance, that make a species one of the place
_HERE_KM = 0.005  # coordinates are rounded to a metre
Index = NDArray[np.intp]


@dataclass(frozen=True)
class Cooccurrence:
    """Recordings' places, and the species of each."""

    place: Index  # (n,) of each recording
    present: CountArray  # (places, species), 0 or 1
    together: (
        CountArray  # (species, species): places with both; on the diagonal places with the species
    )

    @classmethod
    def of(cls, coordinates: NDArray[np.float32], label: Index) -> "Cooccurrence":
        """Recordings with `coordinates` `(n, 2)`; a place is where these are equal."""
        places, place = np.unique(coordinates, axis=0, return_inverse=True)
        present = np.zeros((len(places), int(label.max(initial=-1)) + 1))
        present[place.ravel(), label] = 1
        return cls(place.ravel().astype(np.intp), present, present.T @ present)

    def clue(self, away: CountArray, near: Neighbourhood, species: int) -> CountArray:
        """How well each species goes with those `near`, `(m, species)`: the mean logarithm of how
        much oftener two are at one place than chance would have it (pointwise mutual information,
        Church and Hanks 1990), smoothed. `away` `(n,)`: distances to the recordings; what was
        recorded at the very place is not counted, it speaks for itself."""
        others = near[0]
        weight = np.where(near[1] > _PRESENT, np.minimum(near[1], 1.0), 0.0)
        here = self.present[np.unique(self.place[away < _HERE_KM])]
        together = self.together[:, others] - here.T @ here[:, others]
        places = np.diag(self.together) - here.sum(axis=0)
        chance = _CALM * (np.outer(places, places[others]) / max(len(self.present), 1) + _RARE)
        likes = np.log((together + chance) / (chance / _CALM + chance))
        likes[others, np.arange(len(others))] = 0.0  # of itself a species says nothing
        found = np.zeros((len(weight), species))
        found[:, : len(likes)] = weight @ likes.T / (weight.sum(axis=1, keepdims=True) + 1)
        return found
