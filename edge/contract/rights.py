"""Whose a file is that may not be opened, and what to type then. Knows no station."""

import os
import pwd
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
    """Words to put behind an error: the user to whom a path belongs, or else the nearest folder above it, and what to
    type. Empty where it is one's own, or where one is root: then it is not for rights that it fails."""
    me = os.geteuid()
    for there in (path, *path.absolute().parents):
        with suppress(OSError):
            owner = there.stat().st_uid
            return "" if me in (0, owner) or _may_write(there) else _belongs(there, owner)
    return ""


def _may_write(path: Path) -> bool:
    mode = os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0)
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _belongs(path: Path, owner: int) -> str:
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:  # of a disk from another machine
        return f"; {path} belongs to the user with the number {owner}"
    hint = f": type `sudo -u {name}` in front of the command, or name settings of your own with --config"
    return f"; {path} belongs to the user {name}{hint if owner else ''}"
