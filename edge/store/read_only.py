"""The record opened for reading alone: nothing beside it is made or changed, whoever writes to it
meanwhile, and also where nothing can be written.

Knows no clip and no sound.
"""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from edge.contract.errors import DamagedError, StoreError
from edge.contract.rights import whose
from edge.store.connection import BUSY_TIMEOUT_S, is_damage
from edge.store.file_identity import beside

Found = TypeVar("Found")
# With a log beside it, readers share it. Without one SQLite would make one and leave it behind, so
# the file is read as it is.
_WITH_LOG = "mode=ro"
_AS_IT_IS = "mode=ro&immutable=1"
_UPGRADE = (
    "is of an earlier version; type `birdstation clock show` once, which saves a copy of it and "
    "brings it up to date"
)


class Reader:
    """One unbroken view of the record, for the length of a call of `read_record`."""

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self.path = path
        self._db = db

    def rows(self, sql: str, parameters: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """Rows of a plain SQL query."""
        return self._db.execute(sql, parameters).fetchall()


def read_record(path: Path, read: Callable[[Reader], Found]) -> Found:
    """What `read` makes of the record, at one moment of it. `read` is called again if a station
    began to write meanwhile, so it must have no effect of its own.

    Raises StoreError in one line if the file cannot be read, is of an earlier version or of another
    program; DamagedError if its pages are damaged.
    """
    try:
        if not _has_log(path):
            before = _state(path)
            found = _read(path, _AS_IT_IS, read)
            if not _has_log(path) and _state(path) == before:
                return found
        return _read(path, _WITH_LOG, read)
    except sqlite3.Error as error:
        raise _explained(path, error) from error
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}{whose(path)}") from error


def _has_log(path: Path) -> bool:
    """True if the record has a log with anything in it, or one that others share."""
    log = beside(path, "-wal")
    return log.exists() and (log.stat().st_size > 0 or beside(path, "-shm").exists())


def _state(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _read(path: Path, how: str, read: Callable[[Reader], Found]) -> Found:
    uri = f"{path.absolute().as_uri()}?{how}"
    with closing(sqlite3.connect(uri, timeout=BUSY_TIMEOUT_S, uri=True)) as db:
        db.execute("BEGIN")  # all queries see the same moment
        return read(Reader(path, db))


def _explained(path: Path, error: sqlite3.Error) -> StoreError:
    if is_damage(error):
        return DamagedError(f"{path}: {error}")
    if "no such table: recordings" in str(error):
        return StoreError(f"{path}: expected a station's record, found another program's database")
    if "no such " in str(error):
        return StoreError(f"{path}: {_UPGRADE}")
    if "unable to open" in str(error) and _has_log(path):
        return StoreError(
            f"{path}: has a log, {path.name}-wal, that cannot be read where nothing can be "
            f"written; copy both to another folder, and name that with state:{whose(path)}"
        )
    return StoreError(f"{path}: {error}{whose(path)}")
