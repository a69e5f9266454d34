"""What clock stamped which rows, and what a correction of it has done, as people read it. Prints
nothing itself."""

from collections.abc import Mapping, Sequence

from edge.host.clock import Line
from edge.store.clock import Boot


def boots_text(boots: Sequence[Boot]) -> str:
    """Boots, the state of their clock, and how the time is known by now: lines that are whole at
    any width."""
    return "\n\n".join(map(_boot_text, boots))


def _boot_text(boot: Boot) -> str:
    steps = ", ".join(f"{step:+.1f} s" for step in boot.steps)
    lines = [
        f"boot {boot.boot}",
        f"  clock {boot.clock_state}; the time is known by now: {boot.known}",
        f"  {boot.stretches} stretches, the first from {boot.first_utc}, the last from "
        f"{boot.last_utc}; "
        f"{boot.detections} detections",
    ]
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
    """What `clock fix` did; `lines` are those of the boot before and after."""
    told = [
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
        told.append(
            f"boot {boot}: by {by:+g} s, as what is known of the time before and after it leaves "
            f"no more room"
        )
    if not sum(moved.values()) and state:
        told.append(
            f"boot {boot}: nothing is known by {state} any more; what was has moved when the clock "
            f"was set"
        )
    return "\n".join(told)
