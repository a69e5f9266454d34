"""Row labels as CSV: what is heard in which 5 s, as the competition writes truth and predictions. Knows no score."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.contract.errors import UsageError
from edge.contract.metrics import Labels, labels_of

KEYS = ("row_id", "filename_seconds")  # the competition's labels and its example of a test recording


_DIGITS_MAX = 9  # of a row's second


@dataclass(frozen=True)
class RowLabels:
    """Truth or predictions by row id, and which recording and second each row ends at."""

    truth: Mapping[str, Labels]
    recording: Mapping[str, str]  # row id -> the recording's name within the row id
    end_s: Mapping[str, int]


def read_labels(path: Path) -> RowLabels:
    """Read BirdCLEF row labels: `row_id` or `filename_seconds` (`<recording>_<end second>`) and `birds`, an empty cell
    being nocall; further columns are left alone. Raises UsageError, one line."""
    truth: dict[str, Labels] = {}
    recording: dict[str, str] = {}
    end_s: dict[str, int] = {}
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: not a file")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            key = next((n for n in KEYS if n in names), None)
            if key is None or "birds" not in names:
                raise UsageError(f"{path}: columns row_id and birds are wanted; found {', '.join(names) or 'none'}")
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if None in row or None in row.values():
                    cells = sum(value is not None for name, value in row.items() if name) + len(row.get(None) or ())
                    raise UsageError(f"{where}: {cells} cells; {len(names)} are wanted ({', '.join(names)})")
                stem, _, seconds = row[key].rpartition("_")
                if not stem or not (seconds.isascii() and seconds.isdigit() and len(seconds) <= _DIGITS_MAX):
                    raise UsageError(f"{where}: row id {row[key]!r}; NAME_SECONDS is wanted")
                if row[key] in truth:
                    raise UsageError(f"{where}: row id {row[key]!r} is there twice")
                truth[row[key]] = labels_of(row["birds"])
                recording[row[key]], end_s[row[key]] = stem, int(seconds)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: not readable: {error}") from error
    if not truth:
        raise UsageError(f"{path}: no rows")
    return RowLabels(truth, recording, end_s)
