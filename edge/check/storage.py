"""Checks of the record's storage: rights, file system, free space, integrity of the database.
Changes nothing there."""

import os
import sqlite3
import tempfile
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

from sqlite_utils import Database

from edge.check.verdict import CheckResult, CheckVerdict, Figures
from edge.config import Config
from edge.contract.errors import StoreError
from edge.contract.rights import whose
from edge.daemon.health import DISK_FREE_MB_MIN, health_folder
from edge.host.machine import disk
from edge.store.salvage import damage_of, set_aside
from edge.store.schema import migrations
from edge.types import utc_text

DAYS_MIN = 7.0  # between two visits
_LOOK_BACK = timedelta(days=7)
_BUSY_S = 5.0
_LOG_MB_MAX = 32.0  # SQLite writes it back at 4 MB unless another reader prevents it
_BLOCK_BYTES = 4096
# detections per minute where nothing is recorded yet: a busy spring, all day
_PER_MINUTE = 5.0
_ROW_BYTES = 2_500  # a detection with its message and their indices
# measured on the demonstration's soundscapes
_CLIP_BYTES_PER_S = {"flac": 42_000, "wav": 64_000, "ogg": 8_000}
# file systems that do not keep what a station writes, or not through a power cut
_KINDS = {
    "tmpfs": "in memory: everything is lost at the next boot",
    "ramfs": "in memory: everything is lost at the next boot",
    "overlay": "an overlay: everything may be lost at the next boot",
    "vfat": "FAT: a power cut may damage it, and files are limited to 4 GB",
    "msdos": "FAT: a power cut may damage it, and files are limited to 4 GB",
    "exfat": "exFAT: a power cut may damage it",
    "nfs": "a network file system: SQLite databases may be damaged there",
    "nfs4": "a network file system: SQLite databases may be damaged there",
    "cifs": "a network file system: SQLite databases may be damaged there",
    "smb3": "a network file system: SQLite databases may be damaged there",
    "fuse.sshfs": "a network file system: SQLite databases may be damaged there",
}


def check_state(config: Config) -> list[CheckResult]:
    """Write a file to the state folder, and look at its file system. Raises StoreError if it cannot
    be written."""
    folder = _try_write(config.state)
    kind = file_system(folder)
    found = f"{config.state}: writable" + (
        "" if folder == config.state else f" (to be made in {folder})"
    )
    found += f", {kind}" if kind else ""
    owner = folder.stat().st_uid
    if os.geteuid() == 0 and owner != 0:
        advice = (
            "Run this check as the user that the station runs as: sudo -u birdstation birdstation "
            "check."
        )
        return [
            CheckResult(
                "state folder",
                "warning",
                f"{found}, but only tested as root, who can write anywhere",
                advice,
            )
        ]
    if kind in _KINDS:
        advice = "Set state: to a folder on a local disk with ext4."
        return [
            CheckResult(
                "state folder",
                "warning",
                f"{found}: {_KINDS[kind]}",
                advice,
                figures={"file_system": kind},
            )
        ]
    return [CheckResult("state folder", "ok", found, figures={"file_system": kind})]


def check_health_folder(config: Config) -> list[CheckResult]:
    """Write a file to the folder of health.json, which may be in memory. Raises StoreError if it
    cannot be written."""
    folder = health_folder(config)
    _try_write(folder)
    return [CheckResult("health folder", "ok", f"{folder}: writable")]


def _try_write(folder: Path) -> Path:
    """Write an unnamed file to the folder, or to the parent in which the folder will be made;
    returns the folder that was used. Raises StoreError."""
    there = next(f for f in (folder, *folder.parents) if f.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(os.urandom(_BLOCK_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(
            f"{there}: cannot be written to: {error.strerror}{whose(there)}"
        ) from error
    return there


def file_system(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """Type of the folder's file system by Linux's name for it; None: not known."""
    try:
        lines = mounts.read_text(encoding="utf8").splitlines()
    except OSError:
        return None
    path = folder.resolve()
    depth = -1
    kind = ""
    for line in lines:
        of_mount, _, of_system = line.partition(" - ")
        point = Path(of_mount.split()[4].replace("\\040", " "))
        # >=: a later mount at the same point covers the earlier one
        if (path == point or point in path.parents) and len(point.parts) >= depth:
            depth = len(point.parts)
            kind = of_system.split()[0]
    return kind or None


def check_database(config: Config) -> list[CheckResult]:
    """Integrity, schema version and writability of the database. Raises StoreError, OSError or
    sqlite3.Error if it cannot be opened."""
    path = config.database
    if not path.exists() or path.stat().st_size == 0:
        return [CheckResult("database", "ok", f"{path}: does not exist yet, will be made")]
    wrong = damage_of(path)
    if wrong is not None:
        advice = (
            "Start the station: it sets the file aside, copies all that can be read into a new one "
            "and continues with that."
        )
        return [CheckResult("database", "bad", f"{path}: damaged ({wrong})", advice)]
    with closing(
        sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_BUSY_S)
    ) as db:
        db.isolation_level = None
        db.execute("BEGIN IMMEDIATE")
        db.execute("ROLLBACK")
        pending = len(migrations.pending(Database(db)))
        rows = {table: _count(db, table) for table in ("recordings", "detections")}
        (last,) = (
            db.execute("SELECT max(start_utc) FROM recordings").fetchone()
            if rows["recordings"]
            else (None,)
        )
    found = f"{path}: sound, {path.stat().st_size / 1e6:.1f} MB"
    found += "".join(f", {n} {table[:-1] if n == 1 else table}" for table, n in rows.items())
    found += f", last recording {last}" if last else ""
    found += "; of an earlier version, upgraded when the station starts" if pending else ""
    kept = [file.name for file in set_aside(path)]
    log_mb = _size(path.with_name(f"{path.name}-wal")) / 1e6
    figures: Figures = {"bytes": path.stat().st_size, "pending": pending, "last": last, **rows}
    if log_mb > _LOG_MB_MAX:
        found += (
            f"; its write-ahead log has grown to {log_mb:.0f} MB, as it does while another program "
            "keeps reading"
        )
        advice = (
            "If lsof shows another program with station.db open, close it: the log grows until "
            "then."
        )
        return [CheckResult("database", "warning", found, advice, figures=figures)]
    if kept:
        found += f"; it was damaged and salvaged: {', '.join(kept)} beside it"
        advice = "Check whether the disk is failing (dmesg), then move or delete the damaged file."
        return [CheckResult("database", "warning", found, advice, figures=figures)]
    return [CheckResult("database", "ok", found, figures=figures)]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _count(db: sqlite3.Connection, table: str) -> int:
    known = db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) if known else 0


def check_disk(config: Config) -> list[CheckResult]:
    """Free space, and the days until it is used up at the rate of the last week, or at an estimated
    rate."""
    there = next(f for f in (config.state, *config.state.parents) if f.exists())
    space = disk(there)
    if space is None:
        return [
            CheckResult(
                "disk", "warning", f"{there}: free space is not known", "Look at it with df."
            )
        ]
    rate, basis = _recorded_per_day(config) or (
        estimated_per_day(config),
        "estimated for five birds a minute",
    )
    room_mb = max(0.0, space.free_mb - space.total_mb * (1 - config.retention.disk_share))
    days = room_mb / (rate / 1e6)
    until = (
        f"{config.retention.disk_share:.0%} full in {days:.1f} days at {rate / 1e6:.0f} MB a day, "
        f"{basis}"
    )
    found = f"{space.free_mb / 1000:.1f} of {space.total_mb / 1000:.1f} GB free; {until}"
    figures: Figures = {"free_mb": round(space.free_mb), "days_left": round(days, 1)}
    if space.free_mb < DISK_FREE_MB_MIN:
        return [
            CheckResult(
                "disk",
                "bad",
                found,
                "Make room: move or delete files that do not belong to the station.",
                figures=figures,
            )
        ]
    advice = (
        "Use a larger disk or save fewer clips; from then on the oldest clips are removed."
        if days < DAYS_MIN
        else ""
    )
    verdict: CheckVerdict = "warning" if advice else "ok"
    return [CheckResult("disk", verdict, found, advice, figures=figures)]


def _recorded_per_day(config: Config) -> tuple[float, str] | None:
    """Bytes per day of clips and rows in the last week of the record, and a text that says so;
    None: less than a day of record, or it cannot be read."""
    now = datetime.now(timezone.utc)
    since = utc_text(now - _LOOK_BACK)
    try:
        with closing(
            sqlite3.connect(f"{config.database.absolute().as_uri()}?mode=ro", uri=True)
        ) as db:
            (began,) = db.execute("SELECT min(first_used_utc) FROM bundles").fetchone()
            (clips,) = db.execute(
                "SELECT coalesce(sum(bytes), 0) FROM clips WHERE created_utc >= ?", (since,)
            ).fetchone()
        began_at = datetime.fromisoformat(began.replace("Z", "+00:00")) if began else now
        if now - began_at < timedelta(days=1):
            return None
        days = (now - began_at) / timedelta(days=1)
        per_day = (
            clips / min(days, _LOOK_BACK / timedelta(days=1))
            + config.database.stat().st_size / days
        )
        return max(per_day, 1.0), f"as recorded over {min(days, _LOOK_BACK.days):.0f} d"
    except (sqlite3.Error, OSError, ValueError):  # the check of the database reports the reason
        return None


def estimated_per_day(config: Config) -> float:
    """Bytes per day where nothing is recorded yet: five birds a minute, all day."""
    clips = config.clips
    clip_s = min(60.0, _PER_MINUTE * (5 + clips.before_s + clips.after_s)) if clips.save else 0.0
    if config.source == "folder" and not clips.of_recordings:
        clip_s = 0.0
    return 24 * 60 * (clip_s * _CLIP_BYTES_PER_S[clips.format] + _PER_MINUTE * _ROW_BYTES)
