"""Several channels become one: their mean, or the louder one where they cancel.

Knows nothing of files.
"""

from __future__ import annotations

import numpy as np

from edge.contract.audio import Samples

BLOCK_FRAMES = 16_384  # looked at together: half a second at 32 kHz
CANCEL_POWER = 0.01  # the mean is 20 dB below the louder channel
_STRIDE = 31  # of the samples looked at; a prime, so that no tone is met at one phase for ever
_PAIRS_MIN = 16  # fewer prove nothing
_POWER_MIN = 1e-10  # of one sample to the next; below this, nothing sounds


class Mixer:
    """Mean of the channels. A balanced microphone on a stereo input, or a cable with two wires swapped, gives channels
    of opposite sign, whose mean is silence: from the first block on in which the mean lies 20 dB below the louder
    channel, that channel is taken instead.

    It is taken to the end of the recording, for in quiet moments the channels' own noise does not cancel, and a bird in
    them would be lost again; only if it falls 20 dB below another is that one taken. Silence decides nothing, and one
    dead channel of two (the mean is 6 dB lower) or noise of two microphones (3 dB) is far from 20 dB. Compared is the
    power of differences between neighbouring samples, a part of them: there a constant offset or hum weigh little.
    A block belongs to the recording, not to the codec: the same sound gives the same choice.
    """

    def __init__(self, channels: int, rate_hz: int) -> None:
        self._channels, self._rate_hz = channels, rate_hz
        self._at = 0  # frames mixed so far
        self._taken: int | None = None  # channel
        self.note: str | None = None

    def mix(self, frames: Samples) -> Samples:
        """One channel out of `(n, channels)`; `n` is a multiple of BLOCK_FRAMES but for the last."""
        mono = _mean(frames)
        if self._channels > 1:
            for first in range(0, len(frames), BLOCK_FRAMES):
                block = frames[first : first + BLOCK_FRAMES]
                self._choose(block, first)
                if self._taken is not None:
                    mono[first : first + BLOCK_FRAMES] = block[:, self._taken]
        self._at += len(frames)
        return mono

    def _choose(self, block: Samples, first: int) -> None:
        steps = block[1::_STRIDE] - block[: len(block) - 1 : _STRIDE]
        if len(steps) < _PAIRS_MIN:
            return
        powers = np.einsum("ij,ij->j", steps, steps) / len(steps)
        loudest = int(np.argmax(powers))
        if not _POWER_MIN < powers[loudest] < np.inf:  # false for NaN too
            return
        if self._taken is None:
            together = steps.mean(axis=1)
            if np.einsum("i,i->", together, together) / len(steps) > CANCEL_POWER * powers[loudest]:
                return
            at_s = (self._at + first) / self._rate_hz
            since = f" from {at_s:.1f} s on" if at_s else ""
            self.note = f"channels cancel: the louder one, {loudest + 1}, was taken{since}"
        elif powers[self._taken] > CANCEL_POWER * powers[loudest]:
            return
        self._taken = loudest


def _mean(frames: Samples) -> Samples:
    """Mean of the channels `(n, channels)`. Not a matrix product: for that BLAS would wake threads of its own."""
    mono = frames[:, 0].copy()
    for channel in range(1, frames.shape[1]):
        mono += frames[:, channel]
    mono /= np.float32(frames.shape[1])
    return mono
