"""Rows that a run has written into a file that lost its name, carried into the one that has it now.

Knows which tables refer to which; the rows themselves are SQLite's.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any

from edge.store.connection import Connection

# too many to be carried only since others may refer to them
_MANY = (
    "recordings",
    "clips",
    "detections",
)
_APART = ("recordings", "outbox", "counters")  # each in its own way; all others by their rows
_COUNTED = {"messages created": "1", "messages sent": "state = 'sent'"} | {
    f"messages {state}": f"state = '{state}'" for state in ("dead", "dropped")
}

_BATCH = 500

Marks = Mapping[str, int]  # table -> its highest rowid; what lies above was written since


def marks_of(connection: Connection) -> dict[str, int]:
    """Where each table ends now."""
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


def carry(old: LostFile, new: Connection, since: Marks) -> int:
    """Take over what `old` has above these marks, and what that refers to. A row that both have is
    the old one's, which was written until a moment ago. Returns how many detections, gaps and hours
    of effort these are.

    Raises StoreError if the new one cannot be written; then nothing is carried.
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
        # it has a row here
        db.execute("DELETE FROM clips_going WHERE path IN (SELECT path FROM clips)")
        _carry_lines(old, db, _above("boots", since))
        db.execute(
            "UPDATE detections SET clip = NULL WHERE clip IS NOT NULL AND clip NOT IN (SELECT id "
            "FROM clips)"
        )
        columns = [column for column in _columns(new, "outbox") if column != "seq"]
        _carry_messages(old, db, columns, _above("outbox", since))
        _count_anew(old, db)
    return carried


def _tables(connection: Connection) -> dict[str, bool]:
    """Those that are carried by their rows, and whether a row is of a recording."""
    names = [name for name in marks_of(connection) if name not in _APART]
    return {name: "recording" in _columns(connection, name) for name in names}


def _referred_to(connection: Connection) -> list[str]:
    """Tables that others refer to, and that are small: bundles, species, places."""
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
    """A number that SQLite gives rows is given anew: another row may have it there."""
    rows = 0
    key = [
        (str(name), kind)
        for _, name, kind, _, _, is_key in db.execute(f"PRAGMA table_info({table})")
        if is_key
    ]
    taken = {name for name, kind in key if len(key) == 1 and kind == "INTEGER"}
    kept = ", ".join(
        str(row[1]) for row in db.execute(f"PRAGMA table_info({table})") if str(row[1]) not in taken
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
    """The clip that the new file has of a detection stays: it may be on a disk that was away, where
    the old one had to let go of it. Whether its file is there is asked afterwards."""
    key = columns.index("id")
    clip = columns.index("clip")
    found = []
    for row in rows:
        there = (
            db.execute("SELECT clip FROM detections WHERE id = ?", (row[key],)).fetchone()
            if not row[clip]
            else None
        )
        found.append((*row[:clip], there[0], *row[clip + 1 :]) if there else row)
    return found


def _effort_of(old: LostFile, db: sqlite3.Connection, where: str) -> str:
    """All effort of recordings of which some is carried: it lies in other hours once a clock was
    set, and what the new file has of them goes."""
    for _, batch in old.read(f"SELECT DISTINCT recording FROM effort WHERE {where}"):
        db.executemany("DELETE FROM effort WHERE recording = ?", batch)
    return f"recording IN (SELECT recording FROM effort WHERE {where})"


def _carry_lines(old: LostFile, db: sqlite3.Connection, where: str) -> None:
    """What is known by now of a boot's clock holds for the new file's rows: they move when a run is
    told to it."""
    for _, batch in old.read(f"SELECT told_ms, known, run FROM boots WHERE {where}"):
        db.executemany("UPDATE boots SET told_ms = ?, known = ? WHERE run = ?", batch)


def _carry_messages(old: LostFile, db: sqlite3.Connection, columns: list[str], where: str) -> None:
    """A message keeps its number, unless another one has it there."""
    names = ", ".join(columns)
    marks = ", ".join("?" for _ in columns)
    for _, batch in old.read(f"SELECT seq, {names} FROM outbox WHERE {where} ORDER BY seq"):
        for seq, *row in batch:
            known = db.execute(
                "SELECT seq FROM outbox WHERE id = ?", (row[columns.index("id")],)
            ).fetchone()
            if known:
                db.execute("DELETE FROM outbox WHERE seq = ?", known)
            number = known[0] if known else seq
            taken = db.execute("SELECT 1 FROM outbox WHERE seq = ?", (number,)).fetchone()
            db.execute(
                f"INSERT INTO outbox (seq, {names}) VALUES (?, {marks})",
                (None if taken else number, *row),
            )


def _count_anew(old: LostFile, db: sqlite3.Connection) -> None:
    """Messages by their rows, which outlive being sent; of other counters the higher count."""
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
