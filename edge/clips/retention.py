"""Retention of clips: removes unused and old ones, and the oldest when the disk fills up; by the
record, never by file names.

Kept and reviewed clips always stay. The best clips of each species stay too, unless the disk is so
full that the database can hardly be written and nothing else is left to remove. Detections stay.
Knows neither sound nor SQL.
"""

import os
import shutil
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, Protocol

from edge.clips.disk_reserve import Reserve
from edge.config import RetentionSettings
from edge.contract.errors import StoreError
from edge.types import StoredClip, utc_text

Reason = Literal["unused", "age", "disk", "full"]

ALL_CLIPS = 1 << 40
CALL_MAX = 500  # clips removed per call: seconds on a slow card
_COMMIT_MAX = 20  # clips removed per transaction; a crash can leave so many files without rows
_RATE_OVER = timedelta(hours=24)
_RATE_OVER_MIN = timedelta(hours=1)  # a burst at the start of the first day is not a rate
_AWAY_MIN = 50  # clips; if so many and all are missing, their disk is absent
_LOOKED_AT = 1_000  # newest clips that are checked for missing files


class RowlessClips(Protocol):
    """Clips without a row, whose files must be removed; edge.store.clips.ClipTable."""

    def take_away(
        self, remove: Callable[[str], bool], paths: Collection[str] | None = None
    ) -> None: ...


class ClipRemoval(Protocol):
    """Queries and removal of clips in the record; edge.store.clips.ClipTable."""

    def removable(self, per_species: int, limit: int, before_utc: str = "") -> list[StoredClip]: ...

    def best(self, per_species: int, limit: int) -> list[StoredClip]: ...

    def unused(self, limit: int) -> list[StoredClip]: ...

    def newest(self, limit: int) -> list[StoredClip]: ...

    def count(self, since_utc: str = "") -> tuple[int, int, str | None]: ...

    def forget(self, clips: Sequence[str], spare_kept: bool = False) -> list[str]: ...

    def take_away(
        self, remove: Callable[[str], bool], paths: Collection[str] | None = None
    ) -> None: ...


@dataclass(frozen=True)
class DiskBytes:
    """Size and free bytes of a file system for this user."""

    total: int
    free: int


def disk_of(folder: Path) -> DiskBytes:
    """The disk of a folder, without the space reserved for root."""
    usage = shutil.disk_usage(folder)
    return DiskBytes(usage.used + usage.free, usage.free)


@dataclass
class RetentionSummary:
    """Result of a clean-up, or of a dry run."""

    removed: dict[Reason, int] = field(default_factory=dict)  # clips by reason
    removed_bytes: dict[Reason, int] = field(default_factory=dict)
    missing: int = 0  # removed clips whose file was gone already, so that nothing was freed
    failed: int = 0  # removed clips whose file cannot be removed; reconcile tries again
    clips: int = 0  # remaining clips
    clips_bytes: int = 0
    disk: DiskBytes = DiskBytes(0, 0)  # before the clean-up
    # before it: time until disk_share is reached at the present rate; None: nothing is saved
    hours_left: float | None = None
    more: bool = False  # there are more clips to remove than the limit of this call
    clock_is_set: bool = True  # the time was known
    short_bytes: int = 0  # bytes above disk_share that cannot be freed

    def note(self, clip: StoredClip, reason: Reason) -> None:
        """Count a removed clip."""
        self.removed[reason] = self.removed.get(reason, 0) + 1
        self.removed_bytes[reason] = self.removed_bytes.get(reason, 0) + clip.bytes


class Retention:
    """One clean-up per call, for the daemon every few minutes and for `python -m edge
    retention`."""

    def __init__(
        self,
        table: ClipRemoval,
        folder: Path,
        reserve: Reserve,
        settings: RetentionSettings,
        disk: Callable[[Path], DiskBytes] = disk_of,
    ) -> None:
        self.settings = settings  # may be replaced
        self._table = table
        self._folder = folder
        self._reserve = reserve
        self._disk = disk

    def tidy(
        self, now: datetime, clock_is_set: bool = True, dry_run: bool = False, limit: int = CALL_MAX
    ) -> RetentionSummary:
        """Remove clips according to the settings, up to `limit` of them. `clock_is_set`: False if
        the time is not known; then no clip is removed for its age and no rate is computed, and
        clips are removed only if the disk is above its share.

        Gives up the reserve on a full disk and makes it again afterwards. Raises StoreError if the
        record or the clips' folder cannot be written, or if the disk seems not to be mounted; then
        nothing is removed.
        """
        if not dry_run:
            self._reserve.give_up_if_full()
            self._make_folder()
        elif not self._folder.is_dir():
            return RetentionSummary(disk=self._disk(self._reserve.path.parent))
        done = RetentionSummary(disk=self._disk(self._folder))
        missing = self._missing_clips()
        done.clock_is_set = clock_is_set
        known = now if clock_is_set else None
        room, needed = self._room(done, known)
        going = self._choose(done, known, needed - room, limit, {clip.id for clip in missing})
        for clip, reason in going:
            done.note(clip, reason)
        leaving = missing + [clip for clip, _ in going]
        if dry_run:
            done.missing = sum(not is_there(self._folder, clip.path) for clip in leaving)
        else:
            for clips, spare_kept in ((missing, False), (leaving[len(missing) :], True)):
                for at in range(0, len(clips), _COMMIT_MAX):
                    self._remove(clips[at : at + _COMMIT_MAX], done, spare_kept)
            remove_going(self._table, self._folder)
            self._reserve.make()
        done.clips -= len(leaving)
        done.clips_bytes -= sum(clip.bytes for clip in leaving)
        return done

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self._folder}: {error}") from error
        if not os.access(self._folder, os.W_OK):
            raise StoreError(f"{self._folder}: not writable; no clip was removed")

    def _missing_clips(self) -> list[StoredClip]:
        """Clips among the newest whose files somebody has removed by hand."""
        clips = self._table.newest(_LOOKED_AT)
        missing = [clip for clip in clips if not is_there(self._folder, clip.path)]
        if len(missing) == len(clips) >= _AWAY_MIN:
            raise StoreError(
                f"{self._folder}: none of the clips exists; is its disk mounted? Nothing was "
                "removed"
            )
        return missing

    def _room(self, done: RetentionSummary, now: datetime | None) -> tuple[int, int]:
        """Bytes left until the disk reaches its share, and the number that should be left. The
        latter, for `hours_left`, is never more than half of the space for clips: on a small disk
        all clips would be removed at once."""
        done.clips, done.clips_bytes, _ = self._table.count()
        room = done.disk.free - round(done.disk.total * (1 - self.settings.disk_share))
        if now is None:
            return room, 0
        _, recent, first = self._table.count(utc_text(now - _RATE_OVER))
        if not recent or first is None:
            return room, 0
        over = now - datetime.fromisoformat(first.replace("Z", "+00:00"))
        per_hour = recent / (max(over, _RATE_OVER_MIN) / timedelta(hours=1))
        done.hours_left = max(0.0, room / per_hour)
        half = max(0, room + done.clips_bytes) // 2
        return room, min(round(per_hour * self.settings.hours_left), half)

    def _choose(
        self, done: RetentionSummary, now: datetime | None, short: int, limit: int, taken: set[str]
    ) -> list[tuple[StoredClip, Reason]]:
        """Choose clips to remove, with reasons, until `short` more bytes are free; none of those
        already `taken`."""
        floor = self.settings.per_species
        days = self.settings.days
        low = self._low(done.disk)
        before = utc_text(now - timedelta(days=days)) if now and days else ""
        going: list[tuple[StoredClip, Reason]] = [
            (clip, "unused") for clip in self._table.unused(limit + 1) if clip.id not in taken
        ]
        freed = sum(clip.bytes for clip, _ in going)
        taken = taken | {clip.id for clip, _ in going}
        if before or freed < max(short, low):
            aged_only = before if freed >= max(short, low) else ""
            # oldest first
            for clip in self._table.removable(floor, limit + 1 + len(taken), aged_only):
                aged = clip.since_utc < before
                if clip.id in taken:
                    continue
                if not aged and freed >= max(short, low):
                    break
                going.append((clip, "age" if aged else "disk"))
                freed += clip.bytes
        if len(going) <= limit:
            for clip in self._table.best(floor, limit) if freed < low else ():
                if freed >= low:
                    break
                if clip.id in taken:
                    continue
                going.append((clip, "full"))
                freed += clip.bytes
        done.more = len(going) > limit
        done.short_bytes = 0 if done.more else max(0, short - freed)
        return going[:limit]

    def _low(self, disk: DiskBytes) -> int:
        """Bytes that the record lacks: with less than twice the reserve it can hardly be written. 0
        if clips have their own disk."""
        state = self._reserve.path.parent
        same = self._folder.stat().st_dev == state.stat().st_dev
        return max(0, 2 * self._reserve.bytes - disk.free) if same else 0

    def _remove(self, clips: list[StoredClip], done: RetentionSummary, spare_kept: bool) -> None:
        """Remove rows, then files: a crash in between leaves files that reconcile removes, never a
        row without a file. Clips reviewed since they were chosen stay."""
        going = set(self._table.forget([clip.id for clip in clips], spare_kept))
        paths = {clip.path for clip in clips if clip.id in going}
        self._table.take_away(lambda path: self._remove_file(path, done), paths)

    def _remove_file(self, clip: str, done: RetentionSummary) -> bool:
        """Remove a clip's file; True if it is gone."""
        try:
            path = clip_file(self._folder, clip)
            os.unlink(path)  # noqa: PTH108 - named in the tests of what a kill leaves
        except FileNotFoundError:
            done.missing += 1
        except (OSError, ValueError):  # a folder of that name, an invalid path: others continue
            done.failed += 1
            return False
        else:
            _remove_if_empty(path.parent)
        return True


def clip_file(folder: Path, path: str) -> Path:
    """Path of a clip's file. Raises ValueError for a path that leads out of the folder."""
    if path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise ValueError(f"{path!r} is not the path of a clip")
    return folder / path


def remove_going(table: RowlessClips, folder: Path) -> set[str]:
    """Remove the files of clips without a row; returns the paths removed. The rest is tried again
    at the next start."""
    removed: set[str] = set()

    def remove(path: str) -> bool:
        with suppress(OSError, ValueError):
            clip_file(folder, path).unlink()
            removed.add(path)
        return not is_there(folder, path)

    table.take_away(remove)
    return removed


def is_there(folder: Path, path: str) -> bool:
    """True if the clip's file exists."""
    try:
        return clip_file(folder, path).is_file()
    except (OSError, ValueError):
        return False


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return
