"""Scores a run's metadata model on another table: recordings that were held out.

Computes the prior as a station would. Reads the official columns; knows no sound and nothing of how
the model was fitted.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from edge.contract.blend import Scores
from edge.contract.errors import CorpusError
from edge.prior.place import FeatureSpec
from trainer.corpus.recordings import COLUMNS
from trainer.corpus.tables import Problems, day_of, place_of, read_table
from trainer.files import read_json
from trainer.place.metadata import figures_table, place_figures
from trainer.place.place_prior import place_scores
from trainer.run import Run


@dataclass(frozen=True)
class PlaceScore:
    """Figures of the model and, for comparison, of the species' frequencies alone. `left_out`
    counts rows by reason; rows of species that the model was not trained on are used and count as
    missed."""

    rows: int
    used: int
    left_out: dict[str, int]
    unknown_species: int  # of the rows used
    model: dict[str, float]
    baseline_majority: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """As JSON: the model's figures at the top."""
        counts = {"rows": self.rows, "used": self.used, "left_out": self.left_out}
        rest = {
            "unknown_species": self.unknown_species,
            "baseline_majority": self.baseline_majority,
        }
        return counts | rest | self.model

    def table(self, name: str) -> Table:
        """The figures as a table."""
        why = "".join(f", {count:,} {reason}" for reason, count in self.left_out.items())
        title = (
            f"{name}: {self.used:,} of {self.rows:,} recordings{why}; {self.unknown_species:,} of "
            "unknown species"
        )
        columns = {"model": self.model, "commonest species": self.baseline_majority}
        return figures_table(columns, title)


def score_places(run: Run, table: Path) -> PlaceScore:
    """Score the rows of a CSV file with the 14 official columns. Raises CorpusError if the run has
    no metadata model, or if the table cannot be read or has no row with place, date and species."""
    folder = run.metadata()
    if folder is None:
        raise CorpusError(
            f"{run.folder}: has no metadata model; run: python -m trainer fit-metadata"
        )
    rows = 0
    problems = Problems()
    found: list[tuple[str, float, float, int]] = []
    # Problems with text encoding do not matter here.
    for line, row in read_table(table, COLUMNS, Problems()):
        rows += 1
        where = f"line {line}"
        if row is None:
            problems.add("row malformed", where)
            continue
        code = row["primary_label"].strip()
        latitude, longitude = place_of(row, where, problems)
        if not code:
            problems.add("row without species", where)
        elif latitude is not None and longitude is not None:
            date = day_of(row["date"], where, problems)
            if date is not None:
                found.append((code, latitude, longitude, date.timetuple().tm_yday))
    if not found:
        raise CorpusError(f"{table}: none of {rows} rows has species, place and date")
    known = {
        code: run.taxonomy.index(code)
        for code in FeatureSpec.read(folder / "features.json").classes
    }
    truth = np.array([known.get(code, -1) for code, *_ in found], np.int64)
    columns = np.array([place for _, *place in found], np.float32).T
    scores = place_scores(folder, run.taxonomy, *columns)
    return PlaceScore(
        rows=rows,
        used=len(found),
        left_out=problems.counts,
        unknown_species=int((truth < 0).sum()),
        model=place_figures(truth, scores),
        baseline_majority=place_figures(truth, _frequencies(run, folder, len(found))),
    )


def _frequencies(run: Run, folder: Path, rows: int) -> Scores:
    """Frequencies of the species among the training recordings of the model, the same for every
    row."""
    path = folder / "metrics.json"
    counts = read_json(path).get("training_counts")
    if not isinstance(counts, dict):
        raise CorpusError(f"{path}: has no training_counts; fit the metadata model again")
    frequencies = np.array([counts.get(code, 0) for code in run.taxonomy.codes], np.float64)
    return np.broadcast_to(
        (frequencies / frequencies.sum()).astype(np.float32), (rows, len(run.taxonomy))
    )
