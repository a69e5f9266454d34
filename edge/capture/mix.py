"""Mixing of several channels into one: their mean, or the louder one where they cancel each other.

Knows nothing of files.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge.contract.audio import Samples

BLOCK_FRAMES = 16_384  # per decision: half a second at 32 kHz
CANCEL_POWER = 0.01  # power ratio of mean and louder channel: -20 dB
_PAIRS = 256  # neighbouring samples compared in a block
_EACH = BLOCK_FRAMES // _PAIRS
# Uneven spacing, so that no tone is always sampled at the same phase.
_AT = np.arange(_PAIRS) * _EACH + np.arange(_PAIRS) * 29 % (_EACH - 1)
_POWER_MIN = 1e-10 * _PAIRS  # of differences between neighbours; less is silence


class Mixer:
    """Mean of the channels, unless they cancel each other.

    A balanced microphone on a stereo input, or a cable with two swapped wires, gives channels of
    opposite sign, whose mean is silence. From the first block in which the mean is 20 dB below the
    louder channel, that channel is used instead.

    It is used to the end of the recording, because in quiet moments the channels' own noise does
    not cancel, and a bird in them would be lost again. Only if it falls 20 dB below another channel
    is that one used. Silence decides nothing; one dead channel of two (the mean is 6 dB lower) and
    noise of two microphones (3 dB) are far from 20 dB. The comparison uses the power of differences
    between neighbouring samples, at a subset of positions, so that constant offset and hum have
    little weight. Blocks are counted from the start of the recording, whatever the codec: the same
    sound gives the same choice.
    """

    def __init__(self, channels: int, rate_hz: int) -> None:
        self._channels = channels
        self._rate_hz = rate_hz
        self._at = 0  # frames mixed so far
        self._taken: int | None = None  # the channel in use; None: the mean
        self.note: str | None = None

    def mix(self, frames: Samples) -> Samples:
        """Mix `(n, channels)` into one channel; `n` is a multiple of BLOCK_FRAMES except in the
        last call."""
        mono = _mean(frames)
        if self._channels > 1:
            at = _looked_at(len(frames))
            steps = (frames.take(at + 1, axis=0) - frames.take(at, axis=0)).reshape(
                -1, _PAIRS, self._channels
            )
            powers = np.einsum("bij,bij->bj", steps, steps)
            together = np.einsum("bij->bi", steps)
            cancelled = np.einsum("bi,bi->b", together, together) / self._channels**2
            for block, first in enumerate(range(0, len(frames), BLOCK_FRAMES)):
                if block < len(powers):
                    self._choose(powers[block], float(cancelled[block]), first)
                if self._taken is not None:
                    part = slice(first, first + BLOCK_FRAMES)
                    mono[part] = frames[part, self._taken]
        self._at += len(frames)
        return mono

    def _choose(self, powers: Samples, mean_power: float, first: int) -> None:
        loudest = int(np.argmax(powers))
        most = float(powers[loudest])
        if not _POWER_MIN < most < np.inf:  # false for NaN too
            return
        if self._taken is None:
            if mean_power > CANCEL_POWER * most:
                return
            at_s = (self._at + first) / self._rate_hz
            since = f" from {at_s:.1f} s on" if at_s else ""
            self.note = f"channels cancel: the louder one, {loudest + 1}, was taken{since}"
        elif powers[self._taken] > CANCEL_POWER * most:
            return
        self._taken = loudest


def _looked_at(count: int) -> NDArray[np.int64]:
    """Positions of the frames to compare, block by block; a short rest at the end keeps the
    previous choice."""
    firsts = range(0, count - 2 * _PAIRS + 1, BLOCK_FRAMES)
    spans = [
        first + _AT * (min(BLOCK_FRAMES, count - first) - 1) // BLOCK_FRAMES for first in firsts
    ]
    return np.concatenate(spans) if spans else np.empty(0, np.int64)


def _mean(frames: Samples) -> Samples:
    """Mean of the channels `(n, channels)`. Not a matrix product, for which BLAS would wake threads
    of its own."""
    if frames.shape[1] == 1:
        return frames[:, 0].copy()
    mono = frames[:, 0] + frames[:, 1]
    for channel in range(2, frames.shape[1]):
        mono += frames[:, channel]
    mono /= np.float32(frames.shape[1])
    return mono
