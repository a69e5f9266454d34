"""Recordings with a place and a day, as columns: the training data of both kinds of metadata model.
Knows no model."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.contract.taxonomy import Taxonomy
from edge.prior.nearby import RecordingContext
from edge.prior.place import CATEGORY, NUMERIC, FeatureSpec, Values
from trainer.corpus.recordings import Corpus
from trainer.place.rasters import Rasters

# With fewer recordings with place and date, nothing can be learnt.
ROWS_MIN = 50
SPECIES_MIN = 2


@dataclass(frozen=True)
class Places:
    """Recordings with a place and a date, as columns `(n,)`, and the numbers of those without."""

    latitude: Values
    longitude: Values
    day_of_year: Values
    label: NDArray[np.int64]  # index into codes
    codes: tuple[str, ...]  # species that occur, in the order of the taxonomy
    columns: NDArray[np.int64]  # their indices in the taxonomy
    without_place: int
    without_date: int  # of those with a place
    undated_latitude: Values  # of recordings without a date
    undated_longitude: Values
    undated_label: NDArray[np.int64]  # index into the taxonomy
    recordist: NDArray[np.int32]  # a number for each author
    # Rows of recordings with species in the background, ascending, once for each of these species.
    background_row: NDArray[np.int32]
    background_label: NDArray[np.int16]  # index into the taxonomy

    @classmethod
    def of(cls, corpus: Corpus, taxonomy: Taxonomy) -> "Places":
        known = [r for r in corpus.recordings if r.primary_label in taxonomy]
        placed = [r for r in known if r.latitude is not None and r.longitude is not None]
        dated = [(r, r.date) for r in placed if r.date is not None]
        undated = [r for r in placed if r.date is None]
        present = {r.primary_label for r, _ in dated}
        codes = tuple(code for code in taxonomy.codes if code in present)
        index = {code: i for i, code in enumerate(codes)}
        return cls(
            latitude=np.array([r.latitude for r, _ in dated], np.float32),
            longitude=np.array([r.longitude for r, _ in dated], np.float32),
            day_of_year=np.array([date.timetuple().tm_yday for _, date in dated], np.float32),
            label=np.array([index[r.primary_label] for r, _ in dated], np.int64),
            codes=codes,
            columns=np.array([taxonomy.index(code) for code in codes], np.int64),
            without_place=len(known) - len(placed),
            without_date=len(undated),
            undated_latitude=np.array([r.latitude for r in undated], np.float32),
            undated_longitude=np.array([r.longitude for r in undated], np.float32),
            undated_label=np.array([taxonomy.index(r.primary_label) for r in undated], np.int64),
            recordist=_numbered([r.author for r, _ in dated]),
            background_row=np.array(
                [i for i, (r, _) in enumerate(dated) for _ in r.secondary_labels], np.int32
            ),
            background_label=np.array(
                [taxonomy.index(c) for r, _ in dated for c in r.secondary_labels], np.int16
            ),
        )

    @property
    def species(self) -> NDArray[np.int64]:
        """Labels as indices into the taxonomy."""
        return self.columns[self.label]

    def seen(self, rows: NDArray[np.int64], more: int) -> RecordingContext:
        """Observers and background species of the recordings `rows` (ascending), followed by
        `more` recordings of which nothing is known."""
        kept = np.isin(self.background_row, rows)
        return RecordingContext(
            np.append(self.recordist[rows], np.zeros(more, np.int32)),
            np.searchsorted(rows, self.background_row[kept]).astype(np.int32),
            self.background_label[kept],
        )

    def too_few(self) -> str | None:
        """The reason why no model can be trained on them, or None."""
        if len(self.label) >= ROWS_MIN and len(self.codes) >= SPECIES_MIN:
            where = np.stack([self.latitude, self.longitude, self.day_of_year])
            if np.ptp(where, axis=1).any():
                return None
            return "all recordings are of one place and day, which do not distinguish species"
        return (
            f"expected at least {ROWS_MIN} recordings of {SPECIES_MIN} species with place and "
            f"date, found {len(self.label)} of {len(self.codes)} ({self.without_place} have no "
            f"place, {self.without_date} a place but no date)"
        )


def _numbered(names: list[str]) -> NDArray[np.int32]:
    return np.unique(np.array(names, np.str_), return_inverse=True)[1].ravel().astype(np.int32)


def split(
    label: NDArray[np.int64], share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Random rows for training and validation; a species with all its rows drawn for validation
    keeps one for training."""
    order = np.random.default_rng(seed).permutation(len(label))
    count = max(1, round(share * len(label)))
    valid = order[:count]
    train = order[count:]
    lost = np.setdiff1d(label[valid], label[train])
    back = np.array([valid[np.flatnonzero(label[valid] == code)[0]] for code in lost], np.int64)
    return np.sort(np.append(train, back)), np.sort(np.setdiff1d(valid, back))


def feature_spec(
    columns: dict[str, Values], train: NDArray[np.int64], codes: tuple[str, ...]
) -> FeatureSpec:
    """Mean and deviation of the numeric columns over the training rows, and the categories that
    occur there."""
    mean = []
    std = []
    for name in NUMERIC:
        values = np.asarray(columns[name], np.float32)[train]
        values = values[~np.isnan(values)]
        mean.append(float(values.mean()) if len(values) else 0.0)
        deviation = float(values.std()) if len(values) else 0.0
        std.append(deviation if deviation > 0 else 1.0)
    kinds = np.asarray(columns[CATEGORY], np.float32)[train]
    categories = tuple(int(value) for value in np.unique(kinds[~np.isnan(kinds)]))
    return FeatureSpec(tuple(mean), tuple(std), categories, codes)


def check_rasters(corpus: Corpus, rasters: Path) -> None:
    """Raise CorpusError if a model can be trained on the recordings, but not with these layers."""
    places = Places.of(corpus, corpus.taxonomy)
    layers = Rasters.open(rasters)
    if not places.too_few():
        layers.cover(layers.grid(), places.latitude, places.longitude)
