"""Where the record is kept: may the station write, will it last, is the database sound. Changes
nothing there."""

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

DAYS_MIN = 7.0  # until somebody comes by
_LOOK_BACK = timedelta(days=7)
_BUSY_S = 5.0
_LOG_MB_MAX = 32.0  # SQLite writes it back at 4 MB where nobody hinders it
_BLOCK_BYTES = 4096
# Where nothing is recorded yet: a busy spring, all day.
_PER_MINUTE = 5.0
_ROW_BYTES = 2_500  # a detection with its message and their indices
_CLIP_BYTES_PER_S = {
    "flac": 42_000,
    "wav": 64_000,
    "ogg": 8_000,
}  # measured on the demonstration's soundscapes
_KINDS = {  # file systems that do not keep what a station writes, or not through a power cut
    "tmpfs": "in memory: all is gone at the next start",
    "ramfs": "in memory: all is gone at the next start",
    "overlay": "an overlay: all may be gone at the next start",
    "vfat": "FAT: a power cut may damage it, and files end at 4 GB",
    "msdos": "FAT: a power cut may damage it, and files end at 4 GB",
    "exfat": "exFAT: a power cut may damage it",
    "nfs": "a network's: SQLite may be damaged there",
    "nfs4": "a network's: SQLite may be damaged there",
    "cifs": "a network's: SQLite may be damaged there",
    "smb3": "a network's: SQLite may be damaged there",
    "fuse.sshfs": "a network's: SQLite may be damaged there",
}


def check_state(config: Config) -> list[CheckResult]:
    """Whether this user can really write there, and whether it stays. Raises StoreError if not."""
    folder = _try_write(config.state)
    kind = file_system(folder)
    found = f"{config.state}: writable" + (
        "" if folder == config.state else f" (once it is made in {folder})"
    )
    found += f", {kind}" if kind else ""
    owner = folder.stat().st_uid
    if os.geteuid() == 0 and owner != 0:
        advice = (
            "Run this check as the user that the station runs as: sudo -u birdstation "
            "birdstation check."
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
        advice = "Let state: name a folder on a disk of this machine with ext4."
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
    """The same for health.json; memory is right for it. Raises StoreError if this user cannot write
    there."""
    folder = health_folder(config)
    _try_write(folder)
    return [CheckResult("health folder", "ok", f"{folder}: writable")]


def _try_write(folder: Path) -> Path:
    """Write a file without a name to the folder, or to the one in which it will be made; returns
    which. Raises StoreError."""
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
    """Kind of the file system that a folder is on, as Linux names it; None where it does not
    tell."""
    try:
        lines = mounts.read_text(encoding="utf8").splitlines()
    except OSError:
        return None
    path = folder.resolve()
    found = (-1, "")
    for line in lines:
        of_mount, _, of_system = line.partition(" - ")
        point = Path(of_mount.split()[4].replace("\\040", " "))
        if (path == point or point in path.parents) and len(point.parts) >= found[
            0
        ]:  # a later mount covers
            found = (len(point.parts), of_system.split()[0])
    return found[1] or None


def check_database(config: Config) -> list[CheckResult]:
    """Whether it is whole, of this version and takes writes. Raises StoreError, OSError or
    sqlite3.Error if it cannot be asked."""
    path = config.database
    if not path.exists() or path.stat().st_size == 0:
        return [CheckResult("database", "ok", f"{path}: not there yet, will be made")]
    wrong = damage_of(path)
    if wrong is not None:
        advice = (
            "Start the station: it sets the file aside, salvages what can be read and goes on "
            "in a new one."
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
    found += "".join(f", {count} {table}" for table, count in rows.items())
    found += f", last recording {last}" if last else ""
    found += "; of an earlier version, brought up when the station starts" if pending else ""
    kept = [file.name for file in set_aside(path)]
    log_mb = _size(path.with_name(f"{path.name}-wal")) / 1e6
    figures: Figures = {"bytes": path.stat().st_size, "pending": pending, "last": last, **rows}
    if log_mb > _LOG_MB_MAX:
        found += (
            f"; its write-ahead log has grown to {log_mb:.0f} MB, as it does while another "
            f"program reads on and on"
        )
        advice = (
            "If lsof shows another program with station.db open, close it: the log grows "
            "until then."
        )
        return [CheckResult("database", "warning", found, advice, figures=figures)]
    if kept:
        found += f"; it was damaged and salvaged: {', '.join(kept)} beside it"
        advice = "See whether the disk wears out (dmesg), then move or delete the damaged file."
        return [CheckResult("database", "warning", found, advice, figures=figures)]
    return [CheckResult("database", "ok", found, figures=figures)]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _count(db: sqlite3.Connection, table: str) -> int:
    known = db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) if known else 0


def check_disk(config: Config) -> list[CheckResult]:
    """Free space, and the days until it is used up at the rate of the last days, or at an
    estimate."""
    there = next(f for f in (config.state, *config.state.parents) if f.exists())
    space = disk(there)
    if space is None:
        return [
            CheckResult(
                "disk", "warning", f"{there}: does not say how full it is", "Look at it with df."
            )
        ]
    rate, basis = _recorded_per_day(config) or (
        estimated_per_day(config),
        "estimated for five birds a minute",
    )
    room_mb = max(0.0, space.free_mb - space.total_mb * (1 - config.retention.disk_share))
    days = room_mb / (rate / 1e6)
    until = (
        f"{config.retention.disk_share:.0%} full in {days:.1f} days at {rate / 1e6:.0f} MB a "
        f"day, {basis}"
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
        "Take a larger disk, or save fewer clips; from then on the oldest clips go."
        if days < DAYS_MIN
        else ""
    )
    verdict: CheckVerdict = "warning" if advice else "ok"
    return [CheckResult("disk", verdict, found, advice, figures=figures)]


def _recorded_per_day(config: Config) -> tuple[float, str] | None:
    """Bytes a day of clips and rows by the last week's record; None: less than a day of it, or none
    to be read."""
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
    except (sqlite3.Error, OSError, ValueError):  # what is wrong with it, the database's row says
        return None


def estimated_per_day(config: Config) -> float:
    """Bytes a day where nothing is recorded yet: five birds a minute, all day."""
    clips = config.clips
    clip_s = min(60.0, _PER_MINUTE * (5 + clips.before_s + clips.after_s)) if clips.save else 0.0
    if config.source == "folder" and not clips.of_recordings:
        clip_s = 0.0
    return 24 * 60 * (clip_s * _CLIP_BYTES_PER_S[clips.format] + _PER_MINUTE * _ROW_BYTES)
