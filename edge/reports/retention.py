"""A clean-up of clips as people and programs read it. Prints nothing itself."""

from typing import Any

from rich.table import Table

from edge.clips.retention import Reason, RetentionSummary
from edge.host.clock import boot_id

_WORDS: dict[Reason, str] = {
    "age": "older than retention.days",
    "disk": "the oldest, to make room (retention.disk_share, retention.hours_left)",
    "unused": "of no detection: its recording was analysed anew",
    "full": "among a species' best: the disk is full, and nothing else was left to go",
}


def retention_summary(
    done: RetentionSummary, protected: tuple[int, int], dry_run: bool
) -> dict[str, Any]:
    """One JSON object. `protected`: clips and bytes that stay whatever their age and however full
    the disk is."""
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
    """How many clips go and why, and what stays."""
    table = Table(title="Clips that would go" if dry_run else "Clips removed", title_justify="left")
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
    """What else is to be said of the disk."""
    used = 100 * (1 - done.disk.free / done.disk.total) if done.disk.total else 0.0
    left = (
        "no clip was saved in the last 24 h"
        if done.clock_is_set
        else "at what rate it fills is not known"
    )
    if done.hours_left is not None:
        left = (
            f"{done.hours_left:.1f} hours left until it is as full as it may be, at the rate of "
            f"the last 24 h"
        )
    lines = [f"The disk was {used:.1f} % full, {done.disk.free / 1e6:.0f} MB free; {left}."]
    if not done.clock_is_set:
        lines.append(
            "Nobody knows the time (see birdstation clock show): nothing goes by its age or by a "
            "rate. If this"
            f" machine's clock is right, say so: birdstation clock fix --boot {boot_id()} "
            f"--seconds 0"
        )
    if done.missing:
        lines.append(f"{done.missing} clips had no file any more: their rows are cleaned.")
    if done.failed:
        lines.append(
            f"{done.failed} files cannot be removed; the station tries again when it starts."
        )
    if done.short_bytes:
        lines.append(
            f"Still {done.short_bytes / 1e6:.0f} MB short, and no clip is left that may go: make "
            f"room on the disk."
        )
    return lines
