"""Cells of the tables of a corpus: rows, places and days; invalid ones are skipped and counted.
Knows no table's meaning."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

from edge.contract.coordinates import check_coordinates
from edge.contract.errors import CorpusError
from edge.contract.text import Table, TextError, text_or_guess

_DATE = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?Z?)?"
)
_FIRST_DAY = date(1889, 1, 1)  # Ludwig Koch made the first recording of a bird in that year
_EXAMPLES_MAX = 5


@dataclass
class Problems:
    """Malformed entries by kind: their number, and the first few examples."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        shown = self.examples.setdefault(kind, [])
        if len(shown) < _EXAMPLES_MAX:
            shown.append(example)

    def copy(self) -> "Problems":
        return Problems(
            dict(self.counts), {kind: list(shown) for kind, shown in self.examples.items()}
        )


@contextmanager
def table_of(
    path: Path, columns: tuple[str, ...], problems: Problems, advice: str = ""
) -> Iterator[Table]:
    """Open a CSV file. A line that is not UTF-8 is read as Windows-1252, which is counted as a
    problem. Raises CorpusError naming the file, with the `advice`, if it cannot be read, lacks a
    column or is not a table."""

    def guessed(line: int, shown: str) -> None:
        problems.add("text not UTF-8", f"{path.name} line {line}: {shown} (if it is Windows-1252)")

    try:
        yield Table(text_or_guess(path.read_bytes(), guessed).replace("\0", ""), columns)
    except OSError as error:
        raise CorpusError(f"{path}: not readable: {error.strerror}") from error
    except TextError as error:
        raise CorpusError(f"{path}: {error}{advice and '; '}{advice}") from error


def read_table(
    path: Path, columns: tuple[str, ...], problems: Problems, advice: str = ""
) -> Iterator[tuple[int, dict[str, str] | None]]:
    """Rows of a CSV file with their line numbers; None for a row with too few or too many cells.
    Raises CorpusError like `table_of`."""
    with table_of(path, columns, problems, advice) as table:
        for line, row in table:
            yield line, row if isinstance(row, dict) else None


def place_of(
    row: dict[str, str], key: str, problems: Problems
) -> tuple[float | None, float | None]:
    """Latitude and longitude of a row, both or neither; a missing or invalid place is counted as a
    problem of `key`."""
    texts = row["latitude"].strip(), row["longitude"].strip()
    if not texts[0] or not texts[1]:
        problems.add("place missing", key)
        return None, None
    try:
        latitude = float(texts[0])
        longitude = float(texts[1])
        check_coordinates(latitude, longitude)  # also refuses NaN
    except ValueError:
        problems.add("place not valid", f"{key}: {texts[0]}, {texts[1]}")
        return None, None
    return latitude, longitude


def day_of(text: str, key: str, problems: Problems) -> date | None:
    """The date in a cell, or None, which is counted as a problem: 2012-00-00, for example, has only
    a year. A time may follow, but nothing else. A day before the first recordings of birds, or in
    the future everywhere on earth, is invalid."""
    text = text.strip()
    if not text:
        problems.add("date missing", key)
        return None
    found = _DATE.fullmatch(text)
    try:
        day = date(*map(int, found.groups())) if found else None
    except ValueError:
        day = None  # 2012-00-00: only the year is known
    if day is not None and _FIRST_DAY <= day <= date.today() + timedelta(days=1):
        return day
    problems.add("date not valid", f"{key}: {text}")
    return None
