"""Resumption of a stretch whose beginning was analysed and stored before: that sound is decoded
again, but no network sees it.

The rest gives the same results, to the last bit, as analysing everything in one go. Knows no
database.
"""

from math import lcm

from edge.contract.audio import BLOCK_SAMPLES, RATE_HZ, WINDOW_SAMPLES, Samples
from edge.speech.listener import Listener

# Sound needed before the first undecided window: a window, its neighbours in smoothing, and the
# context around them.
_AROUND = 3 * WINDOW_SAMPLES
assert _AROUND >= 2 * WINDOW_SAMPLES + 2 * RATE_HZ


class Resumption:
    """Takes the samples of a stretch and returns those that must be cut into windows; all of them
    if nothing is known. The speech listener hears the sound from its beginning, because its answers
    depend on everything before."""

    def __init__(self, known: int, hop: int, listener: Listener | None) -> None:
        self.known = known  # sample of the stretch up to which results are stored already
        step = lcm(hop, BLOCK_SAMPLES)
        self.skips = max(0, known - _AROUND) // step * step  # samples that are not cut into windows
        self.heard = 0  # samples pushed so far
        self._hop = hop
        self._listener = listener
        self._asked = 0

    @property
    def is_all(self) -> bool:
        """True if everything heard so far was decided before."""
        return 0 < self.heard <= self.known

    @property
    def windows(self) -> int:
        """Number of windows of the finished stretch that were decided before."""
        known = min(self.known, self.heard)
        count = (known - WINDOW_SAMPLES) // self._hop + 1 if known >= WINDOW_SAMPLES else 0
        covered = (count - 1) * self._hop + WINDOW_SAMPLES if count else 0
        # the last one ends with the sound
        return count + 1 if self.is_all and self.heard > covered else count

    def push(self, samples: Samples) -> Samples:
        """Take the next samples of the stretch; return those to be cut into windows."""
        before = self.heard
        self.heard += len(samples)
        if self._listener:
            self._listener.push(samples)
            while self._asked < self.skips and self._asked + WINDOW_SAMPLES <= self.heard:
                # in the same steps as the first time
                self._listener.spoken(self._asked, self._asked + WINDOW_SAMPLES)
                self._asked += self._hop
        return samples[max(0, self.skips - before) :]
