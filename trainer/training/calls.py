"""Probability of a call in each crop, for labels that are known only for whole recordings.

A logistic regression on contrasts distinguishes the crops of recordings from backgrounds. Knows no
species and no networks.
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
from trainer.files import map_npy, read_npz, write_npz
from trainer.training.augment import mix_db
from trainer.workers import progress_bar, worker_pool

Floats = NDArray[np.float32]

# Minimum probability of the best crop of a recording: its labelled species does call somewhere.
BEST_MIN = 0.9
_GROUPS = 8  # groups of neighbouring bands
_QUANTILES = (0.5, 0.95, 0.995)  # of the pixels of a group: the last is half a second of one band
_SMOOTH = (2, 3)  # bands, frames: a single loud pixel is chance
_FRAMES_MIN = 20  # half a second of sound; a crop with less keeps its silent frames
_PAIRS = 2  # mixed pairs per background, as further examples
_PAIRS_MAX = 2000
_PAIR_SNR_DB = (-10.0, 10.0)
_RIDGE = 0.01
_CHUNK = 128  # crops per task: half a second of work


def contrasts(db: Floats) -> Floats:
    """Contrast features `(n, 24)` of images in dB `(n, 128, 281)`: each pixel minus the medians of
    its band and of its frame (as Sprengel et al. 2016 find the signal in recordings of BirdCLEF),
    smoothed, then quantiles over groups of bands. Steady noise and the frequency response of a
    microphone cancel; frames of digital silence do not count."""
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
    """Weights of the contrasts, and the bias."""

    weight: NDArray[np.float64]
    bias: float

    def __call__(self, found: Floats) -> Floats:
        """Probability of a call `(n,)`, assuming that calls and backgrounds are equally
        frequent."""
        p: Floats = scipy.special.expit(found @ self.weight + self.bias).astype(np.float32)
        return p


def fit_detector(calling: Floats, backgrounds: Floats) -> CallDetector:
    """Fit a ridge logistic regression on contrasts `(n, 24)`; both classes have the same total
    weight, whatever their sizes."""
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
    """Probabilities of all crops `(N,)`, scaled up for each recording until its best crop has
    BEST_MIN; zero for rows without an entry."""
    kept = np.zeros_like(p)
    for entry in entries:
        part = p[entry.first : entry.first + entry.count].clip(1e-6, 1.0)
        kept[entry.first : entry.first + entry.count] = part * max(1.0, BEST_MIN / part.max())
    return kept


def background_contrasts(found: BackgroundSet, seed: int) -> Floats:
    """Contrasts of backgrounds, of pink noise, and of mixed pairs of these."""
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
    """Contrasts of some crops of a spectrogram cache. Runs in a worker."""
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
    """Score every crop and write the file at `path` atomically, unless it exists and is from the
    same `source`."""
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
    write_npz(path, {"p": p, "source": source})
    silent = float((p[used] < 0.5).mean())
    console.print(f"calls: probably none in {silent:.0%} of {len(used)} crops", highlight=False)


def read_calls(path: Path) -> Floats:
    """Read the probability of a call in every crop `(N,)`. Raises CorpusError naming the file."""
    return _load(path)[0]


def _source(path: Path) -> str:
    try:
        return _load(path)[1]
    except CorpusError:
        return ""  # damaged: it is made again


def _load(path: Path) -> tuple[Floats, str]:
    file = read_npz(path, ("p", "source"), "remove it and run: python -m trainer fit-cnn")
    return file["p"].astype(np.float32), str(file["source"])
