"""Loudness, clipping and offset of the microphone's sound. Knows samples, nothing of cards."""

import math
from dataclasses import dataclass

import numpy as np

from edge.contract.audio import Samples

CLIPPED = 1 - 1e-4  # 16-bit cards reach 32767 / 32768


@dataclass(frozen=True)
class Level:
    """Levels measured over a stretch of sound, relative to full scale (1.0)."""

    seconds: float
    level_dbfs: float  # root mean square around the offset; -inf for a constant
    peak: float  # greatest absolute sample
    clipped: float  # fraction of samples at full scale
    offset: float  # mean: the DC offset


class Meter:
    """Running sums over samples, cheap enough to keep all the time."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._seconds = 0.0
        self._count = self._clipped = 0
        self._sum = self._squares = 0.0
        self._peak = 0.0

    def add(self, samples: Samples, rate_hz: int) -> None:
        """Add samples as the card gave them."""
        size = np.abs(samples)
        self._seconds += len(samples) / rate_hz
        self._count += len(samples)
        self._clipped += int(np.count_nonzero(size >= CLIPPED))
        self._sum += float(np.sum(samples, dtype=np.float64))
        self._squares += float(np.sum(np.square(samples, dtype=np.float64)))
        self._peak = max(self._peak, float(size.max(initial=0.0)))

    def read(self) -> Level | None:
        """The levels since the last call; None if there was no sound."""
        if not self._count:
            return None
        offset = self._sum / self._count
        power = self._squares / self._count - offset**2
        # a smaller power is rounding error
        level_dbfs = 10 * math.log10(power) if power > 1e-15 else -math.inf
        level = Level(self._seconds, level_dbfs, self._peak, self._clipped / self._count, offset)
        self._reset()
        return level
