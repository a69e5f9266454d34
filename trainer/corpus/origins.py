"""Place and day of a recording, from the first that tells: a table, the file itself as the station
reads it, one place for all. Knows no species."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from pathlib import Path

from edge.capture.start_time import start_of
from edge.contract.coordinates import check_coordinates
from edge.contract.errors import RecordingError
from trainer.corpus.cells import CellTable, number_of, open_cells, written_day
from trainer.corpus.sound_files import SoundFiles
from trainer.corpus.tables import Problems

TABLES = ("metadata.csv", "places.csv")  # beside the recordings: file, latitude, longitude, date
COLUMNS = {
    "file": (
        *("beginpath", "filepath", "path", "file", "filename", "soundfile", "audiofile"),
        *("recording", "beginfile"),
    ),
    "latitude": ("latitude", "lat", "breite", "breitengrad"),
    "longitude": ("longitude", "lon", "lng", "long", "lange", "langengrad"),
    "date": ("date", "day", "recordingdate", "datum", "datetime", "eventdate"),
}
_CACHE = 4096  # files of which the header is remembered, for segments that follow each other
Place = tuple[float, float]


@dataclass(frozen=True)
class Origin:
    """Place in degrees WGS84 and day of a recording, each None if unknown."""

    place: Place | None = None
    day: date | None = None

    def before(self, other: "Origin") -> "Origin":
        """This one, completed by another."""
        return Origin(self.place or other.place, self.day or other.day)


NOWHERE = Origin()


@dataclass(frozen=True)
class _Beginning:
    """Place and first moment of a file, by the recorder's clock."""

    place: Place | None
    moment: datetime | None
    date_only: bool


class Origins:
    """Place and day of every recording of a corpus. Raises CorpusError if a table beside them
    cannot be read."""

    def __init__(self, files: SoundFiles, place: Place | None, problems: Problems) -> None:
        self._place = place
        self._problems = problems
        self._tabled = dict(_tabled(files, problems))
        self._beginning = lru_cache(_CACHE)(_beginning_of)

    def of(self, path: Path, key: str, told: Origin, start_s: float) -> Origin:
        """The origin of the sound that begins `start_s` within a file; `told` is what its row of a
        table says. What nobody knows counts as a problem of `key`."""
        found = told.before(self._tabled.get(path, NOWHERE))
        if found.place is None or found.day is None:
            begun = self._beginning(path)
            day = None
            if begun.moment is not None:
                within = timedelta(seconds=0 if begun.date_only else start_s)
                day = (begun.moment + within).date()
            found = found.before(Origin(begun.place, day))
        found = found.before(Origin(self._place))
        if found.place is None:
            self._problems.add("place missing", key)
        if found.day is None:
            self._problems.add("date missing", key)
        return found


def origin_of_cells(row: dict[str, str], where: str, problems: Problems) -> Origin:
    """The origin in cells `latitude`, `longitude` and `date` of a row, which may be missing or
    empty; what is not valid is counted and left out."""
    texts = row.get("latitude", "").strip(), row.get("longitude", "").strip()
    place = None
    if all(texts) and texts not in _UNSET:
        try:
            place = number_of(texts[0]), number_of(texts[1])
            check_coordinates(*place)
        except ValueError:
            place = None
            problems.add("place not valid", f"{where}: {texts[0]}, {texts[1]}")
    text = row.get("date", "").strip()
    return Origin(place, written_day(text, where, problems) if text else None)


# BirdNET-Analyzer writes -1 where it was given no place.
_UNSET = (("-1", "-1"), ("-1.0", "-1.0"))


def _tabled(files: SoundFiles, problems: Problems) -> Iterator[tuple[Path, Origin]]:
    """Origins in the tables beside the recordings."""
    for name in TABLES:
        table = files.folder / name
        if not table.is_file():
            continue
        opened = open_cells(table, COLUMNS, problems)
        if opened is None or "file" not in opened.roles:
            problems.add("table of places without a column for the file", name)
        else:
            yield from _rows(opened, files, problems)


def _rows(table: CellTable, files: SoundFiles, problems: Problems) -> Iterator[tuple[Path, Origin]]:
    for line, row in table.rows():
        where = f"{table.path.name} line {line}"
        found: Sequence[Path] = files.find(row["file"], table.path.parent)
        if len(found) != 1:
            kind = "several recordings of this name" if found else "recording not found"
            problems.add(kind, f"{where}: {row['file']}")
            continue
        yield found[0], origin_of_cells(row, where, problems)


def _beginning_of(path: Path) -> _Beginning:
    """Place and time that a file gives itself: in its metadata or its name. When it was last
    written says nothing of the recording."""
    try:
        start = start_of(path, zone=None)
    except (RecordingError, OSError):
        return _Beginning(None, None, False)
    place = None
    if start.latitude is not None and start.longitude is not None:
        place = start.latitude, start.longitude
    if start.source == "mtime":
        return _Beginning(place, None, False)
    moment = start.start_utc + timedelta(minutes=start.utc_offset_minutes)
    return _Beginning(place, moment, start.date_only)
