"""`python -m edge`: the station's command line. Says what was done; the parts do it."""

import json
import logging
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edge.config import DEMO_FOLDER, Config, load_config
from edge.contract.errors import BirdstationError
from edge.contract.labels import read_labels
from edge.demo.run import run_demo
from edge.replay import Replayed, replay_folder
from edge.reports.score import score_store
from edge.reports.summary import Cost, cpu_seconds, replay_summary
from edge.reports.tables import refused_table, score_line, species_table
from edge.store import Store
from edge.types import Outcome

EXIT_REFUSED = 3

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
    help="birdstation on the device: sound in, a trustworthy record of birds out.",
    epilog="Exit status: 0 all is well · 2 usage · 3 done, some recordings refused · 78 a setting or bundle is wrong",
)


@app.command()
def replay(
    folder: Annotated[Path, typer.Argument(help="Folder of recordings (searched through), or one recording.")],
    config: Annotated[Path, typer.Option(help="The station's settings.")] = Path("station.yaml"),
    labels: Annotated[Path | None, typer.Option(help="CSV with row_id and birds: score by row-wise F1.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line of stdout.")] = False,
) -> None:
    """Analyse a folder of recordings into the station's database, once.

    Goes on where it was interrupted; what is done is not done twice. Detections go to MQTT if a broker is set.
    """
    console = Console(stderr=as_json)
    settings = load_config(config)
    truth = read_labels(labels) if labels else None
    if truth and 5.0 % settings.windows.hop_s > 1e-9:
        raise typer.BadParameter(f"rows of 5 s need windows.hop_s to divide 5; found {settings.windows.hop_s}")
    start, cpu = time.perf_counter(), cpu_seconds()
    done = _with_progress(settings, folder, console)
    cost = Cost(time.perf_counter() - start, cpu_seconds() - cpu, done.seconds)
    with Store(settings.database) as store:
        paths = [o.path for o in done.outcomes]
        score = score_store(store, settings.station.id, done.bundle_id, paths, truth) if truth else None
        detections, species = store.heard_in(settings.station.id, done.bundle_id, paths)
        summary = replay_summary(done.outcomes, detections, species, cost, score, done.waiting)
        _show(console, store, settings, done, summary)
        if score:
            console.print(score_line(score[0]))
    if as_json:
        print(json.dumps(summary, ensure_ascii=False), flush=True)
    raise typer.Exit(EXIT_REFUSED if summary["refused"] else 0)


def _with_progress(settings: Config, folder: Path, console: Console) -> Replayed:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("recordings")

        def show(outcome: Outcome, total: int) -> None:
            progress.update(task, advance=1, total=total, description=outcome.path[-40:])

        return replay_folder(settings, folder, show)


def _show(console: Console, store: Store, settings: Config, done: Replayed, summary: dict[str, Any]) -> None:
    if summary["detections"]:
        console.print(species_table(store))
    if summary["refused"]:
        console.print(refused_table(done.outcomes))
    console.print(
        f"{summary['recordings']} recordings, {summary['analysed']} analysed ({summary['audio_s'] / 3600:.2f} h), "
        f"{len(summary['refused'])} refused; {summary['detections']} detections of {summary['species']} species, "
        f"{summary['new_detections']} new; {summary['wall_s']:.1f} s, {summary['x_real_time']:.0f} × real time"
    )
    if summary["recordings"] and summary["unchanged"] == summary["recordings"]:
        console.print("Nothing to do: every recording was analysed or refused before, and nothing has changed.")
    if not summary["recordings"]:
        console.print("No recordings found (wav, flac, ogg, opus, mp3, aiff …).")
    if done.waiting:
        console.print(f"{done.waiting} messages wait for the broker ({done.broker_error or 'not acknowledged yet'}).")
    console.print(f"database: {settings.database}", soft_wrap=True)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where station.yaml, station.db and summary.json go.")] = Path("build/demo"),
    source: Annotated[
        Path, typer.Option(help="Folder with bundle/, soundscapes/, labels.csv and sites.json.", show_default=False)
    ] = DEMO_FOLDER,
) -> None:
    """Replay the soundscapes that ship with birdstation, with a broker listening, and show what comes out."""
    run_demo(out, Console(), source)


def main() -> None:
    """Run a command; a mistake of a person is one line, never a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        app(prog_name="python -m edge")
    except BirdstationError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
