"""What a station keeps for itself: passed over wherever recordings are looked for, or it would hear
its own clips.

The station at work is told by device and inode, through links, mounts and other spellings of a
path; another one's state by its record, which lies beside what it keeps. Knows no recording.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

RECORD = "station.db"
OWN_FOLDER = (
    "expected a folder of recordings, found what the station keeps for itself; name another folder"
)
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
    """Whether a file or folder of this name in a state folder is the station's."""
    return name in _FOLDERS or name in _FILES or name.startswith(RECORD)


class OwnFiles:
    """What the station at work keeps in its state folder; without one only what other stations keep
    in theirs is known.

    own = Own(config.state)
    own.look()                       # links and mounts may have changed
    own.is_state(folder), own.is_own(folder), own.leads_in(link)
    """

    def __init__(self, state: Path | None = None) -> None:
        self._state = state
        self._folders = [state / name for name in _FOLDERS] if state else []
        self.look()

    def look(self) -> None:
        """Where all of it lies now."""
        self._state_id = _id(self._state) if self._state else None
        self._ids = {one for folder in self._folders if (one := _id(folder)) is not None}
        self._paths = [folder.resolve() for folder in self._folders]

    def is_state(self, folder: str | Path) -> bool:
        """Whether names in this folder mean what a station gives them: its state, or another
        station's."""
        record = os.path.join(folder, RECORD)  # noqa: PTH118  # quick
        return _id(folder) == self._state_id is not None or os.path.exists(record)  # noqa: PTH110

    def is_own(self, folder: str | Path) -> bool:
        """Whether this is a folder that the station keeps."""
        return _id(folder) in self._ids

    def leads_in(self, path: str | Path) -> bool:
        """Whether this path, all links followed, lies in what the station keeps."""
        with suppress(OSError, RuntimeError):  # a link that leads nowhere, or round
            real = Path(path).resolve()
            return any(
                real == folder or real.is_relative_to(folder) for folder in self._paths
            ) or any(self.is_own(parent) for parent in (real, *real.parents))
        return False

    def holds_state(self, folder: Path) -> bool:
        """Whether the state lies in this folder, or is it."""
        state = self._state.resolve() if self._state else None
        return state is not None and any(_id(one) == _id(folder) for one in (state, *state.parents))


def _id(path: str | Path | None) -> tuple[int, int] | None:
    """Device and inode; None of what is not there."""
    try:
        status = os.stat(path) if path is not None else None  # noqa: PTH116
    except (OSError, ValueError):
        return None
    return None if status is None else (status.st_dev, status.st_ino)
