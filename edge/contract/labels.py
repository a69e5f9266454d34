"""Row labels as CSV: what is heard in which 5 s, as the competition writes truth and predictions. Knows no score."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.contract.errors import UsageError
from edge.contract.metrics import Labels, labels_of
from edge.contract.text import NotText, Table, text_of

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
    if not path.exists():
        raise UsageError(f"{path}: no such file")
    if not path.is_file():
        raise UsageError(f"{path}: not a file")
    try:
        table = Table(text_of(path.read_bytes()), (), (*KEYS, "birds"))
        names = table.names
        key = next((n for n in KEYS if n in names), None)
        if key is None or "birds" not in names:
            raise UsageError(f"{path}: expected columns row_id and birds, found {', '.join(names) or 'none'}")
        for line, row in table:
            where = f"{path}, line {line}"
            if not isinstance(row, dict):
                raise UsageError(f"{where}: expected {len(names)} cells ({', '.join(names)}), found {len(row)}")
            row_id = row[key].strip()
            stem, _, seconds = row_id.rpartition("_")
            if not stem or not (seconds.isascii() and seconds.isdigit() and len(seconds) <= _DIGITS_MAX):
                raise UsageError(f"{where}: row id: expected NAME_SECONDS, found {row_id!r}")
            if row_id in truth:
                raise UsageError(f"{where}: row id {row_id!r} is there twice")
            truth[row_id] = labels_of(row["birds"])
            recording[row_id], end_s[row_id] = stem, int(seconds)
    except OSError as error:
        raise UsageError(f"{path}: not readable: {error.strerror or error}") from error
    except NotText as error:
        raise UsageError(f"{path}: not readable: {error}") from error
    if not truth:
        raise UsageError(f"{path}: no rows")
    return RowLabels(truth, recording, end_s)
