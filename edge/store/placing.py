"""Where boots lie on the calendar, by what is known of each and by their order. Knows no
database."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edge.types import Known

_RANKS: dict[Known, int] = {"recorder": 0, "unsynced": 0, "rtc": 1, "fixed": 2, "synced": 3}


@dataclass
class BootSpan:
    """One boot: milliseconds on its own clock, and what that clock is said to be."""

    begin_ms: int
    end_ms: int
    told_ms: int  # UTC, since 1970, when the boot's clock was 0, as it was told
    known: Known


def placed(spans: Sequence[BootSpan]) -> list[int]:
    """What each boot's clock is best taken for, by UTC when it was 0; `spans` in the order in which
    they happened.

    What is better known is placed first. A clock that a network keeps is believed; of two that
    contradict each other the later. What is less known lies where it says, but after what was
    before it, and before what came after it: a board that begins in 1970 begins when the record
    ends, and no second is heard twice.
    """
    found: list[int | None] = [None] * len(spans)
    for number in reversed(range(len(spans))):
        if _RANKS[spans[number].known] == _RANKS["synced"]:
            high = _begins(spans, found, number)
            found[number] = min(spans[number].told_ms, high - spans[number].end_ms)
    for rank in range(_RANKS["fixed"], -1, -1):
        for number, span in enumerate(spans):
            if _RANKS[span.known] == rank:
                low = _ends(spans, found, number)
                high = _begins(spans, found, number)
                found[number] = max(min(span.told_ms, high - span.end_ms), low - span.begin_ms)
    return [span.told_ms if at is None else at for span, at in zip(spans, found, strict=True)]


_FAR_MS = 1 << 52


def _ends(spans: Sequence[BootSpan], found: Sequence[int | None], number: int) -> int:
    """When what was before has ended."""
    for before in reversed(range(number)):
        at = found[before]
        if at is not None:
            return at + spans[before].end_ms
    return -_FAR_MS


def _begins(spans: Sequence[BootSpan], found: Sequence[int | None], number: int) -> int:
    """When what came after has begun."""
    for after in range(number + 1, len(spans)):
        at = found[after]
        if at is not None:
            return at + spans[after].begin_ms
    return _FAR_MS


def ms(seconds: float) -> int:
    """Whole milliseconds."""
    return math.floor(seconds * 1000 + 0.5)
