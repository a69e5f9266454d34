"""`birdstation retention`: a clean-up of clips, and its result for people and for programs. Prints
nothing itself."""

from typing import Any

from rich.table import Table

from edge.clips.disk_reserve import Reserve
from edge.clips.retention import ALL_CLIPS, Reason, Retention, RetentionSummary
from edge.config import Config
from edge.host.clock import Clock, boot_id
from edge.store.clips import ClipTable
from edge.store.clock import present_time

_WORDS: dict[Reason, str] = {
    "age": "older than retention.days",
    "disk": "the oldest, to make room (retention.disk_share, retention.hours_left)",
    "unused": "no detection uses it: its recording was analysed again",
    "full": "among a species' best: the disk is full, and no other clip was left to remove",
}


def tidy(settings: Config, dry_run: bool) -> tuple[RetentionSummary, tuple[int, int]]:
    """Clean up the clips of a record. Returns the result, and number and bytes of the clips that
    are never removed. Raises StoreError."""
    reserve = Reserve(settings.state)
    if not dry_run:
        reserve.give_up_if_full()
    time = present_time(settings.database, Clock())
    with ClipTable(settings.database, durable=True) as table:
        keeper = Retention(table, settings.clips_folder, reserve, settings.retention)
        done = keeper.tidy(time.now, clock_is_set=time.known, dry_run=dry_run, limit=ALL_CLIPS)
        return done, table.protected(settings.retention.per_species)


def retention_summary(
    done: RetentionSummary, protected: tuple[int, int], dry_run: bool
) -> dict[str, Any]:
    """The result as a JSON object. `protected`: number and bytes of the clips that are never
    removed, whatever their age and however full the disk is."""
    total = done.disk.total
    free = done.disk.free
    return {
        "dry_run": dry_run,
        "removed": {
            reason: [done.removed[reason], done.removed_bytes[reason]] for reason in done.removed
        },
        "missing": done.missing,
        "failed": done.failed,
        "clips": done.clips,
        "clips_bytes": done.clips_bytes,
        "protected": protected[0],
        "protected_bytes": protected[1],
        "disk_used": round(1 - free / total, 4) if total else None,
        "disk_free_bytes": free,
        "hours_left": None if done.hours_left is None else round(done.hours_left, 1),
        "short_bytes": done.short_bytes,
        "time_known": done.clock_is_set,
    }


def retention_table(done: RetentionSummary, protected: tuple[int, int], dry_run: bool) -> Table:
    """Table of the clips that are removed, by reason, and of those that stay."""
    title = "Clips that would be removed" if dry_run else "Clips removed"
    table = Table(title=title, title_justify="left")
    table.add_column("", overflow="fold")
    table.add_column("clips", justify="right")
    table.add_column("MB", justify="right")
    for reason, count in done.removed.items():
        table.add_row(_WORDS[reason], str(count), f"{done.removed_bytes[reason] / 1e6:.1f}")
    if not done.removed:
        table.add_row("none", "0", "0.0")
    table.add_section()
    table.add_row("stay", str(done.clips), f"{done.clips_bytes / 1e6:.1f}")
    table.add_row(
        "of these kept, reviewed, or a species' best",
        str(protected[0]),
        f"{protected[1] / 1e6:.1f}",
    )
    return table


def retention_lines(done: RetentionSummary) -> list[str]:
    """Lines on the state of the disk, and on clips that could not be handled."""
    used = 100 * (1 - done.disk.free / done.disk.total) if done.disk.total else 0.0
    left = (
        "no clip was saved in the last 24 h"
        if done.clock_is_set
        else "the rate at which it fills is not known"
    )
    if done.hours_left is not None:
        left = (
            f"{done.hours_left:.1f} hours left until it reaches its limit, at the rate of the last "
            "24 h"
        )
    lines = [f"The disk was {used:.1f} % full, {done.disk.free / 1e6:.0f} MB free; {left}."]
    if not done.clock_is_set:
        lines.append(
            "The time is not known (see birdstation clock show): no clip is removed for its age "
            "or ahead of a filling disk. If this machine's clock is right, confirm it: "
            f"birdstation clock fix --boot {boot_id()} --seconds 0"
        )
    if done.missing:
        lines.append(f"{done.missing} clips had no file any more: their rows were removed.")
    if done.failed:
        lines.append(
            f"{done.failed} files cannot be removed; the station tries again when it starts."
        )
    if done.short_bytes:
        lines.append(
            f"Still {done.short_bytes / 1e6:.0f} MB short, and no clip is left that may be "
            "removed: make room on the disk."
        )
    return lines
