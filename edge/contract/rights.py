"""Owner of a file that may not be opened, and the command to type then. Knows no station."""

import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path

from edge.contract.errors import StoreError


def look_at(path: Path) -> None:
    """Raise StoreError if permissions do not even allow to tell whether the path exists."""
    try:
        path.stat()
    except PermissionError as error:
        raise StoreError(f"{path}: {error.strerror}{whose(path)}") from error
    except OSError:  # opening it will report the error
        return


def whose(path: Path) -> str:
    """Text to append to an error: the owner of a path, or of the nearest existing folder above it,
    and the command to type.

    Empty if the user owns it or is root: then permissions are not the cause.
    """
    me = os.geteuid()
    for there in (path, *path.absolute().parents):
        with suppress(OSError):
            owner = there.stat().st_uid
            return "" if me in (0, owner) or _may_write(there) else _belongs(there, owner)
    return ""


def hindrance(database: Path) -> str:
    """Text to append to an error of a database: which of its files, or its folder, this user may
    not write, with owner, mode, and the command to type.

    Empty if permissions are not the cause.
    """
    for suffix in ("", "-wal", "-shm"):
        said = not_writable(database.with_name(database.name + suffix))
        if said:
            return said
    return not_writable(database.absolute().parent) or whose(database)


def not_writable(path: Path) -> str:
    """The same text for one file or folder; empty if it does not exist, is writable, or cannot be
    examined."""
    try:
        status = path.stat()
    except OSError:
        return ""
    if _may_write(path):
        return ""
    with suppress(OSError):
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            return (
                f"; {path} is on a file system that is mounted read-only: dmesg shows whether its "
                "disk is damaged"
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
    except KeyError:  # as on a disk from another machine
        return str(user)


def _may_write(path: Path) -> bool:
    mode = os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0)
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _belongs(path: Path, owner: int) -> str:
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:  # as on a disk from another machine
        return f"; {path} belongs to the user with the ID {owner}"
    hint = f": type `sudo -u {name}` before the command, or choose your own settings with --config"
    return f"; {path} belongs to the user {name}{hint if owner else ''}"
