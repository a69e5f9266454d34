"""One SQLite file: opened, brought to the present schema, written in transactions. Knows no table."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from sqlite_utils import Database

from edge.contract.errors import StoreError
from edge.contract.rights import whose
from edge.store.copies import copy_before
from edge.store.schema import migrations
from edge.types import utc_text

BUSY_TIMEOUT_S = 30.0
_CANNOT_OPEN = 14  # SQLITE_CANTOPEN; Python before 3.11 tells no code
_RIGHTS = (3, 8, _CANNOT_OPEN)  # forbidden, read-only
Open = TypeVar("Open", bound="Connection")


def now_text() -> str:
    """This moment, as rows carry it."""
    return utc_text(datetime.now(timezone.utc))


def _of_rights(error: sqlite3.Error | OSError) -> bool:
    """Whether it may be for want of rights."""
    code = getattr(error, "sqlite_errorcode", _CANNOT_OPEN) & 0xFF
    return isinstance(error, PermissionError) or (isinstance(error, sqlite3.OperationalError) and code in _RIGHTS)


class Connection:
    """A connection for one thread. Raises StoreError in one line when the file cannot be used.

    `durable`: a commit is on the disk when it returns, whatever happens to the power; otherwise the last seconds may be
    lost, never half a transaction. A full or read-only disk costs the transaction, not the connection: try again.
    """

    def __init__(self, path: Path, durable: bool = False) -> None:
        self.path = path
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = Database(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S))
        try:
            with self._errors():
                self._check_ours()
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._db.execute("PRAGMA foreign_keys = ON")
            with self._transaction():
                pending = migrations.pending(self._db)
                if pending and self._has_rows():
                    copy_before(path, pending[0].name)
                migrations.apply(self._db)
        except StoreError:
            self._db.close()
            raise

    def __enter__(self: Open) -> Open:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _check_ours(self) -> None:
        """Another program's database is left as it is."""
        tables = [name for name in self._db.table_names() if not name.startswith(("sqlite_", "_sqlite"))]
        if tables and "recordings" not in tables:
            named = ", ".join(sorted(tables)[:3])
            raise StoreError(f"{self.path}: expected a station's record, found another program's database ({named})")

    def _has_rows(self) -> bool:
        """Whether anything was ever stored, by whatever version."""
        tables = (name for name in self._db.table_names() if not name.startswith(("sqlite_", "_sqlite")))
        return any(self._db.execute(f"SELECT EXISTS (SELECT 1 FROM [{table}])").fetchone()[0] for table in tables)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self.path}: {error}{whose(self.path) if _of_rights(error) else ''}") from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing. The write lock is taken at once: a transaction that read first could not wait for another
        writer, SQLite would refuse it ("database is locked")."""
        with self._errors():
            self._db.conn.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.conn.commit()
            except BaseException:  # whatever it was, Ctrl-C and a commit on a full disk too: nothing stays half open
                self._db.conn.rollback()
                raise

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Read with plain SQL."""
        with self._errors():
            return list(self._db.execute(sql, parameters).fetchall())

    def waiting_count(self) -> int:
        """How many messages no broker has acknowledged yet."""
        return int(self.rows("SELECT count(*) FROM outbox WHERE state = 'waiting'")[0][0])

    def insert_raw(self, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
        """These rows instead of what a new database has in a table. Those that the schema cannot hold are left out;
        what they refer to may be missing."""
        marks = ", ".join("?" for _ in columns)
        with self._errors():
            self._db.execute("PRAGMA foreign_keys = OFF")
        with self._transaction():
            self._db.execute(f"DELETE FROM {table}")
            sql = f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({marks})"
            self._db.conn.executemany(sql, rows)
        with self._errors():
            self._db.execute("PRAGMA foreign_keys = ON")

    def _count(self, name: str, more: int) -> None:
        """Inside a transaction: add to a counter that outlives the rows it counts."""
        if more:
            self._db.execute(
                "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
                (name, more),
            )

    def counters(self) -> dict[str, int]:
        """Everything that was ever counted, by name."""
        return {str(name): int(value) for name, value in self.rows("SELECT name, value FROM counters")}
