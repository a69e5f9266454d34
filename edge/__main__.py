"""`birdstation`, also `python -m edge`: the station's command line. Parses commands and prints
results; contains no logic."""

import edge.contract.startup  # noqa: F401  before all that takes time

# isort: split

import importlib.metadata
import io
import json
import logging
import sys
import time
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from edge.check.run import run_checks
from edge.check.verdict import checks_summary, checks_table, exit_status
from edge.config import DEMO_FOLDER, Config, find_settings, load_config, named
from edge.contract.audio import WINDOW_SAMPLES
from edge.contract.bundle import read_bundle
from edge.contract.errors import EXIT_REFUSED, StoreError
from edge.contract.labels import read_labels
from edge.contract.program import Commands, run_program
from edge.contract.rights import look_at
from edge.contract.screen import CommandLines, Screen, say, say_lines
from edge.daemon.station import run_station
from edge.demo.run import run_demo
from edge.host.clock import Clock
from edge.host.machine import user_name
from edge.reports.boots import boots_text, fix_text
from edge.reports.corpus import summary_lines, write_corpus
from edge.reports.known_classes import known_lines, known_species, known_table
from edge.reports.parquet import check_parquet, write_parquet
from edge.reports.pictures import write_pictures
from edge.reports.progress import replay_with_progress
from edge.reports.retention import retention_lines, retention_summary, retention_table, tidy
from edge.reports.score import score_store
from edge.reports.screen_summary import show_replay
from edge.reports.summary import Cost, cpu_seconds, replay_summary
from edge.reports.tables import score_text
from edge.reports.why import explain, species_instead, why_tables
from edge.store.backup import backup as make_backup
from edge.store.clock import ClockTable
from edge.store.record import Store


class ReviewVerdict(str, Enum):
    """Verdicts of a reviewer."""

    correct = "correct"
    wrong = "wrong"
    unsure = "unsure"


class ClockStateChoice(str, Enum):
    """States of this machine's clock."""

    synced = "synced"
    rtc = "rtc"
    unsynced = "unsynced"


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
    help="birdstation on the device: sound in, a trustworthy record of birds out.",
    epilog="Exit status: 0 success · 1 not ready, or the record cannot be used · 2 wrong usage · "
    "3 done, some recordings refused · 73 cannot be written · 78 a setting or bundle is wrong · "
    "130 interrupted · 143 ended by SIGTERM",
)
CONFIG = Annotated[
    Path | None,
    typer.Option(
        show_default=False,
        readable=False,  # the code that reads it reports this in one line
        help="The station's settings. By default ./station.yaml, else "
        "/etc/birdstation/station.yaml, else the defaults; the installed program looks in /etc "
        "first.",
    ),
]
AS_JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _version(asked: bool) -> None:
    if asked:
        python = ".".join(map(str, sys.version_info[:3]))
        say(
            f"birdstation {importlib.metadata.version('birdstation')} (Python {python}, "
            f"{Path(__file__).parent})"
        )
        raise typer.Exit


@app.callback()
def birdstation(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Sound in, a trustworthy record of birds out: birdstation on the device."""


def _settings(named: Path | None, quiet: bool = False) -> Path | None:
    """Path of the settings in use (None: the defaults); printed to stderr unless given."""
    if named is not None:
        return named
    found = find_settings()
    if not quiet:
        nothing = (
            f"none found, so the defaults apply and the record is in {Path.cwd()}; --config FILE "
            "names others"
        )
        say(f"settings: {nothing if found is None else found.absolute()}", file=sys.stderr)
    return found


def _record(settings: Config) -> Path:
    """Path of the database. Raises StoreError if it does not exist or may not be looked at."""
    look_at(settings.database)
    if not settings.database.exists():
        raise StoreError(
            f"{settings.database}: no such database: nothing has been stored with these settings"
        )
    return settings.database


@app.command()
def replay(
    folder: Annotated[
        Path, typer.Argument(help="Folder of recordings (with its subfolders), or one recording.")
    ],
    config: CONFIG = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="CSV with columns row_id and birds: also compute row-wise F1."),
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=0, max=256, help="Recordings read in parallel; 0: one per core.")
    ] = 0,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Read the recordings on this Ray cluster instead."),
    ] = None,
    parquet: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Also write the results of this replay as Parquet."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")
    ] = False,
) -> None:
    """Analyse a folder of recordings into the station's database, once.

    Resumes where it stopped and never repeats finished work. Detections go to MQTT if a broker is
    set.
    """
    console = Screen(stderr=as_json)
    path = _settings(config, as_json)
    settings = load_config(path)
    look_at(settings.database)
    truth = read_labels(labels) if labels else None
    if truth and WINDOW_SAMPLES % settings.hop_samples:
        raise typer.BadParameter(
            f"expected windows.hop_s to divide rows of 5 s, found {settings.windows.hop_s}"
        )
    if parquet:
        check_parquet(parquet)
    start = time.perf_counter()
    cpu = cpu_seconds()
    with named(path):
        done = replay_with_progress(settings, folder, jobs, cluster, console)
    cost = Cost(time.perf_counter() - start, cpu_seconds() - cpu, done.seconds)
    with Store(settings.database) as store:
        score = score_store(store, done.bundle, done.recordings, truth) if truth else None
        summary = replay_summary(store, done, cost, score)
        show_replay(console, store, settings, done, summary)
        if score:
            console.print(score_text(score), soft_wrap=True, highlight=False)
        if parquet:
            written = write_parquet(
                store, done.bundle.id, sorted(set(done.recordings.values())), parquet
            )
            console.print(f"{parquet}: {', '.join(written)}", soft_wrap=True, markup=False)
    if as_json:
        say(json.dumps(summary, ensure_ascii=False), flush=True)
    raise typer.Exit(EXIT_REFUSED if summary["refused"] else 0)


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for station.yaml, station.db and summary.json.")
    ] = Path("build/demo"),
    source: Annotated[
        Path,
        typer.Option(
            help="Folder with bundle/, soundscapes/, labels.csv and sites.json.", show_default=False
        ),
    ] = DEMO_FOLDER,
) -> None:
    """Replay the soundscapes that ship with birdstation, with an MQTT broker beside it, and show
    the results."""
    run_demo(out, Screen(), source)


@app.command()
def backup(
    config: CONFIG = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="Folder for the copies; by default backups in the state folder."),
    ] = None,
    keep: Annotated[int, typer.Option(min=1, help="Number of copies to keep.")] = 7,
) -> None:
    """Copy the database, even while the daemon writes, verify the copy and write its checksum
    beside it."""
    settings = load_config(_settings(config))
    look_at(settings.database)
    made = make_backup(
        settings.database, folder or settings.state / "backups", keep, settings.station.id
    )
    say(f"{made} ({made.stat().st_size / 1e6:.1f} MB)")


@app.command()
def run(config: CONFIG = None) -> None:
    """Listen until stopped; `systemctl start birdstation` runs this."""
    logging.getLogger().setLevel(logging.INFO)
    path = _settings(config)
    look_at(load_config(path).database)
    run_station(path)


@app.command()
def why(
    detection: Annotated[
        str, typer.Argument(metavar="ID", help="Id of a detection, or its first digits.")
    ],
    config: CONFIG = None,
    as_json: AS_JSON = False,
) -> None:
    """Explain a detection: scores of the networks, prior, blend, threshold and rule, and the next
    species."""
    with Store(_record(load_config(_settings(config, as_json)))) as store:
        explained = explain(store, detection)
    if as_json:
        say(json.dumps(explained, ensure_ascii=False))
    else:
        Screen().print(why_tables(explained))
        if explained["clip_file"]:
            say(f"clip: {explained['clip_file']}")


@app.command()
def species(
    name: Annotated[
        str, typer.Argument(metavar="[FILTER]", help="Only those with this in code or names.")
    ] = "",
    config: CONFIG = None,
    as_json: AS_JSON = False,
) -> None:
    """List the model's species and other classes: code, names, kind of sound, and the score from
    which each counts as heard."""
    settings = load_config(_settings(config, as_json))
    bundle = read_bundle(settings.bundle_folder, settings.station.language)
    known = known_species(bundle, settings.detect, name)
    if as_json:
        say(json.dumps([asdict(one) for one in known], ensure_ascii=False))
        return
    console = Screen()
    if known:
        console.print(known_table(known))
    for line in known_lines(bundle, known):
        console.print(line, soft_wrap=True)


@app.command()
def pictures(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="Recordings that the page covers; by default the whole record, with its clips."
        ),
    ] = None,
    config: CONFIG = None,
    out: Annotated[
        Path, typer.Option(help="Folder for birds.html, and birds_files beside it.")
    ] = Path(),
) -> None:
    """Make a page with the best detection of each species: picture, sound and evidence."""
    path = _settings(config)
    settings = load_config(path)
    with named(path), Store(_record(settings)) as store, Screen(stderr=True).status("pictures"):
        made = write_pictures(store, settings, out, folder)
    say(f"{made.page}: {made.species} species, {made.with_sound} of them with sound")


@app.command()
def review(
    detection: Annotated[
        str, typer.Argument(metavar="ID", help="Id of a detection, or its first digits.")
    ],
    verdict: Annotated[ReviewVerdict, typer.Argument(help="The reviewer's verdict.")],
    instead: Annotated[
        str | None,
        typer.Option(
            metavar="SPECIES",
            help="The right species: a code, a name, or any words; nocall: no bird at all.",
        ),
    ] = None,
    note: Annotated[str, typer.Option(help="Anything worth keeping.")] = "",
    reviewer: Annotated[
        str | None, typer.Option(help="Name of the reviewer; by default your user name.")
    ] = None,
    config: CONFIG = None,
) -> None:
    """Record a reviewer's verdict on a detection. Verdict and clip are kept permanently, even if
    the detection is removed. A later verdict of the same reviewer replaces the earlier one."""
    with Store(_record(load_config(_settings(config)))) as store:
        found = explain(store, detection)
        who = reviewer or user_name()
        other = species_instead(store, instead, verdict.value)
        said = "SELECT verdict, instead, note FROM reviews WHERE detection = ? AND reviewer = ?"
        before = store.rows(said, (found["id"], who))
        store.review(found["id"], who, verdict.value, note, keep=True, instead=other)
    rather = f", instead {other}" if other else ""
    say(
        f"{found['id']}: {found['common_name'] or found['species']}, {verdict.value}{rather} "
        f"({who})"
    )
    for words in before:
        say(f"this replaces: {', '.join(filter(None, words))}")


@app.command()
def corpus(
    out: Annotated[Path, typer.Option(help="Folder: new, empty, or the corpus of an earlier run.")],
    config: CONFIG = None,
    as_json: AS_JSON = False,
) -> None:
    """Write the clips that reviewers confirmed, or named as another species, as a corpus to train
    on, in the layout of docs/corpus.md.

    A later run adds what is new and takes out what a later review took back. The record is only
    read. Exit status 3: done, some clips could not be read.
    """
    path = _settings(config, as_json)
    settings = load_config(path)
    _record(settings)
    with named(path), Screen(stderr=True).status("reviews") as status:
        done = write_corpus(settings, out, status.update)
    if as_json:
        say(json.dumps(asdict(done), ensure_ascii=False))
    else:
        say_lines("\n".join(summary_lines(done)))
    raise typer.Exit(EXIT_REFUSED if done.unread else 0)


@app.command()
def check(
    config: CONFIG = None,
    listen_s: Annotated[
        float, typer.Option(min=0, max=3600, help="Seconds to listen to the microphone; 0: none.")
    ] = 10.0,
    as_json: AS_JSON = False,
) -> None:
    """Check that the station is ready to run unattended, and explain how to fix what is not.

    Checks settings, bundle, speed, database, disk, clock, broker and microphone. Exit status: 0
    ready, perhaps with warnings; 1 something is bad; 78 a setting or the bundle is.
    """
    console = Screen(stderr=as_json)
    path = _settings(config, as_json)
    look_at(load_config(path).database)
    with console.status("settings") as status:
        checks = run_checks(path, listen_s, status.update)
    if as_json:
        say(json.dumps(checks_summary(checks), ensure_ascii=False, allow_nan=False), flush=True)
    else:
        console.print(checks_table(checks))
    raise typer.Exit(exit_status(checks))


clock_app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="List boots and their clock state; correct timestamps from a wrong clock.",
)
app.add_typer(clock_app, name="clock")


@clock_app.command("show")
def clock_show(config: CONFIG = None, as_json: AS_JSON = False) -> None:
    """List boots of this machine, the state of the clock in each, and the steps by which it was
    set."""
    with ClockTable(_record(load_config(_settings(config, as_json)))) as table:
        boots = table.boots()
    if as_json:
        say(json.dumps([asdict(boot) for boot in boots]))
    else:
        say_lines(boots_text(boots))


@clock_app.command("fix")
def clock_fix(
    boot: Annotated[str, typer.Option(help="The boot to correct, as `clock show` lists it.")],
    seconds: Annotated[float, typer.Option(help="Seconds to add to its times; may be negative.")],
    state: Annotated[
        ClockStateChoice | None,
        typer.Option(help="Correct the boot only if its time is still in this state."),
    ] = None,
    config: CONFIG = None,
) -> None:
    """Shift every timestamp recorded during one boot with a wrong clock; the offset is kept with
    each row.

    0 seconds confirms that the boot's clock was right. A station that is running continues with the
    corrected time. Messages that a broker has already received do not change.
    """
    settings = load_config(_settings(config))
    with ClockTable(_record(settings)) as table:
        table.note_boot(settings.station.id, boot, Clock())
        before = table.line_of_boot(boot)
        moved = table.fix(boot, seconds, state.value if state else None, settings.zone)
        after = table.line_of_boot(boot)
    say_lines(fix_text(boot, seconds, state.value if state else None, moved, (before, after)))


@app.command()
def retention(
    config: CONFIG = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be removed.")
    ] = False,
    as_json: AS_JSON = False,
) -> None:
    """Remove clips that are too old, or the oldest if the disk is too full. Detections stay, and so
    do kept and reviewed clips."""
    settings = load_config(_settings(config, as_json))
    _record(settings)
    done, protected = tidy(settings, dry_run)
    if as_json:
        say(json.dumps(retention_summary(done, protected, dry_run)), flush=True)
        return
    console = Screen()
    console.print(retention_table(done, protected, dry_run))
    for line in retention_lines(done):
        console.print(line, soft_wrap=True)


def main() -> None:
    """Run a command. A user's mistake ends it with one line, never with a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # for terminals that cannot show ä, and file names that are not text
            stream.reconfigure(errors="backslashreplace")
    to_stderr = logging.StreamHandler(sys.stderr)
    to_stderr.setFormatter(CommandLines())
    logging.basicConfig(level=logging.WARNING, handlers=[to_stderr])
    name = "birdstation" if Path(sys.argv[0]).stem == "birdstation" else "python -m edge"
    run_program(lambda: app(prog_name=name))


if __name__ == "__main__":
    main()
