"""Images to scores: members, their mean, a window's neighbours, the blend with the prior.

What is verified here is what the station runs.
"""

import logging
from pathlib import Path

import numpy as np

from edge.config import RuntimeSettings
from edge.contract.audio import Image, Window, mel_image
from edge.contract.blend import Blend, Scores, acoustic_scores, blend_scores, neighbour_step, smooth_neighbours
from edge.contract.bundle import Bundle
from edge.contract.errors import BundleError, EngineError
from edge.engines.engine import Engine
from edge.engines.onnx import OnnxEngine
from edge.engines.tensorrt import open_tensorrt
from edge.types import WindowScores

log = logging.getLogger(__name__)

_GREY_TOLERANCE = 1
_GREY_SHARE = 0.999  # share of pixels that must be within one grey level


class Recognizer:
    """A bundle on an engine: ONNX Runtime, or what `best_recognizer` found better.

    recognizer = best_recognizer(bundle, config.runtime, config.engines_folder)
    recognizer.check_probe()
    scores = recognizer.recognise(images, prior)
    """

    def __init__(self, bundle: Bundle, threads: int = 0, engine: Engine | None = None) -> None:
        self.bundle = bundle
        self.degraded: str | None = None  # why it is not the best engine that this machine could have
        self._threads = threads
        self.engine: Engine = engine or self._onnx()
        self._kinds = [member.kind for member in bundle.manifest.members]
        self._all = tuple(range(len(self._kinds)))
        self._few = tuple(sorted(self._kinds.index(kind) for kind in set(self._kinds)))

    def _onnx(self) -> OnnxEngine:
        return OnnxEngine([self.bundle.folder / m.file for m in self.bundle.manifest.members], self._threads)

    def degrade(self, reason: str) -> None:
        """Go on with ONNX Runtime, for good."""
        log.warning("going on with ONNX Runtime: %s", reason)
        self.engine.close()
        self.engine, self.degraded = self._onnx(), reason

    def recognise(self, images: Image, prior: Scores | None, few: bool = False) -> WindowScores:
        """Grey images `(n, 128, 281)` and prior `(n, species)`, `(species,)` or None to scores, each image alone; in a
        stretch of sound a NeighbourSmoother decides on them. `few`: only the first member of each kind, in a hurry."""
        which = self._few if few else self._all
        try:
            members = self.engine.scores(images, which)
        except EngineError as error:  # the GPU fell out: the station hears on
            self.degrade(str(error))
            members = self.engine.scores(images, which)
        blend = self.bundle.manifest.blend
        acoustic = acoustic_scores(members, [self._kinds[index] for index in which], blend)
        return WindowScores(members, acoustic, blend_scores(acoustic, prior, blend))

    def check_probe(self) -> float:
        """Run the bundle's probe; return the largest difference of a score.

        Raises BundleError if the images or any score differ by more than an honest rounding on another machine.
        """
        probe, folder = self.bundle.probe(), self.bundle.folder
        apart = np.abs(mel_image(probe.samples()).astype(np.int16) - probe.images)
        if np.mean(apart <= _GREY_TOLERANCE) < _GREY_SHARE:
            raise BundleError(f"{folder}: this machine computes other images than the bundle was made with")
        found = self.recognise(probe.images, probe.prior if probe.prior.size else None)
        differences = (found.members - probe.member_scores, found.blended - probe.blended)
        worst = max(float(np.max(np.abs(d))) for d in differences)
        if not worst <= self.engine.tolerance:  # also true for NaN
            raise BundleError(f"{folder}: probe failed on {self.engine.name}: scores differ by {worst:.2g}")
        return worst


def best_recognizer(bundle: Bundle, settings: RuntimeSettings, engines: Path) -> Recognizer:
    """The bundle on the best engine that the settings allow and that passes the probe here; `degraded` says why it is
    not a better one. `engines` is the folder that `python -m export trt` wrote, if it did. Raises BundleError."""
    if settings.engine == "onnx":
        return Recognizer(bundle, settings.threads)
    try:
        engine = open_tensorrt(bundle, engines)
    except EngineError as error:
        return _degraded(bundle, settings, str(error))
    if engine is None:
        missing = f"runtime.engine is tensorrt, but {engines} has no engines; run python -m export trt"
        return _degraded(bundle, settings, missing if settings.engine == "tensorrt" else None)
    recognizer = Recognizer(bundle, settings.threads, engine)
    try:
        recognizer.check_probe()
    except BundleError as error:
        recognizer.degrade(str(error))
    return recognizer


def _degraded(bundle: Bundle, settings: RuntimeSettings, reason: str | None) -> Recognizer:
    recognizer = Recognizer(bundle, settings.threads)
    recognizer.degraded = reason
    if reason:
        log.warning("going on with ONNX Runtime: %s", reason)
    return recognizer


Decided = tuple[list[Window], WindowScores]  # windows and what counts for them


class NeighbourSmoother:
    """Decides on the windows of one unbroken stretch of sound, in their order, as soon as their later neighbours are
    known. How the stretch is cut into pushes changes nothing. Without smoothing every window is decided at once.

    smoother = NeighbourSmoother(bundle.manifest.blend, hop_samples, prior)
    for windows in batches:
        decided = smoother.push(windows, recognizer.recognise(images_of(windows), None))
    decided = smoother.close()
    """

    def __init__(self, blend: Blend, hop_samples: int, prior: Scores | None) -> None:
        self._blend, self._prior = blend, prior
        self._step = neighbour_step(hop_samples) if blend.smoothing else 0
        self._windows: list[Window] = []  # not yet decided; at most `step` between two pushes
        self._members: list[Scores] = []  # (members, species) of each of these
        self._acoustic: list[Scores] = []  # (species,) of each of these, and of the `step` before them

    def push(self, windows: list[Window], scores: WindowScores) -> Decided | None:
        """Take the next windows and the scores that each has alone; return those that are now decided, if any."""
        self._windows += windows
        self._members += list(np.moveaxis(scores.members, 1, 0))
        self._acoustic += list(scores.acoustic)
        return self._decide(len(self._windows) - self._step)

    def close(self) -> Decided | None:
        """The stretch ends here: return its last windows, if any are left."""
        return self._decide(len(self._windows))

    def _decide(self, count: int) -> Decided | None:
        """The first `count` windows of those that wait. Members' scores stay those of the window alone."""
        if count <= 0:
            return None
        earlier = len(self._acoustic) - len(self._windows)
        smoothed = smooth_neighbours(np.stack(self._acoustic), self._blend, self._step)[earlier : earlier + count]
        members = np.stack(self._members[:count], axis=1)
        windows, self._windows = self._windows[:count], self._windows[count:]
        self._members, self._acoustic = self._members[count:], self._acoustic[max(0, earlier + count - self._step) :]
        return windows, WindowScores(members, smoothed, blend_scores(smoothed, self._prior, self._blend))
