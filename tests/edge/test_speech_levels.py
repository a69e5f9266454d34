"""The speech detector hears people in sound of every level, and through what is louder than they
are."""

import numpy as np
import pytest

from edge.contract.audio import RATE_HZ
from tests.conftest import hiss
from tests.edge.test_speech import spoken, told
from tests.helpers.spoken import scene


@pytest.mark.parametrize("under", ["offset", "hum", "wind"])
def test_what_fills_the_scale_deafens_it_not(under: str) -> None:
    time_s = np.arange(10 * RATE_HZ) / RATE_HZ
    noise = {
        "offset": np.full(10 * RATE_HZ, 0.4),
        "hum": 0.5 * np.sin(2 * np.pi * 50 * time_s),
        "wind": 25 * np.convolve(hiss(10, 0.3), np.hanning(1600) / 800, "same"),
    }[under].astype(np.float32)
    assert not spoken(noise + hiss(10))
    assert spoken(noise + scene(10, 3))


@pytest.mark.parametrize("level_db", [-60, -80])
def test_the_faintest_voices_are_voices(level_db: float) -> None:
    """As of 24 bits that lie in the lower part of 32."""
    sound = scene(20, 8)
    gain = np.float32(10 ** (level_db / 20))
    after_silence = np.concatenate([np.zeros(20 * RATE_HZ, np.float32), gain * sound, sound])
    said = [begin is not None for begin in told(after_silence)[0]]
    assert said[8:15] == said[16:23] == [False, False, True, True, True, False, False]
    assert sum(said) == 6
    assert not spoken(gain * hiss(20))
