"""Readable rows of a damaged table. Knows no table by name."""

import sqlite3
from collections.abc import Iterator

_BATCH = 500
# rowids as SQLite gives them
_LOWEST = 1
_HIGHEST = (1 << 63) - 1
_FAILED_MAX = 20_000  # failing queries per table: a few seconds on a slow card

Row = tuple[object, ...]


class ReadableRows:
    """Batches of (rowid, columns...) in any order. `whole` becomes False when some rows could not
    be read.

    A damaged page hides its rows and those behind it. These are read from the other end, and the
    rest between two damaged places by bisection.
    """

    def __init__(self, db: sqlite3.Connection, table: str, columns: list[str]) -> None:
        self.whole = True
        self._db = db
        self._failed = 0
        chosen = ", ".join(["rowid", *columns])
        self._sql = (
            f"SELECT {chosen} FROM {table} NOT INDEXED WHERE rowid BETWEEN ? AND ? ORDER BY rowid"
        )

    def __iter__(self) -> Iterator[list[Row]]:
        ranges = [(_LOWEST, _HIGHEST)]
        while ranges and self._failed < _FAILED_MAX:
            low, high = ranges.pop()
            upwards = _Reading(self._db, self._sql, low, high)
            yield from upwards
            if upwards.ended:
                continue
            low = low if upwards.last is None else upwards.last + 1
            downwards = _Reading(self._db, f"{self._sql} DESC", low, high)
            yield from downwards
            if downwards.ended:
                self.whole = False
                continue
            high = high if downwards.last is None else downwards.last - 1
            self.whole = False
            self._failed = self._failed + 2
            if low < high:
                middle = (low + high) // 2
                ranges += [(middle + 1, high), (low, middle)]


class _Reading:
    """The rows of one query up to the first damaged page."""

    def __init__(self, db: sqlite3.Connection, sql: str, low: int, high: int) -> None:
        self.ended = False  # all rows were read
        self.last: int | None = None
        self._db = db
        self._sql = sql
        self._range = (low, high)

    def __iter__(self) -> Iterator[list[Row]]:
        batch: list[Row] = []
        try:
            for row in self._db.execute(self._sql, self._range):
                batch.append(row)
                self.last = int(row[0])
                if len(batch) == _BATCH:
                    yield batch
                    batch = []
            self.ended = True
        except sqlite3.DatabaseError:
            pass
        if batch:
            yield batch
