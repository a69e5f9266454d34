"""Verified copies of a database on the disk, and the copy made before a newer version changes it.

Knows nothing of what is in it.
"""

import logging
import os
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from datetime import datetime, timezone
from pathlib import Path

from edge.contract.errors import StoreError

_BUSY_TIMEOUT_S = 30.0
_SPARE_BYTES = 16 << 20  # left free for the change itself
_KEPT = 2  # copies from before a change
log = logging.getLogger(__name__)


def copy_whole(database: Path, copy: Path) -> None:
    """Copy to a file that does not exist yet. VACUUM INTO reads one consistent state while others
    write, and leaves out deleted rows. Raises StoreError if the copy is damaged, sqlite3.Error if
    it cannot be made."""
    source = sqlite3.connect(
        f"{database.absolute().as_uri()}?mode=rw", uri=True, timeout=_BUSY_TIMEOUT_S
    )
    with closing(source):
        source.execute("VACUUM INTO ?", (str(copy),))
    with closing(sqlite3.connect(copy)) as copied:
        errors = [str(row[0]) for row in copied.execute("PRAGMA quick_check(1)")]
    if errors != ["ok"]:
        raise StoreError(
            f"no copy of {database}: the copy is damaged: {' '.join(errors[0].split())}"
        )


def bytes_of(database: Path) -> int:
    """Bytes that a copy may need: the size of the file and its log."""
    logs = database.with_name(f"{database.name}-wal")
    return database.stat().st_size + (logs.stat().st_size if logs.exists() else 0)


def sync(*paths: Path) -> None:
    """Force files to the disk, before anything older is removed."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def too_many(copies: Iterable[Path], made: Path, kept: int) -> list[Path]:
    """Copies to remove so that `kept` stay, with the one just made: first those with a later time
    in their names, given by a wrong clock, then the oldest."""
    others = sorted(
        set(copies) - {made}, key=lambda copy: (copy.name <= made.name, copy.name), reverse=True
    )
    return others[max(kept, 1) - 1 :]


def copy_before(database: Path, change: str) -> None:
    """Copy a database to station-<UTC>-before-<change>.db beside it; the last two such copies are
    kept.

    Never raises: if the copy cannot be made, the station starts without it and logs a warning. The
    caller holds the database's write lock, so that only one of several programs makes the copy.
    """
    part = database.with_name(f"{database.stem}-before.part")
    made = database.with_name(
        f"{database.stem}-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}-before-{change}.db"
    )
    try:
        part.unlink(missing_ok=True)
        needed = bytes_of(database) + _SPARE_BYTES
        free = shutil.disk_usage(database.parent).free
        if free < needed:
            raise OSError(0, f"{free >> 20} MB are free, expected {needed >> 20}")
        copy_whole(database, part)
        sync(part)
        os.replace(part, made)  # noqa: PTH105 - named in the tests of what a kill leaves
        sync(database.parent)
        for old in too_many(database.parent.glob(f"{database.stem}-*Z-before-*.db"), made, _KEPT):
            old.unlink()
    except (OSError, sqlite3.Error, StoreError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        log.warning(
            "%s: no copy was made before the upgrade to this version (%s): %s",
            database,
            change,
            why,
        )
    else:
        log.warning("%s: copied to %s before the upgrade to this version", database, made.name)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
