"""Division of a stretch into clips, in samples from its start. Knows no sound, no species and no
file."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from edge.config import ClipSettings
from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES
from edge.speech.listener import RUN_SAMPLES

SampleSpan = tuple[int, int]  # from, to (exclusive)


@dataclass(frozen=True)
class Rolls:
    """Pre-roll and post-roll of a clip, and its greatest length, in samples."""

    before: int
    after: int
    length_max: int

    @classmethod
    def of(cls, settings: ClipSettings) -> "Rolls":
        """Rolls from the settings. If seconds_max is too short for a window with both rolls, both
        are shortened in proportion."""
        before, after, length = (
            round(seconds * RATE_HZ)
            for seconds in (settings.before_s, settings.after_s, settings.seconds_max)
        )
        room = length - WINDOW_SAMPLES
        total = before + after
        if total > room:
            before = before * room // total
            after = after * room // total
        return cls(before, after, length)

    @property
    def settled_after(self) -> int:
        """Samples after the end of a clip's last window after which the clip is final, once all
        windows up to there are decided. A window that joins the clip begins at most `after +
        before` later; one that shortens its roll at most `after` later, or later by a run of speech
        that began before it."""
        return self.after + max(self.before, RUN_SAMPLES) + WINDOW_SAMPLES


@dataclass(frozen=True)
class ClipCut:
    """A piece of the stretch, and the windows for which it is saved; it contains each of them
    completely."""

    start: int
    stop: int
    windows: tuple[SampleSpan, ...]


def touches(span: SampleSpan, others: Sequence[SampleSpan]) -> bool:
    """True if `span` overlaps one of the others."""
    return any(start < span[1] and span[0] < stop for start, stop in others)


def cut(
    windows: Sequence[SampleSpan], forbidden: Sequence[SampleSpan], rolls: Rolls, end: int
) -> list[ClipCut]:
    """The clips of a stretch that ends at sample `end`. `windows` are in order.

    Windows whose rolls touch share a clip up to its greatest length; the next clip then begins with
    its own roll, so two clips of a long song overlap. No clip contains forbidden sound: a window
    that touches it has no clip, and a roll ends where it begins.
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
