"""Files and rows brought together again, once when the station starts: what a crash or a hand has
left.

Rows without a file go. Of files without a row go those that were never whole, and those that the
record says are to go; any other whole clip stays, however it lost its row: its record may be a copy
from before it. Looks only at files that are named like a clip, in folders that are named like a
day: anything else in there belongs to someone else.
"""

import os
import re
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge.clips.part import remove_left
from edge.clips.retention import is_there, remove_going
from edge.types import StoredClip

_MISSING_MAX = 50  # rows of which not one has its file: the disk with the clips is away
_FORGET_MAX = 200  # rows in one transaction
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_CLIP = re.compile(
    r"\.?[A-Za-z0-9-]{1,40}_\d\.\d\d_\d{8}T\d{6}\.\d{3}Z_[0-9a-f]{8}\.(flac|wav|ogg)"
    r"((\.[0-9a-f]{32})?\.part)?",
    re.ASCII,
)


class ClipBooks(Protocol):
    """What the record knows of clips; edge.store.clips.ClipTable."""

    def held(self) -> AbstractContextManager[list[StoredClip]]:
        """All clips; until the block ends no process adds one."""

    def forget(self, clips: Sequence[str]) -> list[str]:
        """These clips are no more; their detections stay."""

    def going(self) -> set[str]:
        """Paths of clips without a row whose files are to go."""

    def take_away(
        self, remove: Callable[[str], bool], paths: Collection[str] | None = None
    ) -> None:
        """Remove the files of clips that have no row, those at `paths` or all."""


@dataclass(frozen=True)
class ReconcileSummary:
    """What was found and done."""

    rows_cleaned: int = 0  # whose file was gone
    files_removed: int = 0  # without a row: half written, or about to be removed when a crash came
    unknown: int = 0  # files without a row that stay: whole clips, and what could not be removed
    # not one of many rows has its file: nothing was done, its disk seems not to be mounted
    away: bool = False


def reconcile(table: ClipBooks, folder: Path) -> ReconcileSummary:
    """Bring rows and files together. Raises StoreError when the record cannot be read or
    written."""
    with table.held() as rows:
        gone = [clip.id for clip in rows if not is_there(folder, clip.path)]
        if len(gone) == len(rows) > _MISSING_MAX:
            return ReconcileSummary(away=True)
        going = table.going()
        strange = _clip_files(folder) - {clip.path for clip in rows}
        parts = {path for path in strange if path.endswith(".part") and remove_left(folder / path)}
    for at in range(0, len(gone), _FORGET_MAX):
        table.forget(gone[at : at + _FORGET_MAX])
    removed = parts | (remove_going(table, folder) & going)
    return ReconcileSummary(len(gone), len(removed), len(strange - removed))


def _clip_files(folder: Path) -> set[str]:
    """Every file that is named like a clip, finished or not, as rows name it."""
    found: set[str] = set()
    with suppress(OSError), os.scandir(folder) as days:
        for day in days:
            if _DAY.fullmatch(day.name) and day.is_dir(follow_symlinks=False):
                with suppress(OSError):
                    found |= {
                        f"{day.name}/{file.name}"
                        for file in os.scandir(day)
                        if _CLIP.fullmatch(file.name)
                    }
    return found
