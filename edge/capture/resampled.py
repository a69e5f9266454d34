"""Unbroken sound on its way from the card's rate to the station's, and the clock that its samples
are.

Does not know where the sound comes from or why it ends.
"""

from collections import deque

import numpy as np
import soxr

from edge.contract.audio import RATE_HZ, Samples
from edge.types import Chunk

DRIFT_MAX = 2e-4  # of a crystal; good ones are within 5e-5
LATE_S = 0.25  # how late samples may come without any being missing
# of the rate: no crystal is so far off, arrivals through a sound server seem to be at times
RATE_OFF_MIN = 1e-3
_RATE_OVER_S_MIN = 60.0  # over which the rate is measured at least
_RECENT = 20  # blocks
_MARKS = 60  # of _RECENT blocks each: ten minutes


class ResampledStream:
    """Resamples (soxr HQ) and counts. Times follow from the first sample's by counting, so chunks
    abut exactly.

    soxr's output is aligned with its input: what it still holds back comes with later samples or
    with `finish`, and sample n of the output is n / RATE_HZ after the start whenever it comes.

    No sample is recorded after it arrives: a count that runs ahead of the arrivals by more than a
    crystal can is that of a card that gives more samples than its rate says. What is beyond goes,
    so that no time is told twice: a block is squeezed by so much (of a card that is steadily too
    fast this also mends the pitch), and goes whole where half of it or more is too much. `rate_off`
    tells of it.
    """

    def __init__(self, start_s: float, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._start_s = start_s
        self._frames_in = self._frames_out = 0
        self._reference_s = start_s  # since when the count may have drifted
        self._moved_s = (
            0.0  # by how much the clock was set later than the count of all samples that came
        )
        self._surplus_s = 0.0  # of the samples to come so much is left out
        self._late_s: deque[float] = deque(maxlen=_RECENT)  # by the count of all samples that came
        self._marks: deque[tuple[float, float]] = deque(maxlen=_MARKS + 1)  # when it was how late
        self._resampler = (
            None
            if rate_hz == RATE_HZ
            else soxr.ResampleStream(rate_hz, RATE_HZ, 1, dtype="float32", quality="HQ")
        )

    @property
    def end_s(self) -> float:
        """Where the sound taken in so far ends, by the sample clock."""
        return self._start_s + self._frames_in / self._rate_hz

    @property
    def drift_s(self) -> float:
        """How much later than by the sample clock the samples come: the least of the last ten
        seconds. Negative: they come too early."""
        return min(self._late_s) - self._moved_s if self._late_s else 0.0

    @property
    def drift_s_max(self) -> float:
        """What a crystal may have drifted since the clock was set; beyond it sound is missing, or
        too much."""
        return LATE_S + DRIFT_MAX * (self.end_s - self._reference_s)

    @property
    def rate_off(self) -> float | None:
        """By which share the card gives more samples than its rate says (negative: fewer), over the
        last ten minutes; None: too little sound came to tell."""
        if len(self._marks) < 2:
            return None
        (from_s, late_then_s) = self._marks[0]
        (to_s, late_now_s) = self._marks[-1]
        return (
            (late_then_s - late_now_s) / (to_s - from_s)
            if to_s - from_s >= _RATE_OVER_S_MIN
            else None
        )

    def reanchor(self) -> float:
        """Set the clock by the recent arrivals; returns by how much. Where they are early the clock
        stays, and so much of the sound that follows is left out: time never goes back."""
        moved_s = self.drift_s
        if moved_s >= 0:
            self._start_s += moved_s
            self._moved_s += moved_s
        else:
            self._surplus_s = -moved_s
        self._reference_s = self.end_s
        return moved_s

    def take(self, samples: Samples, arrived_s: float) -> Chunk | None:
        """Samples at the card's rate, the first of them recorded at `arrived_s` as far as one can
        tell from outside."""
        late_s = arrived_s - self.end_s
        self._late_s.append(late_s + self._moved_s)
        self._mark(arrived_s)
        kept = self._without_surplus(samples, -late_s - self.drift_s_max)
        if len(kept) < len(samples):
            self._moved_s -= (len(samples) - len(kept)) / self._rate_hz
            self._reference_s = self.end_s
        self._frames_in += len(kept)
        return self._chunk(
            kept if self._resampler is None else self._resampler.resample_chunk(kept)
        )

    def _mark(self, now_s: float) -> None:
        """Once ten seconds are known, and then every ten."""
        last_s = self._marks[-1][0] if self._marks else -np.inf
        if len(self._late_s) == _RECENT and now_s - last_s >= 10.0:
            self._marks.append((now_s, min(self._late_s)))

    def _without_surplus(self, samples: Samples, early_s: float) -> Samples:
        """What is left of a block that begins `early_s` earlier than it may."""
        count = len(samples)
        if self._surplus_s > 0:
            cut = min(count, round(self._surplus_s * self._rate_hz))
            self._surplus_s = self._surplus_s - cut / self._rate_hz if cut == count else 0.0
            return samples[cut:]
        surplus = round(early_s * self._rate_hz)
        if surplus <= 0:
            return samples
        if surplus >= count // 2:
            return samples[:0]
        places = np.linspace(0, count - 1, count - surplus)
        return np.interp(places, np.arange(count), samples).astype(np.float32)

    def finish(self) -> Chunk | None:
        """What the resampler still holds."""
        if self._resampler is None:
            return None
        return self._chunk(self._resampler.resample_chunk(np.empty(0, np.float32), last=True))

    def _chunk(self, samples: Samples) -> Chunk | None:
        chunk = Chunk(self._start_s + self._frames_out / RATE_HZ, samples)
        self._frames_out += len(samples)
        return chunk if len(samples) else None
