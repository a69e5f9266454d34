"""Identity of a recording: the bytes of its file at one station, and the time and place that only
its file name gives.

The name counts only if the start was taken from it: two hours of a dead microphone have equal bytes
but are two recordings. A copy, a link, another folder or root, or a new name that agrees with the
old one is the same recording. The most precise of its names sets the time of the whole recording: a
less precise name changes nothing, a more precise one moves all of it. Knows no SQL.
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
    """The recording that a file is."""

    id: str
    done: bool  # its rows are valid, or another reader is reading it now
    # the recording into which its file has grown, if that one is not analysed yet
    whole: str | None = None
    part: bool = False  # the file holds only the beginning of `whole`
    better: bool = False  # its name is more precise than the start in the record
    # the start (UTC) with which the first part was analysed and stored
    since: str | None = None
    known_s: float = 0.0  # length of that part
    told_as: str | None = None  # another, more precise name of the recording


Identify = Callable[[str, str, str], Identity]  # file name, SHA-256, time and place in the name


def told_of(name: str, source: str | None) -> str:
    """Time and place that a file's name gives for a recording whose start has this source; "" if
    the name does not count."""
    return told_by_name(PurePosixPath(name).stem) if source in FROM_NAME else ""


def recording_id(station: str, sha256: str, told: str) -> str:
    """Id for a recording that is not in the record yet."""
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
    """Find the recording that a file is, given the recordings with the same bytes, `known`. `told`
    is the time and place in its name, `zone` the station's time zone. Ids of earlier versions stay
    valid. A file whose name gives no time matches any of them; otherwise the names must agree."""
    told_by_each = [(told_of(k.path, k.time_source), k) for k in known]
    same = [(its, k) for its, k in told_by_each if told_agree(told, its, zone)]
    if not same:
        return Identity(recording_id(station, sha256, told), False)
    its_told, nearest = min(
        same, key=lambda s: (s[0] != told, not s[0], s[1].path != name, s[1].analysis != analysis)
    )
    if nearest.whole is not None and nearest.whole_stands:
        return Identity(nearest.whole, True, part=nearest.part)
    # otherwise the file is analysed, unless it is done
    better = tells_more(told, its_told) and (bool(its_told) or nearest.time_source == "mtime")
    done = nearest.finished and nearest.analysis == analysis and not better
    goes_on = not nearest.finished and nearest.analysis == analysis
    known_s = nearest.known_s if goes_on else 0.0
    told_as = nearest.path if its_told not in ("", told) and not better else None
    return Identity(
        nearest.id, done, nearest.whole, nearest.part, better, nearest.since, known_s, told_as
    )


def being_read(id_: str, name: str, told: str, analysis: str) -> KnownRecording:
    """Stand-in for a recording that is being read and is not in the record yet."""
    return KnownRecording(
        id_, name, "name" if told else "mtime", False, analysis, None, False, False
    )
