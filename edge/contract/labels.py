"""Row labels as CSV: the species in each 5 s, in the competition's format of truth and predictions.

Knows no score.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.contract.errors import UsageError
from edge.contract.metrics import Labels, labels_of
from edge.contract.taxonomy import NOCALL
from edge.contract.text import Table, TextError, text_of

# Key columns of the competition's labels and of its example of a test recording.
KEYS = (
    "row_id",
    "filename_seconds",
)
_PARTS = ("audio_id", "site", "seconds")  # columns that repeat parts of the row id
_DIGITS_MAX = 9  # in the second of a row id


@dataclass(frozen=True)
class RowLabels:
    """Truth or predictions by row id, with the recording and the end of each row."""

    truth: Mapping[str, Labels]
    recording: Mapping[str, str]  # by row id: the recording's name, a part of it
    end_s: Mapping[str, int]


@dataclass(frozen=True)
class LabelRow:
    """One row of a table of labels. If `odd` is set, only that and the line are valid."""

    line: int
    row_id: str
    recording: str  # its name within the row id
    end_s: int
    heard: Labels
    odd: str = ""  # error: expected and found

    @property
    def undecided(self) -> bool:
        """True if it names both nocall and a species."""
        return NOCALL in self.heard and len(self.heard) > 1


def label_rows(table: Table) -> Iterator[LabelRow]:
    """The rows of a table with a column of KEYS and `birds`. Raises TextError.

    If the table also has audio_id, site and seconds, these must agree with the row id.
    """
    names = table.names
    key = next(name for name in KEYS if name in names)
    for line, row in table:
        if not isinstance(row, dict):
            odd = f"expected {len(names)} cells ({', '.join(names)}), found {len(row)}"
            yield LabelRow(line, "", "", 0, frozenset(), odd)
            continue
        row_id = row[key].strip()
        heard = labels_of(row["birds"])
        stem, _, seconds = row_id.rpartition("_")
        if not stem or not _is_second(seconds):
            odd = f"row id: expected NAME_SECONDS, found {row_id!r}"
            yield LabelRow(line, row_id, "", 0, frozenset(), odd)
            continue
        yield LabelRow(
            line, row_id, stem, int(seconds), heard, _contradiction(row, row_id, stem, int(seconds))
        )


def _is_second(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX


def _contradiction(row: Mapping[str, str], row_id: str, stem: str, end_s: int) -> str:
    """The disagreement of other cells with the row id; empty if they agree or are not there."""
    cells = {name: row[name].strip() for name in _PARTS if name in row}
    seconds = cells.get("seconds", str(end_s))
    good = _is_second(seconds) and int(seconds) == end_s
    if good and "audio_id" in cells and "site" in cells:
        good = stem == f"{cells['audio_id']}_{cells['site']}"
    said = ", ".join(f"{name} {cell}" for name, cell in cells.items())
    return (
        ""
        if good
        else f"row id {row_id!r}: expected audio_id, site and seconds as in it, found {said}"
    )


def read_labels(path: Path, predicted: bool = False) -> RowLabels:
    """Read BirdCLEF row labels: `row_id` or `filename_seconds` (`<recording>_<end second>`) and
    `birds`.

    An empty cell is nocall; further columns are ignored. In predictions (`predicted`) nocall may
    stand beside species. Raises UsageError with one line.
    """
    truth: dict[str, Labels] = {}
    recording: dict[str, str] = {}
    end_s: dict[str, int] = {}
    if not path.exists():
        raise UsageError(f"{path}: no such file")
    if not path.is_file():
        raise UsageError(f"{path}: not a file")
    try:
        table = Table(text_of(path.read_bytes()), (), (*KEYS, "birds"))
        if not set(KEYS) & set(table.names) or "birds" not in table.names:
            raise UsageError(
                f"{path}: expected columns row_id and birds, found "
                f"{', '.join(table.names) or 'none'}"
            )
        for row in label_rows(table):
            where = f"{path}, line {row.line}"
            if row.odd:
                raise UsageError(f"{where}: {row.odd}")
            if row.undecided and not predicted:
                heard = " ".join(sorted(row.heard))
                raise UsageError(
                    f"{where}: row id {row.row_id!r}: expected nocall or species, found {heard}"
                )
            if row.row_id in truth:
                raise UsageError(f"{where}: row id {row.row_id!r} occurs twice")
            truth[row.row_id] = row.heard
            recording[row.row_id] = row.recording
            end_s[row.row_id] = row.end_s
    except OSError as error:
        raise UsageError(f"{path}: not readable: {error.strerror or error}") from error
    except TextError as error:
        raise UsageError(f"{path}: not readable: {error}") from error
    if not truth:
        raise UsageError(f"{path}: no rows")
    return RowLabels(truth, recording, end_s)
