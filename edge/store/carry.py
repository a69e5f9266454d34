"""Rows that a run has written into a file that lost its name, carried into the one that has it now.

Knows which tables refer to which; the rows themselves are SQLite's.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any

from edge.store.connection import Connection

_ALWAYS = ("bundles", "species", "deployments")  # few, and others refer to them
_BY_ROW = ("detections", "effort", "gaps", "clips", "clips_going", "files", "reviews", "clock")
_REFER_TO_RECORDINGS = ("detections", "effort", "gaps", "clips", "files")
_COUNTED = {"messages created": "1", "messages sent": "state = 'sent'"} | {
    f"messages {state}": f"state = '{state}'" for state in ("dead", "dropped")
}

_BATCH = 500

Marks = Mapping[str, int]  # table -> its highest rowid; what lies above was written since


def marks_of(connection: Connection) -> dict[str, int]:
    """Where each table ends now."""
    tables = [str(name) for (name,) in connection.rows("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {
        table: int(connection.rows(f"SELECT coalesce(max(rowid), 0) FROM {table}")[0][0])
        for table in tables
        if not table.startswith(("sqlite_", "_sqlite"))
    }


class Leaving:
    """The file that lost its name, as far as it can be read. `whole` is False once it could not."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.whole = True
        self._db = db

    def read(self, sql: str) -> Iterator[tuple[list[str], list[tuple[Any, ...]]]]:
        """Columns and rows, in pieces."""
        try:
            reading = self._db.execute(sql)
            columns = [str(column[0]) for column in reading.description]
            while batch := reading.fetchmany(_BATCH):
                yield columns, batch
        except sqlite3.Error:
            self.whole = False


def carry(old: Leaving, new: Connection, since: Marks) -> int:
    """Take over what `old` has above these marks, and what that refers to. A row that both have is the old one's, which
    was written until a moment ago. Returns how many detections, gaps and hours of effort these are.

    Raises StoreError if the new one cannot be written; then nothing is carried.
    """
    carried = 0
    with new.bulk() as db:
        for table in _ALWAYS:
            _copy(old, db, table, "1", "IGNORE")
        _copy(old, db, "boots", _above("boots", since), "IGNORE")
        recordings = [f"SELECT recording FROM {table} WHERE {_above(table, since)}" for table in _REFER_TO_RECORDINGS]
        _copy(old, db, "recordings", f"{_above('recordings', since)} OR id IN ({' UNION '.join(recordings)})")
        for table in _BY_ROW:
            where = _above(table, since)
            if table == "clips":
                where += f" OR id IN (SELECT clip FROM detections WHERE {_above('detections', since)})"
            rows = _copy(old, db, table, where)
            carried += rows if table in ("detections", "effort", "gaps") else 0
        db.execute("UPDATE detections SET clip = NULL WHERE clip IS NOT NULL AND clip NOT IN (SELECT id FROM clips)")
        _carry_messages(old, db, _above("outbox", since))
        _count_anew(old, db)
    return carried


def _above(table: str, since: Marks) -> str:
    return f"rowid > {since.get(table, 0)}"


def _copy(old: Leaving, db: sqlite3.Connection, table: str, where: str, conflict: str = "REPLACE") -> int:
    rows = 0
    for columns, batch in old.read(f"SELECT * FROM {table} WHERE {where} ORDER BY rowid"):
        marks = ", ".join("?" for _ in columns)
        db.executemany(f"INSERT OR {conflict} INTO {table} ({', '.join(columns)}) VALUES ({marks})", batch)
        rows += len(batch)
    return rows


def _carry_messages(old: Leaving, db: sqlite3.Connection, where: str) -> None:
    """A message keeps its number, unless another one has it there."""
    columns = "id, topic, payload, created_utc, sent_utc, state, attempts, reason"
    for _, batch in old.read(f"SELECT seq, {columns} FROM outbox WHERE {where} ORDER BY seq"):
        for seq, *row in batch:
            known = db.execute("SELECT seq FROM outbox WHERE id = ?", (row[0],)).fetchone()
            if known:
                db.execute("DELETE FROM outbox WHERE seq = ?", known)
            number = known[0] if known else seq
            taken = db.execute("SELECT 1 FROM outbox WHERE seq = ?", (number,)).fetchone()
            db.execute(
                f"INSERT INTO outbox (seq, {columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (None if taken else number, *row),
            )


def _count_anew(old: Leaving, db: sqlite3.Connection) -> None:
    """Messages by their rows, which outlive being sent; of other counters the higher count."""
    for _, batch in old.read("SELECT name, value FROM counters"):
        db.executemany(
            "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
            batch,
        )
    for name, where in _COUNTED.items():
        (count,) = db.execute(f"SELECT count(*) FROM outbox WHERE {where}").fetchone()
        db.execute(
            "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, count)
        )
