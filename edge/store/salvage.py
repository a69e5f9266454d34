"""A database that is damaged, or none at all, is set aside and what can be read of it goes into a new one.

A station never refuses to start for it. Knows the tables only by name.
"""

import logging
import sqlite3
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

from edge.contract.errors import StoreError
from edge.contract.rights import whose
from edge.store.connection import Connection

_BESIDE = ("", "-wal", "-shm")  # the files of one SQLite database
log = logging.getLogger(__name__)


def sound_database(path: Path) -> str | None:
    """Make sure that there is a sound database at `path`, or none yet. Returns what was wrong and done, if anything.

    Raises StoreError if the files cannot be read or moved: a disk that is away is no damage.
    """
    if not path.exists() or path.stat().st_size == 0:
        return None
    damage = damage_of(path)
    if damage is None:
        return None
    aside = _set_aside(path)
    copied, lost = _salvage(aside, path)
    said = f"{path}: damaged ({damage}); set aside as {aside.name}, {copied} rows salvaged, {lost} tables cut short"
    log.warning("%s", said)
    return said


def damage_of(path: Path) -> str | None:
    """The first complaint of SQLite's quick check of a file that is there, None if it is content. Sets nothing aside.

    Raises StoreError if the file cannot be read: that is no damage.
    """
    try:
        with closing(sqlite3.connect(path, timeout=30)) as db:
            found = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", None) in _NOT_DAMAGE or isinstance(error, sqlite3.OperationalError):
            raise StoreError(f"{path}: {error}{whose(path)}") from error
        return str(error)
    return None if found == "ok" else " ".join(found.split())


_NOT_DAMAGE = {5, 6, 8, 10, 13, 14}  # busy, locked, read-only, disk error, full, cannot open: the file may be sound


def _set_aside(path: Path) -> Path:
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    try:
        for suffix in _BESIDE:
            beside = path.with_name(path.name + suffix)
            if beside.exists():
                beside.rename(aside.with_name(aside.name + suffix))
    except OSError as error:
        raise StoreError(f"{path}: damaged and cannot be set aside: {error}") from error
    return aside


def _salvage(aside: Path, path: Path) -> tuple[int, int]:
    """Copy every row that can still be read: from the first on, and where that ends, from the last backwards. Returns
    rows copied and tables of which some are missing."""
    copied, cut_short = 0, 0
    with Connection(path) as new, closing(sqlite3.connect(aside)) as old:
        tables = [name for (name,) in new.rows("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            if table.startswith(("sqlite_", "_sqlite")):
                continue
            columns, rows, whole = _readable(old, table, {row[1] for row in new.rows(f"PRAGMA table_info({table})")})
            new.insert_raw(table, columns, rows)
            copied, cut_short = copied + len(rows), cut_short + (not whole)
    return copied, cut_short


def _readable(
    old: sqlite3.Connection, table: str, present: set[str]
) -> tuple[list[str], list[tuple[object, ...]], bool]:
    """The columns of a table that both databases know, its rows by these, and whether these are all. A column that the
    old one lacks has its default then, as a migration would give it."""
    rows: dict[tuple[object, ...], None] = {}
    try:
        columns = [str(row[1]) for row in old.execute(f"PRAGMA table_info({table})") if row[1] in present]
    except sqlite3.DatabaseError:
        return sorted(present), [], False
    if not columns:
        return sorted(present), [], True
    wanted = ", ".join(columns)
    for order in ("ASC", "DESC"):
        try:
            for row in old.execute(f"SELECT {wanted} FROM {table} NOT INDEXED ORDER BY rowid {order}"):
                rows[row] = None
            return columns, list(rows), True
        except sqlite3.DatabaseError:
            continue
    return columns, list(rows), False
