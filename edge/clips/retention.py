"""Removes clips by the record, never by names of files: the old, the oldest of a filling disk, the
unused.

Kept and reviewed clips always stay. The best clips of each species stay too, unless the disk is so
full that the database can hardly be written and nothing else is left to go. Detections stay. Knows
neither sound nor SQL.
"""

import os
import shutil
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, Protocol

from edge.clips.reserve import Reserve
from edge.config import RetentionSettings
from edge.contract.errors import StoreError
from edge.types import StoredClip, utc_text

Reason = Literal["unused", "age", "disk", "full"]

ALL_CLIPS = 1 << 40
CALL_MAX = 500  # clips that go in one call: seconds on a slow card
_COMMIT_MAX = 20  # clips that go in one transaction: what a crash can leave as files without rows
_RATE_OVER = timedelta(hours=24)
_RATE_OVER_MIN = timedelta(hours=1)  # a burst at the start of the first day is no rate
_AWAY_MIN = 50  # rows: so many files are not missed by accident
_LOOKED_AT = 1_000


class RowlessClips(Protocol):
    """Clips that have no row any more, and whose files are to go; edge.store.clips.ClipTable."""

    def take_away(
        self, remove: Callable[[str], bool], paths: Collection[str] | None = None
    ) -> None: ...


class ClipRemoval(Protocol):
    """What the record tells and forgets; edge.store.clips.ClipTable."""

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
    """Bytes of the file system as this user may fill it."""

    total: int
    free: int


def disk_of(folder: Path) -> DiskBytes:
    """The disk under a folder, without what is reserved for root."""
    usage = shutil.disk_usage(folder)
    return DiskBytes(usage.used + usage.free, usage.free)


@dataclass
class RetentionSummary:
    """What one call did, or would do."""

    removed: dict[Reason, int] = field(default_factory=dict)  # clips by reason
    removed_bytes: dict[Reason, int] = field(default_factory=dict)
    missing: int = 0  # clips whose file had gone already: rows cleaned, nothing freed
    failed: int = 0  # of these, files that cannot be removed; reconcile tries again
    clips: int = 0  # that stay
    clips_bytes: int = 0
    disk: DiskBytes = DiskBytes(0, 0)  # before
    # before: until disk_share is reached, at the present rate; None: nothing is saved
    hours_left: float | None = None
    more: bool = False  # not all that should go went in this call
    clock_is_set: bool = True  # the time was known
    short_bytes: int = 0  # by so much the disk stays fuller than it should, nothing more may go

    def note(self, clip: StoredClip, reason: Reason) -> None:
        """Count a clip that goes."""
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
        """Remove what should go, up to `limit` clips. `clock_is_set`: False where nobody knows the
        time; then nothing goes by its age, and there is no rate: only a disk that is fuller than it
        may be takes clips.

        Gives up the reserve on a full disk and makes it again afterwards. Raises StoreError when
        the record cannot be written, when the clips' folder cannot, or when its disk seems not to
        be mounted; then nothing goes.
        """
        if not dry_run:
            self._reserve.give_up_if_full()
            self._make_folder()
        elif not self._folder.is_dir():
            return RetentionSummary(disk=self._disk(self._reserve.path.parent))
        done = RetentionSummary(disk=self._disk(self._folder))
        gone = self._gone()
        done.clock_is_set = clock_is_set
        known = now if clock_is_set else None
        room, wanted = self._room(done, known)
        going = self._choose(done, known, wanted - room, limit, {clip.id for clip in gone})
        for clip, reason in going:
            done.note(clip, reason)
        leaving = gone + [clip for clip, _ in going]
        if dry_run:
            done.missing = sum(not is_there(self._folder, clip.path) for clip in leaving)
        else:
            for clips, spare_kept in ((gone, False), (leaving[len(gone) :], True)):
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

    def _gone(self) -> list[StoredClip]:
        """The newest clips that somebody has removed by hand."""
        clips = self._table.newest(_LOOKED_AT)
        gone = [clip for clip in clips if not is_there(self._folder, clip.path)]
        if len(gone) == len(clips) >= _AWAY_MIN:
            raise StoreError(
                f"{self._folder}: none of the clips is there; is its disk mounted? Nothing was "
                f"removed"
            )
        return gone

    def _room(self, done: RetentionSummary, now: datetime | None) -> tuple[int, int]:
        """Bytes until the disk is as full as it may be, and how many it should be. The reserve for
        `hours_left` never takes more than half of what clips may have: on a small disk they would
        otherwise all go at once."""
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
        """Which clips go, and why, until `short` more bytes are free; none of those already
        `taken`."""
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
        """Bytes that the record is short of: with less than twice the reserve it can hardly be
        written. None where clips have a disk of their own."""
        state = self._reserve.path.parent
        same = self._folder.stat().st_dev == state.stat().st_dev
        return max(0, 2 * self._reserve.bytes - disk.free) if same else 0

    def _remove(self, clips: list[StoredClip], done: RetentionSummary, spare_kept: bool) -> None:
        """Rows first: a crash in between leaves files that reconcile removes, never a row without a
        file. What somebody has reviewed since it was chosen stays."""
        going = set(self._table.forget([clip.id for clip in clips], spare_kept))
        paths = {clip.path for clip in clips if clip.id in going}
        self._table.take_away(lambda path: self._remove_file(path, done), paths)

    def _remove_file(self, clip: str, done: RetentionSummary) -> bool:
        """Whether it is gone."""
        try:
            path = clip_file(self._folder, clip)
            os.unlink(path)  # noqa: PTH108 - named in the tests of what a kill leaves
        except FileNotFoundError:
            done.missing += 1
        except (
            OSError,
            ValueError,
        ):  # a folder of that name, a path that is none: the others go on
            done.failed += 1
            return False
        else:
            _remove_if_empty(path.parent)
        return True


def clip_file(folder: Path, path: str) -> Path:
    """Where a clip is. Raises ValueError for a path that leads out of the folder."""
    if path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise ValueError(f"{path!r} is no path of a clip")
    return folder / path


def remove_going(table: RowlessClips, folder: Path) -> set[str]:
    """Remove the files of clips that have no row any more; returns which went. Others are tried
    again at the start."""
    removed: set[str] = set()

    def remove(path: str) -> bool:
        with suppress(OSError, ValueError):
            clip_file(folder, path).unlink()
            removed.add(path)
        return not is_there(folder, path)

    table.take_away(remove)
    return removed


def is_there(folder: Path, path: str) -> bool:
    """Whether a clip has its file."""
    try:
        return clip_file(folder, path).is_file()
    except (OSError, ValueError):
        return False


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return
