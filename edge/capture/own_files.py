"""The station's own files, which are skipped wherever recordings are looked for: otherwise it would
analyse its own clips.

The running station's folders are recognised by device and inode, through links, mounts and other
spellings of a path; another station's state folder by its record, which lies beside the files it
keeps. Knows no recording.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

RECORD = "station.db"
OWN_FOLDER = "expected a folder of recordings, found the station's own files; choose another folder"
_FOLDERS = ("clips", "backups", "priors", "engines")
_FILES = (
    "station.lock",
    "reserve",
    "reserve.part",
    "health.json",
    "health.prom",
    "settings.last.yaml",
)


def is_kept(name: str) -> bool:
    """True if a file or folder of this name in a state folder belongs to the station."""
    return name in _FOLDERS or name in _FILES or name.startswith(RECORD)


class OwnFiles:
    """The files that the running station keeps in its state folder; without `state`, only other
    stations' files are recognised.

        own = OwnFiles(config.state)
        own.look()                       # links and mounts may have changed
        own.is_state(folder), own.is_own(folder), own.leads_in(link)
    """

    def __init__(self, state: Path | None = None) -> None:
        self._state = state
        self._folders = [state / name for name in _FOLDERS] if state else []
        self.look()

    def look(self) -> None:
        """Update the locations of the station's folders."""
        self._state_id = _id(self._state) if self._state else None
        self._ids = {one for folder in self._folders if (one := _id(folder)) is not None}
        self._paths = [folder.resolve() for folder in self._folders]

    def is_state(self, folder: str | Path) -> bool:
        """True if this is a state folder, of the running station or another: its names then mean
        what a station gives them."""
        record = os.path.join(folder, RECORD)  # noqa: PTH118  # faster
        return _id(folder) == self._state_id is not None or os.path.exists(record)  # noqa: PTH110

    def is_own(self, folder: str | Path) -> bool:
        """True if this is one of the station's own folders."""
        return _id(folder) in self._ids

    def leads_in(self, path: str | Path) -> bool:
        """True if this path, with all links followed, lies in one of the station's own folders."""
        with suppress(OSError, RuntimeError):  # a broken link, or a circular one
            real = Path(path).resolve()
            return any(
                real == folder or real.is_relative_to(folder) for folder in self._paths
            ) or any(self.is_own(parent) for parent in (real, *real.parents))
        return False

    def holds_state(self, folder: Path) -> bool:
        """True if this folder is the state folder or contains it."""
        state = self._state.resolve() if self._state else None
        return state is not None and any(_id(one) == _id(folder) for one in (state, *state.parents))


def _id(path: str | Path | None) -> tuple[int, int] | None:
    """Device and inode; None if nothing is there."""
    try:
        status = os.stat(path) if path is not None else None  # noqa: PTH116
    except (OSError, ValueError):
        return None
    return None if status is None else (status.st_dev, status.st_ino)
