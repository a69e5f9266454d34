"""Images of labelled soundscape rows, made once per run, and the row-wise F1 of scores for them:
for `keep: soundscapes`.

Knows no network.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES, Image, Padding, Window
from edge.contract.errors import CorpusError, RecordingError
from trainer.corpus.recordings import Corpus
from trainer.corpus.soundscape_windows import none_readable, row_window, windows_of
from trainer.corpus.soundscapes import LABELS, Soundscape
from trainer.files import read_npz, write_npz
from trainer.recipe import Recipe, TuneRecipe
from trainer.tuning import sweep
from trainer.tuning.sweep import LabelledRows

FILE = "soundscape_rows.npz"
_ARRAYS = ("images", "at", "truth", "others")
_DAMAGED = "remove it and run: python -m trainer fit-cnn"


@dataclass(frozen=True)
class RowImages:
    """Labelled rows and the images of their windows, with the first padding of the recipe."""

    images: Image  # (n, 128, 281)
    at: NDArray[np.int64]  # (rows,) index into images; -1 for a row beyond the end of its sound
    truth: NDArray[np.bool_]  # (rows, species)
    others: NDArray[np.int64]  # (rows,) number of labels that are not in the taxonomy

    def f1(self, scores: NDArray[np.float32], recipe: TuneRecipe) -> float:
        """Mean row-wise F1 of the scores of all images `(n, species)` at the best threshold, from a
        smoothed curve, so that no lucky threshold decides."""
        silent = np.zeros((1, self.truth.shape[1]), np.float32)
        nameless = ("",) * len(self.at)
        rows = LabelledRows(
            nameless, nameless, (frozenset(),) * len(self.at), self.truth, self.others
        )
        search = recipe.threshold
        thresholds = sweep.thresholds_of(search.low, search.high, search.step)
        counts = sweep.count(rows, np.concatenate([scores, silent])[self.at], thresholds)
        return float(sweep.smooth(sweep.row_f1s(rows, counts).mean(axis=0)).max())


def require_rows(recipe: Recipe, corpus: Corpus) -> None:
    """Raise CorpusError if labelled soundscapes should choose the epochs but there are none."""
    if recipe.keep == "soundscapes" and not corpus.soundscapes:
        advice = "label soundscapes, or set keep to best or last"
        raise CorpusError(
            f"{corpus.data / LABELS}: no labelled soundscape; the recipe says keep: soundscapes; "
            f"{advice}"
        )


def make_row_images(
    path: Path, corpus: Corpus, recipe: Recipe, source: str, console: Console
) -> None:
    """Make the file at `path` unless it exists and is from the same `source`. Soundscapes that
    cannot be read are named. Raises CorpusError if none can be read."""
    if path.is_file() and _source(path) == source:
        return
    images: list[Image] = []
    at: list[int] = []
    labelled = []
    unreadable = []
    for soundscape in corpus.soundscapes:
        try:
            windows, samples = _labelled_windows(soundscape, recipe.tune.padding[0])
        except RecordingError as error:
            unreadable.append(str(error))
            console.print(f"skipped {error}", markup=False, highlight=False)
            continue
        index: dict[int | None, int] = {
            window.start: len(images) + i for i, window in enumerate(windows)
        }
        at += [index.get(row_window(row, samples), -1) for row in soundscape.labels]
        images += [window.input for window in windows]
        labelled += [
            (row, soundscape.path.stem, labels) for row, labels in soundscape.labels.items()
        ]
    if unreadable and not labelled:
        raise none_readable(corpus, unreadable)
    if not images:
        raise CorpusError(
            f"{corpus.data / LABELS}: none of its rows has sound; set keep to best or last"
        )
    rows = LabelledRows.of(labelled, corpus.taxonomy)
    found = np.stack(images)
    place = np.array(at, np.int64)
    arrays = {"images": found, "at": place, "truth": rows.truth, "others": rows.others}
    write_npz(path, {"source": source} | arrays)
    console.print(f"{len(rows)} labelled rows decide which epoch is kept", highlight=False)


def _labelled_windows(soundscape: Soundscape, padding: Padding) -> tuple[list[Window], int]:
    """The windows of labelled rows, in order, and the length of the recording in samples. No other
    images are kept in memory. Raises RecordingError if nothing can be decoded."""
    # Windows as if the recording did not end: all others can be dropped at once.
    whole = {row_window(row, sys.maxsize) for row in soundscape.labels}
    kept: list[Window] = []
    last: Window | None = None
    # a row is a window
    for window in windows_of(soundscape.path, padding, WINDOW_SAMPLES / RATE_HZ):
        if last is not None and last.start in whole:
            kept.append(last)
        last = window
    if last is None:
        return [], 0
    samples = last.start + last.samples
    starts = {row_window(row, samples) for row in soundscape.labels}
    return [window for window in (*kept, last) if window.start in starts], samples


def read_row_images(path: Path) -> RowImages:
    """Read the rows of a run. Raises CorpusError naming the file."""
    return RowImages(**read_npz(path, _ARRAYS, _DAMAGED))


def _source(path: Path) -> str:
    try:
        return str(read_npz(path, ("source",), _DAMAGED)["source"])
    except CorpusError:
        return ""  # damaged: it is made again
