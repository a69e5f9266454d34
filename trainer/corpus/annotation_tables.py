"""Annotations of sound in tables: file, start, end and species, as Raven, Audacity, Kaleidoscope,
BirdNET-Analyzer and people write them.

Decodes no sound and looks for no file: names of files and species are as written.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.corpus.cells import (
    SUFFIXES,
    CellTable,
    cells_of,
    head_of_table,
    number_of,
    seconds_of,
    text_of_table,
)
from trainer.corpus.origins import COLUMNS as ORIGIN_COLUMNS
from trainer.corpus.origins import TABLES as ORIGIN_TABLES
from trainer.corpus.origins import Origin, origin_of_cells
from trainer.corpus.species_names import Label
from trainer.corpus.tables import Problems

# Columns in any case, without spaces, hyphens and units.
_COLUMNS = {
    "view": ("view",),  # Raven lists a selection once for each
    # Raven counts its begin times through all files of a table; this is the time within the file.
    "within": ("fileoffset",),
    "start": (
        *("start", "begin", "begintime", "starttime", "starts", "onset", "startseconds"),
        *("startsec", "tmin", "mintime", "begins", "startoffset", "offset"),
    ),
    "end": (
        *("end", "endtime", "stop", "ends", "stoptime", "endseconds", "endsec", "tmax"),
        *("maxtime", "endoffset", "offset"),
    ),
    "duration": ("duration", "length", "durations", "deltatime"),
    "code": ("speciescode", "primarylabel", "ebirdcode", "birdcode", "code"),
    "scientific": ("scientificname", "scientific", "latinname", "latin", "scientificspecies"),
    "common": ("commonname", "vernacularname", "englishname", "common"),
    "species": (
        *("species", "label", "class", "annotation", "manualid", "bird", "art", "tag"),
        *("specie", "espece", "especie", "taxon", "category"),
    ),
    "confidence": ("confidence", "score", "probability"),
    **ORIGIN_COLUMNS,
    "file": (*ORIGIN_COLUMNS["file"], "infile", "wav", "audio", "soundfiles", "filenames"),
}
_NAMES = ("code", "scientific", "common", "species")
_NOT_THESE = ("soundscape_sites.csv", "train_soundscape_labels.csv")
_MILLISECONDS = re.compile(r"[(\[_ ](?:ms|msec|milliseconds)\b", re.IGNORECASE)
# Audacity: start, end and label, separated by tabs; a line with frequencies begins with a
# backslash.
_AUDACITY = re.compile(r"\s*(\d+(?:[.,]\d+)?)\t(\d+(?:[.,]\d+)?)(?:\t(.*))?", re.ASCII)
_SHOWN_MAX = 60


@dataclass(frozen=True)
class Annotation:
    """A row: what is heard from `start_s` to `end_s` (None: the end) of a file."""

    file: str  # as written; empty: the one that the table is named for
    start_s: float
    end_s: float | None
    label: Label
    origin: Origin
    confidence: float | None  # 0 to 1
    where: str  # table and line


@dataclass(frozen=True)
class AnnotationTable:
    """A file of annotations, recognised by its columns (`cells`) or, from Audacity, its lines."""

    path: Path
    cells: CellTable | None

    @property
    def names_files(self) -> bool:
        """True if its rows say which file they are about."""
        return self.cells is not None and "file" in self.cells.roles

    @property
    def has_times(self) -> bool:
        return self.cells is None or "start" in self.cells.roles or "within" in self.cells.roles

    def read(self, problems: Problems) -> list[Annotation]:
        """All usable rows; others are counted with an example."""
        text = text_of_table(self.path, problems)
        if self.cells is None:
            rows = _audacity_rows(text)
        else:
            table = cells_of(self.path, text, _COLUMNS)
            assert table is not None, "as its beginning"
            rows = _cell_rows(table)
        found = []
        seen = set()
        for line, row in rows:
            annotation = _annotation(f"{self.path.name} line {line}", row, problems)
            if annotation is None:
                continue
            key = annotation.file, annotation.start_s, annotation.end_s, annotation.label
            if key not in seen:
                found.append(annotation)
            elif "view" not in row:
                problems.add("annotation twice", annotation.where)
            seen.add(key)
        return self._of_first_file(found, problems) if self._counts_on else found

    @property
    def _counts_on(self) -> bool:
        """True if it is of Raven, whose begin times go on from file to file, and does not say where
        in its file an annotation begins."""
        roles = {} if self.cells is None else self.cells.roles
        return "view" in roles and "within" not in roles

    @staticmethod
    def _of_first_file(found: list[Annotation], problems: Problems) -> list[Annotation]:
        """The annotations of the first file, in which both times are the same; the others would be
        of other sound."""
        first = min(found, key=lambda one: one.start_s).file if found else ""
        for one in found:
            if one.file != first:
                problems.add("annotation of a later file without File Offset (s)", one.where)
        return [one for one in found if one.file == first]


def recognise_table(path: Path) -> AnnotationTable | None:
    """The table that a file is, by its first lines; None if it is none of annotations. Raises
    CorpusError if it cannot be read."""
    if path.suffix.lower() not in SUFFIXES or path.name.lower() in _NOT_THESE:
        return None
    head = head_of_table(path)
    lines = [line for line in head.splitlines() if line.strip() and not line.startswith("\\")]
    if lines and _AUDACITY.fullmatch(lines[0]):
        return AnnotationTable(path, None)
    table = cells_of(path, head, _COLUMNS)
    if table is None or not any(role in table.roles for role in _NAMES):
        return None
    timed = {"start", "within"} & table.roles.keys() and {"end", "duration"} & table.roles.keys()
    whole = "file" in table.roles and path.name.lower() not in ORIGIN_TABLES
    return AnnotationTable(path, table) if timed or whole else None


def _cell_rows(table: CellTable) -> Iterator[tuple[int, dict[str, str]]]:
    scale = {role: "0.001" for role, name in table.names.items() if _MILLISECONDS.search(name)}
    for line, row in table.rows():
        yield line, row | {f"{role} unit": unit for role, unit in scale.items()}


def _audacity_rows(text: str) -> Iterator[tuple[int, dict[str, str]]]:
    for line, written in enumerate(text.splitlines(), start=1):
        if not written.strip() or written.startswith("\\"):
            continue
        found = _AUDACITY.fullmatch(written)
        start, end, rest = found.groups() if found else ("?", "?", written)
        species, _, confidence = (rest or "").partition("\t")
        yield line, {"start": start, "end": end, "species": species, "confidence": confidence}


def _annotation(where: str, row: dict[str, str], problems: Problems) -> Annotation | None:
    label = _label(row)
    if label is None:
        problems.add("annotation without species", where)
        return None
    try:
        start_s, end_s = _times(row)
    except ValueError as error:
        problems.add("annotation without valid times", f"{where}: {error}")
        return None
    if end_s is not None and end_s <= start_s:
        problems.add("annotation that ends before it begins", f"{where}: {start_s:g} to {end_s:g}")
        return None
    confidence = None
    if text := row.get("confidence", ""):
        try:
            confidence = number_of(text)
        except ValueError:
            confidence = -1.0
        if not 0.0 <= confidence <= 1.0:
            problems.add("confidence not valid", f"{where}: {text[:_SHOWN_MAX]}")
            confidence = None
    origin = origin_of_cells(row, where, problems)
    return Annotation(row.get("file", ""), start_s, end_s, label, origin, confidence, where)


def _label(row: dict[str, str]) -> Label | None:
    """The species of a row, from as many columns as there are; None if all are empty."""
    code, scientific, common, species = (row.get(name, "") for name in _NAMES)
    if not (code or scientific or common):
        return Label.of(species) if species else None
    shown = Label.of(common or species or scientific or code)
    return Label(
        " / ".join(dict.fromkeys(filter(None, (code, scientific, common or species)))),
        code,
        scientific or shown.scientific,
        shown.common if common or species else "",
    )


def _times(row: dict[str, str]) -> tuple[float, float | None]:
    """Start and end in seconds within the file; a row without times is about all of it. Raises
    ValueError."""

    def seconds(role: str) -> float | None:
        text = row.get(role, "")
        return seconds_of(text) * float(row.get(f"{role} unit", 1.0)) if text else None

    start, end, within = seconds("start"), seconds("end"), seconds("within")
    length = seconds("duration")
    if length is None and start is not None and end is not None:
        length = end - start
    if within is not None:
        start, end = within, None
    if start is None:
        if end is not None:
            raise ValueError("no start")
        return 0.0, None
    if end is None:
        end = None if length is None else start + length
    if end is None and any(role in row for role in ("end", "duration")):
        raise ValueError("no end")
    return start, end
