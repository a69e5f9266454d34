"""Backup of the database while the daemon writes: complete, verified, with a checksum; the newest
few copies are kept.

Knows nothing of what is in it.
"""

import re
import shutil
import sqlite3
import time
from datetime import datetime, timezone
from pathlib import Path

from edge.contract.bundle import file_sha256
from edge.contract.errors import DamagedError, StoreError
from edge.contract.rights import whose
from edge.store.connection import is_damage
from edge.store.database_copies import bytes_of, copy_whole, sync, too_many

_SPARE_BYTES = 64 << 20  # left free for the daemon, which keeps writing
_SAME_SECOND_S = 0.1
_PARTIAL = ".birdstation-partial.db"
_WHEN = re.compile(r"\d{8}T\d{6}Z")  # in a copy's name; other files are not ours


def backup(database: Path, folder: Path, keep: int, station: str) -> Path:
    """Copy `database` into `folder` as station-<id>-<UTC>.db with a .sha256 beside it, and remove
    all but the newest `keep` of this station: several may share a folder.

    `sha256sum -c` reads the checksum. Older copies are removed only when the new one is complete
    and on the disk. Raises StoreError if the database cannot be read or is damaged, or if the
    folder has no room for the copy.
    """
    partial = folder / _PARTIAL
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        _check_room(database, folder)
        try:
            copy_whole(database, partial)
            made = _free_name(folder, f"{database.stem}-{station}-")
            _sums(made).write_text(f"{file_sha256(partial)}  {made.name}\n")
            sync(partial, _sums(made))
            partial.replace(made)
        finally:
            partial.unlink(missing_ok=True)
        copies = (
            path for path in folder.glob("*.db") if _is_copy(path, f"{database.stem}-{station}-")
        )
        for old in too_many(copies, made, keep):
            old.unlink()
            _sums(old).unlink(missing_ok=True)
        sync(folder)
    except (OSError, sqlite3.Error) as error:
        hint = whose(folder) if isinstance(error, PermissionError) else ""
        kind = DamagedError if isinstance(error, sqlite3.Error) and is_damage(error) else StoreError
        raise kind(f"no backup of {database} in {folder}: {error}{hint}") from error
    return made


def _free_name(folder: Path, begins: str) -> Path:
    """A name for the present second, or for the next one that no copy has, so that a checksum never
    lands beside another copy."""
    while True:
        name = folder / f"{begins}{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}.db"
        if not name.exists():
            return name
        time.sleep(_SAME_SECOND_S)


def _is_copy(path: Path, begins: str) -> bool:
    named = path.stem.startswith(begins) and _WHEN.fullmatch(path.stem[len(begins) :])
    return bool(named) and _sums(path).is_file()


def _check_room(database: Path, folder: Path) -> None:
    """Raise StoreError unless there is room for the copy: filling the disk would block the daemon's
    own writes."""
    needed = bytes_of(database) + _SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StoreError(
            f"no backup of {database} in {folder}: {free >> 20} MB are free, expected "
            f"{needed >> 20}; make room, keep fewer copies (--keep), or use another disk (--folder)"
        )


def _sums(copy: Path) -> Path:
    return copy.with_name(f"{copy.name}.sha256")
