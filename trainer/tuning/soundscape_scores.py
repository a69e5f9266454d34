"""Scores of the bag and the prior for soundscapes, window by window, cut as on the station.

A recording of any length is scored block by block: only its scores stay in memory, not its sound
and images. Knows no threshold and no training; the caller says how to blend.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from edge.contract.audio import RATE_HZ, Input, Padding
from edge.contract.blend import (
    Blend,
    KnownSpecies,
    Scores,
    acoustic_scores,
    blend_scores,
    kind_means,
    neighbour_step,
    smooth_neighbours,
)
from edge.contract.errors import RecordingError
from trainer.corpus.recordings import Corpus
from trainer.corpus.soundscape_windows import none_readable, row_window, windows_of
from trainer.corpus.soundscapes import Soundscape
from trainer.place.place_prior import place_scores
from trainer.run import MemberInfo, Run
from trainer.tuning.ensemble import Ensemble, open_ensemble
from trainer.tuning.sweep import LabelledRows

_BATCH = 64  # windows
# Windows in a network at once, to save memory. Fewer would change last bits on a CPU; this many do
# not.
_PART = 16


class WindowSpan(NamedTuple):
    """The position of a window in its recording, in samples at 32 kHz."""

    start: int
    samples: int


@dataclass(frozen=True)
class RecordingScores:
    """The windows of a recording, and the scores of each kind of member, in the order of kinds'
    names."""

    windows: list[WindowSpan]
    scores: dict[Padding, Scores]  # (kinds, windows, species)


def hear(
    path: Path,
    ensemble: Ensemble,
    species: int,
    paddings: Sequence[Padding],
    hop_s: float,
    lost: list[str] | None = None,
) -> RecordingScores:
    """Score a recording of any length; only one batch of images and the scores are in memory.

    It is decoded once for each padding. Batches continue from one padding to the next, so that they
    are the same as for all its images in one array. `lost` gets a line if sound was lost. Raises
    RecordingError if nothing can be decoded.
    """
    spans: dict[Padding, list[WindowSpan]] = {padding: [] for padding in paddings}

    def images() -> Iterator[Input]:
        for padding, mine in spans.items():
            for window in windows_of(
                path, padding, hop_s, lost if padding == paddings[0] else None, ensemble.front
            ):
                mine.append(WindowSpan(window.start, window.samples))
                yield window.input

    parts = [np.zeros((len(set(ensemble.kinds)), 0, species), np.float32)]
    for batch in _batches(images()):
        for part in _parts(batch):
            parts.append(kind_means(ensemble.scores(part), ensemble.kinds, ensemble.known)[1])
    first = spans[paddings[0]]
    if any(found != first for found in spans.values()):
        raise RecordingError(path, "changed while it was read")
    scores = np.split(np.concatenate(parts, axis=1), len(spans), axis=1)
    return RecordingScores(first, dict(zip(spans, scores, strict=True)))


def _batches(images: Iterable[Input]) -> Iterator[Input]:
    rest = iter(images)
    while batch := list(islice(rest, _BATCH)):
        yield np.stack(batch)


def _parts(batch: Input) -> list[Input]:
    """Split a batch into parts of 16; the last has up to 31."""
    return np.split(batch, range(_PART, len(batch) - _PART + 1, _PART))


@dataclass(frozen=True)
class ScoredRows:
    """All labelled rows, and the scores of the bag and the prior for the windows of their
    soundscapes.

    Members of a kind are averaged, since tuning does not distinguish them. The last window is
    silence, in a stretch of its own, for rows beyond the end of their sound.
    """

    rows: LabelledRows
    kinds: tuple[str, ...]
    windows: dict[Padding, Scores]  # (kinds, windows, species) for each padding
    stretch: NDArray[np.int64]  # (windows,) index of the soundscape
    at: NDArray[np.int64]  # (rows,) index of the window; -1, the silent one, if there is none
    step: int  # windows to a neighbour
    prior: Scores  # (rows, species); NaN if place, date or model is missing
    unreadable: tuple[str, ...]  # soundscapes that could not be decoded
    partly_lost: tuple[str, ...] = ()  # with some sound lost
    # (kinds, species) the species that any member of each kind knows; None: all
    known: KnownSpecies | None = None

    @cached_property
    def placed(self) -> NDArray[np.bool_]:
        """Mask of the rows that have a prior."""
        return np.asarray(~np.isnan(self.prior).all(axis=1))

    def take(self, kept: NDArray[np.bool_]) -> "ScoredRows":
        """The same with only these rows; all windows stay as neighbours."""
        return replace(self, rows=self.rows.take(kept), at=self.at[kept], prior=self.prior[kept])

    def acoustic(self, padding: Padding, blend: Blend) -> Scores:
        """Acoustic scores of each row, smoothed, without the prior, `(rows, species)`."""
        heard = acoustic_scores(self.windows[padding], self.kinds, blend, self.known)
        rows: Scores = smooth_neighbours(heard, blend, self.step, self.stretch)[self.at]
        return rows

    def blended(self, padding: Padding, blend: Blend) -> Scores:
        """Scores blended with the prior, which all rows have or none."""
        return blend_scores(
            self.acoustic(padding, blend), self.prior if self.placed.any() else None, blend
        )


def score_soundscapes(run: Run, corpus: Corpus, bag: Sequence[MemberInfo]) -> ScoredRows:
    """Score every window of every readable soundscape with the bag; images are made once per
    padding and scored once per member."""
    ensemble = open_ensemble(run, bag)
    return score_ensemble(run, corpus, ensemble, run.recipe.tune.padding, run.recipe.tune.hop_s)


def score_ensemble(
    run: Run,
    corpus: Corpus,
    ensemble: Ensemble,
    paddings: Sequence[Padding],
    hop_s: float,
) -> ScoredRows:
    """Score every window with any ensemble. Raises CorpusError if no soundscape can
    be read."""
    species = len(run.taxonomy)
    labelled = []
    unreadable = []
    lost = list[str]()
    scores: list[dict[Padding, Scores]] = []
    at: list[int] = []
    prior = [np.zeros((0, species), np.float32)]
    windows_before = 0
    shown = track(
        corpus.soundscapes, "soundscapes", transient=True, disable=not sys.stderr.isatty()
    )
    for soundscape in shown:
        try:
            heard = hear(soundscape.path, ensemble, species, paddings, hop_s, lost)
        except RecordingError as error:
            # Stored in the run, which contains no paths.
            unreadable.append(f"{soundscape.path.name}: {error.reason}")
            continue
        index: dict[int | None, int] = {window.start: i for i, window in enumerate(heard.windows)}
        samples = samples_of(heard.windows)
        found = [index.get(row_window(row_id, samples), -1) for row_id in soundscape.labels]
        at += [-1 if i < 0 else windows_before + i for i in found]
        windows_before += len(heard.windows)
        scores.append(heard.scores)
        labelled += [
            (row, soundscape.path.stem, labels) for row, labels in soundscape.labels.items()
        ]
        prior.append(np.repeat(_prior(run, soundscape), len(soundscape.labels), axis=0))
    if unreadable and not scores:
        raise none_readable(corpus, unreadable)
    # Serves rows without a window.
    kinds = sorted(set(ensemble.kinds))
    silent = np.zeros((len(kinds), 1, species), np.float32)
    return ScoredRows(
        rows=LabelledRows.of(labelled, run.taxonomy),
        kinds=tuple(kinds),
        windows={
            p: np.concatenate([*(part[p] for part in scores), silent], axis=1) for p in paddings
        },
        stretch=np.repeat(
            np.arange(len(scores) + 1), [*(part[paddings[0]].shape[1] for part in scores), 1]
        ),
        at=np.array(at, np.int64),
        step=neighbour_step(round(hop_s * RATE_HZ)),
        prior=np.concatenate(prior),
        unreadable=tuple(unreadable),
        partly_lost=tuple(lost),
        known=known_by_kind(ensemble),
    )


def known_by_kind(ensemble: Ensemble) -> KnownSpecies | None:
    """The species that any member of each kind knows, `(kinds, species)`; None: all."""
    if ensemble.known is None:
        return None
    return np.stack(
        [
            ensemble.known[[kind == name for kind in ensemble.kinds]].any(axis=0)
            for name in sorted(set(ensemble.kinds))
        ]
    )


def samples_of(windows: Sequence[WindowSpan]) -> int:
    """Length of the recording of these windows in samples: the last one ends with its sound."""
    return max((window.start + window.samples for window in windows), default=0)


def _prior(run: Run, soundscape: Soundscape) -> Scores:
    """The prior for the place and day of a soundscape, `(1, species)`; NaN if it has none."""
    folder = run.metadata()
    if (
        folder is None
        or soundscape.latitude is None
        or soundscape.longitude is None
        or soundscape.date is None
    ):
        return np.full((1, len(run.taxonomy)), np.nan, np.float32)
    place = (soundscape.latitude, soundscape.longitude, soundscape.date.timetuple().tm_yday)
    return place_scores(folder, run.taxonomy, *(np.array([value], np.float32) for value in place))
