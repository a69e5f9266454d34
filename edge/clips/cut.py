"""Which pieces of a stretch become clips, in samples from its start. Knows no sound, no species and
no file."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from edge.config import ClipSettings
from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES
from edge.speech.listener import RUN_SAMPLES

SampleSpan = tuple[int, int]  # from, to (exclusive)


@dataclass(frozen=True)
class Rolls:
    """How much sound goes with the windows of a clip, and how long it may be."""

    before: int
    after: int
    length_max: int

    @classmethod
    def of(cls, settings: ClipSettings) -> "Rolls":
        """From the settings; where seconds_max is too short for a window with both rolls, both are
        shortened alike."""
        before, after, length = (
            round(seconds * RATE_HZ)
            for seconds in (settings.before_s, settings.after_s, settings.seconds_max)
        )
        room = length - WINDOW_SAMPLES
        if before + after > room:
            before, after = before * room // (before + after), after * room // (before + after)
        return cls(before, after, length)

    @property
    def settled_after(self) -> int:
        """A clip whose last window ends at sample n is final when all windows that end up to n +
        settled_after are decided: one that joins it begins up to n + after + before, one that cuts
        its roll short up to n + after, or later by a run if the voice in it began before it."""
        return self.after + max(self.before, RUN_SAMPLES) + WINDOW_SAMPLES


@dataclass(frozen=True)
class ClipCut:
    """A piece of the stretch and the windows for which it is saved; each lies wholly in it."""

    start: int
    stop: int
    windows: tuple[SampleSpan, ...]


def touches(span: SampleSpan, others: Sequence[SampleSpan]) -> bool:
    """Whether any sample of `span` lies in one of the others."""
    return any(start < span[1] and span[0] < stop for start, stop in others)


def cut(
    windows: Sequence[SampleSpan], forbidden: Sequence[SampleSpan], rolls: Rolls, end: int
) -> list[ClipCut]:
    """The clips of a stretch that ends at sample `end`. `windows` are in order.

    Windows that touch each other with their rolls share a clip up to its greatest length; the next
    clip then begins with its own roll, so two clips of a long song overlap. No clip contains
    anything forbidden: a window that touches it has no clip, a roll ends where it begins.
    """
    groups: list[list[SampleSpan]] = []
    for window in windows:
        if window[1] > end or touches(window, forbidden):
            continue
        if groups and _joins(window, groups[-1], forbidden, rolls):
            groups[-1].append(window)
        else:
            groups.append([window])
    return [_with_rolls(group, forbidden, rolls, end) for group in groups]


def _joins(
    window: SampleSpan, group: list[SampleSpan], forbidden: Sequence[SampleSpan], rolls: Rolls
) -> bool:
    first = group[0][0]
    last = group[-1][1]
    near = window[0] - rolls.before <= last + rolls.after
    short = window[1] + rolls.after - (first - rolls.before) <= rolls.length_max
    return near and short and not touches((first, window[1]), forbidden)


def _with_rolls(
    group: list[SampleSpan], forbidden: Sequence[SampleSpan], rolls: Rolls, end: int
) -> ClipCut:
    first = group[0][0]
    last = group[-1][1]
    start = max([0, first - rolls.before, *(stop for _, stop in forbidden if stop <= first)])
    stop = min([end, last + rolls.after, *(start for start, _ in forbidden if start >= last)])
    assert start <= first
    assert last <= stop
    assert all(a <= b for a, b in pairwise(group)), "windows must come in order"
    return ClipCut(start, stop, tuple(group))
