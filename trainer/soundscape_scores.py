"""What the bag and the prior say of labelled soundscapes, window by window, cut as the station cuts them.

Knows no threshold, no blend and no training.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from torch import nn

from edge.capture.recording import Decoder, Piece
from edge.contract.audio import IMAGE_SHAPE, RATE_HZ, Padding, Window, WindowCutter
from edge.contract.blend import (
    Blend,
    Scores,
    acoustic_scores,
    blend_scores,
    kind_means,
    neighbour_step,
    smooth_neighbours,
)
from edge.contract.errors import RecordingError
from edge.contract.rows import window_of_row
from edge.types import Gap
from trainer.bag import score_images
from trainer.corpus import Corpus
from trainer.metadata import place_scores
from trainer.run import MemberInfo, Run
from trainer.soundscapes import Soundscape
from trainer.sweep import Rows

_BLOCK_S = 5


@dataclass(frozen=True)
class Scored:
    """All labelled rows, and what the bag and the prior say of the windows of their soundscapes.

    Members of a kind are averaged: nothing that is tuned tells them apart. The last window is silence, in a stretch of
    its own: that of the rows beyond the end of their sound.
    """

    rows: Rows
    kinds: tuple[str, ...]
    windows: dict[Padding, Scores]  # (kinds, windows, species) for each padding
    stretch: NDArray[np.int64]  # (windows,) the soundscape that each is from
    at: NDArray[np.int64]  # (rows,) the window that each row is; -1, the silent one, without
    step: int  # windows to a neighbour
    prior: Scores  # (rows, species); NaN where the place, the date or the model is not known
    unreadable: tuple[str, ...]  # soundscapes that could not be decoded
    partly_lost: tuple[str, ...] = ()  # of which sound was lost

    @cached_property
    def placed(self) -> NDArray[np.bool_]:
        """Rows that have a prior."""
        return np.asarray(~np.isnan(self.prior).all(axis=1))

    def take(self, kept: NDArray[np.bool_]) -> "Scored":
        """The same with only these rows; their neighbours stay."""
        return replace(self, rows=self.rows.take(kept), at=self.at[kept], prior=self.prior[kept])

    def acoustic(self, padding: Padding, blend: Blend) -> Scores:
        """What the station would hear in each row, smoothed, without the prior, `(rows, species)`."""
        heard = acoustic_scores(self.windows[padding], self.kinds, blend)
        rows: Scores = smooth_neighbours(heard, blend, self.step, self.stretch)[self.at]
        return rows

    def blended(self, padding: Padding, blend: Blend) -> Scores:
        """The same with the prior, which all rows have or none."""
        return blend_scores(self.acoustic(padding, blend), self.prior if self.placed.any() else None, blend)


def score_soundscapes(run: Run, corpus: Corpus, bag: Sequence[MemberInfo]) -> Scored:
    """Every window of every readable soundscape; images are made once per padding, scored once per member."""
    networks, kinds = [run.load_network(member.name) for member in bag], [member.kind for member in bag]
    return score_networks(run, corpus, networks, kinds, run.recipe.tune.padding, run.recipe.tune.hop_s)


def score_networks(
    run: Run,
    corpus: Corpus,
    networks: Sequence[nn.Module],
    kinds: Sequence[str],
    paddings: Sequence[Padding],
    hop_s: float,
) -> Scored:
    """The same of any networks and their kinds."""
    species = len(run.taxonomy)
    labelled, unreadable, lost = [], [], list[str]()
    scores: list[dict[Padding, Scores]] = []
    at: list[int] = []
    prior = [np.zeros((0, species), np.float32)]
    windows_before = 0
    shown = track(corpus.soundscapes, "soundscapes", transient=True, disable=not sys.stderr.isatty())
    for soundscape in shown:
        try:
            windows = windows_of(soundscape.path, paddings, hop_s, lost)
        except RecordingError as error:
            unreadable.append(str(error))
            continue
        index: dict[int | None, int] = {window.start: i for i, window in enumerate(windows[paddings[0]])}
        samples = samples_of(windows[paddings[0]])
        found = [index.get(row_window(row_id, samples), -1) for row_id in soundscape.labels]
        at += [-1 if i < 0 else windows_before + i for i in found]
        windows_before += len(index)
        scores.append(_scores(networks, kinds, windows))
        labelled += [(row, soundscape.path.stem, labels) for row, labels in soundscape.labels.items()]
        prior.append(np.repeat(_prior(run, soundscape), len(soundscape.labels), axis=0))
    silent = np.zeros((len(set(kinds)), 1, species), np.float32)  # stands for the window that a row has not
    return Scored(
        rows=Rows.of(labelled, run.taxonomy),
        kinds=tuple(sorted(set(kinds))),
        windows={p: np.concatenate([*(part[p] for part in scores), silent], axis=1) for p in paddings},
        stretch=np.repeat(np.arange(len(scores) + 1), [*(part[paddings[0]].shape[1] for part in scores), 1]),
        at=np.array(at, np.int64),
        step=neighbour_step(round(hop_s * RATE_HZ)),
        prior=np.concatenate(prior),
        unreadable=tuple(unreadable),
        partly_lost=tuple(lost),
    )


def _scores(
    networks: Sequence[nn.Module], kinds: Sequence[str], windows: dict[Padding, list[Window]]
) -> dict[Padding, Scores]:
    """Scores `(kinds, windows, species)` of a soundscape's windows for each padding."""
    images = [window.input for mine in windows.values() for window in mine]
    stack = np.stack(images) if images else np.zeros((0, *IMAGE_SHAPE), np.uint8)
    means = kind_means(score_images(networks, stack), kinds)[1]  # one call: few large batches cost less than many
    return dict(zip(windows, np.split(means, len(windows), axis=1), strict=True))


def row_window(row_id: str, samples: int) -> int | None:
    """First sample of the window that answers for a row of a recording of so many samples: `7019_COR_10` is the 5 s
    that end at 10 s. None where there is none, as for a row id of another form."""
    end = row_id.rsplit("_", 1)[-1]
    return window_of_row(int(end), samples) if end.isdigit() else None


def samples_of(windows: Sequence[Window]) -> int:
    """Length of the recording that these windows are of: the last one ends with its sound."""
    return max((window.start + window.samples for window in windows), default=0)


def windows_of(
    path: Path, paddings: Sequence[Padding], hop_s: float, lost: list[str] | None = None
) -> dict[Padding, list[Window]]:
    """The windows of a recording by padding, as the station cuts them; decodes once. Behind a gap they begin anew, and
    their `start` counts it. `lost` gets a line if sound was lost.

    Raises RecordingError if nothing can be decoded; what can is heard, as on the station.
    """
    hop = round(hop_s * RATE_HZ)
    cutters = {padding: WindowCutter(hop, padding) for padding in paddings}
    windows: dict[Padding, list[Window]] = {padding: [] for padding in paddings}
    for piece in _pieces(path, [] if lost is None else lost):
        for padding, cutter in cutters.items():
            if piece is None or isinstance(piece, Gap):
                windows[padding] += cutter.close()
            else:
                windows[padding] += cutter.push(piece)
        if isinstance(piece, Gap):
            resumes = round((piece.at_s + piece.seconds) * RATE_HZ)
            cutters = {padding: WindowCutter(hop, padding, first_sample=resumes) for padding in paddings}
    return windows


def _pieces(path: Path, lost: list[str]) -> Iterator[Piece | None]:
    """The sound and its gaps, as the station decodes them; None behind the last."""
    with Decoder(path, block_s=_BLOCK_S) as decoder:
        yield from decoder
        lost += [f"{path}: {decoder.warning}"] if decoder.warning else []
    yield None


def _prior(run: Run, soundscape: Soundscape) -> Scores:
    """The prior of a soundscape's place and day, `(1, species)`; NaN if it has none."""
    folder = run.metadata()
    if folder is None or soundscape.latitude is None or soundscape.longitude is None or soundscape.date is None:
        return np.full((1, len(run.taxonomy)), np.nan, np.float32)
    place = (soundscape.latitude, soundscape.longitude, soundscape.date.timetuple().tm_yday)
    return place_scores(folder, run.taxonomy, *(np.array([value], np.float32) for value in place))
