"""Files by name and by what they are: whether a database that is open is still the one its name
leads to.

A person, a script or a disk may move, delete or replace a file while it is open; SQLite would go on
writing to it. Knows no table.
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

BESIDE = ("-wal", "-shm")  # what SQLite keeps beside a database
_LOOK_S = 0.05
_HELD = (errno.EAGAIN, errno.EACCES)

FileIdentity = tuple[int, int]  # device and inode


def beside(database: Path, suffix: str) -> Path:
    """A file next to a database, with the database's name in front."""
    return database.with_name(database.name + suffix)


def stamp() -> str:
    """This moment, for the name of a file that is set aside."""
    return datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")


def identity(path: Path) -> FileIdentity | None:
    """Device and inode of what a name leads to, None if there is nothing. Raises OSError where it
    cannot be told."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


class OpenFile:
    """A hold on a file, by which it is found again under another name. It can neither be read nor
    written by it, and letting go releases no lock of SQLite's, as closing any other handle of this
    process would."""

    def __init__(self, path: Path) -> None:
        self._handle: int | None = None
        with suppress(OSError, AttributeError):  # not every system has it
            self._handle = os.open(path, os.O_PATH | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    @property
    def deleted(self) -> bool:
        """Whether it has no name any more: what it holds is lost with the last program that has it
        open."""
        return self._handle is not None and os.fstat(self._handle).st_nlink == 0

    @property
    def name(self) -> str | None:
        """Where it is now, if that can be told."""
        if self._handle is None or self.deleted:
            return None
        with suppress(OSError):
            return str(Path(f"/proc/self/fd/{self._handle}").readlink())
        return None


@contextmanager
def turn(folder: Path, alone: bool, patience_s: float) -> Iterator[None]:
    """One's turn with the databases of a folder: `alone` while one is replaced, together with
    others while one is opened. Without effect where a folder cannot be locked. Raises StoreError if
    it does not come in time."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # whoever opens the file says why
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
                    f"{folder}: another program repairs the database in it; try again later"
                ) from error
            time.sleep(_LOOK_S)
        else:
            return
