"""Co-occurrence of species: which are recorded at the same places, more or less often than by
chance.

With it, a place's few recordings indicate its habitat, and species that nobody recorded there.
Numpy only; knows no probabilities.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.prior.reranker import CountArray, Neighbourhood

_CALM = 0.5  # smoothing: fraction of the places expected by chance that is added to the count
_RARE = 0.02  # smoothing: added to the expected places of any two species
_PRESENT = 0.05  # distance-weighted recordings from which a species belongs to the place
_HERE_KM = 0.005  # coordinates are rounded to a metre
Index = NDArray[np.intp]


@dataclass(frozen=True)
class Cooccurrence:
    """Places of the recordings, and the species of each place."""

    place: Index  # (n,), number of each recording's place
    present: CountArray  # (places, species), 0 or 1
    # (species, species): places with both; on the diagonal, places with the species
    together: CountArray

    @classmethod
    def of(cls, coordinates: NDArray[np.float32], label: Index) -> "Cooccurrence":
        """From recordings with `coordinates` `(n, 2)` and species `label` `(n,)`; equal coordinates
        are one place."""
        places, place = np.unique(coordinates, axis=0, return_inverse=True)
        present = np.zeros((len(places), int(label.max(initial=-1)) + 1))
        present[place.ravel(), label] = 1
        return cls(place.ravel().astype(np.intp), present, present.T @ present)

    def clue(self, away: CountArray, near: Neighbourhood, species: int) -> CountArray:
        """Affinity of each species to those `near`, `(m, species)`.

        It is the mean pointwise mutual information (Church and Hanks 1990), smoothed: the logarithm
        of how much more often two species share a place than by chance. `away` `(n,)` are the
        distances to the recordings. Recordings at the very place are left out, since they are
        counted elsewhere.
        """
        others = near[0]
        weight = np.where(near[1] > _PRESENT, np.minimum(near[1], 1.0), 0.0)
        here = self.present[np.unique(self.place[away < _HERE_KM])]
        together = self.together[:, others] - here.T @ here[:, others]
        places = np.diag(self.together) - here.sum(axis=0)
        chance = _CALM * (np.outer(places, places[others]) / max(len(self.present), 1) + _RARE)
        likes = np.log((together + chance) / (chance / _CALM + chance))
        likes[others, np.arange(len(others))] = 0.0  # a species is no evidence for itself
        found = np.zeros((len(weight), species))
        found[:, : len(likes)] = weight @ likes.T / (weight.sum(axis=1, keepdims=True) + 1)
        return found
