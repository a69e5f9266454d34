"""Whether other arithmetic leads to the same decisions: windows of real sound, thresholds, the
share that agrees."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.capture.recording import Decoder, find_recordings
from edge.contract.audio import WINDOW_SAMPLES, Input, WindowCutter
from edge.contract.blend import Scores
from edge.contract.bundle import Manifest
from edge.contract.errors import ConfigError, RecordingError
from edge.contract.taxonomy import Taxonomy
from edge.types import Gap

AGREEMENT_MIN = 0.995  # share of windows; for arithmetic that is offered


def sound_inputs(folder: Path, manifest: Manifest, most: int) -> Input:
    """What a bundle's networks take of the recordings in a folder, cut as a station cuts them every
    5 s: `(n, 128, 281)` or `(n, 160000)`; evenly chosen if there are more than `most`. Raises
    ConfigError if there is no sound that can be read."""
    inputs: list[Input] = []

    def cutter() -> WindowCutter:
        return WindowCutter(WINDOW_SAMPLES, manifest.padding, front=manifest.front)

    for path in find_recordings(folder):
        try:
            with Decoder(path) as decoder:
                cut = cutter()
                windows = []
                for piece in decoder:
                    if isinstance(piece, Gap):  # no window spans it
                        windows += cut.close()
                        cut = cutter()
                    else:
                        windows += cut.push(piece)
                inputs += [window.input for window in (*windows, *cut.close())]
        except RecordingError:
            continue  # other files are beside recordings; a folder without any is refused below
    if not inputs:
        raise ConfigError(f"{folder}: no recording here that can be read")
    chosen = np.unique(np.linspace(0, len(inputs) - 1, min(most, len(inputs))).astype(int))
    return np.stack([inputs[index] for index in chosen])


def acoustic_limits(manifest: Manifest, taxonomy: Taxonomy) -> Scores:
    """The threshold of each species `(species,)` at a station that knows no place and reports
    birds: species' own ones count where they were tuned for sound alone; NaN for what is no
    bird."""
    thresholds = manifest.thresholds
    own = {} if manifest.has_prior else thresholds.species
    limits = np.array([own.get(code, thresholds.acoustic) for code in taxonomy.codes], np.float32)
    limits[taxonomy.of_kind(["animal", "human", "sound"])] = np.nan
    return limits


def agreement(found: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> float:
    """Share of windows whose decisions are all alike."""
    return float(np.mean((found == wanted).all(axis=1)))
