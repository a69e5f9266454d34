"""`birdstation`, also `python -m edge`: the station's command line. Says what was done; the parts
do it."""

import edge.contract.starting  # noqa: F401  before all that takes time

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
from edge.clips.reserve import Reserve
from edge.clips.retention import ALL_CLIPS, Retention
from edge.config import DEMO_FOLDER, Config, find_settings, load_config, named
from edge.contract.audio import WINDOW_SAMPLES
from edge.contract.bundle import read_bundle
from edge.contract.errors import EXIT_REFUSED, StoreError, UsageError
from edge.contract.labels import read_labels
from edge.contract.program import Commands, run_program
from edge.contract.rights import look_at
from edge.contract.screen import CommandLines, Screen, say, say_lines
from edge.daemon.station import run_station
from edge.demo.invented import REMEDY, notice_of
from edge.demo.run import run_demo
from edge.host.clock import Clock
from edge.host.machine import user_name
from edge.reports.boots import boots_text, fix_text
from edge.reports.known import known_species, known_table
from edge.reports.parquet import check_parquet, write_parquet
from edge.reports.pictures import write_pictures
from edge.reports.progress import replay_with_progress
from edge.reports.retention import retention_lines, retention_summary, retention_table
from edge.reports.score import score_store
from edge.reports.shown import show_replay
from edge.reports.summary import Cost, cpu_seconds, replay_summary
from edge.reports.tables import score_text
from edge.reports.why import explain, why_tables
from edge.store.backup import backup as make_backup
from edge.store.clips import ClipTable
from edge.store.clock import ClockTable, present_time
from edge.store.record import Store


class ReviewVerdict(str, Enum):
    """What a person heard."""

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
    epilog="Exit status: 0 all is well · 2 usage · 3 done, some recordings refused · 73 cannot be "
    "written · "
    "78 a setting or bundle is wrong · 130 interrupted",
)
CONFIG = Annotated[
    Path | None,
    typer.Option(
        show_default=False,
        readable=False,  # whoever reads it says so in one line
        help="The station's settings; else ./station.yaml, else /etc/birdstation/station.yaml, "
        "else the defaults. The "
        "installed program takes the latter file first.",
    ),
]
AS_JSON = Annotated[bool, typer.Option("--json", help="As JSON.")]


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
            "--version", is_eager=True, callback=_version, help="Say which birdstation this is."
        ),
    ] = False,
) -> None:
    """Sound in, a trustworthy record of birds out: birdstation on the device."""


def _settings(named: Path | None, quiet: bool = False) -> Path | None:
    """Which settings hold; those that nobody named are said, on stderr."""
    if named is not None:
        return named
    found = find_settings()
    if not quiet:
        nothing = (
            f"none found, so the defaults hold and the record is in {Path.cwd()}; --config "
            f"names others"
        )
        say(f"settings: {nothing if found is None else found.absolute()}", file=sys.stderr)
    return found


def _record(settings: Config) -> Path:
    """The database, which is there. Raises StoreError if it is not, or if that may not be told."""
    look_at(settings.database)
    if not settings.database.exists():
        raise StoreError(
            f"{settings.database}: no such database: nothing was ever stored with these settings"
        )
    return settings.database


@app.command()
def replay(
    folder: Annotated[
        Path, typer.Argument(help="Folder of recordings (searched through), or one recording.")
    ],
    config: CONFIG = None,
    labels: Annotated[
        Path | None, typer.Option(help="CSV with row_id and birds: score by row-wise F1.")
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=0, max=256, help="Recordings side by side; 0: one per core.")
    ] = 0,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A Ray cluster that reads the recordings instead."),
    ] = None,
    parquet: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Also write what this replay found as Parquet files."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object as the last line of stdout.")
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
        Path, typer.Option(help="Where station.yaml, station.db and summary.json go.")
    ] = Path("build/demo"),
    source: Annotated[
        Path,
        typer.Option(
            help="Folder with bundle/, soundscapes/, labels.csv and sites.json.", show_default=False
        ),
    ] = DEMO_FOLDER,
) -> None:
    """Replay the soundscapes that ship with birdstation, with a broker listening, and show what
    comes out."""
    run_demo(out, Screen(), source)


@app.command()
def backup(
    config: CONFIG = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="Where the copies go; by default backups in the state folder."),
    ] = None,
    keep: Annotated[int, typer.Option(min=1, help="How many copies stay.")] = 7,
) -> None:
    """Copy the database, also while the daemon writes, check the copy and write its checksum beside
    it."""
    settings = load_config(_settings(config))
    look_at(settings.database)
    made = make_backup(
        settings.database, folder or settings.state / "backups", keep, settings.station.id
    )
    say(f"{made} ({made.stat().st_size / 1e6:.1f} MB)")


@app.command()
def run(config: CONFIG = None) -> None:
    """Listen until stopped: what `systemctl start birdstation` runs."""
    logging.getLogger().setLevel(logging.INFO)
    path = _settings(config)
    look_at(load_config(path).database)
    run_station(path)


@app.command()
def why(
    detection: Annotated[
        str, typer.Argument(metavar="ID", help="Id of a detection, or how it begins.")
    ],
    config: CONFIG = None,
    as_json: AS_JSON = False,
) -> None:
    """Explain a detection: members and their spread, prior, blend, threshold and rule, and what
    else it was like."""
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
        str, typer.Argument(metavar="[FILTER]", help="Only those with this in their code or names.")
    ] = "",
    config: CONFIG = None,
    as_json: AS_JSON = False,
) -> None:
    """List what the model knows: code, names, what kind of sound it is, and the score from which it
    counts as heard."""
    settings = load_config(_settings(config, as_json))
    bundle = read_bundle(settings.bundle_folder, settings.station.language)
    known = known_species(bundle, settings.detect, name)
    if as_json:
        say(json.dumps([asdict(one) for one in known], ensure_ascii=False))
        return
    console = Screen()
    if known:
        console.print(known_table(known))
    console.print(
        f"{len(known)} of {len(bundle.taxonomy)} classes of the bundle in {bundle.folder}",
        soft_wrap=True,
    )
    if notice := notice_of(bundle.manifest.taxonomy_digest):
        console.print(f"[yellow]The {notice}.[/]\n{REMEDY}.")


@app.command()
def pictures(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="Recordings: the page is of them. Else of the whole record, by its clips."
        ),
    ] = None,
    config: CONFIG = None,
    out: Annotated[
        Path, typer.Option(help="Where birds.html goes, and birds_files beside it.")
    ] = Path(),
) -> None:
    """Make a page of the best detection of each species: its picture, its sound, and what led to
    it."""
    path = _settings(config)
    settings = load_config(path)
    with named(path), Store(_record(settings)) as store, Screen(stderr=True).status("pictures"):
        made = write_pictures(store, settings, out, folder)
    say(f"{made.page}: {made.species} species, {made.with_sound} of them with sound")


@app.command()
def review(
    detection: Annotated[
        str, typer.Argument(metavar="ID", help="Id of a detection, or how it begins.")
    ],
    verdict: Annotated[ReviewVerdict, typer.Argument(help="What a person heard.")],
    instead: Annotated[
        str | None,
        typer.Option(metavar="SPECIES", help="What it is instead: a code, a name, or any words."),
    ] = None,
    note: Annotated[str, typer.Option(help="Anything worth keeping.")] = "",
    reviewer: Annotated[
        str | None, typer.Option(help="Who says so; by default the name you are logged in by.")
    ] = None,
    config: CONFIG = None,
) -> None:
    """Record a reviewer's verdict on a detection; it and the clip are kept permanently, even if the
    detection goes. A later verdict of the same reviewer replaces it, which is said."""
    with Store(_record(load_config(_settings(config)))) as store:
        found = explain(store, detection)
        who = reviewer or user_name()
        other = _instead(store, instead, verdict)
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


def _instead(store: Store, text: str | None, verdict: ReviewVerdict) -> str | None:
    """The code of a species that the record knows; other words as they are: a person may know more
    than the bundle."""
    words = " ".join((text or "").split())
    if words and verdict == ReviewVerdict.correct:
        raise UsageError(
            f"--instead: found {words!r} with verdict correct; expected with wrong or unsure"
        )
    return (store.species_named(words) or words) if words else None


@app.command()
def check(
    config: CONFIG = None,
    listen_s: Annotated[
        float, typer.Option(min=0, max=3600, help="Seconds at the microphone; 0: not at all.")
    ] = 10.0,
    as_json: AS_JSON = False,
) -> None:
    """Check that the station is ready to run unattended, and explain how to fix what is not.

    Looks at settings, bundle, speed, database, disk, clock, broker and microphone. Exit status: 0
    ready, perhaps with warnings, 1 something is bad, 78 a setting or the bundle is.
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
    help="Which clock stamped the rows; correct them if it was wrong.",
)
app.add_typer(clock_app, name="clock")


@clock_app.command("show")
def clock_show(config: CONFIG = None, as_json: AS_JSON = False) -> None:
    """List when this machine was started, how good its clock was then, and by how much it was set
    meanwhile."""
    with ClockTable(_record(load_config(_settings(config, as_json)))) as table:
        boots = table.boots()
    if as_json:
        say(json.dumps([asdict(boot) for boot in boots]))
    elif boots:
        say_lines(boots_text(boots))
    else:
        say(
            "Nothing in this record was stamped by this machine's clock: recordings carry their "
            "recorder's times."
        )


@clock_app.command("fix")
def clock_fix(
    boot: Annotated[str, typer.Option(help="Which boot's rows, as `clock show` lists them.")],
    seconds: Annotated[float, typer.Option(help="What to add to their times; may be negative.")],
    state: Annotated[
        ClockStateChoice | None,
        typer.Option(help="Only if the time is known no better than this by now."),
    ] = None,
    config: CONFIG = None,
) -> None:
    """Shift every timestamp recorded during one boot with a wrong clock; the offset is kept with
    each row.

    With 0 seconds: this boot's clock was right. A station that listens meanwhile goes on by the new
    time. Messages that a broker has already received do not change.
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    as_json: AS_JSON = False,
) -> None:
    """Remove clips that are too old or for which the disk is too full. Detections stay; kept and
    reviewed clips too."""
    settings = load_config(_settings(config, as_json))
    _record(settings)
    reserve = Reserve(settings.state)
    if not dry_run:
        reserve.give_up_if_full()
    time = present_time(settings.database, Clock())
    with ClipTable(settings.database, durable=True) as table:
        keeper = Retention(table, settings.clips_folder, reserve, settings.retention)
        done = keeper.tidy(time.now, clock_is_set=time.known, dry_run=dry_run, limit=ALL_CLIPS)
        protected = table.protected(settings.retention.per_species)
    if as_json:
        say(json.dumps(retention_summary(done, protected, dry_run)), flush=True)
        return
    console = Screen()
    console.print(retention_table(done, protected, dry_run))
    for line in retention_lines(done):
        console.print(line, soft_wrap=True)


def main() -> None:
    """Run a command; a mistake of a person is one line, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # terminals that cannot show ä, and names that are no text
            stream.reconfigure(errors="backslashreplace")
    to_stderr = logging.StreamHandler(sys.stderr)
    to_stderr.setFormatter(CommandLines())
    logging.basicConfig(level=logging.WARNING, handlers=[to_stderr])
    name = "birdstation" if Path(sys.argv[0]).stem == "birdstation" else "python -m edge"
    run_program(lambda: app(prog_name=name))


if __name__ == "__main__":
    main()
