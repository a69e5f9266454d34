"""Agreement of decisions under different arithmetic: windows of real sound, thresholds, share of
equal decisions."""

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

AGREEMENT_MIN = 0.995  # share of windows; with less, an arithmetic is not offered


def sound_inputs(folder: Path, manifest: Manifest, most: int) -> Input:
    """Network inputs `(n, 128, 281)` or `(n, 160000)` from the recordings in a folder, cut as on a
    station every 5 s; evenly sampled if there are more than `most`. Raises ConfigError if there is
    no readable sound."""
    inputs: list[Input] = []

    def cutter() -> WindowCutter:
        return WindowCutter(WINDOW_SAMPLES, manifest.padding, front=manifest.front)

    for path in find_recordings(folder):
        try:
            with Decoder(path) as decoder:
                cut = cutter()
                windows = []
                for piece in decoder:
                    if isinstance(piece, Gap):  # no window spans a gap
                        windows += cut.close()
                        cut = cutter()
                    else:
                        windows += cut.push(piece)
                inputs += [window.input for window in (*windows, *cut.close())]
        except RecordingError:
            continue  # there may be other files; a folder without any recording is refused below
    if not inputs:
        raise ConfigError(f"{folder}: no readable recording in it")
    chosen = np.unique(np.linspace(0, len(inputs) - 1, min(most, len(inputs))).astype(int))
    return np.stack([inputs[index] for index in chosen])


def acoustic_limits(manifest: Manifest, taxonomy: Taxonomy) -> Scores:
    """The threshold of each species `(species,)` on a station without a place that reports birds:
    thresholds of single species count if they were tuned for sound alone; NaN for anything but
    birds."""
    thresholds = manifest.thresholds
    own = {} if manifest.has_prior else thresholds.species
    limits = np.array([own.get(code, thresholds.acoustic) for code in taxonomy.codes], np.float32)
    limits[taxonomy.of_kind(["animal", "human", "sound"])] = np.nan
    return limits


def agreement(found: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
    """Share of windows with equal decisions for all species."""
    return float(np.mean((found == reference).all(axis=1)))
