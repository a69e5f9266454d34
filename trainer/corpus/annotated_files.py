"""Corpora of tables of annotations: the tables of a folder, and the sound files that they are
about.

How a table is written, annotation_tables.py knows. Decodes nothing.
"""

import re
from collections.abc import Iterator, Sequence

from edge.contract.errors import CorpusError
from edge.contract.text import printable
from trainer.corpus.annotation_tables import AnnotationTable, recognise_table
from trainer.corpus.cells import SUFFIXES
from trainer.corpus.labelled_parts import LabelledPart
from trainer.corpus.origins import TABLES as ORIGIN_TABLES
from trainer.corpus.sound_files import SoundFiles
from trainer.corpus.tables import Problems

_OF_OFFICES = (".xls", ".xlsx", ".ods")  # not read: save them as CSV
_ABOUT = re.compile("read.?me|licen[cs]e|about|citation", re.IGNORECASE)


def find_tables(files: SoundFiles) -> list[AnnotationTable]:
    """The tables of annotations below a folder: with times, or in the folder itself with the names
    of whole files; those that name no files only beside sound of their name."""
    found = []
    for path in files.all:
        table = recognise_table(path)
        if table is None or not (table.has_times or path.parent == files.folder):
            continue
        if table.names_files or files.beside(path) is not None:
            found.append(table)
    return found


def tell_unused(tables: Sequence[AnnotationTable], files: SoundFiles, problems: Problems) -> None:
    """Count files that look like tables of annotations and are not read: with columns of other
    names, or labels without a sound file of their name."""
    used = {table.path for table in tables}
    for path in files.all:
        suffix = path.suffix.lower()
        known = path.name.lower() in ORIGIN_TABLES or _ABOUT.match(path.name) or path in used
        if known or suffix not in (*SUFFIXES, *_OF_OFFICES):
            continue
        if suffix != ".txt" or recognise_table(path) is not None:  # other texts are notes
            problems.add("table not used", printable(files.name_of(path)))


def table_parts(
    tables: Sequence[AnnotationTable], files: SoundFiles, problems: Problems
) -> list[LabelledPart]:
    """The parts of sound files that the tables annotate. Raises CorpusError if there is none."""
    parts = [part for table in tables for part in _parts(table, files, problems)]
    if not parts:
        names = ", ".join(files.name_of(table.path) for table in tables[:3])
        kinds = "; ".join(
            f"{kind} ({count}, {problems.examples[kind][0]})"
            for kind, count in problems.counts.items()
        )
        raise CorpusError(f"{files.folder}: no usable row in {names}: {kinds or 'they are empty'}")
    used = {part.path for part in parts}
    for path in files.sound:
        if path not in used:
            problems.add("sound file without annotation", printable(files.name_of(path)))
    return parts


def _parts(table: AnnotationTable, files: SoundFiles, problems: Problems) -> Iterator[LabelledPart]:
    own = files.beside(table.path)
    for row in table.read(problems):
        found = files.find(row.file, table.path.parent) if row.file else ()
        if not row.file and own is not None:
            found = (own,)
        if len(found) != 1:
            kind = "several recordings of this name" if found else "recording not found"
            problems.add(kind, printable(f"{row.where}: {row.file or table.path.stem}"))
            continue
        yield LabelledPart(
            found[0], row.label, row.start_s, row.end_s, row.origin, row.confidence, row.where
        )
