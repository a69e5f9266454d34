"""Score of a replay against labelled 5-s rows, by the metric of BirdCLEF 2021. Reads the store;
knows no sound."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES
from edge.contract.bundle import Bundle
from edge.contract.errors import UsageError
from edge.contract.labels import RowLabels
from edge.contract.metrics import NOCALL_ROW, RowScore, score_rows
from edge.contract.rows import window_of_row
from edge.store.record import Store


def _names(path: str) -> list[str]:
    """Names by which row ids may refer to a recording: its stem, the stem up to the first dot, the
    stem without a BirdCLEF date."""
    stem = PurePosixPath(path).stem
    return [stem, stem.split(".")[0], stem.rpartition("_")[0]]


def _recording_of(recordings: Mapping[str, str], labelled: Collection[str]) -> dict[str, str]:
    """Name within a row id -> id of the recording; a whole stem takes precedence over a shortened
    one. Raises UsageError if a name fits two recordings."""
    known: dict[str, str] = {}
    for kind in zip(*map(_names, recordings), strict=True):
        of_kind: dict[str, str] = {}
        for name, path in zip(kind, recordings, strict=True):
            is_new = name in labelled and name not in known
            other = of_kind.setdefault(name, path) if is_new else path
            if recordings[other] != recordings[path]:
                raise UsageError(
                    f"rows of {name}: expected one recording, found {other} and {path}"
                )
        known |= {name: recordings[path] for name, path in of_kind.items()}
    return known


@dataclass(frozen=True)
class ReplayScore:
    """Row-wise F1 of a replay, and the labels that could not be used for it."""

    rows: RowScore
    rows_without_recording: int
    recordings: int  # with labelled rows
    species: int  # named by the labels of these rows
    unknown_species: tuple[str, ...]  # of these, the codes that are not in the model


def score_store(
    store: Store, bundle: Bundle, recordings: Mapping[str, str], labels: RowLabels
) -> ReplayScore:
    """Row-wise F1 of the detections that the store has for these recordings (path -> id).

    A row's prediction is the species detected in the window that stands for it (`window_of_row`).
    Raises UsageError if no row fits a recording, or if one fits two.
    """
    recording_of = _recording_of(recordings, set(labels.recording.values()))
    rows = {row for row, name in labels.recording.items() if name in recording_of}
    if not rows:
        raise UsageError("none of the labelled rows belongs to a recording in this folder")
    mine = set(recording_of.values())
    detected: dict[tuple[str, int | None], set[str]] = {}
    samples: dict[str, int] = {}
    for recording, offset_s, species, audio_s in store.rows(
        "SELECT r.id, d.offset_s, d.species, r.audio_s FROM detections d JOIN recordings r ON r.id "
        "= d.recording WHERE d.bundle = ?",
        (bundle.id,),
    ):
        if recording in mine:
            detected.setdefault((recording, round(offset_s * RATE_HZ)), set()).add(species)
            samples[recording] = round((audio_s or 0.0) * RATE_HZ)
    predicted = {}
    for row in rows:
        recording = recording_of[labels.recording[row]]
        end_s = labels.end_s[row]
        starts = (end_s * RATE_HZ - WINDOW_SAMPLES, window_of_row(end_s, samples.get(recording, 0)))
        if birds := next(
            (detected[recording, start] for start in starts if (recording, start) in detected), None
        ):
            predicted[row] = frozenset(birds)
    score = score_rows({row: labels.truth[row] for row in rows}, predicted, labels.recording)
    species = sorted({code for row in rows for code in labels.truth[row]} - NOCALL_ROW)
    return ReplayScore(
        rows=score,
        rows_without_recording=len(labels.truth) - len(rows),
        recordings=len({labels.recording[row] for row in rows}),
        species=len(species),
        unknown_species=tuple(code for code in species if code not in bundle.taxonomy),
    )
