"""Repair of a damaged file: it is set aside, and everything that can be read goes into a new
database.

The damaged file keeps its name until the new one is complete and on the disk under another name. If
the program is killed in between, the next start finds either the damage or the complete new file
and continues. Files set aside are never deleted. Damage never prevents a station from starting.
Knows the tables only by name.
"""

import errno
import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edge.contract.errors import DamagedError, StoreError
from edge.contract.rights import hindrance
from edge.store.connection import BUSY_TIMEOUT_S, Connection, check_writable
from edge.store.database_copies import bytes_of, sync
from edge.store.file_identity import beside, stamp, turn
from edge.store.losses import LossTable
from edge.store.readable_rows import ReadableRows, Row

_SPARE_BYTES = 16 << 20  # left free for other programs that write meanwhile
_LOCK_S = 2.0  # to wait for a writer of the damaged database, which may be impossible to lock
_PARTIAL = ".salvage-"
_WHOLE = ".salvaged-"
_ASIDE = ".damaged-"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SalvageSummary:
    """The damage of a database, and the result of its repair."""

    said: str  # one line
    lost: int  # tables of which some rows could not be read

    def __str__(self) -> str:
        return self.said


def sound_database(path: Path, thorough: bool = False) -> SalvageSummary | None:
    """Make sure that the database at `path` is intact, or that there is none yet. Returns a summary
    if it was repaired.

    `thorough`: a query met damage, so check everything. Raises StoreError if the files cannot be
    read or moved, or there is no room; an absent disk does not count as damage. May be called by
    several programs at once, and after a kill at any moment.
    """
    if not _is_unfinished(path) and (_is_empty(path) or damage_of(path, thorough) is None):
        return None
    with turn(path.parent, alone=True, patience_s=BUSY_TIMEOUT_S):
        done = None
        for whole in _folders(path, _WHOLE):
            done = _finish(path, whole)
        for partial in _folders(path, _PARTIAL):  # left by a program that was killed
            shutil.rmtree(partial, ignore_errors=True)
        damage = None if _is_empty(path) else damage_of(path, thorough)
        if damage is not None:
            done = _repair(path, damage)
    if done is not None:
        log.warning("%s", done)
    return done


def damage_of(path: Path, thorough: bool = False) -> str | None:
    """The first error that SQLite's quick check (`thorough`: its full check) finds in an existing
    file; None if there is none. Changes nothing.

    Raises StoreError if the file cannot be read, which does not count as damage.
    """
    check_writable(path)
    try:
        with closing(sqlite3.connect(path, timeout=30)) as db:
            result = str(
                db.execute(f"PRAGMA {'integrity' if thorough else 'quick'}_check(1)").fetchone()[0]
            )
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", None) in _NOT_DAMAGE or isinstance(
            error, sqlite3.OperationalError
        ):
            raise StoreError(f"{path}: {error}{hindrance(path)}") from error
        return str(error)
    return None if result == "ok" else " ".join(result.split())


# busy, locked, read-only, disk error, full, cannot open: the file may be intact
_NOT_DAMAGE = {5, 6, 8, 10, 13, 14}


def set_aside(path: Path) -> list[Path]:
    """Damaged databases that were set aside and that nobody has removed yet, the oldest first."""
    try:
        names = sorted(path.parent.glob(f"{path.name}{_ASIDE}*"))
    except OSError:
        return []
    return [name for name in names if "-" not in name.name.rpartition(_ASIDE)[2]]


def _is_empty(path: Path) -> bool:
    return not path.exists() or path.stat().st_size == 0


def _is_unfinished(path: Path) -> bool:
    return bool(_folders(path, _WHOLE) or _folders(path, _PARTIAL))


def _folders(path: Path, kind: str) -> list[Path]:
    try:
        return sorted(path.parent.glob(f"{path.name}{kind}*"))
    except OSError:
        return []


def _repair(path: Path, damage: str) -> SalvageSummary:
    """Repair a database: copy readable rows into a new folder, rename the folder when it is
    complete, and put its file in place. Raises DamagedError if this fails."""
    free = shutil.disk_usage(path.parent).free
    needed = bytes_of(path) + _SPARE_BYTES
    if free < needed:
        missing = (needed - free + (1 << 20) - 1) >> 20
        raise DamagedError(
            f"{path}: damaged ({damage}), and to repair it {missing} MB more are needed on its "
            "disk; make room"
        ) from OSError(errno.ENOSPC, "no room")
    when = stamp()
    partial = beside(path, _PARTIAL + when)
    whole = beside(path, _WHOLE + when)
    try:
        partial.mkdir()
        with _write_lock(path):  # until the new file is in place, as later writes would be lost
            copied, lost = _salvage(path, partial / path.name)
            (partial / "said").write_text(f"{copied}\n{lost}\n{damage}")
            sync(partial / path.name, partial / "said", partial)
            partial.rename(whole)
            sync(path.parent)
            return _finish(path, whole)
    except (OSError, sqlite3.Error) as error:
        raise DamagedError(f"{path}: damaged ({damage}) and cannot be repaired: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _finish(path: Path, whole: Path) -> SalvageSummary:
    """Put the repaired file in place. Each step may have been done already, before a kill; the last
    one removes the folder."""
    aside = beside(path, _ASIDE + whole.name.rpartition("-")[2])
    new = whole / path.name
    try:
        copied, lost, damage = (whole / "said").read_text().split("\n", 2)
    except FileNotFoundError:  # it is in place already, and the summary is deleted
        copied = "all"
        lost = "0"
        damage = "as the log says"
    try:
        if new.exists():  # otherwise a kill came after it was put in place
            _second_name(path, aside)
            _move_logs(path, aside)
            sync(path.parent)
            new.replace(path)
            sync(path.parent)
        shutil.rmtree(whole)
    except OSError as error:
        raise DamagedError(
            f"{path}: damaged and cannot be replaced by the repaired file: {error}"
        ) from error
    counted = f"{copied} rows recovered, {lost} tables incomplete"
    return SalvageSummary(
        f"{path}: was damaged ({damage}); set aside as {aside.name}, {counted}", int(lost)
    )


def _second_name(path: Path, aside: Path) -> None:
    """Give the damaged file its second name. Where the file system can, it keeps its first name
    until the new file takes it."""
    if aside.exists() or not path.exists():
        return
    try:
        os.link(path, aside)
    except OSError:
        path.rename(aside)


def _move_logs(path: Path, aside: Path) -> None:
    """Move the log along with its database, and delete the -shm, which SQLite makes again."""
    beside(path, "-shm").unlink(missing_ok=True)
    logs = beside(path, "-wal")
    target = beside(aside, "-wal")
    if logs.exists() and logs.stat().st_size == 0:
        logs.unlink()
    elif logs.exists():
        logs.rename(beside(target, f".{stamp()}") if target.exists() else target)


@contextmanager
def _write_lock(path: Path) -> Iterator[None]:
    """The write lock of a damaged database, if it can still be locked."""
    with closing(sqlite3.connect(path, timeout=_LOCK_S, isolation_level=None)) as db:
        with suppress(sqlite3.Error):
            db.execute("BEGIN IMMEDIATE")
        yield


def _salvage(damaged: Path, path: Path) -> tuple[int, int]:
    """Copy every readable row. Returns the number of rows copied and of tables with missing
    rows."""
    copied = 0
    cut_short = 0
    with LossTable(path) as new, closing(sqlite3.connect(damaged)) as old:
        new.without_log()  # a log would need the room twice
        tables = [
            str(name) for (name,) in new.rows("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        for table in tables:
            if table.startswith(("sqlite_", "_sqlite")):
                continue
            rows, whole = _copy_table(old, new, table)
            copied += rows
            cut_short += not whole
        _keep_numbers(old, new)
        if cut_short:
            new.tell_losses()
    return copied, cut_short


def _copy_table(old: sqlite3.Connection, new: Connection, table: str) -> tuple[int, bool]:
    """Copy a table with its rowids; returns the number of rows, and True if these are all. A column
    that the old table lacks gets its default, as in a migration."""
    schema = new.rows(f"PRAGMA table_info({table})")
    present = {str(row[1]) for row in schema}
    try:
        columns = [
            str(row[1]) for row in old.execute(f"PRAGMA table_info({table})") if row[1] in present
        ]
    except sqlite3.DatabaseError:
        return 0, False
    if not columns:
        return 0, True
    # the primary key is the rowid
    numbered = any(row[2] == "INTEGER" and row[5] and str(row[1]) in columns for row in schema)
    readable = ReadableRows(old, table, columns)
    marks = ", ".join("?" for _ in range(len(columns) + 1 - numbered))
    names = ", ".join(columns if numbered else ["rowid", *columns])
    with new.bulk() as db:
        db.execute(f"DELETE FROM {table}")
        before = db.total_changes
        for batch in readable:
            _insert(
                db,
                f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})",
                [row[numbered:] for row in batch],
            )
        return db.total_changes - before, readable.whole


def _insert(db: sqlite3.Connection, sql: str, rows: list[Row]) -> None:
    """Insert rows; those that violate the schema are skipped."""
    try:
        db.executemany(sql, rows)
    except sqlite3.IntegrityError:
        for row in rows:
            with suppress(sqlite3.IntegrityError):
                db.execute(sql, row)


def _keep_numbers(old: sqlite3.Connection, new: Connection) -> None:
    """Copy the highest numbers used, so that they are never used again even if their rows are
    lost."""
    with suppress(sqlite3.DatabaseError):
        given = old.execute("SELECT name, seq FROM sqlite_sequence").fetchall()
        with new.bulk() as db:
            for name, seq in given:
                db.execute("DELETE FROM sqlite_sequence WHERE name = ? AND seq < ?", (name, seq))
                db.execute(
                    "INSERT INTO sqlite_sequence (name, seq) SELECT ?, ? WHERE NOT EXISTS (SELECT "
                    "1 FROM sqlite_sequence WHERE name = ?)",
                    (name, seq, name),
                )
