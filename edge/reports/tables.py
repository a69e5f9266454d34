"""A replay as people read it: detections by species, what was refused, the score. Prints nothing itself."""

from collections.abc import Collection

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from edge.contract.metrics import RowScore
from edge.store.clock import Boot
from edge.store.record import Store
from edge.store.schema import at_the_place
from edge.types import Outcome

_REFUSED_SHOWN_MAX = 20


def species_table(store: Store, bundle_id: str, recordings: Collection[str]) -> Table:
    """Detections by species in these recordings, most heard first. Dates are those at the place."""
    table = Table(title="Detections", title_justify="left")
    table.add_column("species", overflow="fold", min_width=20)
    for name in ("detections", "files", "best"):
        table.add_column(name, justify="right")
    for name in ("first", "last"):
        table.add_column(name, no_wrap=True)
    for names, count, files, best, first, last in _by_species(store, bundle_id, set(recordings)):
        table.add_row(names, str(count), str(files), f"{best:.2f}", first, last)
    return table


def _by_species(store: Store, bundle_id: str, wanted: set[str]) -> list[tuple[str, int, int, float, str, str]]:
    """Both names, detections, recordings, best score, first and last day."""
    day = at_the_place("date", "d.start_utc", "d")
    found: dict[str, tuple[str, int, int, float, str, str]] = {}
    for recording, code, name, scientific, count, best, first, last in store.rows(
        "SELECT d.recording, s.code, coalesce(nullif(s.common_name, ''), s.code), s.scientific_name, count(*),"
        f" max(d.score), min({day}), max({day}) FROM detections d JOIN species s ON s.code = d.species"
        " JOIN recordings r ON r.id = d.recording WHERE d.bundle = ? GROUP BY d.recording, d.species",
        (bundle_id,),
    ):
        if recording in wanted:
            names = f"{escape(name)}\n[i]{escape(scientific)}[/i]"
            _, total, files, high, earliest, latest = found.get(code, (names, 0, 0, best, first, last))
            found[code] = (
                names,
                total + count,
                files + 1,
                max(high, best),
                min(earliest, first),
                max(latest, last),
            )
    return [found[code] for code in sorted(found, key=lambda code: (-found[code][1], code))]


def refused_table(outcomes: list[Outcome]) -> RenderableType:
    """Recordings that could not be analysed, with the reason."""
    refused = [o for o in outcomes if o.state == "refused"]
    table = Table(title=f"Refused: {len(refused)}", title_justify="left")
    table.add_column("recording", overflow="fold")
    table.add_column("reason", overflow="fold")
    for outcome in refused[:_REFUSED_SHOWN_MAX]:
        table.add_row(escape(outcome.path), escape(outcome.reason or ""))
    if len(refused) <= _REFUSED_SHOWN_MAX:
        return table
    return Group(
        table, f"… and {len(refused) - _REFUSED_SHOWN_MAX} more; all are in the table recordings, and in --json"
    )


def score_line(score: RowScore) -> str:
    """The competition's score in one line."""
    return (
        f"row-wise F1 [b]{score.f1:.3f}[/b] (95 % interval {score.f1_low:.3f} to {score.f1_high:.3f}), "
        f"{score.rows} rows; all nocall {score.f1_all_nocall:.3f}; rows with calls {score.f1_call_rows:.3f}, "
        f"without {score.f1_nocall_rows:.3f}"
    )


def boots_table(boots: list[Boot]) -> Table:
    """Boots and the state of their clock."""
    table = Table("boot", "clock", "from", "last stretch from", title="What was stamped by which clock")
    for name in ("stretches", "detections", "moved by", "set meanwhile by"):
        table.add_column(name, justify="right")
    for boot in boots:
        steps = ", ".join(f"{step:+.1f} s" for step in boot.steps) or "-"
        fixed = f"{boot.fixed_s:+.1f} s" if boot.fixed_s else "-"
        counts = (str(boot.stretches), str(boot.detections))
        table.add_row(boot.boot, boot.clock_state, boot.first_utc, boot.last_utc, *counts, fixed, steps)
    return table
