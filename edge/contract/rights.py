"""Whose a file is that may not be opened, and what to type then. Knows no station."""

import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path

from edge.contract.errors import StoreError


def look_at(path: Path) -> None:
    """Raises StoreError where it may not even be told whether the path is there."""
    try:
        path.stat()
    except PermissionError as error:
        raise StoreError(f"{path}: {error.strerror}{whose(path)}") from error
    except OSError:  # whoever opens it says so
        return


def whose(path: Path) -> str:
    """Words to put behind an error: the user to whom a path belongs, or else the nearest folder
    above it, and what to type. Empty where it is one's own, or where one is root: then it is not
    for rights that it fails."""
    me = os.geteuid()
    for there in (path, *path.absolute().parents):
        with suppress(OSError):
            owner = there.stat().st_uid
            return "" if me in (0, owner) or _may_write(there) else _belongs(there, owner)
    return ""


def hindrance(database: Path) -> str:
    """Words to put behind an error of a database: which of its files, or of its folder, this user
    may not write, whose it is, its mode, and what to type. Empty if it is not for rights that it
    fails."""
    for suffix in ("", "-wal", "-shm"):
        said = not_writable(database.with_name(database.name + suffix))
        if said:
            return said
    return not_writable(database.absolute().parent) or whose(database)


def not_writable(path: Path) -> str:
    """The same for one file or folder; empty if it is not there, may be written, or cannot be
    looked at."""
    try:
        status = path.stat()
    except OSError:
        return ""
    if _may_write(path):
        return ""
    with suppress(OSError):
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            return (
                f"; {path} is on a file system that is mounted read-only: dmesg says whether "
                f"its disk is damaged"
            )
    me = os.geteuid()
    bits = "u+rwx" if path.is_dir() else "u+rw"
    mode = f"mode {stat.S_IMODE(status.st_mode):04o}"
    if status.st_uid == me:
        return (
            f"; {path} may not be written ({mode}, owner {_name(me)}): type `chmod {bits} {path}`"
        )
    with suppress(OSError):
        if not path.is_dir() and path.parent.stat().st_uid == me:
            owner = _name(status.st_uid)
            return (
                f"; {path} may not be written ({mode}, owner {owner}): type `sudo chown "
                f"{_name(me)} {path}`"
            )
    return _belongs(path, status.st_uid)


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:  # of a disk from another machine
        return str(user)


def _may_write(path: Path) -> bool:
    mode = os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0)
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _belongs(path: Path, owner: int) -> str:
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:  # of a disk from another machine
        return f"; {path} belongs to the user with the number {owner}"
    hint = (
        f": type `sudo -u {name}` in front of the command, or name settings of your own with "
        f"--config"
    )
    return f"; {path} belongs to the user {name}{hint if owner else ''}"
