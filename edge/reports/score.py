"""Scores a replay against labelled 5-s rows with the competition's metric. Reads the store; knows no sound."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES
from edge.contract.errors import ConfigError
from edge.contract.metrics import Labels, RowScore, labels_of, score_rows
from edge.store import Store

ROW_S = WINDOW_SAMPLES // RATE_HZ


@dataclass(frozen=True)
class RowLabels:
    """Truth by row id, and which recording and second each row ends at."""

    truth: Mapping[str, Labels]
    recording: Mapping[str, str]  # row id -> the recording's name within the row id
    end_s: Mapping[str, int]


def read_labels(path: Path) -> RowLabels:
    """Read BirdCLEF row labels: `row_id` (`<recording>_<end second>`) and `birds`. Raises ConfigError, one line."""
    truth: dict[str, Labels] = {}
    recording: dict[str, str] = {}
    end_s: dict[str, int] = {}
    try:
        with path.open(newline="", encoding="utf8") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            key = next((n for n in ("row_id", "filename_seconds") if n in names), None)
            if key is None or "birds" not in names:
                raise ConfigError(f"{path}: columns row_id and birds are wanted; found {', '.join(names) or 'none'}")
            for row in reader:
                stem, _, seconds = (row[key] or "").rpartition("_")
                if not stem or not seconds.isdigit():
                    raise ConfigError(f"{path}, line {reader.line_num}: row id {row[key]!r}; NAME_SECONDS is wanted")
                truth[row[key]] = labels_of(row["birds"] or "")
                recording[row[key]], end_s[row[key]] = stem, int(seconds)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: not readable: {error}") from error
    if not truth:
        raise ConfigError(f"{path}: no rows")
    return RowLabels(truth, recording, end_s)


def _names(path: str) -> list[str]:
    """The names under which row ids may know a recording: its stem, without further dots, without a BirdCLEF date."""
    stem = PurePosixPath(path).stem
    return [stem, stem.split(".")[0], stem.rpartition("_")[0]]


def score_store(
    store: Store, station: str, bundle_id: str, paths: Sequence[str], labels: RowLabels
) -> tuple[RowScore, int]:
    """Row-wise F1 of what the store holds for these recordings, and how many labelled rows have no recording here.

    A row's prediction is what was detected in the window that is the row. Raises ConfigError if no row fits.
    """
    path_of = {name: path for path in paths for name in _names(path) if name}
    rows = {row for row, name in labels.recording.items() if name in path_of}
    if not rows:
        raise ConfigError("none of the labelled rows belongs to a recording in this folder")
    heard: dict[tuple[str, float], set[str]] = {}
    for path, offset_s, species in store.rows(
        "SELECT r.path, d.offset_s, d.species FROM detections d JOIN recordings r ON r.id = d.recording"
        " WHERE d.bundle = ? AND r.station = ?",
        (bundle_id, station),
    ):
        heard.setdefault((path, offset_s), set()).add(species)
    found = {}
    for row in rows:
        key = (path_of[labels.recording[row]], float(labels.end_s[row] - ROW_S))
        if key in heard:
            found[row] = frozenset(heard[key])
    score = score_rows({row: labels.truth[row] for row in rows}, found, labels.recording)
    return score, len(labels.truth) - len(rows)
