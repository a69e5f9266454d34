"""One SQLite file: opened, brought to the present schema, written in transactions.

Of the tables it names only outbox and counters.

Each question and each transaction is of the file that has the name at that moment: one that was
moved, deleted or replaced while it was open is a GoneError, pages that are not what SQLite wrote
are a DamagedError.
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
from edge.store.copies import copy_before
from edge.store.named import BESIDE, FileIdentity, beside, identity, stamp, turn
from edge.store.schema import migrations
from edge.types import utc_text

BUSY_TIMEOUT_S = 30.0
_LEAVE_MS = 2000  # for others that still read a file that has lost its name
_CANNOT_OPEN = 14  # SQLITE_CANTOPEN; Python before 3.11 tells no code
_RIGHTS = (3, 8, _CANNOT_OPEN)  # forbidden, read-only
_DAMAGE = (11, 26)  # SQLITE_CORRUPT, SQLITE_NOTADB
# constraints of tables, and what is too large for a cell
_OF_A_ROW = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
)
_OWN = {"recordings", "detections", "effort"}
_DAMAGE_SAID = ("malformed", "not a database")  # where Python tells no code
Open = TypeVar("Open", bound="Connection")

# databases in which some thread of this process met damage; who repairs them looks here
suspected: set[Path] = set()


def now_text() -> str:
    """This moment, as rows carry it."""
    return utc_text(datetime.now(timezone.utc))


def _of_rights(error: sqlite3.Error | OSError) -> bool:
    """Whether it may be for want of rights."""
    code = getattr(error, "sqlite_errorcode", _CANNOT_OPEN) & 0xFF
    return isinstance(error, PermissionError) or (
        isinstance(error, sqlite3.OperationalError) and code in _RIGHTS
    )


def is_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite says by it that pages are not what it wrote."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return (code & 0xFF) in _DAMAGE
    return any(said in str(error) for said in _DAMAGE_SAID)


def is_lock(error: StoreError) -> bool:
    """Whether another writer is at work, which ends by itself."""
    cause = error.__cause__
    return isinstance(cause, sqlite3.OperationalError) and "locked" in str(cause)


def check_writable(database: Path) -> None:
    """Raises StoreError, which names the file, where a database or what SQLite keeps beside it may
    not be written.

    Before SQLite opens it: SQLite would read a database that may only be read, and leave beside it
    a -shm that has its mode. One that such an opening has left is given the right to be written
    again.
    """
    for path in (database, *(beside(database, suffix) for suffix in BESIDE)):
        said = not_writable(path)
        if said and path != database:
            with suppress(OSError):
                path.chmod(database.stat().st_mode & 0o777)
            said = not_writable(path)
        if said:
            raise StoreError(f"{path}: cannot be written{said}")


class Connection:
    """A connection for one thread. Raises StoreError in one line when the file cannot be used.

    `durable`: a commit is on the disk when it returns, whatever happens to the power; otherwise the
    last seconds may be lost, never half a transaction. A full or read-only disk costs the
    transaction, not the connection: try again. After a DamagedError or a GoneError it is of no more
    use: close it and open another. `patience_s`: so long another writer's lock is waited for.
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
            # its log is open from here on
            self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            self._logs: dict[str, FileIdentity | None] = {
                s: identity(beside(self.path, s)) for s in BESIDE
            }

    def __enter__(self: Open) -> Open:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def is_named(self) -> bool:
        """Whether the file that is open is the one that its name leads to, and so is its log. Where
        that cannot be told, SQLite will."""
        return self.is_same_file() and all(
            self._is_same(beside(self.path, s), was) for s, was in self._logs.items()
        )

    def without_log(self) -> None:
        """Write into the file itself from now on; for one that nobody else has open."""
        with self._errors():
            self._logs = {}
            self._db.execute("PRAGMA journal_mode = DELETE").fetchall()

    def is_same_file(self) -> bool:
        """Whether the database is, whatever became of its log."""
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
                f"{self.path}: was {what} while it was open; what has its name now is opened next "
                f"time"
            )

    def leave(self) -> None:
        """Of a file that has lost its name: write its log into it, and see that no other file of
        that name finds the log: SQLite would lay it over a stranger. What cannot be written back is
        set aside."""
        held = True
        with suppress(sqlite3.Error):
            self._db.execute(f"PRAGMA busy_timeout = {_LEAVE_MS}")
            held = bool(self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
        # another log beside the same database: its rows are in ours alone
        if held and self.is_same_file():
            raise GoneError(
                f"{self.path}: its log was deleted, and another program hinders that it is written "
                f"back"
            )
        with self._errors():
            for suffix, ours in self._logs.items():
                there = beside(self.path, suffix)
                if ours is None or identity(there) != ours:
                    continue
                if suffix == "-shm" or there.stat().st_size == 0:
                    there.unlink(missing_ok=True)
                else:
                    there.rename(beside(self.path, f".left-{stamp()}{suffix}"))

    def _check_ours(self) -> None:
        """Another program's database is left as it is."""
        tables = [
            name for name in self._db.table_names() if not name.startswith(("sqlite_", "_sqlite"))
        ]
        if tables and not {*tables} >= _OWN:  # all of them are of the first schema
            named = ", ".join(sorted(tables)[:3])
            raise StoreError(
                f"{self.path}: expected a station's record, found another program's database "
                f"({named})"
            )

    def _has_rows(self) -> bool:
        """Whether anything was ever stored, by whatever version."""
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
            if isinstance(error, _OF_A_ROW):
                raise RowError(f"{self.path}: {error}") from error
            raise StoreError(
                f"{self.path}: {error}{hindrance(self.path) if _of_rights(error) else ''}"
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing. The write lock is taken at once: a transaction that read first could not
        wait for another writer, SQLite would refuse it ("database is locked")."""
        with self._errors():
            self._db.conn.execute("BEGIN IMMEDIATE")
            try:
                self._check_named()  # with the lock in hand: who replaces the file holds it, too
                yield
                self._db.conn.commit()
            except (
                BaseException
            ):  # whatever it was, Ctrl-C and a commit on a full disk too: nothing stays half open
                self._db.conn.rollback()
                raise

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Read with plain SQL."""
        self._check_named()
        with self._errors():
            return list(self._db.execute(sql, parameters).fetchall())

    def waiting_count(self) -> int:
        """How many messages no broker has acknowledged yet."""
        return int(self.rows("SELECT count(*) FROM outbox WHERE state = 'waiting'")[0][0])

    @contextmanager
    def bulk(self) -> Iterator[sqlite3.Connection]:
        """One transaction for rows of another database; what they refer to may be missing."""
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
        """The file that is open, whatever has its name; for what is read of it once it has lost
        that."""
        return self._db.conn

    def _count(self, name: str, more: int) -> None:
        """Inside a transaction: add to a counter that outlives the rows it counts."""
        if more:
            self._db.execute(
                "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value "
                "+ excluded.value",
                (name, more),
            )

    def counters(self) -> dict[str, int]:
        """Everything that was ever counted, by name."""
        return {
            str(name): int(value) for name, value in self.rows("SELECT name, value FROM counters")
        }
