"""Placement of boots in UTC by the knowledge of their clocks and by their order. Knows no
database."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edge.types import Known

_RANKS: dict[Known, int] = {"recorder": 0, "unsynced": 0, "rtc": 1, "fixed": 2, "synced": 3}


@dataclass
class BootSpan:
    """The span of one boot in milliseconds on its own clock, and the offset that its clock gave."""

    begin_ms: int
    end_ms: int
    told_ms: int  # UTC since 1970 when the boot's clock was 0, by its wall clock
    known: Known


def placed(spans: Sequence[BootSpan]) -> list[int]:
    """Best offsets of the boots' clocks: UTC since 1970 in milliseconds when each clock was 0.
    `spans` are in chronological order.

    Better known boots are placed first. A clock kept by a network is believed; if two contradict
    each other, the later one. A less known boot is placed where its clock says, but after the boots
    before it and before those after it: a board whose clock starts in 1970 follows the end of the
    record, and no second is counted twice.
    """
    offsets: list[int | None] = [None] * len(spans)
    for number in reversed(range(len(spans))):
        if _RANKS[spans[number].known] == _RANKS["synced"]:
            high = _next_begin(spans, offsets, number)
            offsets[number] = min(spans[number].told_ms, high - spans[number].end_ms)
    for rank in range(_RANKS["fixed"], -1, -1):
        for number, span in enumerate(spans):
            if _RANKS[span.known] == rank:
                low = _previous_end(spans, offsets, number)
                high = _next_begin(spans, offsets, number)
                offsets[number] = max(min(span.told_ms, high - span.end_ms), low - span.begin_ms)
    return [span.told_ms if at is None else at for span, at in zip(spans, offsets, strict=True)]


_FAR_MS = 1 << 52


def _previous_end(spans: Sequence[BootSpan], offsets: Sequence[int | None], number: int) -> int:
    """End of the nearest placed boot before this one."""
    for before in reversed(range(number)):
        at = offsets[before]
        if at is not None:
            return at + spans[before].end_ms
    return -_FAR_MS


def _next_begin(spans: Sequence[BootSpan], offsets: Sequence[int | None], number: int) -> int:
    """Begin of the nearest placed boot after this one."""
    for after in range(number + 1, len(spans)):
        at = offsets[after]
        if at is not None:
            return at + spans[after].begin_ms
    return _FAR_MS


def ms(seconds: float) -> int:
    """Whole milliseconds."""
    return math.floor(seconds * 1000 + 0.5)
