"""A sentence, and scenes in which it is spoken. The voice is espeak-ng's: tests/data/README.md."""

from functools import cache
from pathlib import Path

import numpy as np
import soundfile

from edge.contract.audio import RATE_HZ, Samples
from tests.conftest import hiss

DATA = Path(__file__).parents[1] / "data"
SILERO = DATA / "silero_vad_16k_sequence.onnx"  # as it came


@cache
def voice() -> Samples:
    """3.2 s of it."""
    return np.asarray(soundfile.read(DATA / "spoken.ogg", dtype="float32")[0])


def scene(seconds: float, *at_s: float) -> Samples:
    """Faint hiss in which the sentence is spoken at these times."""
    sound = hiss(seconds)
    for begin in at_s:
        said = voice()[: len(sound) - round(begin * RATE_HZ)]
        sound[round(begin * RATE_HZ) :][: len(said)] += said
    return sound
