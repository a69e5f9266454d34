"""Reconciliation of the files and rows of clips at the start of a station, after a crash or manual
changes.

Rows without a file are removed. Of files without a row, incomplete ones and those that the record
lists for removal are removed; complete clips stay, since the record may be a copy made before them.
Only files named like a clip in folders named like a day are touched: everything else belongs to
someone else.
"""

import os
import re
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge.clips.partial_file import remove_left
from edge.clips.retention import is_there, remove_going
from edge.types import StoredClip

_MISSING_MAX = 50  # if more rows exist and none has its file, the disk is taken to be absent
_FORGET_MAX = 200  # rows in one transaction
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_CLIP = re.compile(
    r"\.?[A-Za-z0-9-]{1,40}_\d\.\d\d_\d{8}T\d{6}\.\d{3}Z_[0-9a-f]{8}\.(flac|wav|ogg)"
    r"((\.[0-9a-f]{32})?\.part)?",
    re.ASCII,
)


class ClipBooks(Protocol):
    """Clips in the record; edge.store.clips.ClipTable."""

    def held(self) -> AbstractContextManager[list[StoredClip]]:
        """All clips; no process can add one until the block ends."""

    def forget(self, clips: Sequence[str]) -> list[str]:
        """Delete the rows of these clips; their detections stay."""

    def going(self) -> set[str]:
        """Paths of files to be removed, whose clips have no row any more."""

    def take_away(
        self, remove: Callable[[str], bool], paths: Collection[str] | None = None
    ) -> None:
        """Remove the files of clips that have no row, those at `paths` or all."""


@dataclass(frozen=True)
class ReconcileSummary:
    """Result of a reconciliation."""

    rows_cleaned: int = 0  # rows whose file was gone
    files_removed: int = 0  # without a row: incomplete, or already listed for removal
    unknown: int = 0  # without a row, kept: complete clips, and files that could not be removed
    # none of many rows has its file: nothing was done, as the disk seems not to be mounted
    away: bool = False


def reconcile(table: ClipBooks, folder: Path) -> ReconcileSummary:
    """Make rows and files match. Raises StoreError if the record cannot be read or written."""
    with table.held() as rows:
        missing = [clip.id for clip in rows if not is_there(folder, clip.path)]
        if len(missing) == len(rows) > _MISSING_MAX:
            return ReconcileSummary(away=True)
        going = table.going()
        strange = _clip_files(folder) - {clip.path for clip in rows}
        parts = {path for path in strange if path.endswith(".part") and remove_left(folder / path)}
    for at in range(0, len(missing), _FORGET_MAX):
        table.forget(missing[at : at + _FORGET_MAX])
    removed = parts | (remove_going(table, folder) & going)
    return ReconcileSummary(len(missing), len(removed), len(strange - removed))


def _clip_files(folder: Path) -> set[str]:
    """Paths, as in rows, of all files named like a clip, complete or not."""
    paths: set[str] = set()
    with suppress(OSError), os.scandir(folder) as days:
        for day in days:
            if _DAY.fullmatch(day.name) and day.is_dir(follow_symlinks=False):
                with suppress(OSError):
                    paths |= {
                        f"{day.name}/{file.name}"
                        for file in os.scandir(day)
                        if _CLIP.fullmatch(file.name)
                    }
    return paths
