"""Tables of a replay for people: detections by species, refused files, the score. Prints nothing
itself."""

from collections.abc import Collection, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from edge.reports.score import ReplayScore
from edge.store.record import Store
from edge.store.schema import at_the_place

_SHOWN_MAX = 20  # files with a reason
_NAMED_MAX = 5  # species


def species_table(store: Store, bundle_id: str, recordings: Collection[str]) -> Table:
    """Table of detections by species in these recordings, the most frequent first.

    Times are local to the place. Where only the day of a recording is known no hour is shown, where
    only the file's modification time is known no time at all.
    """
    table = Table(title="Detections in this replay", title_justify="left")
    table.add_column("species", overflow="fold", min_width=20)
    for name in ("detections", "files", "best"):
        table.add_column(name, justify="right")
    table.add_column("first, last", no_wrap=True)
    for names, count, files, best, first, last in _by_species(store, bundle_id, set(recordings)):
        table.add_row(
            names,
            str(count),
            str(files),
            f"{best:.2f}",
            f"{first}\n{last}" if first else "not known",
        )
    return table


def _by_species(
    store: Store, bundle_id: str, mine: set[str]
) -> list[tuple[str, int, int, float, str, str]]:
    """Names, detections, recordings, best score, first and last minute or day ("": not known), by
    species."""
    moment = at_the_place("datetime", "d.start_utc", "d")
    length = "CASE r.time_source WHEN 'mtime' THEN 0 WHEN 'date' THEN 10 ELSE 16 END"
    moment = f"substr({moment}, 1, {length})"
    species: dict[str, tuple[str, int, int, float, str, str]] = {}
    for recording, code, name, scientific, count, best, first, last in store.rows(
        "SELECT d.recording, s.code, coalesce(nullif(s.common_name, ''), s.code), "
        f"s.scientific_name, count(*), max(d.score), min({moment}), max({moment}) FROM detections "
        "d JOIN species s ON s.code = d.species JOIN recordings r ON r.id = d.recording WHERE "
        "d.bundle = ? GROUP BY d.recording, d.species",
        (bundle_id,),
    ):
        if recording in mine:
            names = f"{escape(name)}\n[i]{escape(scientific)}[/i]"
            _, total, files, high, earliest, latest = species.get(
                code, (names, 0, 0, best, first, last)
            )
            species[code] = (
                names,
                total + count,
                files + 1,
                max(high, best),
                min(filter(None, (earliest, first)), default=""),
                max(latest, last),
            )
    return [species[code] for code in sorted(species, key=lambda code: (-species[code][1], code))]


def reasons_table(title: str, files: Sequence[Mapping[str, str]]) -> RenderableType:
    """Table of files that could not be analysed, or only in part, with the reason: `file` and
    `reason` of the summary."""
    table = Table(title=f"{title}: {len(files)}", title_justify="left")
    table.add_column("recording", overflow="fold")
    table.add_column("reason", overflow="fold")
    for one in files[:_SHOWN_MAX]:
        table.add_row(escape(one["file"]), escape(one["reason"] or ""))
    if len(files) <= _SHOWN_MAX:
        return table
    more = (
        f"… and {len(files) - _SHOWN_MAX} more: SELECT path, reason FROM recordings WHERE reason "
        "IS NOT NULL"
    )
    return Group(table, f"{more}, or --json")


def score_text(score: ReplayScore) -> str:
    """The score by BirdCLEF's metric as text, with its interval and its limits, a line each."""
    rows = score.rows
    interval = f"95 % interval {rows.f1_low:.3f} to {rows.f1_high:.3f}"
    if score.recordings < 2:
        interval = "no interval: it needs two recordings or more"
    lines = [
        f"row-wise F1 [b]{rows.f1:.3f}[/b] ({interval}), {rows.rows} rows of 5 s",
        f"  in rows with birds {rows.f1_call_rows:.3f}, in those without {rows.f1_nocall_rows:.3f}",
        f"  saying 'no bird' throughout would score {rows.f1_all_nocall:.3f}",
    ]
    unknown = len(score.unknown_species)
    if unknown and unknown == score.species:
        lines.append(
            f"  [yellow]the model knows none of the {unknown} labelled species: this score does "
            "not measure it[/]"
        )
    elif unknown:
        names = ", ".join(score.unknown_species[:_NAMED_MAX]) + (
            ", …" if unknown > _NAMED_MAX else ""
        )
        lines.append(
            f"  [yellow]the model does not know {unknown} of the {score.species} labelled species: "
            f"{names}[/]"
        )
    return "\n".join(lines)
