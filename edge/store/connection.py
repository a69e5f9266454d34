"""Connection to one SQLite file: opening, migration to the present schema, transactions. Of the
tables it names only outbox and counters.

Each query and each transaction checks that the open file still has its name: a file that was moved,
deleted or replaced raises GoneError, damaged pages raise DamagedError.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from sqlite_utils import Database

from edge.contract.errors import DamagedError, GoneError, RowError, StoreError
from edge.contract.rights import hindrance, not_writable
from edge.store.database_copies import copy_before
from edge.store.file_identity import BESIDE, FileIdentity, beside, identity, stamp, turn
from edge.store.schema import migrations
from edge.types import utc_text

BUSY_TIMEOUT_S = 30.0
_LEAVE_MS = 2000  # to wait for others that still read a file that has lost its name
_CANNOT_OPEN = 14  # SQLITE_CANTOPEN; Python before 3.11 gives no code
_PERMISSION_CODES = (3, 8, _CANNOT_OPEN)  # SQLITE_PERM, SQLITE_READONLY
_DAMAGE_CODES = (11, 26)  # SQLITE_CORRUPT, SQLITE_NOTADB
# violated constraints, and values too large for a cell
_ROW_ERRORS = (sqlite3.IntegrityError, sqlite3.DataError)
_OWN = {"recordings", "detections", "effort"}
_DAMAGE_TEXTS = ("malformed", "not a database")  # where Python gives no code
Open = TypeVar("Open", bound="Connection")

# databases in which a thread of this process found damage; open_record.py repairs them
suspected: set[Path] = set()


def now_text() -> str:
    """The present time in the format of rows."""
    return utc_text(datetime.now(timezone.utc))


def _is_permission_error(error: sqlite3.Error | OSError) -> bool:
    """True if the cause may be missing permissions."""
    code = getattr(error, "sqlite_errorcode", _CANNOT_OPEN) & 0xFF
    return isinstance(error, PermissionError) or (
        isinstance(error, sqlite3.OperationalError) and code in _PERMISSION_CODES
    )


def is_damage(error: sqlite3.Error) -> bool:
    """True if SQLite reports damaged pages by this error."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return (code & 0xFF) in _DAMAGE_CODES
    return any(text in str(error) for text in _DAMAGE_TEXTS)


def is_lock(error: StoreError) -> bool:
    """True if another writer holds the lock, which ends by itself."""
    cause = error.__cause__
    return isinstance(cause, sqlite3.OperationalError) and "locked" in str(cause)


def check_writable(database: Path) -> None:
    """Raise StoreError, which names the file, if a database or its -wal or -shm cannot be written.

    Call it before SQLite opens the database: SQLite would open a read-only one for reading and
    leave a read-only -shm beside it. A -shm left in this way is made writable again.
    """
    for path in (database, *(beside(database, suffix) for suffix in BESIDE)):
        problem = not_writable(path)
        if problem and path != database:
            with suppress(OSError):
                path.chmod(database.stat().st_mode & 0o777)
            problem = not_writable(path)
        if problem:
            raise StoreError(f"{path}: cannot be written{problem}")


class Connection:
    """A connection for one thread. Raises StoreError in one line when the file cannot be used.

    `durable`: a commit is on the disk when it returns, even if the power fails; otherwise the last
    seconds may be lost, but never half a transaction. A full or read-only disk costs the
    transaction, not the connection: try again. After a DamagedError or a GoneError the connection
    is useless: close it and open another. `patience_s`: longest wait for another writer's lock.
    """

    def __init__(
        self, path: Path, durable: bool = False, patience_s: float = BUSY_TIMEOUT_S
    ) -> None:
        self.path = path
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
        with turn(path.parent, alone=False, patience_s=patience_s):
            check_writable(path)
            with self._errors():
                self._db = Database(sqlite3.connect(path, timeout=patience_s))
            try:
                self._begin(durable)
            except StoreError:
                self._db.close()
                raise
        try:
            with self._transaction():
                pending = migrations.pending(self._db)
                if pending and self._has_rows():
                    copy_before(path, pending[0].name)
                migrations.apply(self._db)
        except StoreError:
            self._db.close()
            raise

    def _begin(self, durable: bool) -> None:
        with self._errors():
            self._identity = identity(self.path)
            self._check_ours()
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._db.execute("PRAGMA foreign_keys = ON")
            # reading opens the log, whose identity is noted below
            self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            self._logs: dict[str, FileIdentity | None] = {
                s: identity(beside(self.path, s)) for s in BESIDE
            }

    def __enter__(self: Open) -> Open:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def is_named(self) -> bool:
        """True if the names of the database and its log still lead to the open files. Also True if
        that cannot be determined; then SQLite reports the error."""
        return self.is_same_file() and all(
            self._is_same(beside(self.path, s), was) for s, was in self._logs.items()
        )

    def without_log(self) -> None:
        """Write without a log from now on; only for a file that nobody else has open."""
        with self._errors():
            self._logs = {}
            self._db.execute("PRAGMA journal_mode = DELETE").fetchall()

    def is_same_file(self) -> bool:
        """True if the name of the database still leads to the open file, whatever became of its
        log."""
        return self._is_same(self.path, self._identity)

    @staticmethod
    def _is_same(path: Path, was: FileIdentity | None) -> bool:
        try:
            return identity(path) == was
        except OSError:
            return True

    def _check_named(self) -> None:
        if not self.is_named():
            what = "moved or deleted" if not self.path.exists() else "replaced by another file"
            what = f"left without {self.path.name}-wal or -shm" if self.is_same_file() else what
            raise GoneError(
                f"{self.path}: was {what} while it was open; the file that has its name now is "
                "opened next time"
            )

    def leave(self) -> None:
        """Prepare a file that has lost its name: write its log into it, and move the log away, as
        SQLite would apply it to another file of that name. A log that cannot be written back is set
        aside."""
        busy = True
        with suppress(sqlite3.Error):
            self._db.execute(f"PRAGMA busy_timeout = {_LEAVE_MS}")
            busy = bool(self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
        # another log beside the same database: some rows are only in ours
        if busy and self.is_same_file():
            raise GoneError(
                f"{self.path}: its log was deleted, and another program prevents it from being "
                "written back"
            )
        with self._errors():
            for suffix, ours in self._logs.items():
                log = beside(self.path, suffix)
                if ours is None or identity(log) != ours:
                    continue
                if suffix == "-shm" or log.stat().st_size == 0:
                    log.unlink(missing_ok=True)
                else:
                    log.rename(beside(self.path, f".left-{stamp()}{suffix}"))

    def _check_ours(self) -> None:
        """Raise StoreError for another program's database, which is left as it is."""
        tables = [
            name for name in self._db.table_names() if not name.startswith(("sqlite_", "_sqlite"))
        ]
        if tables and not {*tables} >= _OWN:  # these exist since the first schema
            named = ", ".join(sorted(tables)[:3])
            raise StoreError(
                f"{self.path}: expected a station's record, found another program's database "
                f"({named})"
            )

    def _has_rows(self) -> bool:
        """True if anything is stored, by any version."""
        tables = (
            name for name in self._db.table_names() if not name.startswith(("sqlite_", "_sqlite"))
        )
        return any(
            self._db.execute(f"SELECT EXISTS (SELECT 1 FROM [{table}])").fetchone()[0]
            for table in tables
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, sqlite3.Error) and is_damage(error):
                suspected.add(self.path)
                raise DamagedError(f"{self.path}: {error}") from error
            if isinstance(error, _ROW_ERRORS):
                raise RowError(f"{self.path}: {error}") from error
            raise StoreError(
                f"{self.path}: {error}{hindrance(self.path) if _is_permission_error(error) else ''}"
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """A transaction. The write lock is taken at once: a transaction that reads first could not
        wait for another writer, since SQLite would refuse it ("database is locked")."""
        with self._errors():
            self._db.conn.execute("BEGIN IMMEDIATE")
            try:
                self._check_named()  # under the lock, which a program that replaces the file takes
                yield
                self._db.conn.commit()
            except BaseException:  # also Ctrl-C, or a full disk at the commit: leave nothing open
                self._db.conn.rollback()
                raise

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a plain SQL query."""
        self._check_named()
        with self._errors():
            return list(self._db.execute(sql, parameters).fetchall())

    def waiting_count(self) -> int:
        """Number of messages that no broker has acknowledged yet."""
        return int(self.rows("SELECT count(*) FROM outbox WHERE state = 'waiting'")[0][0])

    @contextmanager
    def bulk(self) -> Iterator[sqlite3.Connection]:
        """A transaction for rows of another database, without checks of foreign keys."""
        with self._errors():
            self._db.execute("PRAGMA foreign_keys = OFF")
        try:
            with self._transaction():
                yield self._db.conn
        finally:
            with suppress(sqlite3.Error):
                self._db.execute("PRAGMA foreign_keys = ON")

    @property
    def raw(self) -> sqlite3.Connection:
        """The connection to the open file, even after it has lost its name."""
        return self._db.conn

    def _count(self, name: str, more: int) -> None:
        """Add to a counter that outlives the rows it counts. Call it inside a transaction."""
        if more:
            self._db.execute(
                "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value "
                "+ excluded.value",
                (name, more),
            )

    def counters(self) -> dict[str, int]:
        """All counters by name."""
        return {
            str(name): int(value) for name, value in self.rows("SELECT name, value FROM counters")
        }
