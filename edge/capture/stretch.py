"""Unbroken sound on its way from the card's rate to the station's, and the clock that its samples are.

Does not know where the sound comes from or why it ends.
"""

from collections import deque

import numpy as np
import soxr

from edge.contract.audio import RATE_HZ, Samples
from edge.types import Chunk

DRIFT_MAX = 2e-4  # of a crystal; good ones are within 5e-5
LATE_S = 0.25  # how late samples may come without any being missing
_RECENT = 20  # blocks


class Stretch:
    """Resamples (soxr HQ) and counts. Times follow from the first sample's by counting, so chunks abut exactly.

    soxr's output is aligned with its input: what it still holds back comes with later samples or with `finish`,
    and sample n of the output is n / RATE_HZ after the start whenever it comes.
    """

    def __init__(self, start_s: float, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._start_s = start_s
        self._frames_in = self._frames_out = 0
        self._reference_s = start_s  # since when the count may have drifted
        self._late_s: deque[float] = deque(maxlen=_RECENT)
        self._resampler = (
            None if rate_hz == RATE_HZ else soxr.ResampleStream(rate_hz, RATE_HZ, 1, dtype="float32", quality="HQ")
        )

    @property
    def end_s(self) -> float:
        """Where the sound taken in so far ends, by the sample clock."""
        return self._start_s + self._frames_in / self._rate_hz

    @property
    def drift_s(self) -> float:
        """How much later than by the sample clock the samples come: the least of the last ten seconds."""
        return min(self._late_s, default=0.0)

    @property
    def drift_s_max(self) -> float:
        """What a crystal may have drifted since the clock was set; beyond it sound is missing."""
        return LATE_S + DRIFT_MAX * (self.end_s - self._reference_s)

    def reanchor(self) -> float:
        """Set the clock by the recent arrivals; returns by how much."""
        moved_s = self.drift_s
        self._start_s += moved_s
        self._reference_s = self.end_s
        self._late_s.clear()
        return moved_s

    def take(self, samples: Samples, arrived_s: float) -> Chunk | None:
        """Samples at the card's rate, the first of them recorded at `arrived_s` as far as one can tell from outside."""
        self._late_s.append(arrived_s - self.end_s)
        self._frames_in += len(samples)
        return self._chunk(samples if self._resampler is None else self._resampler.resample_chunk(samples))

    def finish(self) -> Chunk | None:
        """What the resampler still holds."""
        if self._resampler is None:
            return None
        return self._chunk(self._resampler.resample_chunk(np.empty(0, np.float32), last=True))

    def _chunk(self, samples: Samples) -> Chunk | None:
        chunk = Chunk(self._start_s + self._frames_out / RATE_HZ, samples)
        self._frames_out += len(samples)
        return chunk if len(samples) else None
