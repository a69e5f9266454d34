"""Identity of files: detects that the name of an open database leads to another file, or to none.

A person, a script or a disk may move, delete or replace a file while it is open, and SQLite would
keep writing to it. Knows no table.
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from edge.contract.errors import StoreError

BESIDE = ("-wal", "-shm")  # files that SQLite keeps beside a database
_LOOK_S = 0.05
_HELD = (errno.EAGAIN, errno.EACCES)

FileIdentity = tuple[int, int]  # device and inode


def beside(database: Path, suffix: str) -> Path:
    """A file beside a database, with the database's name and a suffix."""
    return database.with_name(database.name + suffix)


def stamp() -> str:
    """The present time, for the name of a file that is set aside."""
    return datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")


def identity(path: Path) -> FileIdentity | None:
    """Device and inode of the file at a path, None if there is none. Raises OSError if this cannot
    be determined."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


class OpenFile:
    """A handle by which a file is found again after it was renamed. It allows neither reading nor
    writing, and closing it releases no lock of SQLite's, as closing any other handle in this
    process would."""

    def __init__(self, path: Path) -> None:
        self._handle: int | None = None
        with suppress(OSError, AttributeError):  # not every system has it
            self._handle = os.open(path, os.O_PATH | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the handle."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    @property
    def deleted(self) -> bool:
        """True if the file has no name any more: its contents are lost when the last program closes
        it."""
        return self._handle is not None and os.fstat(self._handle).st_nlink == 0

    @property
    def name(self) -> str | None:
        """Present path of the file; None if it is deleted or cannot be determined."""
        if self._handle is None or self.deleted:
            return None
        with suppress(OSError):
            return str(Path(f"/proc/self/fd/{self._handle}").readlink())
        return None


@contextmanager
def turn(folder: Path, alone: bool, patience_s: float) -> Iterator[None]:
    """Lock the databases of a folder: exclusively (`alone`) while one is replaced, shared while one
    is opened. Has no effect where folders cannot be locked. Raises StoreError if the lock is not
    free in time."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # opening the database will report it
        handle = -1
    try:
        if handle >= 0:
            _lock(
                handle,
                folder,
                fcntl.LOCK_EX if alone else fcntl.LOCK_SH,
                time.monotonic() + patience_s,
            )
        yield
    finally:
        if handle >= 0:
            os.close(handle)


def _lock(handle: int, folder: Path, kind: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _HELD:  # a file system without locks on folders
                return
            if time.monotonic() > deadline:
                raise StoreError(
                    f"{folder}: another program is repairing the database in it; try again later"
                ) from error
            time.sleep(_LOOK_S)
        else:
            return
