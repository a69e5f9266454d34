"""Metadata of a clip as GUANO (https://guano-md.org): lines of `Key: value`. Knows no sound and no
file."""

from collections.abc import Sequence
from datetime import timedelta, timezone

from edge.contract.audio import RATE_HZ
from edge.disclosure import Disclosure
from edge.types import ClipRow, Detection, RecordingRow

_SPECIES_MAX = 20  # with a threshold of 0 all species would be listed
LOCATION = "Loc Position"
# Fields that the station fills itself; all others may contain names of files, and so places.
FREE_OF_PLACES = frozenset(
    (
        *("GUANO|Version", "Timestamp", "Samplerate", "Length", "Make", "Model"),
        *("Species Auto ID", "birdstation|Bundle", "birdstation|Scores", "birdstation|Offset"),
        *("birdstation|Clock", "birdstation|Time Source"),
    )
)


def guano_text(
    clip: ClipRow,
    recording: RecordingRow,
    best: Sequence[Detection],
    disclosure: Disclosure,
    bundle_id: str,
) -> str:
    """The GUANO text of a clip. `best` has the best-scored detection of each species, best first;
    `disclosure` decides how precisely the place is given."""
    place = recording.place
    local = clip.start.astimezone(
        timezone(timedelta(minutes=recording.local.offset_minutes(clip.start)))
    )
    best = best[:_SPECIES_MAX]
    fields = {
        "GUANO|Version": "1.0",
        "Timestamp": local.isoformat(timespec="milliseconds"),
        LOCATION: disclosure.clip_place(place) if place else "",
        "Samplerate": str(RATE_HZ),
        "Length": f"{clip.seconds:.3f}",
        "Make": "birdstation",
        "Model": "birdstation",
        "Species Auto ID": ", ".join(d.species for d in best),
        "Original Filename": clip.path.rpartition("/")[2],
        "birdstation|Bundle": bundle_id,
        "birdstation|Scores": ", ".join(f"{d.species} {d.score:.3f}" for d in best),
        "birdstation|Recording": disclosure.name(recording.known_as),
        "birdstation|Offset": f"{(clip.start - recording.start).total_seconds():.3f}",
        "birdstation|Clock": recording.clock_state,
        "birdstation|Time Source": recording.time_source,
    }
    # a line break inside a value would begin another field
    return "".join(f"{key}: {' '.join(value.split())}\n" for key, value in fields.items() if value)
