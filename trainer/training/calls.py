"""Calls: how probable it is that anything calls in a crop, for labels that are known only of whole
recordings.

A logistic regression on contrasts tells the crops of recordings from backgrounds. Knows no species
and no networks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.ndimage
import scipy.optimize
import scipy.special
import torch
from numpy.typing import NDArray
from rich.console import Console

from edge.contract.audio import GREY_MAX, Image, Ranges
from edge.contract.errors import CorpusError
from trainer.corpus.backgrounds import BackgroundSet
from trainer.corpus.spectrograms import IMAGES, RANGES, CacheEntry, Spectrograms, damaged
from trainer.files import map_npy, read_npz, replacing
from trainer.training.augment import mix_db
from trainer.workers import progress_bar, worker_pool

Floats = NDArray[np.float32]

# of the best crop of a recording: somewhere in it, what it is labelled with does call
BEST_MIN = 0.9
_GROUPS = 8  # of neighbouring bands
_QUANTILES = (0.5, 0.95, 0.995)  # of a group's pixels: the last is half a second of one band
_SMOOTH = (2, 3)  # bands, frames: a single loud pixel is chance
_FRAMES_MIN = 20  # half a second of sound; a crop with less is looked at with its silence
_PAIRS = 2  # of backgrounds, per background, as further examples
_PAIRS_MAX = 2000
_PAIR_SNR_DB = (-10.0, 10.0)
_RIDGE = 0.01
_CHUNK = 128  # crops per task: half a second of work


def contrasts(db: Floats) -> Floats:
    """What stands out in images in dB `(n, 128, 281)`, as `(n, 24)`: each pixel against its band
    and its frame (their medians, as Sprengel et al. 2016 find the signal in BirdCLEF's recordings),
    smoothed, then quantiles of groups of bands. Steady noise and a microphone's colour cancel;
    frames of digital silence do not count."""
    found = np.empty((len(db), _GROUPS * len(_QUANTILES)), np.float32)
    for row, image in zip(found, db, strict=True):
        sounding = image.max(axis=0) > image.min()
        if sounding.sum() >= _FRAMES_MIN:
            image = image[:, sounding]
        image = image - np.median(image, axis=1, keepdims=True)
        image -= np.median(image, axis=0, keepdims=True)
        groups = scipy.ndimage.uniform_filter(image, _SMOOTH).reshape(_GROUPS, -1)
        at = [int(q * groups.shape[1]) for q in _QUANTILES]
        row[:] = np.partition(groups, at, axis=1)[:, at].ravel()
    return found


def image_contrasts(images: Image, ranges: Ranges) -> Floats:
    """Contrasts of grey images `(n, 128, 281)` with their ranges `(n, 2)`."""
    span = (ranges[:, 1] - ranges[:, 0])[:, None, None]
    return contrasts(images * (span / np.float32(GREY_MAX)))


@dataclass(frozen=True)
class CallDetector:
    """Weights of the contrasts, and what is added to their sum."""

    weight: NDArray[np.float64]
    bias: float

    def __call__(self, found: Floats) -> Floats:
        """Probability that anything calls, `(n,)`, were calls and backgrounds equally frequent."""
        p: Floats = scipy.special.expit(found @ self.weight + self.bias).astype(np.float32)
        return p


def fit_detector(calling: Floats, backgrounds: Floats) -> CallDetector:
    """Logistic regression with a ridge on contrasts `(n, 24)`; both sides weigh the same, however
    many there are."""
    x = np.concatenate([calling, backgrounds]).astype(np.float64)
    sizes = len(calling), len(backgrounds)
    side = np.repeat((1.0, -1.0), sizes)
    share = np.repeat((0.5 / sizes[0], 0.5 / sizes[1]), sizes)
    mean = x.mean(axis=0)
    scale = x.std(axis=0) + 1e-6
    x = (x - mean) / scale

    def loss(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margin = side * (w[0] + x @ w[1:])
        slope = -side * share * scipy.special.expit(-margin)
        value = float(share @ np.logaddexp(0.0, -margin) + _RIDGE / 2 * w[1:] @ w[1:])
        return value, np.r_[slope.sum(), x.T @ slope + _RIDGE * w[1:]]

    w = scipy.optimize.minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B").x
    weight = w[1:] / scale
    return CallDetector(weight, float(w[0] - weight @ mean))


def keep_best(p: Floats, entries: Sequence[CacheEntry]) -> Floats:
    """Probabilities of all crops `(N,)` with those of each recording raised in proportion until its
    best has BEST_MIN; zero where no entry has a crop."""
    kept = np.zeros_like(p)
    for entry in entries:
        part = p[entry.first : entry.first + entry.count].clip(1e-6, 1.0)
        kept[entry.first : entry.first + entry.count] = part * max(1.0, BEST_MIN / part.max())
    return kept


def background_contrasts(found: BackgroundSet, seed: int) -> Floats:
    """Contrasts of backgrounds, of pink noise, and of pairs of them mixed."""
    rng = np.random.default_rng(seed)
    size = len(found.images)
    rows, others = rng.integers(0, size, (2, min(_PAIRS * size, _PAIRS_MAX)))
    snr_db = rng.uniform(*_PAIR_SNR_DB, len(rows)).astype(np.float32)
    parts = [image_contrasts(found.images, found.ranges)]
    for start in range(0, len(rows), _CHUNK):
        batch = slice(start, start + _CHUNK)
        one, other = (
            (found.images[r[batch], None], found.ranges[r[batch], None]) for r in (rows, others)
        )
        mixed = mix_db(*map(torch.from_numpy, (*one, *other, snr_db[batch, None, None, None])))
        parts.append(contrasts(mixed[:, 0].numpy()))
    return np.concatenate(parts)


def _chunk(folder: Path, start: int) -> Floats:
    """Contrasts of some crops of a spectrogram cache; in a worker."""
    images, ranges = (map_npy(folder / name, damaged(folder)) for name in (IMAGES, RANGES))
    return image_contrasts(images[start : start + _CHUNK], ranges[start : start + _CHUNK])


def make_calls(
    path: Path,
    spectrograms: Spectrograms,
    backgrounds: BackgroundSet,
    source: str,
    seed: int,
    jobs: int,
    console: Console,
) -> None:
    """Score every crop and write the file at `path`, whole or not at all, unless it is there from
    the same `source`."""
    if path.is_file() and _source(path) == source:
        return
    starts = range(0, len(spectrograms.images), _CHUNK)
    parts = []
    with worker_pool(jobs) as pool, progress_bar(console) as progress:
        task = progress.add_task("calls", total=len(spectrograms.images), note="")
        for part in pool.map(_chunk, [spectrograms.folder] * len(starts), starts):
            parts.append(part)
            progress.update(task, advance=len(part))
    found = np.concatenate(parts)
    used = np.concatenate([np.arange(e.first, e.first + e.count) for e in spectrograms.entries])
    detector = fit_detector(found[used], background_contrasts(backgrounds, seed))
    p = keep_best(detector(found), spectrograms.entries)
    with replacing(path) as temporary:
        np.savez(temporary, p=p, source=source)
    silent = float((p[used] < 0.5).mean())
    console.print(f"calls: in {silent:.0%} of {len(used)} crops probably none", highlight=False)


def read_calls(path: Path) -> Floats:
    """Probability that anything calls, of every crop, `(N,)`. Raises CorpusError naming the
    file."""
    return _load(path)[0]


def _source(path: Path) -> str:
    try:
        return _load(path)[1]
    except CorpusError:
        return ""  # damaged: it is made again


def _load(path: Path) -> tuple[Floats, str]:
    file = read_npz(path, ("p", "source"), "remove it and run: python -m trainer fit-cnn")
    return file["p"].astype(np.float32), str(file["source"])
