"""Soundscapes of a corpus: long recordings with labelled rows of 5 s, read from tables and file
names.

Contradictory labels are counted and not used. Decodes no sound.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from edge.contract.folders import entries_of
from edge.contract.labels import LabelRow, label_rows
from edge.contract.metrics import Labels
from edge.contract.rows import ROW_S
from edge.contract.taxonomy import NOCALL, Taxonomy
from trainer.corpus.tables import Problems, day_of, place_of, read_table, table_of

NO_SOUND = "soundscape file missing"  # of labelled rows, among the problems
LABELS = "train_soundscape_labels.csv"
SITES = "soundscape_sites.csv"
_COLUMNS = ("row_id", "site", "audio_id", "seconds", "birds")
_SOUNDSCAPE = re.compile(r"(?P<id>[^_]+)_(?P<site>[^_]+)_(?P<date>[0-9]{8})\.ogg")


@dataclass(frozen=True)
class Soundscape:
    """A long recording with labelled rows of 5 s. `labels` maps a row id to the set of its
    labels."""

    path: Path
    audio_id: str
    site: str
    date: date | None
    labels: Mapping[str, Labels]
    latitude: float | None
    longitude: float | None


def read_soundscapes(data: Path, taxonomy: Taxonomy, problems: Problems) -> Iterator[Soundscape]:
    """Yield the soundscapes that have both sound and labels."""
    if not (data / LABELS).is_file():
        return
    sites = read_sites(data / SITES, problems) if (data / SITES).is_file() else {}
    labels = _labels(data / LABELS, taxonomy, problems)
    folder = data / "train_soundscapes"
    files = [
        path for path in (entries_of(folder) if folder.is_dir() else ()) if path.suffix == ".ogg"
    ]
    names = Counter(soundscape_name(path)[0] for path in files)
    for path in files:
        found = _SOUNDSCAPE.fullmatch(path.name)
        if not found:
            problems.add("soundscape name not valid", path.name)
            continue
        if names[soundscape_name(path)[0]] > 1:  # the labels may belong to either
            problems.add("soundscape of the same rows as another", path.name)
            labels.pop(soundscape_name(path)[0], None)
            continue
        rows = labels.pop(soundscape_name(path)[0], {})
        if not rows:
            problems.add("soundscape without labels", path.name)
            continue
        day = found["date"]
        when = day_of(f"{day[:4]}-{day[4:6]}-{day[6:]}", path.name, problems)
        if found["site"] not in sites:
            problems.add("soundscape of an unknown site", path.name)
        latitude, longitude = sites.get(found["site"], (None, None))
        yield Soundscape(path, found["id"], found["site"], when, rows, latitude, longitude)
    for name in sorted(labels):
        problems.add(NO_SOUND, name)


def soundscape_name(path: Path) -> tuple[str, str, date | None]:
    """Prefix of the row ids, site and day of a soundscape named `<id>_<site>_<date>.<format>`. For
    another name, the prefix is the name up to its first dot, as in the competition's example,
    without site or day."""
    found = _SOUNDSCAPE.fullmatch(f"{path.stem}.ogg")
    if not found:
        return path.name.split(".")[0], "", None
    day = found["date"]
    return (
        f"{found['id']}_{found['site']}",
        found["site"],
        day_of(f"{day[:4]}-{day[4:6]}-{day[6:]}", "", Problems()),
    )


def read_sites(path: Path, problems: Problems) -> dict[str, tuple[float | None, float | None]]:
    """Coordinates by site from a table like soundscape_sites.csv; none for a site with two places.
    Raises CorpusError if it is not such a table."""
    sites: dict[str, tuple[float | None, float | None]] = {}
    for line, row in read_table(path, ("id", "lat", "lon"), problems):
        if row is None:
            problems.add("row malformed", f"{path.name} line {line}")
            continue
        site = row["id"].strip()
        place = place_of({"latitude": row["lat"], "longitude": row["lon"]}, site, problems)
        if site in sites:
            problems.add("row twice", f"{path.name} line {line}: {site}")
        if sites.setdefault(site, place) != place:
            problems.add("site in two places", site)
            sites[site] = (None, None)
    return sites


def _labels(path: Path, taxonomy: Taxonomy, problems: Problems) -> dict[str, dict[str, Labels]]:
    """Label sets by soundscape (the prefix of row ids) and by row id. Labels that are not in the
    taxonomy are kept, since those species were heard. Rows that contradict each other, or
    themselves, are all left out: a missing row does less harm than a wrong one."""
    heard_in: dict[str, Labels] = {}
    recording: dict[str, str] = {}
    doubtful: set[str] = set()
    with table_of(path, _COLUMNS, problems) as table:
        for row in label_rows(table):
            where = f"{path.name} line {row.line}"
            if row.odd or row.end_s % ROW_S or not row.end_s:
                problems.add(_oddity(row), f"{where}: {row.row_id}" if row.row_id else where)
                continue
            if row.undecided:
                problems.add("labelled row with nocall beside species", f"{where}: {row.row_id}")
                doubtful.add(row.row_id)
            if row.row_id in recording:
                problems.add("row twice", f"{where}: {row.row_id}")
            heard = _known(row, taxonomy, problems)
            if heard_in.setdefault(row.row_id, heard) != heard:
                problems.add("labelled rows that contradict each other", f"{where}: {row.row_id}")
                doubtful.add(row.row_id)
            recording[row.row_id] = row.recording
    labels: dict[str, dict[str, Labels]] = {}
    for row_id, heard in heard_in.items():
        if row_id not in doubtful:
            labels.setdefault(recording[row_id], {})[row_id] = heard
    return labels


def _oddity(row: LabelRow) -> str:
    """The kind of problem of a row that cannot be used."""
    if not row.recording:
        return "row malformed"
    return "labelled row that contradicts its id" if row.odd else "labelled row of no 5 s"


def _known(row: LabelRow, taxonomy: Taxonomy, problems: Problems) -> Labels:
    """The labels of a row, with species spelled as in the taxonomy."""
    heard = set[str]()
    for code in sorted(row.heard):
        if code != code.lower() and code.lower() in taxonomy:
            problems.add("soundscape label in capitals", f"{row.row_id}: {code}")
            code = code.lower()
        elif code != NOCALL and code not in taxonomy:
            problems.add("soundscape label of an unknown species", f"{row.row_id}: {code}")
        heard.add(code)
    return frozenset(heard)
