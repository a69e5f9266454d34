"""A stretch of sound of which the beginning was decided and stored before: its sound passes by, and
no network sees it.

What follows comes out as if all had been analysed at once, to the last bit. Knows no database.
"""

from math import lcm

from edge.contract.audio import BLOCK_SAMPLES, RATE_HZ, WINDOW_SAMPLES, Samples
from edge.speech.listener import Listener

# Before what is still to be decided: a window, the neighbours with which it is smoothed, and the
# sound around them.
_AROUND = 3 * WINDOW_SAMPLES
assert _AROUND >= 2 * WINDOW_SAMPLES + 2 * RATE_HZ


class Resumption:
    """Takes the samples of a stretch and gives those that are to be cut into windows; all of them
    where nothing is known. People are listened to from the beginning on: what is said of them
    depends on all that was heard."""

    def __init__(self, known: int, hop: int, listener: Listener | None) -> None:
        self.known = known  # sample of the stretch up to which what is found is stored already
        step = lcm(hop, BLOCK_SAMPLES)
        self.skips = max(0, known - _AROUND) // step * step  # samples that are not cut
        self.heard = 0  # samples so far
        self._hop = hop
        self._listener = listener
        self._asked = 0

    @property
    def is_all(self) -> bool:
        """Whether nothing of what was heard is still to be decided."""
        return 0 < self.heard <= self.known

    @property
    def windows(self) -> int:
        """How many windows of the stretch, which is over, were decided before."""
        known = min(self.known, self.heard)
        count = (known - WINDOW_SAMPLES) // self._hop + 1 if known >= WINDOW_SAMPLES else 0
        covered = (count - 1) * self._hop + WINDOW_SAMPLES if count else 0
        return (
            count + 1 if self.is_all and self.heard > covered else count
        )  # the last one ends with the sound

    def push(self, samples: Samples) -> Samples:
        """The next samples of the stretch."""
        before, self.heard = self.heard, self.heard + len(samples)
        if self._listener:
            self._listener.push(samples)
            while self._asked < self.skips and self._asked + WINDOW_SAMPLES <= self.heard:
                self._listener.spoken(
                    self._asked, self._asked + WINDOW_SAMPLES
                )  # in the pieces of the first time
                self._asked += self._hop
        return samples[max(0, self.skips - before) :]
