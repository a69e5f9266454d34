"""The result of a replay on the screen."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape

from edge.config import Config
from edge.demo.invented import REMEDY
from edge.replay.archive import ReplaySummary
from edge.reports.tables import reasons_table, species_table
from edge.store.record import Store


def show_replay(
    console: Console, store: Store, settings: Config, done: ReplaySummary, summary: dict[str, Any]
) -> None:
    """Print tables, figures and doubts of a replay; `summary` has the figures."""
    if summary["detections"]:
        console.print(species_table(store, done.bundle.id, done.recordings.values()))
    for title, key in (
        ("Refused", "refused"),
        ("Analysed, but not all of it could be read", "partly_lost"),
    ):
        if summary[key]:
            console.print(reasons_table(title, summary[key]))
    for line in (*_figures(summary), *_doubts(summary)):
        console.print(line, soft_wrap=True)
    if done.waiting:
        why = escape(done.broker_error or "not acknowledged yet")
        console.print(f"{done.waiting} messages wait for the broker ({why}).", soft_wrap=True)
    console.print(f"database: {settings.database}", soft_wrap=True, markup=False)
    if summary["notice"]:
        console.print(f"[yellow]The {summary['notice']}.[/]\n{REMEDY}.")


def _figures(summary: dict[str, Any]) -> Iterator[str]:
    if not summary["recordings"]:
        yield "No recordings found (wav, flac, ogg, opus, mp3, aiff …)."
        return
    yield (
        f"{_count(summary['recordings'], 'recording')}, {summary['analysed']} analysed: "
        f"{summary['audio_s'] / 3600:.2f} h of sound; {len(summary['refused'])} refused"
    )
    pace = f", {summary['x_real_time']:.0f} × real time" if summary["new_audio_s"] else ""
    yield (
        f"{_count(summary['detections'], 'detection')} of {summary['species']} species, "
        f"{summary['new_detections']} new; {summary['wall_s']:.1f} s{pace}"
    )
    if same := summary["files"] - summary["recordings"]:
        yield f"{_count(same, 'file')} with the same sound as another; it counts once."
    if also := summary["also_of_another_station"]:
        yield (
            "Also in the record under another station.id, so views over all stations count it "
            f"twice: {_count(also, 'recording')}"
        )
    if summary["unchanged"] == summary["recordings"]:
        yield (
            "Nothing to do: every recording was analysed or refused before, and nothing has "
            "changed."
        )


def _doubts(summary: dict[str, Any]) -> Iterator[str]:
    """Lines on recordings whose time is uncertain."""
    for key, what in (
        ("times_guessed", "Time taken from the file's date, which copying may change"),
        ("hours_unknown", "Only the day is known, not the hour"),
        ("zones_assumed", "Time without a zone, counted as UTC (set station.timezone)"),
    ):
        if summary[key]:
            yield f"{what}: {_count(summary[key], 'recording')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
