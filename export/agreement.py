"""Whether other arithmetic leads to the same decisions: windows of real sound, thresholds, the share that agrees."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.capture.recording import Decoder, find_recordings
from edge.contract.audio import WINDOW_SAMPLES, Image, Padding, WindowCutter
from edge.contract.blend import Scores
from edge.contract.bundle import Thresholds
from edge.contract.errors import ConfigError, RecordingError
from edge.types import Gap

AGREEMENT_MIN = 0.995  # share of windows; for arithmetic that is offered


def sound_images(folder: Path, padding: Padding, most: int) -> Image:
    """Images `(n, 128, 281)` of the recordings in a folder, cut as a station cuts them every 5 s; evenly chosen if
    there are more than `most`. Raises ConfigError if there is no sound that can be read."""
    images: list[Image] = []
    for path in find_recordings(folder):
        try:
            with Decoder(path) as decoder:
                cutter = WindowCutter(WINDOW_SAMPLES, padding)
                windows = []
                for piece in decoder:
                    if isinstance(piece, Gap):  # no window spans it
                        windows += cutter.close()
                        cutter = WindowCutter(WINDOW_SAMPLES, padding)
                    else:
                        windows += cutter.push(piece)
                images += [window.image for window in (*windows, *cutter.close())]
        except RecordingError:
            continue  # other files are beside recordings; a folder without any is refused below
    if not images:
        raise ConfigError(f"{folder}: no recording here that can be read")
    chosen = np.unique(np.linspace(0, len(images) - 1, min(most, len(images))).astype(int))
    return np.stack([images[index] for index in chosen])


def acoustic_limits(thresholds: Thresholds, codes: Sequence[str], has_prior: bool) -> Scores:
    """The threshold of each species `(species,)` at a station that knows no place: species' own ones count where they
    were tuned for sound alone."""
    own = {} if has_prior else thresholds.species
    return np.array([own.get(code, thresholds.acoustic) for code in codes], np.float32)


def agreement(found: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> float:
    """Share of windows whose decisions are all alike."""
    return float(np.mean((found == wanted).all(axis=1)))
