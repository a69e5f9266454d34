"""Boots with the state of their clock, and the result of a clock correction, as text for people.
Prints nothing itself."""

from collections.abc import Mapping, Sequence

from edge.host.clock import Line
from edge.store.clock import Boot

_KNOWN = {
    "synced": "the time is known: synced",
    "rtc": "the time is known: rtc, a clock with a battery",
    "fixed": "the time is known: fixed, by `clock fix`",
    "recorder": "the time is the recorder's",
    "unsynced": "the time is not known",
}
_NONE = (
    "No time in this record is from this machine's clock: recordings have the times of their "
    "recorders."
)


def boots_text(boots: Sequence[Boot]) -> str:
    """Boots, the state of their clock, and the source of their time now; lines are not wrapped."""
    return "\n\n".join(map(_boot_text, boots)) or _NONE


def _boot_text(boot: Boot) -> str:
    steps = ", ".join(f"{step:+.1f} s" for step in boot.steps)
    lines = [
        f"boot {boot.boot}",
        f"  clock {boot.clock_state}; {_KNOWN.get(boot.known, boot.known)}",
    ]
    if boot.stretches:
        lines.append(
            f"  {boot.stretches} stretches, the first from {boot.first_utc}, the last from "
            f"{boot.last_utc}; {boot.detections} detections"
        )
    else:
        lines.append(f"  no live sound; the station started at {boot.first_utc}")
    if boot.fixed_s:
        lines.append(f"  moved by {boot.fixed_s:+.1f} s")
    if steps:
        lines.append(f"  the clock was set meanwhile by {steps}")
    return "\n".join(lines)


def fix_text(
    boot: str,
    seconds: float,
    state: str | None,
    moved: Mapping[str, int],
    lines: tuple[Line | None, Line | None],
) -> str:
    """Report of one `clock fix`; `lines`: the boot's line (offset to UTC) before and after."""
    report = [
        ", ".join(f"{count} {what}" for what, count in moved.items()) + f" moved by {seconds:+g} s"
    ]
    before, after = lines
    if (
        before
        and after
        and sum(moved.values())
        and after.offset_ms - before.offset_ms != round(seconds * 1000)
    ):
        by = (after.offset_ms - before.offset_ms) / 1000
        report.append(
            f"boot {boot}: only by {by:+g} s, since the known times before and after it leave no "
            "more room"
        )
    if not sum(moved.values()) and state:
        report.append(
            f"boot {boot}: none of its times are {state} any more; they moved when the clock was "
            "set"
        )
    return "\n".join(report)
