"""discover.html: each group with pictures, players, and when and where it was heard.

Knows no network: it shows what it is given.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

import numpy as np
from scipy.signal import stft

from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES
from edge.contract.errors import RecordingError
from trainer.corpus.recordings import read_sound
from trainer.discover.clips import Clip
from trainer.report.figures import hours_and_months, spectrogram
from trainer.report.page import Html, Section, card, page, paragraph, picture, table

DRAWN_MAX = 100  # groups with pictures; the rest are in groups.csv
EXAMPLES = 4  # clips of a group: from its middle to its edge
PLACES = 5
_TOP_KHZ = 12
_FRAME = 512


@dataclass(frozen=True)
class Example:
    """A clip that is shown: its copy relative to the page, and where its fullest window begins."""

    clip: Clip
    copy: str
    start_s: float
    apart: float


@dataclass(frozen=True)
class GroupView:
    """A group as the page shows it."""

    name: str
    clips: Sequence[Clip]
    examples: Sequence[Example]
    apart: float  # median distance to the middle


@dataclass(frozen=True)
class PageFacts:
    """The facts at the head of the page."""

    folder: str
    backbone: str
    clips: int
    unsorted: int
    unreadable: int
    distance: float
    # other distances at which to cut, with the groups and the clips in groups that they give
    others: Sequence[tuple[float, int, int]]


def write_page(
    facts: PageFacts, groups: Sequence[GroupView], progress: Callable[[int], None]
) -> str:
    """The page as text. `progress` is called with the number of groups drawn."""
    sections = [_overview(facts, groups)]
    for number, view in enumerate(groups[:DRAWN_MAX]):
        sections.append(_section(view))
        progress(number + 1)
    grouped = facts.clips - facts.unsorted
    cautions = [] if groups else ["no group was found: the clips are too few, or too unlike"]
    if len(groups) > DRAWN_MAX:
        cautions.append(
            f"only the {DRAWN_MAX} largest of {len(groups)} groups are drawn; a larger --distance "
            "gives fewer"
        )
    return page(
        "Sounds without a name",
        f"{facts.folder}, embedded by {facts.backbone}",
        cautions,
        [
            card("Clips", f"{facts.clips:,}", f"{facts.unreadable:,} more could not be read"),
            card("Groups", f"{len(groups):,}", f"of clips within {facts.distance:g}"),
            card("In groups", f"{grouped:,}", f"{facts.unsorted:,} are unlike anything"),
        ],
        sections,
        "Name the folders in corpus/ and train on it: see docs/discover.md.",
    )


def _overview(facts: PageFacts, groups: Sequence[GroupView]) -> Section:
    return Section(
        "overview",
        "Overview",
        (
            paragraph(
                "Listen to each group, rename its folder in corpus/ to a species (code, scientific "
                "or common name), move clips that do not belong there, and delete folders that are "
                "of no use. Players on this page stop working for a folder that was renamed."
            ),
            table(
                ("group", "clips", "median distance"),
                [(view.name, len(view.clips), view.apart) for view in groups],
            ),
            paragraph("Other distances (--distance) would give:"),
            table(
                ("distance", "groups", "clips in groups"),
                [(f"{distance:g}", count, clips) for distance, count, clips in facts.others],
            ),
        ),
    )


def _section(view: GroupView) -> Section:
    timed = [clip.time for clip in view.clips if clip.time is not None]
    parts = [Html(f'<div class="pair">{"".join(map(_example, view.examples))}</div>')]
    if timed:
        when = hours_and_months([time.hour for time in timed], [time.month for time in timed])
        parts.append(picture(when, f"{view.name} by hour of the day and by month"))
    parts.append(paragraph(_when_and_where(view.clips)))
    return Section(view.name, f"{view.name}: {len(view.clips):,} clips", tuple(parts))


def _when_and_where(clips: Sequence[Clip]) -> str:
    timed = sorted(clip.time.isoformat() for clip in clips if clip.time is not None)
    when = f"{timed[0]} to {timed[-1]}" if timed else "time unknown"
    if timed and len(timed) < len(clips):
        when += f", {len(clips) - len(timed)} clips without a time"
    places = Counter(
        f"{clip.latitude:.2f}, {clip.longitude:.2f}"
        for clip in clips
        if clip.latitude is not None and clip.longitude is not None
    )
    named = [f"{place} ({count})" for place, count in sorted(places.most_common(PLACES))]
    more = f" and {len(places) - PLACES} more places" if len(places) > PLACES else ""
    where = f"at {'; '.join(named)}{more}" if named else "place unknown"
    return f"{when}; {where}"


def _example(example: Example) -> str:
    try:
        drawn = picture(draw(example.clip, example.start_s), example.clip.name).markup
    except RecordingError as error:  # it has gone since
        drawn = paragraph(error.reason, missing=True).markup
    return (
        f"<div>{drawn}"
        f'<audio controls preload="none" src="{escape(quote(example.copy))}"></audio>'
        f"<p>{escape(example.clip.name)}, distance {example.apart:.2f}</p></div>"
    )


def draw(clip: Clip, start_s: float) -> bytes:
    """The spectrogram of the window that begins there, as PNG. Raises RecordingError."""
    first = round(start_s * RATE_HZ)
    sound = read_sound(clip.path, first + WINDOW_SAMPLES)[first:]
    frame = min(_FRAME, len(sound))
    hz, _, spectrum = stft(sound, RATE_HZ, nperseg=frame, noverlap=frame // 2)
    shown = hz <= _TOP_KHZ * 1000
    power = 20 * np.log10(np.abs(spectrum[shown]) + 1e-9)
    return spectrogram(power, len(sound) / RATE_HZ, _TOP_KHZ)
