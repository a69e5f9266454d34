"""Where people speak, nothing is kept that the settings forbid: no clip, or no detection either.

Looks at all scores of a window, not only at what passed a threshold. Knows no clip and no database.
"""

from dataclasses import asdict

import numpy as np

from edge.config import PrivacySettings
from edge.contract.audio import IMAGE, INPUT_SHAPES, Input
from edge.contract.errors import BundleError, ConfigError
from edge.contract.taxonomy import Taxonomy
from edge.engines.onnx import OnnxEngine
from edge.speech.listener import RULE, Listener
from edge.types import WindowScores


class Privacy:
    """Says of each window whether people speak in it: by the speech detector, by the bundle's own classes, by a network
    of the user's, which takes what the bundle's take; any of them will do.

    Raises ConfigError for a class that the bundle does not know, BundleError for a network that cannot be loaded.
    """

    def __init__(self, settings: PrivacySettings, taxonomy: Taxonomy, input_shape: tuple[int, ...]) -> None:
        unknown = sorted(set(settings.classes) - set(taxonomy.codes))
        if unknown:
            raise ConfigError(
                f"privacy.classes: expected codes of this bundle (`birdstation species`), found {', '.join(unknown)}"
            )
        on = settings.human != "off"
        voices = {*(taxonomy.index(code) for code in settings.classes), *taxonomy.of_kind(["human"])}
        self.voices = sorted(voices) if on else []  # classes of the bundle: those that are set, and all human ones
        self._settings, self.threshold = settings, settings.threshold
        detector = [settings.detector] if settings.detector and on else []
        try:
            self._engine = OnnxEngine(detector, threads=1, input_shape=input_shape) if detector else None
        except BundleError as error:
            raise BundleError(f"privacy.detector: {error}") from error
        self._try_detector(input_shape)
        self._hears_speech = settings.speech and on
        if self._hears_speech:
            Listener()  # a network that cannot be loaded is found before the first sound
        self.drops_detections = settings.human == "all" and bool(self.voices or self._engine or self._hears_speech)

    def _try_detector(self, input_shape: tuple[int, ...]) -> None:
        """On silence, before the first sound. Raises BundleError if it does not give scores for each window."""
        if self._engine is None:
            return
        kind = np.uint8 if input_shape == INPUT_SHAPES[IMAGE] else np.float32
        shape = self._engine.scores(np.zeros((2, *input_shape), kind))[0].shape
        if len(shape) != 2 or shape[0] != 2:
            raise BundleError(f"privacy.detector: {self._settings.detector}: gives {shape} for two windows, not (2, 1)")

    @property
    def rules(self) -> dict[str, object]:
        """What a recording's detections hang on where they are dropped; without the speech detector, what they hung on
        before there was one."""
        rules = asdict(self._settings)
        return rules | {"speech": RULE} if rules.pop("speech") else rules

    def listener(self, saves_clips: bool) -> Listener | None:
        """For a new stretch; None where nobody listens for speech, or nothing hangs on it."""
        return Listener() if self._hears_speech and (saves_clips or self.drops_detections) else None

    def speech(self, inputs: Input, scores: WindowScores) -> list[bool]:
        """What the bundle's classes and the user's network say: one answer for each of the windows whose inputs, as the
        networks take them, and scores are given."""
        if not self.voices and not self._engine:
            return [False] * len(inputs)
        highest = np.zeros(len(inputs), np.float32)
        if self.voices:
            highest = np.maximum(highest, scores.acoustic[:, self.voices].max(axis=1))
        if self._engine:
            highest = np.maximum(highest, self._engine.scores(inputs)[0].max(axis=1))
        return [not score < self.threshold for score in highest.tolist()]  # what is no number might be a voice
