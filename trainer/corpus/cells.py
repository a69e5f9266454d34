"""Tables as people and programs write them: cells separated by commas, semicolons or tabs, UTF-8,
UTF-16 or Windows-1252, decimal points or commas, columns of many names.

Stricter tables are read by tables.py. Knows no column's meaning.
"""

import codecs
import csv
import io
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from edge.contract.errors import CorpusError
from edge.contract.text import text_or_guess
from trainer.corpus.species_names import squeezed
from trainer.corpus.tables import Problems, day_of

SUFFIXES = (".csv", ".tsv", ".txt")
_SEPARATORS = ("\t", ";", ",")
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_HEAD_BYTES = 65_536
_WIDE = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_COMPACT = re.compile(r"(\d{4})[-/._]?(\d\d)[-/._]?(\d\d)(?!\d)(.*)", re.ASCII | re.DOTALL)
_DAY_FIRST = re.compile(r"(\d{1,2})([-/.])(\d{1,2})[-/.](\d{4})(?!\d)", re.ASCII)

Columns = Mapping[str, tuple[str, ...]]  # names of the columns of each role, the best first


@dataclass(frozen=True)
class CellTable:
    """A table of which the columns are recognised: positions and names by role."""

    path: Path
    text: str
    separator: str
    roles: Mapping[str, int]
    names: Mapping[str, str]

    def rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Line numbers and cells by role; empty rows are left out, missing cells are empty. Raises
        CorpusError naming the file."""
        reader = csv.reader(io.StringIO(self.text, newline=""), delimiter=self.separator)
        header = True
        try:
            for cells in reader:
                if not any(cell.strip() for cell in cells) or _hinted(cells):
                    continue
                if not header:
                    yield (
                        reader.line_num,
                        {
                            role: cells[at].strip() if at < len(cells) else ""
                            for role, at in self.roles.items()
                        },
                    )
                header = False
        except csv.Error as error:
            raise CorpusError(
                f"{self.path}: line {reader.line_num}: not a table: {error}"
            ) from error


def text_of_table(path: Path, problems: Problems, bytes_max: int = -1) -> str:
    """The text of a file in any of the usual encodings, or the beginning of it; a guess is counted.
    Raises CorpusError naming the file if it cannot be read."""

    def guessed(line: int, shown: str) -> None:
        problems.add("text not UTF-8", f"{path.name} line {line}: {shown} (if it is Windows-1252)")

    try:
        with path.open("rb") as file:
            content = file.read(bytes_max)
    except OSError as error:
        raise CorpusError(f"{path}: not readable: {error.strerror}") from error
    for mark, encoding in _WIDE:
        if content.startswith(mark):
            return content.decode(encoding, "replace").replace("\0", "")
    zeros = [content[i:4096:2].count(0) for i in (0, 1)]
    if max(zeros) * 3 > len(content[:4096]) // 2 > 0:
        return content.decode("utf-16-be" if zeros[0] > zeros[1] else "utf-16-le", "replace")
    return text_or_guess(content, guessed).replace("\0", "")


def head_of_table(path: Path) -> str:
    """The whole lines among the first 64 KiB of a file."""
    text = text_of_table(path, Problems(), _HEAD_BYTES)
    return text if len(text) < _HEAD_BYTES // 4 else text[: text.rfind("\n") + 1]


def open_cells(path: Path, columns: Columns, problems: Problems) -> CellTable | None:
    """A table with the columns that are recognised; None if none is."""
    return cells_of(path, text_of_table(path, problems), columns)


def cells_of(path: Path, text: str, columns: Columns) -> CellTable | None:
    """The table that a text is, with the separator of which most columns are recognised."""
    lines = (line for line in io.StringIO(text, newline=None) if line.strip())
    header = next((line for line in lines if not _hinted([line.strip()])), "")
    best: CellTable | None = None
    for separator in _SEPARATORS:
        try:
            names = next(csv.reader([header.rstrip("\n")], delimiter=separator), [])
        except csv.Error:
            continue
        roles = _roles(names, columns)
        if roles and (best is None or len(roles) > len(best.roles)):
            found = {role: names[at].strip() for role, at in roles.items()}
            best = CellTable(path, text, separator, roles, found)
    return best


def number_of(text: str) -> float:
    """A number with a decimal point or comma. Raises ValueError."""
    text = text.strip()
    plain = text.replace(",", ".") if text.count(",") == 1 and "." not in text else text
    if not _NUMBER.fullmatch(plain):
        raise ValueError(f"expected a number, found {text!r}")
    return float(plain)


def seconds_of(text: str) -> float:
    """Seconds: `12.5`, `12,5`, `1:02.5` or `0:01:02`. Raises ValueError, also for a time before the
    beginning of a file."""
    total = 0.0
    for part in text.strip().split(":"):
        total = total * 60 + number_of(part)
    if not (total >= 0.0 and math.isfinite(total)):
        raise ValueError(f"expected seconds from 0 on, found {text!r}")
    return total


def written_day(text: str, where: str, problems: Problems) -> date | None:
    """The day in a cell, also `12.05.2024`, `20240512` and `2024/05/12`; a time may follow. None,
    which is counted, if it is no day or if day and month may be in either order."""
    text = text.strip()
    found = _COMPACT.fullmatch(text)
    if found:
        year, month, day, rest = found.groups()
        return day_of(f"{year}-{month}-{day}" if rest[:1] in _AFTER else text, where, problems)
    turned = _DAY_FIRST.match(text)
    if turned and text[turned.end() :][:1] in _AFTER:
        first, sign, second, year = turned.groups()
        day = int(first)
        month = int(second)
        if sign != "." and day <= 12 < month:
            day, month = month, day
        if sign == "." or day > 12 or day == month:
            return day_of(f"{year}-{month:02}-{day:02}", where, problems)
    return day_of(text, where, problems)


_AFTER = ("", " ", "T", ",")  # behind a day, before its time


def _hinted(cells: list[str]) -> bool:
    """True for Excel's hint before the header: sep=;"""
    return cells[0].strip().lower().startswith("sep=") and not any(cells[1:])


def _roles(names: list[str], columns: Columns) -> dict[str, int]:
    """Positions of the recognised columns. What stands in brackets, as a unit does, is no part of a
    name."""
    plain = [squeezed(re.sub(r"[(\[].*?[)\]]", "", name)) for name in names]
    roles: dict[str, int] = {}
    for role, known in columns.items():
        at = next((plain.index(name) for name in known if name in plain), None)
        if at is not None and at not in roles.values():
            roles[role] = at
    return roles
