"""Scores predictions of any program against labelled rows, by the score of the competition and its
parts. Knows no sound."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from edge.contract.errors import UsageError
from edge.contract.labels import read_labels
from edge.contract.metrics import NOCALL_ROW, Labels, RowScore, score_rows


@dataclass(frozen=True)
class PredictionScore:
    """The row-wise score, and further figures of the predictions. NaN for a division by zero."""

    score: RowScore
    recordings: int
    call_rows: int
    precision_call_rows: float  # over all species predicted in rows with calls
    recall_call_rows: float
    rows_not_predicted: int  # they count as nocall
    rows_not_labelled: int  # their predictions are ignored

    def as_dict(self) -> dict[str, float | int | None]:
        """A flat dict for JSON, with null for undefined figures."""
        flat = asdict(self)
        values: dict[str, float | int] = flat.pop("score") | flat
        return {name: value if math.isfinite(value) else None for name, value in values.items()}

    def table(self) -> Table:
        """A table of the score with its interval, and of its parts."""
        score = self.score
        table = Table(
            "what", "value", "95 % over recordings", title="row-wise F1", title_justify="left"
        )
        table.columns[1].justify = "right"
        interval = (
            f"{score.f1_low:.4f} to {score.f1_high:.4f}"
            if self.recordings > 1
            else "one recording: none"
        )
        table.add_row("[bold]F1[/bold]", f"[bold]{score.f1:.4f}[/bold]", interval)
        for name, value in (
            ("F1 of 'no bird' throughout", score.f1_all_nocall),
            ("F1 of rows with birds", score.f1_call_rows),
            ("F1 of rows without", score.f1_nocall_rows),
            ("precision in rows with birds", self.precision_call_rows),
            ("recall in rows with birds", self.recall_call_rows),
        ):
            table.add_row(name, f"{value:.4f}" if math.isfinite(value) else "none", "")
        table.add_section()
        counts = {
            "recordings": self.recordings,
            "rows": score.rows,
            "rows with birds": self.call_rows,
            "rows not predicted, taken as 'no bird'": self.rows_not_predicted,
            "predicted rows without labels": self.rows_not_labelled,
        }
        for name, count in counts.items():
            table.add_row(name, f"{count:,}", "")
        return table


def score_predictions(predictions: Path, labels: Path) -> PredictionScore:
    """Score a table of predictions against a table of labels. Raises UsageError if a table is
    invalid, or if no prediction is for a labelled row."""
    expected = read_labels(labels)
    found = read_labels(predictions, predicted=True).truth
    _check_capitals(predictions, expected.truth, found)
    known = expected.truth.keys() & found.keys()
    if not known:
        mine = next(iter(found))
        theirs = next(iter(expected.truth))
        raise UsageError(
            f"{predictions}: no row of {labels}: expected row ids such as {theirs!r}, found such "
            f"as {mine!r}"
        )
    precision, recall = _precision_recall(expected.truth, found)
    return PredictionScore(
        score=score_rows(expected.truth, {row: found[row] for row in known}, expected.recording),
        recordings=len(set(expected.recording.values())),
        call_rows=sum(heard != NOCALL_ROW for heard in expected.truth.values()),
        precision_call_rows=precision,
        recall_call_rows=recall,
        rows_not_predicted=len(expected.truth) - len(known),
        rows_not_labelled=len(found) - len(known),
    )


def _check_capitals(path: Path, truth: Mapping[str, Labels], found: Mapping[str, Labels]) -> None:
    """Raise UsageError if a label and a prediction differ only in case: every such row would be a
    miss."""
    labels = {label.lower(): label for heard in truth.values() for label in heard}
    for row, reported in found.items():
        for label in sorted(reported):
            known = labels.get(label.lower(), label)
            if known != label:
                raise UsageError(
                    f"{path}: row id {row!r}: expected {known!r} as in the labels, found {label!r}"
                )


def _precision_recall(
    truth: Mapping[str, Labels], found: Mapping[str, Labels]
) -> tuple[float, float]:
    """Precision and recall over all (row, species) pairs of the rows with calls."""
    hits = named = there = 0
    for row, heard in truth.items():
        if heard != NOCALL_ROW:
            reported = found.get(row, NOCALL_ROW) - NOCALL_ROW
            hits += len(heard & reported)
            named += len(reported)
            there += len(heard - NOCALL_ROW)
    return hits / named if named else math.nan, hits / there if there else math.nan
