"""The microphone as an endless source of Chunks and Gaps: opens the card, watches it, and reopens
it after failures.

Knows when a card counts as silent and when to try again. Does not know wall-clock time, windows or
the store.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from edge.capture.meter import Level, Meter
from edge.capture.native_sound import SAMPLE_MAX
from edge.capture.portaudio import PortAudio
from edge.capture.resampled import RATE_OFF_MIN, ResampledStream
from edge.capture.ring import Block, Ring
from edge.config import MicrophoneSettings
from edge.contract.audio import RATE_HZ
from edge.contract.errors import CaptureError
from edge.types import Chunk, Gap, GapReason

RETRY_S_MAX = 60.0
HEALTHY_S = 10.0  # after this much sound the retry delay starts from its first value again
LOST_S_MIN = 0.005  # smaller differences are jitter of the arrivals
# If sound lost in small pieces adds up to more than this, it becomes a gap before the hour ends.
LOST_S_MAX = 5.0
_IN_PIECES = "lost in small pieces; the card reported no overflow"
_NOW = "; later: "  # between the reason for an outage and the result of the latest attempt
_jitter = random.Random()  # separate from the global generator, whose state it must not change
_POLL_S = 0.25  # longest wait between checks of the clock while no sound comes


@dataclass(frozen=True)
class _Card:
    """An open sound card."""

    name: str
    stream: Any
    ring: Ring
    opened_s: float


@dataclass(frozen=True)
class _Silence:
    """The reason for the current outage."""

    reason: GapReason
    detail: str


class Microphone:
    """Sound of one card, given piece by piece by `read`, for one thread.

        microphone = Microphone(settings)
        while running:
            piece = microphone.read(timeout_s=0.5)
        rest = microphone.close()

    Accounting: each Chunk or Gap begins where the previous one ended, the first one when this
    object was made. The seconds of chunks and gaps therefore add up to the monotonic time, up to
    the drift of the card's crystal; `reanchor` corrects that drift, and is meant to be called
    between two stretches, an hour apart. Whatever a card delivers, chunks and gaps never cover more
    time than has passed. Before the first sound there is a Gap "off" for the time that opening
    took, or one with a better reason if there is one.

    If a card's rate is off by more than a crystal's tolerance, missing samples become Gaps
    "overflow", since they cannot be told from lost ones; surplus samples are squeezed into the time
    in which they came (see ResampledStream). `trouble` reports this and what to do.

    An outage is one Gap, given when sound is back, however often the card was tried meanwhile; it
    keeps its first reason, and `silent` gives it while it lasts. If a card delivers one constant
    value for `stall_s`, the outage begins then; the Gap "constant" ends with the first block that
    has two different samples. The station keeps trying to open the card, after 1 s, 2 s, 4 s and so
    on up to 60 s, each shortened at random by up to half.
    """

    def __init__(
        self,
        settings: MicrophoneSettings,
        *,
        portaudio: PortAudio | None = None,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = _jitter.random,
    ) -> None:
        self.last_sample_s: float | None = None  # monotonic clock at the end of the last sound read
        self._settings = settings
        self._portaudio = portaudio or PortAudio()
        self._clock = clock
        self._chance = chance
        self._card: _Card | None = None
        self._stretch: ResampledStream | None = None
        self._rate_off: float | None = None  # last measured rate error of the open card
        self._silence: _Silence | None = _Silence("off", "")
        self._ready: deque[Chunk | Gap] = deque()
        self._meter = Meter()
        self._same: float | None = None  # value that all recent samples have in common
        self._same_s = 0.0
        self._numbers = True  # the last block was not all NaN
        self._failures = 0
        # end of the last chunk or gap; next attempt to open the card
        self._end_s = self._retry_s = clock()

    def __enter__(self) -> Microphone:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def waiting_s(self) -> float:
        """Seconds of sound waiting to be read, `buffer_s` at most."""
        card = self._card  # read once: this is called from other threads too
        return card.ring.waiting_s if card else 0.0

    @property
    def card(self) -> str | None:
        """Name of the open sound card; None if there is none."""
        card = self._card
        return card.name if card else None

    @property
    def silent(self) -> Gap | None:
        """The current outage so far; None while there is sound or the card is being opened."""
        gap = self._silent()
        return gap if gap and gap.reason != "off" else None

    def _silent(self) -> Gap | None:
        silence = self._silence
        end_s = self._end_s
        if silence is None:
            return None
        return Gap(end_s, max(0.0, self._clock() - end_s), silence.reason, silence.detail)

    @property
    def drift_s(self) -> float:
        """Delay of the sound behind its sample count since the last `reanchor` or Gap."""
        return self._stretch.drift_s if self._stretch else 0.0

    @property
    def trouble(self) -> str | None:
        """A problem of the card although it delivers sound: its rate is not what it declares. None:
        no problem."""
        card = self._card
        off = self._rate_off
        if card is None or off is None or abs(off) < RATE_OFF_MIN:
            return None
        how = "more" if off > 0 else "fewer"
        rate_hz = card.ring.rate_hz
        return (
            f"microphone.rate_hz: {card.name!r} delivers {abs(off):.1%} {how} samples than at "
            f"{rate_hz} Hz, about {round(rate_hz * (1 + off), -2):.0f} per second"
        )

    def level(self) -> Level | None:
        """Levels of the sound read since the last call; None if there was none."""
        return self._meter.read()

    def reanchor(self) -> float:
        """Let the next Chunk's `at_s` follow from the recent arrivals instead of the sample count;
        returns the difference.

        If the difference is more than a crystal can drift, the card lost sound without reporting
        it: a Gap "overflow" comes first.
        """
        stretch = self._stretch
        if stretch is None:
            return 0.0
        drift_s = stretch.drift_s
        if drift_s > stretch.drift_s_max:
            self._lose_in_pieces(drift_s)
            return drift_s
        return stretch.reanchor()

    def _lose_in_pieces(self, lost_s: float) -> None:
        self._break("overflow", lost_s, _IN_PIECES)

    def read(self, timeout_s: float) -> Chunk | Gap | None:
        """The next half second of sound, or the gap before it; None if nothing came within the
        timeout."""
        deadline_s = self._clock() + timeout_s
        while True:
            while not self._ready and self._step():
                pass
            if self._ready:
                return self._ready.popleft()
            left_s = deadline_s - self._clock()
            if left_s <= 0:
                return None
            self._wait(min(left_s, _POLL_S))

    def close(self) -> Gap | None:
        """Stop listening and return the gap that completes the accounts up to now.

        That is the outage that has not ended, or the unread sound as "off"; None if there is
        neither. To have remaining sound analysed, read until `waiting_s` is small before closing.
        """
        card = self._card
        self._card = None
        stretch = self._stretch
        self._stretch = None
        if card is not None:
            self._portaudio.close(card.stream)
        first = self._ready[0] if self._ready else self._silent()
        if first is None and stretch is not None and stretch.drift_s > stretch.drift_s_max:
            first = Gap(self._end_s, stretch.drift_s, "overflow", _IN_PIECES)
        at_s = first.at_s if first else self._end_s
        self._ready.clear()
        self._silence = None
        self._end_s = max(self._clock(), at_s)
        if self._end_s - at_s < LOST_S_MIN:
            return None
        reason, detail = (
            (first.reason, first.detail)
            if isinstance(first, Gap)
            else ("off", "not read before closing")
        )
        return Gap(at_s, self._end_s - at_s, reason, detail)

    def _wait(self, seconds: float) -> None:
        if self._card is None:
            time.sleep(seconds)
        else:
            self._card.ring.wait(seconds)

    def _step(self) -> bool:
        """Take one block or check the card once; False if there is nothing to do now."""
        card = self._card
        if card is None:
            if self._clock() >= self._retry_s:
                self._open()
            return False
        block = card.ring.take()
        if block is not None:
            self._hear(card, block)
            if self._same_s >= self._settings.stall_s:
                what = f"the value {self._same:g}" if self._numbers else "NaN"
                self._lose("constant", f"{card.name!r} delivers only {what}")
            return True
        if card.ring.ended:
            self._lose("unplugged", f"{card.name!r} ended its stream")
        elif self._clock() - card.ring.last_s > self._settings.stall_s:
            self._lose("stalled", f"no samples from {card.name!r} for {self._settings.stall_s:g} s")
        return False

    # Sound

    def _hear(self, card: _Card, block: Block) -> None:
        rate_hz = card.ring.rate_hz
        self._numbers = not np.isnan(block.samples).all()
        # sound servers pass on any float; sums of squares must stay finite
        np.nan_to_num(block.samples, copy=False, posinf=1.0, neginf=-1.0)
        np.clip(block.samples, -SAMPLE_MAX, SAMPLE_MAX, out=block.samples)
        self._meter.add(block.samples, rate_hz)
        self._watch(block, rate_hz)
        dropped_s = block.dropped / rate_hz
        if self._silence is not None:
            if self._silence.reason == "constant" and self._same is not None:
                return
            self._end_silence(block.start_s - dropped_s)
        if block.dropped:
            self._make_room(dropped_s, block.start_s)
        if block.broken:
            self._overflow(card, block)
        if self._stretch is None:
            self._stretch = ResampledStream(self._end_s, rate_hz)
        self._give(self._stretch.take(block.samples, block.start_s))
        self.last_sample_s = self._stretch.end_s
        if (rate_off := self._stretch.rate_off) is not None:
            self._rate_off = rate_off
        if self._stretch.drift_s > self._stretch.drift_s_max + LOST_S_MAX:
            self._lose_in_pieces(self._stretch.drift_s)
        if block.start_s - card.opened_s > HEALTHY_S:
            self._failures = 0

    def _make_room(self, dropped_s: float, until_s: float) -> None:
        """Account for samples that were dropped from a full buffer.

        A card that delivers in bursts may drop more samples than time has passed: the gap ends
        where the sound behind it begins at the latest.
        """
        self._end_stretch()
        lost_s = min(dropped_s, max(0.0, until_s - self._end_s))
        self._break(
            "overload", lost_s, f"more than {self._settings.buffer_s:g} s of sound were waiting"
        )

    def _overflow(self, card: _Card, block: Block) -> None:
        """Account for sound that the card lost: the monotonic clock minus the sample count.

        The card's own time stamps are the sound server's estimates if there is one, and of a
        different clock.
        """
        expected_s = (
            self._end_s if self._stretch is None else self._stretch.end_s + self._stretch.drift_s
        )
        lost_s = max(0.0, block.start_s - expected_s)
        if lost_s > LOST_S_MIN or (block.overflowed and self._stretch is not None):
            self._break("overflow", lost_s, f"{card.name!r} lost samples")

    def _watch(self, block: Block, rate_hz: int) -> None:
        """Measure for how long all samples have been the same number."""
        low = float(block.samples.min())
        high = float(block.samples.max())
        if low != high:
            self._same = None
            self._same_s = 0.0
            return
        if low != self._same:
            self._same = low
            self._same_s = 0.0
        self._same_s += len(block.samples) / rate_hz

    def _give(self, chunk: Chunk | None) -> None:
        if chunk is not None:
            self._ready.append(chunk)
            self._end_s = chunk.at_s + len(chunk.samples) / RATE_HZ

    def _break(self, reason: GapReason, seconds: float, detail: str) -> None:
        """End the stretch here; the next one begins after a gap of `seconds`, which never reaches
        into the future."""
        self._end_stretch()
        seconds = max(0.0, min(seconds, self._clock() - self._end_s))
        self._ready.append(Gap(self._end_s, seconds, reason, detail))
        self._end_s += seconds

    def _end_stretch(self) -> None:
        if self._stretch is not None:
            self._give(self._stretch.finish())
            self._stretch = None

    def _end_silence(self, sound_s: float) -> None:
        assert self._silence is not None, "there was sound"
        if sound_s > self._end_s:
            self._break(self._silence.reason, sound_s - self._end_s, self._silence.detail)
        self._silence = None

    # The card

    def _open(self) -> None:
        settings = self._settings
        try:
            self._portaudio.rescan()
            device = self._portaudio.find(settings.device)
            ring = Ring(device.rate(settings.rate_hz), settings.buffer_s, self._clock)
            stream = self._portaudio.open(
                device, ring.rate_hz, settings.channel, ring.write, ring.end
            )
        except CaptureError as error:
            self._fall_silent("no device", str(error))
            return
        except MemoryError:
            shown = (
                f"not enough memory for {settings.buffer_s:g} s of sound; choose a smaller value"
            )
            self._fall_silent("no device", f"microphone.buffer_s: {shown}")
            return
        self._same = None
        self._same_s = 0.0
        self._rate_off = None
        self._card = _Card(device.name, stream, ring, self._clock())

    def _lose(self, reason: GapReason, detail: str) -> None:
        """Give the card up, after taking what it delivered; it will be reopened."""
        card = self._card
        self._card = None
        assert card is not None, "there is a card to lose"
        self._portaudio.close(card.stream)
        while (block := card.ring.take(partial=True)) is not None:
            self._hear(card, block)
        self._end_stretch()
        self._fall_silent(reason, detail)

    def _fall_silent(self, reason: GapReason, detail: str) -> None:
        """Begin an outage or add to it: the first reason stays, the result of the latest attempt is
        appended."""
        first = self._silence
        if first is None or first.reason == "off":
            self._silence = _Silence(reason, detail)
        else:
            cause = first.detail.split(_NOW)[0]
            self._silence = _Silence(
                first.reason, cause if detail == cause else f"{cause}{_NOW}{detail}"
            )
        delay_s = min(RETRY_S_MAX, 2.0 ** min(self._failures, 10))
        self._failures += 1
        self._retry_s = self._clock() + delay_s * (1 - self._chance() / 2)


@dataclass(frozen=True)
class Trial:
    """Result of listening for a while."""

    level: Level | None  # None: no sound came
    gaps: tuple[Gap, ...]  # except the time that opening took


def listen(
    settings: MicrophoneSettings,
    seconds: float,
    *,
    portaudio: PortAudio | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Trial:
    """Listen for `seconds` as the station would, and return the levels and the gaps."""
    gaps: list[Gap | None] = []
    microphone = Microphone(settings, portaudio=portaudio, clock=clock)
    end_s = clock() + seconds
    while (left_s := end_s - clock()) > 0:
        piece = microphone.read(left_s)
        if isinstance(piece, Gap):
            gaps.append(piece)
    gaps.append(microphone.close())
    return Trial(microphone.level(), tuple(gap for gap in gaps if gap and gap.reason != "off"))
