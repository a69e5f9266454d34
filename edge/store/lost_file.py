"""Copying of rows that this run wrote into a moved, deleted or replaced database file into the file
that has its name now.

Knows which tables refer to which, but not what their rows mean.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any

from edge.store.connection import Connection

# too many to copy all rows just because others may refer to them
_MANY = ("recordings", "clips", "detections")
_APART = ("recordings", "outbox", "counters")  # copied in special ways; all others row by row
_COUNTED = {"messages created": "1", "messages sent": "state = 'sent'"} | {
    f"messages {state}": f"state = '{state}'" for state in ("dead", "dropped")
}

_BATCH = 500

Marks = Mapping[str, int]  # by table, its highest rowid; rows above it were written later


def marks_of(connection: Connection) -> dict[str, int]:
    """The highest rowid of each table."""
    tables = [
        str(name)
        for (name,) in connection.rows("SELECT name FROM sqlite_master WHERE type = 'table'")
    ]
    return {
        table: int(connection.rows(f"SELECT coalesce(max(rowid), 0) FROM {table}")[0][0])
        for table in tables
        if not table.startswith(("sqlite_", "_sqlite"))
    }


class LostFile:
    """The open file that lost its name, read as far as possible. `whole` becomes False when reading
    fails."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.whole = True
        self._db = db

    def read(self, sql: str) -> Iterator[tuple[list[str], list[tuple[Any, ...]]]]:
        """Columns and rows, in batches."""
        try:
            reading = self._db.execute(sql)
            columns = [str(column[0]) for column in reading.description]
            while batch := reading.fetchmany(_BATCH):
                yield columns, batch
        except sqlite3.Error:
            self.whole = False


def carry(old: LostFile, new: Connection, since: Marks) -> int:
    """Copy the rows of `old` above these marks, and the rows that they refer to. If both files have
    a row, the old file's is used, since it was written until a moment ago. Returns the number of
    detections, gaps and hours of effort copied.

    Raises StoreError if the new file cannot be written; then nothing is copied.
    """
    carried = 0
    with new.bulk() as db:
        tables = _tables(new)
        for table in _referred_to(new):
            _copy(old, db, table, "1", "IGNORE")
        recordings = [
            f"SELECT recording FROM {table} WHERE {_above(table, since)}"
            for table, of_one in tables.items()
            if of_one
        ]
        _copy(
            old,
            db,
            "recordings",
            f"{_above('recordings', since)} OR id IN ({' UNION '.join(recordings)})",
        )
        for table in tables:
            where = _above(table, since)
            if table == "clips":
                where += (
                    f" OR id IN (SELECT clip FROM detections WHERE {_above('detections', since)})"
                )
            if table == "effort":
                where = _effort_of(old, db, where)
            rows = _copy(old, db, table, where, "IGNORE" if table == "boots" else "REPLACE")
            carried += rows if table in ("detections", "effort", "gaps") else 0
        # these clips have a row again
        db.execute("DELETE FROM clips_going WHERE path IN (SELECT path FROM clips)")
        _carry_lines(old, db, _above("boots", since))
        db.execute(
            "UPDATE detections SET clip = NULL WHERE clip IS NOT NULL AND clip NOT IN (SELECT id "
            "FROM clips)"
        )
        columns = [column for column in _columns(new, "outbox") if column != "seq"]
        _carry_messages(old, db, columns, _above("outbox", since))
        _recount(old, db)
    return carried


def _tables(connection: Connection) -> dict[str, bool]:
    """Tables that are copied row by row, and whether their rows belong to a recording."""
    names = [name for name in marks_of(connection) if name not in _APART]
    return {name: "recording" in _columns(connection, name) for name in names}


def _referred_to(connection: Connection) -> list[str]:
    """Small tables that others refer to: bundles, species, places."""
    referred = {
        str(r[2])
        for name in marks_of(connection)
        for r in connection.rows(f"PRAGMA foreign_key_list({name})")
    }
    return sorted(referred - set(_MANY))


def _columns(connection: Connection, table: str) -> list[str]:
    return [str(row[1]) for row in connection.rows(f"PRAGMA table_info({table})")]


def _above(table: str, since: Marks) -> str:
    return f"rowid > {since.get(table, 0)}"


def _copy(
    old: LostFile, db: sqlite3.Connection, table: str, where: str, conflict: str = "REPLACE"
) -> int:
    """Copy rows of a table; returns their number. Row numbers given by SQLite are given anew, as
    another row may have them."""
    rows = 0
    key = [
        (str(name), kind)
        for _, name, kind, _, _, is_key in db.execute(f"PRAGMA table_info({table})")
        if is_key
    ]
    renumbered = {name for name, kind in key if len(key) == 1 and kind == "INTEGER"}
    kept = ", ".join(
        str(row[1])
        for row in db.execute(f"PRAGMA table_info({table})")
        if str(row[1]) not in renumbered
    )
    for columns, batch in old.read(f"SELECT {kept} FROM {table} WHERE {where} ORDER BY rowid"):
        marks = ", ".join("?" for _ in columns)
        if table == "detections":
            batch = _with_clips(db, columns, batch)
        db.executemany(
            f"INSERT OR {conflict} INTO {table} ({', '.join(columns)}) VALUES ({marks})", batch
        )
        rows += len(batch)
    return rows


def _with_clips(
    db: sqlite3.Connection, columns: list[str], rows: list[tuple[Any, ...]]
) -> list[tuple[Any, ...]]:
    """Rows of detections with the clip that the new file has for them, if the old one has none: the
    clip may be on a disk that was absent for a while. Whether its file exists is checked later."""
    key = columns.index("id")
    clip = columns.index("clip")
    merged = []
    for row in rows:
        there = (
            db.execute("SELECT clip FROM detections WHERE id = ?", (row[key],)).fetchone()
            if not row[clip]
            else None
        )
        merged.append((*row[:clip], there[0], *row[clip + 1 :]) if there else row)
    return merged


def _effort_of(old: LostFile, db: sqlite3.Connection, where: str) -> str:
    """Condition for all effort of the affected recordings, after deleting their effort in the new
    file: when a clock is set, effort moves to other hours."""
    for _, batch in old.read(f"SELECT DISTINCT recording FROM effort WHERE {where}"):
        db.executemany("DELETE FROM effort WHERE recording = ?", batch)
    return f"recording IN (SELECT recording FROM effort WHERE {where})"


def _carry_lines(old: LostFile, db: sqlite3.Connection, where: str) -> None:
    """Copy the present knowledge of the boots' clocks; the new file's rows move when a run is next
    stored."""
    for _, batch in old.read(f"SELECT told_ms, known, run FROM boots WHERE {where}"):
        db.executemany("UPDATE boots SET told_ms = ?, known = ? WHERE run = ?", batch)


def _carry_messages(old: LostFile, db: sqlite3.Connection, columns: list[str], where: str) -> None:
    """Copy messages. Each keeps its number unless another message has it in the new file."""
    names = ", ".join(columns)
    marks = ", ".join("?" for _ in columns)
    for _, batch in old.read(f"SELECT seq, {names} FROM outbox WHERE {where} ORDER BY seq"):
        for seq, *row in batch:
            existing = db.execute(
                "SELECT seq FROM outbox WHERE id = ?", (row[columns.index("id")],)
            ).fetchone()
            if existing:
                db.execute("DELETE FROM outbox WHERE seq = ?", existing)
            number = existing[0] if existing else seq
            occupied = db.execute("SELECT 1 FROM outbox WHERE seq = ?", (number,)).fetchone()
            db.execute(
                f"INSERT INTO outbox (seq, {names}) VALUES (?, {marks})",
                (None if occupied else number, *row),
            )


def _recount(old: LostFile, db: sqlite3.Connection) -> None:
    """Set the counters: messages by their rows, which remain after sending, and the higher count of
    all others."""
    for _, batch in old.read("SELECT name, value FROM counters"):
        db.executemany(
            "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = "
            "max(value, excluded.value)",
            batch,
        )
    for name, where in _COUNTED.items():
        (count,) = db.execute(f"SELECT count(*) FROM outbox WHERE {where}").fetchone()
        db.execute(
            "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = "
            "excluded.value",
            (name, count),
        )
