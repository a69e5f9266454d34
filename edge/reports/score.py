"""Scores a replay against labelled 5-s rows with the competition's metric. Reads the store; knows no sound."""

from collections.abc import Collection, Sequence
from pathlib import PurePosixPath

from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES
from edge.contract.errors import UsageError
from edge.contract.labels import RowLabels
from edge.contract.metrics import RowScore, score_rows
from edge.contract.rows import window_of_row
from edge.store.record import Store


def _names(path: str) -> list[str]:
    """The names under which row ids may know a recording: its stem, without further dots, without a BirdCLEF date."""
    stem = PurePosixPath(path).stem
    return [stem, stem.split(".")[0], stem.rpartition("_")[0]]


def _path_of(paths: Sequence[str], wanted: Collection[str]) -> dict[str, str]:
    """Name within a row id -> the recording; the whole stem goes before what it may be shortened to."""
    found: dict[str, str] = {}
    for kind in zip(*map(_names, paths), strict=True):
        of_kind: dict[str, str] = {}
        for name, path in zip(kind, paths, strict=True):
            if name in wanted and name not in found and of_kind.setdefault(name, path) != path:
                raise UsageError(f"rows of {name}: expected one recording, found {of_kind[name]} and {path}")
        found |= of_kind
    return found


def score_store(
    store: Store, station: str, bundle_id: str, paths: Sequence[str], labels: RowLabels
) -> tuple[RowScore, int]:
    """Row-wise F1 of what the store holds for these recordings, and how many labelled rows have no recording here.

    A row's prediction is what was detected in the window that answers for it (`window_of_row`). Raises UsageError if no
    row fits, or if one fits two recordings.
    """
    path_of = _path_of(paths, set(labels.recording.values()))
    rows = {row for row, name in labels.recording.items() if name in path_of}
    if not rows:
        raise UsageError("none of the labelled rows belongs to a recording in this folder")
    heard: dict[tuple[str, int | None], set[str]] = {}
    samples: dict[str, int] = {}
    for path, offset_s, species, audio_s in store.rows(
        "SELECT r.path, d.offset_s, d.species, r.audio_s FROM detections d JOIN recordings r ON r.id = d.recording"
        " WHERE d.bundle = ? AND r.station = ?",
        (bundle_id, station),
    ):
        heard.setdefault((path, round(offset_s * RATE_HZ)), set()).add(species)
        samples[path] = round((audio_s or 0.0) * RATE_HZ)
    found = {}
    for row in rows:
        path, end_s = path_of[labels.recording[row]], labels.end_s[row]
        exact = heard.get((path, end_s * RATE_HZ - WINDOW_SAMPLES))
        if birds := exact or heard.get((path, window_of_row(end_s, samples.get(path, 0)))):
            found[row] = frozenset(birds)
    score = score_rows({row: labels.truth[row] for row in rows}, found, labels.recording)
    return score, len(labels.truth) - len(rows)
