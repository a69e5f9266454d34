"""Bounded buffer between the sound card's thread, which must not wait, and the station's loop,
which may be busy.

Knows samples at the card's own rate and when they arrived. Does not know cards, resampling or the
names of gaps.
"""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edge.contract.audio import Samples

BLOCK_S = 0.5  # sound per block
# Longer than any card's own buffer: after this long without samples, sound may be missing.
PAUSE_S = 2.0
# Late samples may come in one burst after a break; after this long their times are known.
SETTLE_S = 1.0


@dataclass(frozen=True)
class Block:
    """Unbroken samples of one channel at the card's rate."""

    samples: Samples
    start_s: float  # monotonic clock at its first sample, by the least delayed arrival
    broken: bool  # after a pause: sound may be missing before it
    overflowed: bool  # the card reported that sound is missing before it
    dropped: int  # samples before it that were dropped


class _Slot:
    """Space for one block."""

    def __init__(self, frames: int) -> None:
        self.samples: Samples = np.zeros(frames, np.float32)
        self.clear()

    def clear(self, broken: bool = False, overflowed: bool = False) -> None:
        self.filled = self.dropped = 0
        self.start_s = self.arrived_s = math.inf
        self.broken = broken
        self.overflowed = overflowed


class Ring:
    """At most `seconds` of sound, in memory allocated at the start. When it is full, the oldest
    block is dropped and counted.

    One thread writes, one reads. The lock is held for a copy of half a second of sound at most.
    """

    def __init__(
        self, rate_hz: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate_hz = rate_hz
        self.last_s = clock()  # time of the last arrival
        self.ended = False  # the card's thread will write no more
        self._clock = clock
        frames = round(BLOCK_S * rate_hz)
        self._slots = [_Slot(frames) for _ in range(math.ceil(seconds * rate_hz / frames) + 1)]
        self._slots[0].broken = True
        self._reading = self._writing = 0
        self._waiting = 0
        self._changed = threading.Condition()

    @property
    def waiting_s(self) -> float:
        """Seconds of sound that have not been taken yet."""
        return self._waiting / self.rate_hz

    def write(self, samples: Samples, overflowed: bool) -> None:
        """Add what the card has just recorded; `overflowed`: the card reports that it lost sound
        before this."""
        now_s = self._clock()
        start_s = now_s - len(samples) / self.rate_hz
        with self._changed:
            if overflowed or start_s - self.last_s > PAUSE_S:
                self._next_slot(True, overflowed)
            self.last_s = now_s
            while len(samples):
                slot = self._slots[self._writing]
                if slot.filled == len(slot.samples):
                    slot = self._next_slot()
                count = min(len(samples), len(slot.samples) - slot.filled)
                slot.samples[slot.filled : slot.filled + count] = samples[:count]
                slot.start_s = min(slot.start_s, start_s - slot.filled / self.rate_hz)
                slot.arrived_s = min(slot.arrived_s, now_s)
                slot.filled += count
                self._waiting += count
                samples = samples[count:]
                start_s += count / self.rate_hz
            if self._complete():  # not for every one of the card's forty writes a second
                self._changed.notify()

    def _next_slot(self, broken: bool = False, overflowed: bool = False) -> _Slot:
        slot = self._slots[self._writing]
        if slot.filled == 0:
            slot.broken |= broken
            slot.overflowed |= overflowed
            return slot
        self._writing = (self._writing + 1) % len(self._slots)
        slot = self._slots[self._writing]
        if self._writing == self._reading:
            self._reading = (self._reading + 1) % len(self._slots)
            heir = self._slots[self._reading]
            heir.dropped += slot.dropped + slot.filled
            heir.broken |= slot.broken
            heir.overflowed |= slot.overflowed
            self._waiting -= slot.filled
        slot.clear(broken, overflowed)
        return slot

    def end(self) -> None:
        """Note that the card's thread will write no more."""
        with self._changed:
            self.ended = True
            self._changed.notify()

    def take(self, partial: bool = False) -> Block | None:
        """The oldest block; None if none is complete. With `partial`, also the one that is still
        being filled.

        The first block, and one after a break, is held back for a second, so that its time is
        right.
        """
        with self._changed:
            slot = self._slots[self._reading]
            if not (self._complete() or (partial and slot.filled)):
                return None
            start_s = self._settled_start_s() if slot.broken else slot.start_s
            samples = slot.samples[: slot.filled].copy()
            block = Block(samples, start_s, slot.broken, slot.overflowed, slot.dropped)
            self._waiting -= slot.filled
            slot.clear()
            if self._reading != self._writing:
                self._reading = (self._reading + 1) % len(self._slots)
            return block

    def wait(self, timeout_s: float) -> None:
        """Wait until a block is complete, the card's thread has ended, or the timeout is over."""
        with self._changed:
            self._changed.wait_for(lambda: self.ended or self._complete(), timeout_s)

    def _complete(self) -> bool:
        slot = self._slots[self._reading]
        if self._reading == self._writing and slot.filled < len(slot.samples):
            return False
        return not slot.broken or self.ended or self._clock() - slot.arrived_s >= SETTLE_S

    def _settled_start_s(self) -> float:
        """Start of the oldest block, by the least delayed arrival up to the next break."""
        start_s = math.inf
        frames = 0
        index = self._reading
        while True:
            slot = self._slots[index]
            start_s = min(start_s, slot.start_s - frames / self.rate_hz)
            frames += slot.filled
            index = (index + 1) % len(self._slots)
            if slot is self._slots[self._writing] or self._slots[index].broken:
                return start_s
