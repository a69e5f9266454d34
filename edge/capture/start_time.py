"""Start time of a recording, and its place if the file gives one.

Reads what recorders write: GUANO, AudioMoth's comment, the Song Meters' wamd, Frontier Labs'
comments, bext, the file name; else the file's own time. Does not know where a container keeps its
texts (tags.py), decodes no sound and knows no station: a clock that does not name its zone is read
in the caller's.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import BinaryIO, Literal

from edge.capture.file_name import YEAR_MIN, name_place, name_site, name_time
from edge.capture.notation import Degrees, Stamp, checked_place, iso_time, place, stamp
from edge.capture.tags import Text, texts_of
from edge.contract.errors import RecordingError
from edge.host.clock import known_now

TimeSource = Literal["guano", "audiomoth", "wamd", "frontierlabs", "bext", "name", "date", "mtime"]
ZoneSource = Literal["recorded", "config", "assumed_utc"]

# Clocks of other zones may be ahead by hours, broken ones are by years.
AHEAD_MAX = timedelta(days=2)
_LATEST = datetime(2100, 1, 1, tzinfo=timezone.utc)  # the limit if the present time is unknown
SUBCHUNKS_MAX = 1_000  # in one wamd chunk


@dataclass(frozen=True)
class StartTime:
    """Time of the first sample, the place if the file gives one, and the sources of both."""

    start_utc: datetime  # aware
    source: TimeSource
    zone_source: ZoneSource  # source of the zone: recorder, caller, or none
    # offset of the recorder's clock; of the caller's zone if only an instant is known
    utc_offset_minutes: int
    date_only: bool = False  # 00:00 in the zone stands for an unknown hour
    site: str | None = None  # in BirdCLEF names <id>_<SITE>_<YYYYMMDD>
    latitude: float | None = None  # degrees north, WGS84; None exactly if longitude is
    longitude: float | None = None

    @property
    def offset_known(self) -> bool:
        return self.zone_source == "recorded"


def start_of(
    path: Path,
    *,
    zone: tzinfo | None,
    duration_s: float | None = None,
    now: datetime | None = None,
    file: BinaryIO | None = None,
) -> StartTime:
    """The start of a recording from the first source that gives a plausible time.

    The order is: GUANO, AudioMoth's comment, wamd, Frontier Labs' comments, bext, the file name,
    the file's modification time. Times before 1990 or more than two days after `now` are skipped.
    The default for `now` is this machine's clock, unless that may be wrong: then the recorder's is
    more likely right. A clock that does not name its zone is read in `zone`, or in UTC without one;
    in an hour that daylight saving repeats, the first is meant. A name with only a day has the
    source "date": 00:00 of that day in `zone` stands for the unknown hour. The modification time is
    when a recording *ended*: pass its `duration_s`.

    `file` is the recording if it is open already: OSError is then raised if its texts cannot be
    read at the moment. Without it, RecordingError is raised, only if the file cannot be found. A
    place at exactly 0, 0 is a receiver without a fix.

    >>> start_of(Path("S4A03895_20190522_063000.wav"), zone=ZoneInfo("Europe/Vilnius")).start_utc
    datetime.datetime(2019, 5, 22, 3, 30, tzinfo=datetime.timezone.utc)
    """
    now = now or known_now()
    limit = now + AHEAD_MAX if now else _LATEST

    def plausible(found: Stamp) -> bool:
        aware = found.time if found.time.tzinfo else found.time.replace(tzinfo=timezone.utc)
        return found.time.year >= YEAR_MIN and aware <= limit

    stamps, places = _written_in(path) if file is None else _told_by(file)
    by_name = name_time(path.stem, plausible)
    candidates = [(source, stamps.get(source)) for source in _ORDER]
    candidates.append(("date" if by_name and by_name.date_only else "name", by_name))
    believed = [(source, found) for source, found in candidates if found and plausible(found)]
    source, found = believed[0] if believed else ("mtime", _file_time(path, duration_s, file))
    start, zone_source, offset = _in_utc(found, zone)
    told = [places[source] for source in _ORDER if source in places]
    latitude, longitude = told[0] if told else name_place(path.stem) or (None, None)
    return StartTime(
        start_utc=start,
        source=source,
        zone_source=zone_source,
        utc_offset_minutes=offset,
        date_only=found.date_only,
        site=name_site(path.stem),
        latitude=latitude,
        longitude=longitude,
    )


def _in_utc(found: Stamp, zone: tzinfo | None) -> tuple[datetime, ZoneSource, int]:
    """The instant in UTC, the source of the zone, and its offset in minutes."""
    recorded = found.time.tzinfo is not None
    aware = found.time if recorded else found.time.replace(tzinfo=zone or timezone.utc)
    local = aware.astimezone(zone) if found.is_instant and zone else aware
    offset = local.utcoffset() or timedelta(0)
    source: ZoneSource = "recorded" if recorded else "config" if zone else "assumed_utc"
    return aware.astimezone(timezone.utc), source, round(offset.total_seconds() / 60)


def _file_time(path: Path, duration_s: float | None, file: BinaryIO | None) -> Stamp:
    """The modification time minus the duration."""
    try:
        ended_s = (os.fstat(file.fileno()) if file else path.stat()).st_mtime
    except OSError as error:
        raise RecordingError(path, f"cannot be opened: {error.strerror}") from None
    # file systems may hold nonsensical times
    start_s = min(max(ended_s - (duration_s or 0.0), 0.0), 2.0**32)
    return Stamp(datetime.fromtimestamp(start_s, timezone.utc), is_instant=True)


# Texts in the file


def _written_in(path: Path) -> tuple[dict[TimeSource, Stamp], dict[TimeSource, Degrees]]:
    """Times and places in the file's texts, by source; the first of each source counts."""
    try:
        if not path.is_file():
            raise RecordingError(path, "no such file")
        with path.open("rb") as file:
            return _told_by(file)
    except OSError:  # decoding will report it; the name may still give the time
        return {}, {}


def _told_by(file: BinaryIO) -> tuple[dict[TimeSource, Stamp], dict[TimeSource, Degrees]]:
    """Times and places in the texts of an open file, by source. Raises OSError."""
    stamps: dict[TimeSource, Stamp] = {}
    places: dict[TimeSource, Degrees] = {}
    for text in texts_of(file):
        source, time, where = _said_by(text)
        if time:
            stamps.setdefault(source, time)
        if where:
            places.setdefault(source, where)
    return stamps, places


def _said_by(text: Text) -> tuple[TimeSource, Stamp | None, Degrees | None]:
    """Source, time and place in one text.

    Converters put a recorder's comment into any field, so that all of them are searched.
    """
    if text.field == "wamd":
        return _wamd(text.data)
    if text.field == "bext":
        return "bext", _bext_time(text.data), None
    written = text.data.decode("utf-8", "replace").strip(" \t\r\n\0\ufeff")
    if text.field == "guan" or "GUANO|Version" in written:
        return _guano(written)
    if text.field == "recordingstart":
        return "frontierlabs", iso_time(written), None
    if text.field == "sensorlocation":
        return "frontierlabs", None, place(written)
    return "audiomoth", _audiomoth_time(written), None


def _guano(text: str) -> tuple[TimeSource, Stamp | None, Degrees | None]:
    pairs = (line.partition(":") for line in text.splitlines())
    fields = {key.strip(): value.strip(" \t\0") for key, colon, value in pairs if colon}
    time = iso_time(fields.get("Timestamp", ""))
    where = place(fields.get("Loc Position", ""))
    # our clips are no more certain than the recording that they were cut from
    guess = fields.get("birdstation|Time Source")
    if time and guess == "date":
        return "date", replace(time, date_only=True), where
    return "mtime" if guess == "mtime" else "guano", time, where


def _audiomoth_time(comment: str) -> Stamp | None:
    """`Recorded at 03:45:00 12/05/2024 (UTC+1) by AudioMoth 24F3...`; firmware 1.0 means UTC
    without saying so."""
    match = _AUDIOMOTH.search(comment)
    if match is None:
        return None
    hour, minute, second, fraction, day, month, year, offset = match.groups()
    return stamp(f"{year}{month}{day}", f"{hour}{minute}{second}", offset or "Z", fraction or "")


def _wamd(chunk: bytes) -> tuple[TimeSource, Stamp | None, Degrees | None]:
    """Time and place of a wamd chunk by Wildlife Acoustics, whose items have a number, a length and
    a value.

    Item 5 is the start, 6 the first fix, 20 the place set by a person or the last fix (`wa_meta.h`,
    version 1).
    """
    pieces: dict[int, str] = {}
    at = 0
    for _ in range(SUBCHUNKS_MAX):
        if at + 6 > len(chunk):
            break
        size = int.from_bytes(chunk[at + 2 : at + 6], "little")
        value = chunk[at + 6 : at + 6 + size].decode("latin-1").strip(" \0")
        pieces.setdefault(int.from_bytes(chunk[at : at + 2], "little"), value)
        at += 6 + size
    where = _wamd_place(pieces.get(6, "")) or _wamd_place(pieces.get(20, ""))
    return "wamd", iso_time(pieces.get(5, "")), where


def _wamd_place(text: str) -> Degrees | None:
    """`WGS84,47.61,N,122.33,W,56`; the Echo Meter Touch writes signs instead of letters."""
    match = _WAMD_PLACE.fullmatch(text)
    if match is None:
        return None
    latitude, north, longitude, east = match.groups()
    return checked_place(
        float(latitude) * (-1 if north == "S" else 1), float(longitude) * (-1 if east == "W" else 1)
    )


def _bext_time(bext: bytes) -> Stamp | None:
    """OriginationDate and OriginationTime: `2024-05-12`, `03-45-00` with any separators, without a
    zone."""
    match = _BEXT.fullmatch(bext[320:338].decode("latin-1"))
    return stamp("".join(match.group(1, 2, 3)), "".join(match.group(4, 5, 6))) if match else None


# Order of the sources that are texts.
_ORDER: tuple[TimeSource, ...] = (
    "guano",
    "date",
    "mtime",
    "audiomoth",
    "wamd",
    "frontierlabs",
    "bext",
)
_AUDIOMOTH = re.compile(
    r"Recorded at (\d\d):(\d\d):(\d\d)(?:\.(\d+))? (\d\d)/(\d\d)/(\d{4})(?: "
    r"\(UTC([+-]\d{1,2}(?::?\d\d)?)?\))?",
    re.ASCII,
)
_BEXT = re.compile(r"(\d{4}).(\d\d).(\d\d)(\d\d).(\d\d).(\d\d)", re.DOTALL | re.ASCII)
_WAMD_PLACE = re.compile(
    r"[^,]*, *([-+]?\d{1,3}(?:\.\d{1,12})?) *(?:, *([NS]) *)?"
    r", *([-+]?\d{1,3}(?:\.\d{1,12})?) *(?:, *([EW]) *)?(?:,.*)?",
    re.ASCII,
)
