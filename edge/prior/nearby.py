"""Recordings near a place at the same time of the year, which correct a model's probabilities.

Holds the recordings' places, days, species, background birds and recordists (as numbers), some
hundred kilobytes, and the weight to give them at each distance. Also applies the geographic limit.
Numpy only; knows no model and not how the weights were learnt (trainer/place/neighbours.py,
trainer/place/reranker.py).
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.contract.arrays import ArraysError, read_arrays
from edge.contract.blend import Scores
from edge.contract.errors import BundleError
from edge.prior.cooccurrence import Cooccurrence
from edge.prior.observers import YEAR, Index, Observers, day_kernel
from edge.prior.place import Values
from edge.prior.reranker import Clues, CountArray, Neighbourhood, Reranker, gather

FILE = "nearby.npz"
KM = (1200.0, 300.0, 80.0, 20.0, 5.0, 1.0, 0.1)
DAYS = (np.inf, 35.0, 12.0, 4.0, 0.4)  # the last: the same day of the year, in any year
LEVELS = tuple((km, days) for km in KM for days in DAYS)  # from wide to narrow
_COMPANY = LEVELS.index((1.0, np.inf))  # the level for co-occurrence
BACKGROUND = ((120.0, 35.0), (20.0, np.inf), (20.0, 12.0), (1.0, np.inf), (1.0, 0.4))  # km, days
GATE_TERMS = 4
_EARTH_KM = 6371.0
_REACH = 5.0  # standard deviations; recordings farther away have no weight
# Without recordings this near, the re-ranker is worse than the mixture (docs/log.md).
_JUDGED_KM = 60.0
_COUNT_MIN = 1e-4  # a neighbourhood with less weight counts as empty


@dataclass(frozen=True)
class RecordingContext:
    """Further facts about the recordings: the recordist of each, as a number, and the background
    birds, one per row."""

    recordist: NDArray[np.int32]  # (n,)
    background_row: NDArray[np.int32]  # index of the recording, ascending
    background_label: NDArray[np.int16]  # index into the taxonomy


@dataclass(frozen=True)
class Nearby:
    """Recordings as columns `(n,)`.

    `gates` `(levels, 4)` are the weights of the levels, or empty. `judge` re-ranks the likeliest
    species; older bundles have none.

    Where there are recordings within `limit_km`, species that none of them has are NaN; infinity
    means no limit.
    """

    latitude: Values  # degrees WGS84
    longitude: Values
    # from 1; 0 if unknown: such rows count only for the limit
    day_of_year: NDArray[np.int16]
    label: NDArray[np.int16]  # index into the taxonomy
    gates: Values
    limit_km: float
    seen: RecordingContext | None = None
    judge: Reranker | None = None  # requires `seen`

    def __post_init__(self) -> None:
        sizes = {len(self.latitude), len(self.longitude), len(self.day_of_year), len(self.label)}
        if len(sizes) != 1 or self.gates.shape not in ((0, GATE_TERMS), (len(LEVELS), GATE_TERMS)):
            raise ValueError(f"expected columns of one length and gates for {len(LEVELS)} levels")
        if self.judge is not None and (
            self.seen is None or len(self.seen.recordist) != len(self.label)
        ):
            raise ValueError("a re-ranker requires the recordist of every recording")
        if not self.limit_km > 0:
            raise ValueError(f"limit_km: expected more than 0, found {self.limit_km}")

    def apply(
        self, base: Scores, latitude: Values, longitude: Values, day_of_year: Values
    ) -> Scores:
        """Probabilities `(n, species)` at places and days `(n,)`, from a model's own there.

        Level by level, from wide to narrow, a kernel estimate takes its share of the wider ones'
        result: P = λ·n/N + (1 - λ)·P, where n are the recordings of each species weighted by
        distance and days, and N their sum (interpolated estimation, Jelinek and Mercer 1980, of
        Nadaraya-Watson estimates). λ is `gate_shares`. If there are recordings nearby, the
        re-ranker weighs the result again. Far from all recordings the model's probabilities remain.
        """
        found = np.array(base, np.float32)
        places, where = np.unique(
            np.stack([latitude, longitude], axis=1), axis=0, return_inverse=True
        )
        order = np.argsort(where.ravel(), kind="stable")
        edges = np.searchsorted(where.ravel()[order], np.arange(len(places) + 1))
        for place, (lat, lon) in enumerate(places):
            rows = order[edges[place] : edges[place + 1]]
            away = self.away_km(float(lat), float(lon))
            if len(self.gates):
                found[rows] = self._mixed(found[rows], away, np.asarray(day_of_year[rows], int))
            found[np.ix_(rows, self._beyond(away, found.shape[1]))] = np.nan
        return found

    def _mixed(self, base: Scores, away: CountArray, days: NDArray[np.int_]) -> Scores:
        levels = list(self.counts(away, days))
        mixed = self.mix(base, levels)
        if self.judge is None or not (away[self.day_of_year > 0] < _JUDGED_KM).any():
            return mixed
        return self.judge.weigh(mixed, self.clues(base, mixed, levels, away, days))

    def clues(
        self,
        base: Scores,
        mixed: Scores,
        levels: list[Neighbourhood],
        away: CountArray,
        days: NDArray[np.int_],
        own: Index | None = None,
    ) -> Clues:
        """Input of the re-ranker for a place and its days.

        `own`: rows `(days,)` at the place that are left out, as they are of `levels`.
        """
        circles, habits = self._recordists.near(away, days, own)
        hoods = [*levels, *self._background(away, days, own), *circles]
        company = self._company.clue(away[self.day_of_year > 0], levels[_COMPANY], mixed.shape[1])
        return gather(base, mixed, self._common(mixed.shape, own), company, hoods, habits)

    def _background(
        self, away: CountArray, days: NDArray[np.int_], own: Index | None
    ) -> Iterator[Neighbourhood]:
        """For each of BACKGROUND, the background birds of recordings nearby, without those of
        `own`."""
        assert self.seen is not None, "used with a re-ranker only"
        row = self.seen.background_row
        label = self.seen.background_label
        away = np.where(self.day_of_year > 0, away, np.inf)[row]
        for km, scale in BACKGROUND:
            near = np.flatnonzero(away < _REACH * km)
            present, local = np.unique(label[near], return_inverse=True)
            cells = local * YEAR + self.day_of_year[row[near]] - 1
            table = np.bincount(cells, np.exp(-0.5 * (away[near] / km) ** 2), len(present) * YEAR)
            counts = (table.reshape(len(present), YEAR) @ day_kernel(scale, days)).T
            if own is not None:
                edges = np.searchsorted(row, np.stack([own, own + 1]))
                for i, (first, end) in enumerate(edges.T):
                    counts[i, np.searchsorted(present, label[first:end])] -= 1
                counts = np.where(counts < _COUNT_MIN, 0.0, counts)
            yield present.astype(np.intp), counts

    @cached_property
    def _company(self) -> Cooccurrence:
        known = self.day_of_year > 0
        places = np.stack([self.latitude, self.longitude], axis=1)
        return Cooccurrence.of(places[known], self.label[known].astype(np.intp))

    @cached_property
    def _recordists(self) -> Observers:
        assert self.seen is not None, "used with a re-ranker only"
        places = np.stack([self.latitude, self.longitude], axis=1)
        columns = (
            np.asarray(column, np.intp)
            for column in (self.seen.recordist, self.label, self.day_of_year)
        )
        return Observers.of(places, *columns)

    def _common(self, shape: tuple[int, ...], own: Index | None) -> CountArray:
        """Each species' fraction of all recordings `(days, species)`."""
        counts = np.bincount(self.label[self.day_of_year > 0], minlength=shape[1]).astype(
            np.float64
        )
        common = np.tile(counts / max(counts.sum(), 1.0), (shape[0], 1))
        if own is not None:
            common[np.arange(len(own)), self.label[own]] -= 1 / counts.sum()
        return common

    def mix(self, base: Scores, levels: list[Neighbourhood]) -> Scores:
        """The mixture of a model's probabilities and the levels, without the re-ranker."""
        mixed = base.astype(np.float64)
        for gate, (present, counts) in zip(self.gates, levels, strict=True):
            total = counts.sum(axis=1)
            share = gate_shares(gate, total, (counts**2).sum(axis=1))[:, None]
            mixed *= 1 - share
            mixed[:, present] += share * counts / np.maximum(total, _COUNT_MIN)[:, None]
        return mixed.astype(np.float32)

    def _beyond(self, away: CountArray, species: int) -> NDArray[np.intp]:
        """Species without a recording within the limit; none if there are no recordings at all,
        since nothing is known then."""
        if not np.isfinite(self.limit_km):
            return np.empty(0, np.intp)
        here = np.unique(self.label[away <= self.limit_km])
        return np.setdiff1d(np.arange(species), here) if len(here) else np.empty(0, np.intp)

    def away_km(self, latitude: float, longitude: float) -> CountArray:
        """Great-circle distances `(n,)` to the recordings."""
        chord = np.linalg.norm(
            unit_vectors(self.latitude, self.longitude) - unit_vectors(latitude, longitude), axis=-1
        )
        return np.asarray(2 * _EARTH_KM * np.arcsin(np.minimum(chord / 2, 1.0)))

    def counts(
        self, away: CountArray, days: NDArray[np.int_]
    ) -> Iterator[tuple[NDArray[np.intp], CountArray]]:
        """For each level the species nearby and their weights `(days, those species)`, by Gaussian
        kernels."""
        known = self.day_of_year > 0
        for km in KM:
            near = np.flatnonzero((away < _REACH * km) & known)
            weight = np.exp(-0.5 * (away[near] / km) ** 2)
            present, local = np.unique(self.label[near], return_inverse=True)
            cells = local * YEAR + self.day_of_year[near] - 1
            table = np.bincount(cells, weight, len(present) * YEAR).reshape(len(present), YEAR)
            for scale in DAYS:
                yield present.astype(np.intp), (table @ day_kernel(scale, days)).T

    def write(self, path: Path) -> None:
        judged = {}
        if self.judge is not None and self.seen is not None:
            judged = self.judge.arrays() | asdict(self.seen)
        np.savez_compressed(
            path,
            latitude=self.latitude,
            longitude=self.longitude,
            day_of_year=self.day_of_year,
            label=self.label,
            gates=self.gates,
            limit_km=np.float64(self.limit_km),
            **judged,
        )

    @classmethod
    def read(cls, folder: Path) -> "Nearby | None":
        """Read the file in a bundle's prior folder; None if there is none. Raises BundleError
        naming it."""
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            file = read_arrays(path)
            columns = {
                name: file[name]
                for name in ("latitude", "longitude", "day_of_year", "label", "gates")
            }
            seen = judge = None
            if "recordist" in file:
                seen = RecordingContext(*(file[field.name] for field in fields(RecordingContext)))
                judge = Reranker.of(file)
            return cls(**columns, limit_km=float(file["limit_km"]), seen=seen, judge=judge)
        except (ArraysError, ValueError, TypeError, KeyError) as error:
            advice = "if an older version made it, run fit-metadata and export again"
            raise BundleError(
                f"{path}: not the recordings of a metadata model: {error}; {advice}"
            ) from error


def unit_vectors(latitude: Values | float, longitude: Values | float) -> CountArray:
    """Places in degrees `(...)` as points on the unit sphere `(..., 3)`."""
    north = np.radians(np.asarray(latitude, np.float64))
    east = np.radians(np.asarray(longitude, np.float64))
    return np.stack(
        [np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)], axis=-1
    )


def gate_inputs(total: CountArray, squares: CountArray) -> CountArray:
    """Inputs of a level's weight `(n, 4)`: constant, amount recorded, concentration on few species,
    and their product."""
    purity = squares / np.maximum(total, _COUNT_MIN) ** 2
    much = np.log(np.maximum(total, _COUNT_MIN))
    return np.stack([np.ones_like(much), much, purity, purity * much], axis=-1)


def gate_shares(gate: Values, total: CountArray, squares: CountArray) -> CountArray:
    """The weight λ `(n,)` of a level, from sums of weights `total` and of squared weights:
    logistic; 0 if it is empty."""
    share = 1.0 / (1.0 + np.exp(-gate_inputs(total, squares) @ gate.astype(np.float64)))
    return np.where(total > _COUNT_MIN, share, 0.0)
