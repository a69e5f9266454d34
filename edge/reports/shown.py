"""A replay as the screen shows it once it is over."""

from typing import Any

from rich.console import Console
from rich.markup import escape

from edge.config import Config
from edge.invented import REMEDY
from edge.replay import Replayed
from edge.reports.tables import refused_table, species_table
from edge.store.record import Store


def show_replay(console: Console, store: Store, settings: Config, done: Replayed, summary: dict[str, Any]) -> None:
    """Print what came of it; `summary` has the figures."""
    if summary["detections"]:
        recordings = [o.recording for o in done.outcomes if o.recording]
        console.print(species_table(store, done.bundle_id, recordings))
    if summary["refused"]:
        console.print(refused_table(done.outcomes))
    console.print(
        f"{summary['recordings']} recordings, {summary['analysed']} analysed ({summary['audio_s'] / 3600:.2f} h), "
        f"{len(summary['refused'])} refused; {summary['detections']} detections of {summary['species']} species, "
        f"{summary['new_detections']} new; {summary['wall_s']:.1f} s, {summary['x_real_time']:.0f} × real time"
    )
    if summary["files"] > summary["recordings"]:
        console.print(f"{summary['files'] - summary['recordings']} files have the sound of others; it counts once.")
    if summary["recordings"] and summary["unchanged"] == summary["recordings"]:
        console.print("Nothing to do: every recording was analysed or refused before, and nothing has changed.")
    if not summary["recordings"]:
        console.print("No recordings found (wav, flac, ogg, opus, mp3, aiff …).")
    if done.waiting:
        why = escape(done.broker_error or "not acknowledged yet")
        console.print(f"{done.waiting} messages wait for the broker ({why}).")
    console.print(f"database: {settings.database}", soft_wrap=True, markup=False)
    if done.notice:
        console.print(f"[yellow]The {done.notice}.[/]\n{REMEDY}.")
