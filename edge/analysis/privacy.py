"""Detection of human speech, so that windows with speech leave no clip, or no detection either, as
the settings demand.

Looks at all scores of a window, not only at those above a threshold. Knows no clip and no database.
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.config import PrivacySettings
from edge.contract.audio import IMAGE, INPUT_SHAPES, Input
from edge.contract.errors import ConfigError
from edge.contract.taxonomy import Taxonomy
from edge.contract.text import printable
from edge.engines.invalid_scores import OddScores
from edge.engines.onnx import OnnxEngine
from edge.speech.listener import RULE, Listener
from edge.types import WindowScores

# no station can run a network of more than 1 GiB as fast as windows arrive
DETECTOR_BYTES_MAX = 1 << 30
_ROUNDING = 1e-3  # by which a score may lie outside 0 to 1


class Privacy:
    """Decides for each window whether people speak in it, by three detectors: the built-in speech
    detector, the bundle's own classes, and a network of the user's with the same inputs as the
    bundle's networks. One of them is enough.

    A missing score never counts as silence: if a network fails on a window, or gives something
    other than a number from 0 to 1, the window counts as speech. `trouble` reports it.

    Raises ConfigError for a class that the bundle does not know, and for a network that cannot be
    loaded or does not give one score per window of silence and of noise, whatever is wrong with its
    file. Raises BundleError if the network of the built-in speech detector is damaged.
    """

    def __init__(
        self, settings: PrivacySettings, taxonomy: Taxonomy, input_shape: tuple[int, ...]
    ) -> None:
        unknown = sorted(set(settings.classes) - set(taxonomy.codes))
        if unknown:
            raise ConfigError(
                "privacy.classes: expected codes of this bundle (`birdstation species`), found "
                f"{', '.join(unknown)}"
            )
        on = settings.human != "off"
        voices = {
            *(taxonomy.index(code) for code in settings.classes),
            *taxonomy.of_kind(["human"]),
        }
        # classes of the bundle: those named in the settings, and all of kind human
        self.voices = sorted(voices) if on else []
        self._settings = settings
        self.threshold = settings.threshold
        self._engine = (
            _detector(settings.detector, input_shape) if settings.detector and on else None
        )
        self._odd = OddScores("privacy.detector", "such windows count as speech")
        self._hears_speech = settings.speech and on
        if self._hears_speech:
            Listener()  # fail now, not at the first sound, if its network cannot be loaded
        self.drops_detections = settings.human == "all" and bool(
            self.voices or self._engine or self._hears_speech
        )

    @property
    def trouble(self) -> str | None:
        """The trouble with the user's network, if any: how many of the last windows it failed on,
        and its last error."""
        return self._odd.trouble

    @property
    def rules(self) -> dict[str, object]:
        """The settings that a recording's detections depend on where privacy drops detections.
        Without the speech detector they are the same as in versions that had none, so that no
        archive is analysed again."""
        rules = asdict(self._settings)
        return rules | {"speech": RULE} if rules.pop("speech") else rules

    def listener(self, saves_clips: bool) -> Listener | None:
        """A speech listener for a new stretch; None if speech is not detected or nothing depends on
        it."""
        return Listener() if self._hears_speech and (saves_clips or self.drops_detections) else None

    def speech(self, inputs: Input, scores: WindowScores) -> list[bool]:
        """True for each window in which the bundle's classes or the user's network detect speech.
        `inputs` are the windows as the networks take them, `scores` their scores."""
        if not self.voices and not self._engine:
            return [False] * len(inputs)
        highest = np.zeros(len(inputs), np.float32)
        if self.voices:
            highest = np.maximum(highest, scores.acoustic[:, self.voices].max(axis=1))
        if self._engine:
            highest = np.maximum(highest, self._highest_scores(self._engine, inputs))
        # NaN may be a voice
        return [not score < self.threshold for score in highest.tolist()]

    def _highest_scores(self, engine: OnnxEngine, inputs: Input) -> NDArray[np.float32]:
        """The highest score of each window, `(windows,)`; NaN where there is none."""
        try:
            highest, odd = _highest(engine, inputs)
        except Exception as error:  # ONNX Runtime's errors have no common base but Exception
            highest = np.full(len(inputs), np.nan, np.float32)
            odd = [_line(error)] * len(inputs)
        self._odd.add(odd)
        return highest


def _detector(path: Path, input_shape: tuple[int, ...]) -> OnnxEngine:
    """The user's network, tried on silence and on noise. Raises ConfigError if anything is wrong
    with it."""
    try:
        if not path.is_file():
            what = "something else" if path.exists() else "nothing"
            raise ValueError(f"expected a file, found {what}")
        if path.stat().st_size > DETECTOR_BYTES_MAX:
            raise ValueError(f"expected at most {DETECTOR_BYTES_MAX >> 20} MiB")
        engine = OnnxEngine([path], threads=1, input_shape=input_shape)
        for what, inputs in _trials(input_shape):
            _, odd = _highest(engine, inputs)
            if wrong := next(filter(None, odd), ""):
                raise ValueError(f"for {what}: {wrong}")
    except Exception as error:  # a strange file can raise anything in ONNX Runtime
        reason = _line(error).removeprefix(f"{path}: ")
        advice = (
            "name an ONNX network with the same inputs as the bundle's networks, or leave it out"
        )
        raise ConfigError(
            f"privacy.detector: {printable(str(path))}: {reason}; {advice}"
        ) from error
    return engine


def _trials(input_shape: tuple[int, ...]) -> list[tuple[str, Input]]:
    """Two windows each of silence and of noise, in the form that networks take."""
    random = np.random.default_rng(0)
    shape = (2, *input_shape)
    if input_shape == INPUT_SHAPES[IMAGE]:
        noise: Input = random.integers(0, 256, shape, np.uint8)
        return [("silence", np.zeros(shape, np.uint8)), ("noise", noise)]
    noise = random.uniform(-0.5, 0.5, shape).astype(np.float32)
    return [("silence", np.zeros(shape, np.float32)), ("noise", noise)]


def _highest(engine: OnnxEngine, inputs: Input) -> tuple[NDArray[np.float32], list[str]]:
    """The highest score of each window, `(windows,)`, NaN where any score is invalid, and the
    reason per window, "" if all are valid. Raises ValueError if the network does not give one row
    of scores per window."""
    scores = engine.scores(inputs)[0]
    if scores.ndim != 2 or len(scores) != len(inputs) or not scores.shape[1]:
        raise ValueError(
            f"expected a row of scores for each window, found the shape {scores.shape}"
        )
    odd = ~((scores >= -_ROUNDING) & (scores <= 1 + _ROUNDING))
    reasons = [
        f"expected a score from 0 to 1, found {row[wrong][0]:g}" if wrong.any() else ""
        for row, wrong in zip(scores, odd, strict=True)
    ]
    return np.where(odd.any(axis=1), np.float32(np.nan), scores.max(axis=1)), reasons


def _line(error: Exception) -> str:
    words = printable(" ".join(str(error).split()))
    return (
        words
        if isinstance(error, ValueError | OSError) and words
        else f"{type(error).__name__}: {words}"
    )
