"""Images to scores: members, their mean, the blend with the prior. What is verified here is what the station runs."""

import numpy as np

from edge.contract.audio import Image, mel_image
from edge.contract.blend import Scores, acoustic_scores, blend_scores
from edge.contract.bundle import PROBE_TOLERANCE, Bundle
from edge.contract.errors import BundleError
from edge.engines.onnx import OnnxEngine
from edge.types import WindowScores

_GREY_TOLERANCE = 1
_GREY_SHARE = 0.999  # share of pixels that must be within one grey level


class Recognizer:
    """A bundle on an engine.

    recognizer = Recognizer(bundle, threads=2)
    recognizer.check_probe()
    scores = recognizer.recognise(images, prior)
    """

    def __init__(self, bundle: Bundle, threads: int = 0) -> None:
        self.bundle = bundle
        self.engine = OnnxEngine([bundle.folder / m.file for m in bundle.manifest.members], threads)
        self._kinds = [member.kind for member in bundle.manifest.members]

    def recognise(self, images: Image, prior: Scores | None) -> WindowScores:
        """Grey images `(n, 128, 281)` and prior `(n, species)`, `(species,)` or None to scores."""
        members = self.engine.scores(images)
        blend = self.bundle.manifest.blend
        acoustic = acoustic_scores(members, self._kinds, blend)
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
        if not worst <= PROBE_TOLERANCE:  # also true for NaN
            raise BundleError(f"{folder}: probe failed on {self.engine.name}: scores differ by {worst:.2g}")
        return worst
