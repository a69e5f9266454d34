"""Observers near a place: who they are, what else they recorded, and whether they upload a species
twice from one outing.

Observers are numbers here, without names. Numpy only; knows no probabilities.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.prior.reranker import CountArray, Neighbourhood

YEAR = 366
# Evidence that a recordist is at the place: kilometres, days, weight of each of their recordings.
_TRACES = (
    (1.0, 0.4, 1.0),
    (20.0, 4.0, 0.03),
    (20.0, 35.0, 1e-3),
    (120.0, 35.0, 1e-4),
    (120.0, np.inf, 1e-6),
)
_SPOT_KM = 1.0
_NEAR_KM = 20.0
_WIDE_KM = 120.0
_DAY = 0.4
_SEASON_DAYS = 35.0
_REACH = 5.0  # standard deviations
_CALM = 4.0  # smoothing: recordings of the mean recordist that are added to each one's
_NOBODY = 1e-12
_VANISHING = 1e-6
_SHARE_MIN = 1e-3
Index = NDArray[np.intp]


def day_kernel(scale: float, days: NDArray[np.int_]) -> CountArray:
    """Weight of each day of the year on `days`, `(366, n)`; the year is circular."""
    apart = np.abs(np.arange(1, YEAR + 1)[:, None] - days[None, :])
    return np.asarray(np.exp(-0.5 * (np.minimum(apart, YEAR - apart) / scale) ** 2))


@dataclass(frozen=True)
class Observers:
    """Recordings as columns `(n,)`, and their outings: one recordist at one place on one day of the
    year."""

    recordist: Index
    label: Index
    day_of_year: Index  # from 1; 0 if unknown: such rows are ignored here
    outing: Index
    # (outings, 2): recordings that could repeat a species of their outing, and those that do
    again: CountArray
    totals: CountArray  # (recordists, 2): the same, summed over a recordist's outings

    @classmethod
    def of(
        cls, places: NDArray[np.float32], recordist: Index, label: Index, day_of_year: Index
    ) -> "Observers":
        """From recordings with `places` `(n, 2)`, exact coordinates."""
        _, spot = np.unique(places, axis=0, return_inverse=True)
        keys = np.stack([spot.ravel(), day_of_year, recordist], axis=1)
        outings, outing = np.unique(keys, axis=0, return_inverse=True)
        outing = outing.ravel().astype(np.intp)
        kinds = np.unique(np.stack([outing, label], axis=1), axis=0)[:, 0]
        rows = np.bincount(outing, minlength=len(outings))
        again = np.stack([rows - 1, rows - np.bincount(kinds, minlength=len(outings))], axis=1)
        again = np.asarray(np.where(outings[:, 1:2] > 0, again, 0), np.float64)
        people = int(recordist.max(initial=-1)) + 1
        totals = np.stack(
            [np.bincount(outings[:, 2], of, people) for of in again.T], axis=1
        ).astype(np.float64)
        return cls(recordist, label, day_of_year, outing, again, totals)

    def near(
        self, away: CountArray, days: NDArray[np.int_], own: Index | None
    ) -> tuple[list[Neighbourhood], CountArray]:
        """Four neighbourhoods of recordings by the recordists of a place, and five clues of each
        day `(m, 5)`.

        `away` `(n,)` are distances from the place, `days` `(m,)` the days asked about, `own` the
        rows `(m,)` at the place to leave out.
        """
        rows = np.flatnonzero((away < _REACH * _WIDE_KM) & (self.day_of_year > 0))
        away = away[rows]
        people, who = np.unique(self.recordist[rows], return_inverse=True)
        mine = None if own is None else np.searchsorted(people, self.recordist[own])
        tables = _OutingTables(who.ravel(), self.label[rows], self.day_of_year[rows], days)
        trust = np.zeros((len(people), len(days)))
        for km, scale, weight in _TRACES:
            trust += weight * tables.by_person(_gauss(away, km), scale, len(people))
        if mine is not None:
            trust[mine, np.arange(len(days))] -= sum(weight for *_, weight in _TRACES)
        trust[trust < _NOBODY] = 0.0
        share = trust / np.maximum(trust.sum(axis=0), _NOBODY)
        share[share < _SHARE_MIN] = 0.0
        first = share.argmax(axis=0) if len(people) else np.zeros(len(days), int)
        only = np.where((np.arange(len(people))[:, None] == first) & (share > 0), 1.0, 0.0)
        spot = _gauss(away, _SPOT_KM)
        wide = _gauss(away, _WIDE_KM)
        hoods = []
        for weights, scale, trusted, at_place in (
            (wide * (1 - spot), np.inf, share, False),
            (wide, _SEASON_DAYS, share, True),
            (_gauss(away, _NEAR_KM), np.inf, share, True),
            (spot, _DAY, only, True),
        ):
            present, counts = tables.by_species(weights, scale, trusted)
            if own is not None and at_place:
                of = trusted[mine, np.arange(len(days))]
                some = np.flatnonzero(of)  # recordists without weight are not counted
                counts[some, np.searchsorted(present, self.label[own[some]])] -= of[some]
                counts[counts < _VANISHING] = 0.0
            hoods.append((present, counts))
        here = rows[spot > 0.5]
        clues = np.zeros((len(days), 5))
        for i in np.flatnonzero(only.any(axis=0)):
            leave = -1 if own is None else int(own[i])
            clues[i] = self._habits(
                here, int(people[first[i]]), int(days[i]), leave, float(share[first[i], i])
            )
        return hoods, clues

    def _habits(self, here: Index, person: int, day: int, leave: int, sure: float) -> list[float]:
        """Clues about the likeliest recordist.

        How often they upload a species twice from other outings, among how many recordings; the
        confidence that it is they; recordings and species of this outing.
        """
        now = here[(self.day_of_year[here] == day) & (self.recordist[here] == person)]
        could, did = self.totals[person] - self.again[np.unique(self.outing[now])].sum(axis=0)
        everyone = self.totals.sum(axis=0)
        rate = (did + _CALM * everyone[1] / max(everyone[0], 1.0)) / (could + _CALM)
        others = now[now != leave]
        kinds = len(np.unique(self.label[others]))
        return [rate, np.log1p(could), sure, len(others), kinds]


@dataclass(frozen=True)
class _OutingTables:
    """Recordings near a place `(n,)`, and the days asked about."""

    who: Index  # from 0 without gaps
    label: Index
    day_of_year: Index
    days: NDArray[np.int_]

    def by_person(self, weights: CountArray, scale: float, people: int) -> CountArray:
        """Weight of each recordist's recordings `(people, days)`."""
        return self._by(self.who, people, weights, scale)

    def by_species(self, weights: CountArray, scale: float, trusted: CountArray) -> Neighbourhood:
        """Weight of each species' recordings, with each recordist's weighted by `trusted` `(people,
        days)`."""
        some = np.flatnonzero((weights > _VANISHING) & (trusted.max(axis=1) > 0)[self.who])
        pairs, pair = np.unique(
            self.label[some] * len(trusted) + self.who[some], return_inverse=True
        )
        rows = _OutingTables(self.who[some], self.label[some], self.day_of_year[some], self.days)
        table = (
            rows._by(pair.ravel(), len(pairs), weights[some], scale)
            * trusted[pairs % max(len(trusted), 1)]
        )
        present, starts = np.unique(pairs // max(len(trusted), 1), return_index=True)
        counts = (
            np.add.reduceat(table, starts, axis=0) if len(pairs) else np.empty((0, len(self.days)))
        )
        return present.astype(np.intp), counts.T.copy()

    def _by(self, group: Index, groups: int, weights: CountArray, scale: float) -> CountArray:
        if np.isinf(scale):
            return np.repeat(np.bincount(group, weights, groups)[:, None], len(self.days), axis=1)
        table = np.bincount(group * YEAR + self.day_of_year - 1, weights, groups * YEAR)
        return np.asarray(table.reshape(groups, YEAR) @ day_kernel(scale, self.days))


def _gauss(away: CountArray, km: float) -> CountArray:
    return np.asarray(np.exp(-0.5 * (away / km) ** 2))
