"""What was recorded near a place at that time of the year: a second opinion on top of a model's probabilities.

Holds the recordings' places, days and species, some hundred kilobytes, and how far to trust them at which distance.
Also the geographic limit. Numpy only; knows no model and not how the trust was learnt (trainer/neighbours.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.contract.blend import Scores
from edge.contract.errors import BundleError
from edge.contract.place import Values

FILE = "nearby.npz"
KM = (1200.0, 300.0, 80.0, 20.0, 5.0, 1.0, 0.1)
DAYS = (np.inf, 35.0, 12.0, 4.0, 0.4)  # the last one: that day of the year, of any year
LEVELS = tuple((km, days) for km in KM for days in DAYS)  # from wide to narrow
GATE_TERMS = 4
_YEAR = 366
_EARTH_KM = 6371.0
_REACH = 5.0  # deviations; what lies beyond weighs nothing
_COUNT_MIN = 1e-4  # a neighbourhood that weighs less than this is empty
Counts = NDArray[np.float64]


@dataclass(frozen=True)
class Nearby:
    """Recordings as columns `(n,)`. `gates` `(levels, 4)`: the trust in each level, none without levels.

    Species that nobody recorded within `limit_km` are NaN where others were; infinity is no limit.
    """

    latitude: Values  # degrees WGS84
    longitude: Values
    day_of_year: NDArray[np.int16]  # from 1; 0 where it is not known: such rows count for the limit alone
    label: NDArray[np.int16]  # index into the taxonomy
    gates: Values
    limit_km: float

    def __post_init__(self) -> None:
        sizes = {len(self.latitude), len(self.longitude), len(self.day_of_year), len(self.label)}
        if len(sizes) != 1 or self.gates.shape not in ((0, GATE_TERMS), (len(LEVELS), GATE_TERMS)):
            raise ValueError(f"columns of one length and gates for {len(LEVELS)} levels wanted")
        if not self.limit_km > 0:
            raise ValueError(f"limit_km: above 0 wanted; got {self.limit_km}")

    def apply(self, base: Scores, latitude: Values, longitude: Values, day_of_year: Values) -> Scores:
        """Probabilities `(n, species)` at places and days `(n,)`, from a model's own there.

        Level by level, from wide to narrow, a kernel estimate takes its share of what the wider ones say:
        P = λ·n/N + (1 - λ)·P, n being the recordings of each species weighed by distance and days and N their sum
        (interpolated estimation, Jelinek and Mercer 1980, of Nadaraya-Watson estimates). λ is `gate_shares`. Far from
        all recordings the model's probabilities stand.
        """
        found = np.array(base, np.float32)
        places, where = np.unique(np.stack([latitude, longitude], axis=1), axis=0, return_inverse=True)
        order = np.argsort(where.ravel(), kind="stable")
        edges = np.searchsorted(where.ravel()[order], np.arange(len(places) + 1))
        for place, (lat, lon) in enumerate(places):
            rows = order[edges[place] : edges[place + 1]]
            away = self.away_km(float(lat), float(lon))
            if len(self.gates):
                found[rows] = self._mixed(found[rows], away, np.asarray(day_of_year[rows], int))
            found[np.ix_(rows, self._beyond(away, found.shape[1]))] = np.nan
        return found

    def _mixed(self, base: Scores, away: Counts, days: NDArray[np.int_]) -> Scores:
        mixed = base.astype(np.float64)
        for gate, (present, counts) in zip(self.gates, self.counts(away, days), strict=True):
            total = counts.sum(axis=1)
            share = gate_shares(gate, total, (counts**2).sum(axis=1))[:, None]
            mixed *= 1 - share
            mixed[:, present] += share * counts / np.maximum(total, _COUNT_MIN)[:, None]
        return mixed.astype(np.float32)

    def _beyond(self, away: Counts, species: int) -> NDArray[np.intp]:
        """Species that nobody recorded within the limit; none where nobody recorded any: there nothing is known."""
        if not np.isfinite(self.limit_km):
            return np.empty(0, np.intp)
        here = np.unique(self.label[away <= self.limit_km])
        return np.setdiff1d(np.arange(species), here) if len(here) else np.empty(0, np.intp)

    def away_km(self, latitude: float, longitude: float) -> Counts:
        """Great-circle distances `(n,)` to the recordings."""
        chord = np.linalg.norm(unit_vectors(self.latitude, self.longitude) - unit_vectors(latitude, longitude), axis=-1)
        return np.asarray(2 * _EARTH_KM * np.arcsin(np.minimum(chord / 2, 1.0)))

    def counts(self, away: Counts, days: NDArray[np.int_]) -> Iterator[tuple[NDArray[np.intp], Counts]]:
        """For each level the species nearby and their weights `(days, those species)`, by Gaussian kernels."""
        known = self.day_of_year > 0
        for km in KM:
            near = np.flatnonzero((away < _REACH * km) & known)
            weight = np.exp(-0.5 * (away[near] / km) ** 2)
            present, local = np.unique(self.label[near], return_inverse=True)
            cells = local * _YEAR + self.day_of_year[near] - 1
            table = np.bincount(cells, weight, len(present) * _YEAR).reshape(len(present), _YEAR)
            for scale in DAYS:
                yield present.astype(np.intp), (table @ _day_kernel(scale, days)).T

    def write(self, path: Path) -> None:
        np.savez_compressed(
            path,
            latitude=self.latitude,
            longitude=self.longitude,
            day_of_year=self.day_of_year,
            label=self.label,
            gates=self.gates,
            limit_km=np.float64(self.limit_km),
        )

    @classmethod
    def read(cls, folder: Path) -> "Nearby | None":
        """The file in a bundle's prior folder, or None if it has none. Raises BundleError naming it."""
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                columns = {name: file[name] for name in ("latitude", "longitude", "day_of_year", "label", "gates")}
                return cls(**columns, limit_km=float(file["limit_km"]))
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise BundleError(f"{path}: not the recordings of a metadata model: {error}") from error


def unit_vectors(latitude: Values | float, longitude: Values | float) -> Counts:
    """Places in degrees `(...)` as points on the unit sphere `(..., 3)`."""
    north, east = np.radians(np.asarray(latitude, np.float64)), np.radians(np.asarray(longitude, np.float64))
    return np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)], axis=-1)


def gate_inputs(total: Counts, squares: Counts) -> Counts:
    """What the trust in a level depends on, `(n, 4)`: how much was recorded, of how few species, and both together."""
    purity = squares / np.maximum(total, _COUNT_MIN) ** 2
    much = np.log(np.maximum(total, _COUNT_MIN))
    return np.stack([np.ones_like(much), much, purity, purity * much], axis=-1)


def gate_shares(gate: Values, total: Counts, squares: Counts) -> Counts:
    """The share λ `(n,)` of a level with weights `total` and sums of squared weights: logistic; 0 if it is empty."""
    share = 1.0 / (1.0 + np.exp(-gate_inputs(total, squares) @ gate.astype(np.float64)))
    return np.where(total > _COUNT_MIN, share, 0.0)


def _day_kernel(scale: float, days: NDArray[np.int_]) -> Counts:
    """Weight of each day of the year on `days` `(366, n)`; the year is a circle."""
    apart = np.abs(np.arange(1, _YEAR + 1)[:, None] - days[None, :])
    return np.asarray(np.exp(-0.5 * (np.minimum(apart, _YEAR - apart) / scale) ** 2))
