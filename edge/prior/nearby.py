"""What was recorded near a place at that time of the year: a second opinion on top of a model's
probabilities.

Holds the recordings' places, days, species, birds in the background and recordists (as numbers),
some hundred kilobytes, and how far to trust them at which distance. Also the geographic limit.
Numpy only; knows no model and not how the trust was learnt (trainer/place/neighbours.py,
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
DAYS = (np.inf, 35.0, 12.0, 4.0, 0.4)  # the last one: that day of the year, of any year
LEVELS = tuple((km, days) for km in KM for days in DAYS)  # from wide to narrow
_COMPANY = LEVELS.index((1.0, np.inf))  # whose species tell of the habitat
BACKGROUND = ((120.0, 35.0), (20.0, np.inf), (20.0, 12.0), (1.0, np.inf), (1.0, 0.4))  # km and days
GATE_TERMS = 4
_EARTH_KM = 6371.0
_REACH = 5.0  # deviations; what lies beyond weighs nothing
_JUDGED_KM = (
    60.0  # where nobody recorded so near the judge knows less than the mixture (docs/log.md)
)
_COUNT_MIN = 1e-4  # a neighbourhood that weighs less than this is empty


@dataclass(frozen=True)
class RecordingContext:
    """What else is known of the recordings: who made each, a number, and the birds in the
    background, one a row."""

    recordist: NDArray[np.int32]  # (n,)
    background_row: NDArray[np.int32]  # rising, index of the recording
    background_label: NDArray[np.int16]  # index into the taxonomy


@dataclass(frozen=True)
class Nearby:
    """Recordings as columns `(n,)`. `gates` `(levels, 4)`: the trust in each level, none without
    levels. `judge` takes a second look at the likeliest species; bundles from before it have none.

    Species that nobody recorded within `limit_km` are NaN where others were; infinity is no limit.
    """

    latitude: Values  # degrees WGS84
    longitude: Values
    day_of_year: NDArray[
        np.int16
    ]  # from 1; 0 where it is not known: such rows count for the limit alone
    label: NDArray[np.int16]  # index into the taxonomy
    gates: Values
    limit_km: float
    seen: RecordingContext | None = None
    judge: Reranker | None = None  # wants `seen`

    def __post_init__(self) -> None:
        sizes = {len(self.latitude), len(self.longitude), len(self.day_of_year), len(self.label)}
        if len(sizes) != 1 or self.gates.shape not in ((0, GATE_TERMS), (len(LEVELS), GATE_TERMS)):
            raise ValueError(f"expected columns of one length and gates for {len(LEVELS)} levels")
        if self.judge is not None and (
            self.seen is None or len(self.seen.recordist) != len(self.label)
        ):
            raise ValueError("a judge wants the recordist of every recording")
        if not self.limit_km > 0:
            raise ValueError(f"limit_km: expected more than 0, found {self.limit_km}")

    def apply(
        self, base: Scores, latitude: Values, longitude: Values, day_of_year: Values
    ) -> Scores:
        """Probabilities `(n, species)` at places and days `(n,)`, from a model's own there.

        Level by level, from wide to narrow, a kernel estimate takes its share of what the wider
        ones say: P = λ·n/N + (1 - λ)·P, n being the recordings of each species weighed by distance
        and days and N their sum (interpolated estimation, Jelinek and Mercer 1980, of
        Nadaraya-Watson estimates). λ is `gate_shares`. Where someone recorded nearby the judge
        weighs the outcome again. Far from all recordings the model's probabilities stand.
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
        """What the judge is told of a place and its days. `own`: rows `(days,)` at the place that
        are left out, as they are of `levels`."""
        circles, habits = self._recordists.near(away, days, own)
        hoods = [*levels, *self._background(away, days, own), *circles]
        company = self._company.clue(away[self.day_of_year > 0], levels[_COMPANY], mixed.shape[1])
        return gather(base, mixed, self._common(mixed.shape, own), company, hoods, habits)

    def _background(
        self, away: CountArray, days: NDArray[np.int_], own: Index | None
    ) -> Iterator[Neighbourhood]:
        """For each of BACKGROUND the birds in the background of recordings nearby, without those of
        `own`."""
        assert self.seen is not None, "asked for with a judge"
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
        assert self.seen is not None, "asked for with a judge"
        places = np.stack([self.latitude, self.longitude], axis=1)
        columns = (
            np.asarray(column, np.intp)
            for column in (self.seen.recordist, self.label, self.day_of_year)
        )
        return Observers.of(places, *columns)

    def _common(self, shape: tuple[int, ...], own: Index | None) -> CountArray:
        """Each species' share of all recordings `(days, species)`."""
        counts = np.bincount(self.label[self.day_of_year > 0], minlength=shape[1]).astype(
            np.float64
        )
        common = np.tile(counts / max(counts.sum(), 1.0), (shape[0], 1))
        if own is not None:
            common[np.arange(len(own)), self.label[own]] -= 1 / counts.sum()
        return common

    def mix(self, base: Scores, levels: list[Neighbourhood]) -> Scores:
        """The mixture of a model's probabilities and the levels, without the judge."""
        mixed = base.astype(np.float64)
        for gate, (present, counts) in zip(self.gates, levels, strict=True):
            total = counts.sum(axis=1)
            share = gate_shares(gate, total, (counts**2).sum(axis=1))[:, None]
            mixed *= 1 - share
            mixed[:, present] += share * counts / np.maximum(total, _COUNT_MIN)[:, None]
        return mixed.astype(np.float32)

    def _beyond(self, away: CountArray, species: int) -> NDArray[np.intp]:
        """Species that nobody recorded within the limit; none where nobody recorded any: there
        nothing is known."""
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
        """The file in a bundle's prior folder, or None if it has none. Raises BundleError naming
        it."""
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
    """What the trust in a level depends on, `(n, 4)`: how much was recorded, of how few species,
    and both together."""
    purity = squares / np.maximum(total, _COUNT_MIN) ** 2
    much = np.log(np.maximum(total, _COUNT_MIN))
    return np.stack([np.ones_like(much), much, purity, purity * much], axis=-1)


def gate_shares(gate: Values, total: CountArray, squares: CountArray) -> CountArray:
    """The share λ `(n,)` of a level with weights `total` and sums of squared weights: logistic; 0
    if it is empty."""
    share = 1.0 / (1.0 + np.exp(-gate_inputs(total, squares) @ gate.astype(np.float64)))
    return np.where(total > _COUNT_MIN, share, 0.0)
