"""Unbroken sound resampled from the card's rate to the station's, and timed by its sample count.

Does not know where the sound comes from or why it ends.
"""

from collections import deque

import numpy as np
import soxr

from edge.contract.audio import RATE_HZ, Samples
from edge.types import Chunk

DRIFT_MAX = 2e-4  # of a crystal, relative; good ones are within 5e-5
LATE_S = 0.25  # largest delay of samples if none are missing
# Relative deviation that no crystal has; through a sound server smaller ones appear at times.
RATE_OFF_MIN = 1e-3
_RATE_OVER_S_MIN = 60.0  # shortest time over which the rate is measured
_RECENT = 20  # blocks
_MARKS = 60  # one per _RECENT blocks: ten minutes


class ResampledStream:
    """Resamples (soxr HQ) and counts samples. Times follow from the first sample's time by
    counting, so that chunks abut exactly.

    soxr's output is aligned with its input: sound that it still holds back comes with later samples
    or with `finish`, and sample n of the output is n / RATE_HZ after the start whenever it comes.

    No sample is recorded after it arrives. If the count runs ahead of the arrivals by more than a
    crystal's drift, the card delivers more samples than its rate. The surplus is removed, so that
    no time is covered twice: a block is squeezed by the surplus (which also corrects the pitch of a
    card that is steadily too fast), or dropped if half of it or more is surplus. `rate_off` gives
    the deviation.
    """

    def __init__(self, start_s: float, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._start_s = start_s
        self._frames_in = self._frames_out = 0
        self._reference_s = start_s  # time since which the count may have drifted
        # shift of the clock against the count of all samples that came
        self._moved_s = 0.0
        self._surplus_s = 0.0  # sound still to be left out
        self._late_s: deque[float] = deque(maxlen=_RECENT)  # against the count of all samples
        self._marks: deque[tuple[float, float]] = deque(maxlen=_MARKS + 1)  # time, delay
        self._resampler = (
            None
            if rate_hz == RATE_HZ
            else soxr.ResampleStream(rate_hz, RATE_HZ, 1, dtype="float32", quality="HQ")
        )

    @property
    def end_s(self) -> float:
        """End of the sound taken in so far, by the sample clock."""
        return self._start_s + self._frames_in / self._rate_hz

    @property
    def drift_s(self) -> float:
        """Delay of the samples behind the sample clock: the least of the last ten seconds.
        Negative: they are early."""
        return min(self._late_s) - self._moved_s if self._late_s else 0.0

    @property
    def drift_s_max(self) -> float:
        """Largest drift of a crystal since the clock was set; beyond it there are missing or
        surplus samples."""
        return LATE_S + DRIFT_MAX * (self.end_s - self._reference_s)

    @property
    def rate_off(self) -> float | None:
        """Deviation of the card's rate from its nominal one over the last ten minutes, as a
        fraction (positive: more samples); None if there was too little sound to tell."""
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
        """Set the clock by the recent arrivals; returns the shift.

        If they are early the clock stays, and the same amount of the following sound is left out:
        time never goes back.
        """
        moved_s = self.drift_s
        if moved_s >= 0:
            self._start_s += moved_s
            self._moved_s += moved_s
        else:
            self._surplus_s = -moved_s
        self._reference_s = self.end_s
        return moved_s

    def take(self, samples: Samples, arrived_s: float) -> Chunk | None:
        """Take in samples at the card's rate; `arrived_s` is the best outside estimate of the first
        one's time."""
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
        """Note the delay every ten seconds, once ten seconds of arrivals are known."""
        last_s = self._marks[-1][0] if self._marks else -np.inf
        if len(self._late_s) == _RECENT and now_s - last_s >= 10.0:
            self._marks.append((now_s, min(self._late_s)))

    def _without_surplus(self, samples: Samples, early_s: float) -> Samples:
        """The rest of a block that begins `early_s` earlier than it may."""
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
        """The sound that the resampler still holds."""
        if self._resampler is None:
            return None
        return self._chunk(self._resampler.resample_chunk(np.empty(0, np.float32), last=True))

    def _chunk(self, samples: Samples) -> Chunk | None:
        chunk = Chunk(self._start_s + self._frames_out / RATE_HZ, samples)
        self._frames_out += len(samples)
        return chunk if len(samples) else None
