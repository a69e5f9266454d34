"""Out-of-fold scores: those of the bag for training crops that its members were not trained on.
Knows no sound."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from edge.contract.blend import Blend, Scores, acoustic_scores
from edge.contract.errors import CorpusError
from trainer import metrics
from trainer.corpus.recordings import Corpus, Recording
from trainer.files import read_csv
from trainer.run import MemberInfo, Run


@dataclass(frozen=True)
class CropTable:
    """Scored crops, one per row: the mean over the members of the bag that were not trained on the
    fold of the crop."""

    scores: Scores  # (crops, species)
    label: NDArray[np.int64]  # (crops,) index of the primary species
    recordings: tuple[str, ...]  # (crops,) key "<code>/<filename>"
    codes: tuple[str, ...]  # (crops,) primary species
    # (crops, species) in the background of the recording: neither right nor wrong
    ignored: NDArray[np.bool_]
    latitude: NDArray[np.float32]  # (crops,) degrees; NaN if unknown, like the next two
    longitude: NDArray[np.float32]
    day_of_year: NDArray[np.float32]


@dataclass(frozen=True)
class SpeciesScore:
    """Scores of one species over its out-of-fold crops; NaN without any."""

    code: str
    crops: int
    recall: float  # share of its crops in which it has the highest score
    average_precision: float


@dataclass(frozen=True)
class CropScore:
    """Scores of the bag over all out-of-fold crops, each classified as its highest-scored
    species."""

    crops: int
    balanced_accuracy: float
    f1_macro: float
    mean_average_precision: float
    species: tuple[SpeciesScore, ...]


def crop_table(run: Run, corpus: Corpus, bag: Sequence[MemberInfo]) -> CropTable:
    """Out-of-fold scores of the bag. Raises CorpusError naming the file that does not fit."""
    rows, scores = _scores(run, bag) if run.recipe.transfer is None else _of_heads(run, bag)
    path = run.crops_index
    index = read_csv(path, ("recording", "first", "count"))
    first = np.array([int(r["first"]) for r in index], np.int64)
    count = np.array([int(r["count"]) for r in index], np.int64)
    entry = np.searchsorted(first, rows, side="right") - 1
    if not len(index) or (entry < 0).any() or (rows >= first[entry] + count[entry]).any():
        raise CorpusError(
            f"{path}: lacks crops that the members were scored on; run: python -m trainer fit-cnn"
        )
    known = {r.recording: r for r in corpus.recordings}
    try:
        recordings = [known[index[e]["recording"]] for e in entry]
    except KeyError as error:
        raise CorpusError(f"{path}: recording {error} is not in the corpus {corpus.name}") from None
    ignored = np.zeros(scores.shape, bool)
    for i, recording in enumerate(recordings):
        ignored[i, [run.taxonomy.index(code) for code in recording.secondary_labels]] = True
    places = np.array([_place(r) for r in recordings], np.float32).reshape(-1, 3)
    return CropTable(
        scores=scores,
        label=np.array([run.taxonomy.index(r.primary_label) for r in recordings], np.int64),
        recordings=tuple(r.recording for r in recordings),
        codes=tuple(r.primary_label for r in recordings),
        ignored=ignored,
        latitude=places[:, 0],
        longitude=places[:, 1],
        day_of_year=places[:, 2],
    )


def _of_heads(run: Run, bag: Sequence[MemberInfo]) -> tuple[NDArray[np.int64], Scores]:
    # Loads scipy.signal, which all other runs, and errors, do without.
    from trainer.transfer.out_of_fold import window_scores

    return window_scores(run, bag)


def _scores(run: Run, bag: Sequence[MemberInfo]) -> tuple[NDArray[np.int64], Scores]:
    """Rows of images.npy in ascending order, and their scores, averaged like those of the bag."""
    rows = []
    scores = []
    for fold in sorted({member.fold for member in bag}):
        members = [member for member in bag if member.fold == fold]
        found = [run.out_of_fold(member.name) for member in members]
        common = reduce(np.intersect1d, [oof.rows for oof in found])
        stack = np.stack(
            [oof.scores[np.argsort(oof.rows)][np.isin(np.sort(oof.rows), common)] for oof in found]
        )
        rows.append(common)
        scores.append(acoustic_scores(stack, [member.kind for member in members], Blend()))
    order = np.argsort(np.concatenate(rows), kind="stable")
    return np.concatenate(rows)[order], np.concatenate(scores)[order]


def _place(recording: Recording) -> tuple[float, float, float]:
    nan = float("nan")
    if recording.latitude is None or recording.longitude is None:
        return nan, nan, nan
    day = nan if recording.date is None else float(recording.date.timetuple().tm_yday)
    return recording.latitude, recording.longitude, day


def confusions(table: CropTable, classes: int) -> NDArray[np.int64]:
    """Confusion matrix: number of crops `(classes, classes)` by their species and by the one with
    the highest score, ignoring background species."""
    found = np.where(table.ignored, np.float32(-1), table.scores).argmax(axis=1)
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (table.label, found), 1)
    return counts


def score_crops(table: CropTable, codes: Sequence[str]) -> CropScore:
    """Scores of all species, ignoring those in the background."""
    scores = np.where(table.ignored, np.float32(-1), table.scores)
    classes = len(codes)
    found = scores.argmax(axis=1)
    recall = metrics.recalls(table.label, found, classes)
    precision = metrics.average_precisions(table.label, scores)
    crops = np.bincount(table.label, minlength=classes)
    return CropScore(
        crops=len(table.label),
        balanced_accuracy=metrics.balanced_accuracy(table.label, found, classes),
        f1_macro=metrics.class_f1(table.label, found, classes).macro,
        mean_average_precision=float(np.nanmean(precision)),
        species=tuple(
            SpeciesScore(code, int(crops[i]), float(recall[i]), float(precision[i]))
            for i, code in enumerate(codes)
        ),
    )
