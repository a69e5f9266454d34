"""What a recording is: the bytes of its file at one station, and what the file's name alone says of
time and place.

The name counts only where the start was taken from it: two hours of a dead microphone are equal
bytes, and two recordings. A copy, a link, another folder or root, a new name that tells the same,
or less, or more, are no other recording. All of a recording has the time that the best of its names
tells: one that tells less takes nothing away, one that tells more moves all of it. Knows no SQL.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import PurePosixPath

from edge.capture.file_name import tells_more, told_agree, told_by_name
from edge.store.files import KnownRecording
from edge.types import stable_id

FROM_NAME = ("name", "date")  # sources of a start


@dataclass(frozen=True)
class Identity:
    """Which recording a file is."""

    id: str
    done: bool  # what the record has of it stands, or somebody else is reading it now
    whole: str | None = (
        None  # the recording into which it has grown, if that is to be analysed, too
    )
    part: bool = False  # the file holds no more than the beginning of that
    better: bool = False  # its name tells more than what the record has
    since: str | None = (
        None  # its start (UTC) under which some of it was decided, as of now, and stored
    )
    known_s: float = 0.0  # so much of it
    told_as: str | None = None  # another name of it, which tells more than the file's


Identify = Callable[[str, str, str], Identity]  # the file's name, its SHA-256, what its name told


def told_of(name: str, source: str | None) -> str:
    """What a file's name told of a recording whose start has this source; "" where the name does
    not count."""
    return told_by_name(PurePosixPath(name).stem) if source in FROM_NAME else ""


def recording_id(station: str, sha256: str, told: str) -> str:
    """The id of a recording that the record does not know yet."""
    return stable_id(station, "recording", sha256, told)


def identify(
    known: Sequence[KnownRecording],
    station: str,
    analysis: str,
    name: str,
    sha256: str,
    told: str,
    zone: tzinfo | None = None,
) -> Identity:
    """Which recording a file is, given those of the record that have its bytes. Ids of earlier
    versions stay; a file whose name tells nothing is any of them, and one whose name tells less or
    more is that with which it agrees. `zone` is the station's."""
    tellings = [(told_of(k.path, k.time_source), k) for k in known]
    same = [(its, k) for its, k in tellings if told_agree(told, its, zone)]
    if not same:
        return Identity(recording_id(station, sha256, told), False)
    its_told, nearest = min(
        same, key=lambda s: (s[0] != told, not s[0], s[1].path != name, s[1].analysis != analysis)
    )
    if nearest.whole is not None and nearest.whole_stands:
        return Identity(nearest.whole, True, part=nearest.part)
    better = tells_more(told, its_told) and (
        bool(its_told) or nearest.time_source == "mtime"
    )  # it is analysed anew
    done = nearest.finished and nearest.analysis == analysis and not better
    goes_on = not nearest.finished and nearest.analysis == analysis
    known_s = nearest.known_s if goes_on else 0.0
    told_as = nearest.path if its_told not in ("", told) and not better else None
    return Identity(
        nearest.id, done, nearest.whole, nearest.part, better, nearest.since, known_s, told_as
    )


def being_read(id_: str, name: str, told: str, analysis: str) -> KnownRecording:
    """A recording that the record will know once it has begun."""
    return KnownRecording(
        id_, name, "name" if told else "mtime", False, analysis, None, False, False
    )
