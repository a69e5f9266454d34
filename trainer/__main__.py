"""`python -m trainer`: parses arguments, calls the stages, turns errors into one line and an exit
code."""

import edge.contract.startup  # noqa: F401  before all that takes time

# isort: split

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress, TaskID

from edge.contract.errors import EXIT_REFUSED, needs_extra
from edge.contract.program import run_program
from edge.contract.screen import Screen, say, say_lines
from trainer.corpus.decoder_noise import without_decoder_noise
from trainer.files import naming
from trainer.options import (
    Backbone,
    BackboneFolder,
    ClipFolder,
    Cluster,
    Data,
    Details,
    Device,
    DeviceName,
    Devices,
    DiscoverOut,
    Distance,
    Iterations,
    Jobs,
    NewSpecies,
    Nocall,
    NoRasters,
    Out,
    PlaceModel,
    PlaceName,
    Rasters,
    RecipeName,
    Sites,
    Threads,
    Track,
    Weights,
    parse_place,
)
from trainer.recipe import find_recipe, recipe_names
from trainer.workers import default_jobs

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="From a corpus of recordings to a [bold]Run[/bold]: folds, networks, metadata model, "
    "weights, threshold."
    "\n\nBegin with [bold]fit-all[/bold]; it resumes where it was stopped. No corpus at hand? "
    "[bold]demo-data[/bold].",
)


_ONE_STAGE = "Single stages"
_BEGIN = "Start here"
_AFTER = "Try and judge"


def _stages() -> Any:
    """Import trainer.pipeline.stages late: --help and worker processes, which import this file
    again, do without it."""
    return importlib.import_module("trainer.pipeline.stages")


def _run(
    names: tuple[str, ...],
    data: Path,
    out: Path,
    recipe: str | None,
    rasters: Path | None = None,
    weights: Path | None = None,
    jobs: int = 1,
    device: Device = "auto",
    devices: str | None = None,
    cluster: str | None = None,
    track: bool | None = False,
    nocall: Path | None = None,
    details: bool = False,
    threads: int | None = None,
    no_rasters: bool = False,
    backbone: Path | None = None,
    place: str | None = None,
    new: Sequence[str] = (),
) -> None:
    told = {"place": parse_place(place), "new": tuple(new)}
    stages = _stages()
    console = Screen()
    asked = (data, out, recipe, rasters, weights, jobs, device, devices, cluster, track, nocall)
    more = {"details": details, "threads": threads, "no_rasters": no_rasters, **told}
    options = stages.Options(*asked, **more, backbone=backbone)
    with naming(out):
        run = stages.run_stages(options, names, console)
    if len(names) > 1:
        console.print(stages.stage_table(run))
        stages.tell_cautions(run, console)
        lines = stages.next_steps(out)
        console.print(*lines, sep="\n", markup=False, highlight=False, soft_wrap=True)


@app.command(rich_help_panel=_BEGIN)
def fit_all(
    data: Data,
    out: Out,
    recipe: RecipeName = None,
    rasters: Rasters = None,
    weights: Weights = None,
    jobs: Jobs = default_jobs(),  # noqa: B008 - a number, not a call per use
    device: DeviceName = "auto",
    devices: Devices = None,
    cluster: Cluster = None,
    track: Track = None,
    nocall: Nocall = None,
    details: Details = False,
    threads: Threads = None,
    no_rasters: NoRasters = False,
    place: PlaceName = None,
    new: NewSpecies = [],  # noqa: B006 - an empty list for typer
    backbone: Backbone = None,
) -> None:
    """Run every stage in order; finished stages are skipped."""
    asked = (rasters, weights, jobs, device, devices, cluster, track, nocall)
    more = (details, threads, no_rasters, backbone, place, new)
    _run(_stages().STAGES, data, out, recipe, *asked, *more)


@app.command(rich_help_panel=_BEGIN)
def demo_data(
    out: Annotated[Path, typer.Argument(help="Folder for the corpus.")],
    rasters: Annotated[
        Path | None,
        typer.Option(
            help="Folder for its maps of climate and land cover.", show_default="rasters beside OUT"
        ),
    ] = None,
    species: Annotated[int, typer.Option(help="Invented species.")] = 8,
    recordings: Annotated[int, typer.Option(help="Recordings of each species.")] = 30,
    soundscapes: Annotated[
        int, typer.Option(help="Labelled minutes for training, and as many for testing.")
    ] = 6,
    seed: Annotated[int, typer.Option(help="A different seed gives different birds.")] = 1,
) -> None:
    """Make a synthetic corpus to try everything with; nothing is downloaded."""
    # Imports numpy and rasterio, which --help does without.
    make_corpus = importlib.import_module("trainer.demo").make_corpus
    folder = rasters or out.parent / "rasters"
    console = Screen()
    with Progress(console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage)
            bars.update(tasks[stage], completed=done, total=total)

        try:
            sizes = {"species": species, "recordings": recordings, "soundscapes": soundscapes}
            with naming(out):
                made = make_corpus(out, folder, **sizes, seed=seed, progress=show)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
    console.print(f"{out}: {made}; maps of climate and land cover in {folder}", highlight=False)


@app.command(rich_help_panel=_BEGIN)
def recipe(
    name: Annotated[
        str,
        typer.Argument(help=f"{', '.join(recipe_names())}, or a YAML file.", show_default=False),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Print a recipe with all its numbers."""
    found = find_recipe(name)
    say_lines(json.dumps(found.as_dict(), indent=1) if as_json else found.as_yaml().rstrip())


@app.command(rich_help_panel=_AFTER)
def mix_soundscapes(
    data: Data,
    backgrounds: Annotated[
        Path, typer.Option(help="Folder of recordings without birds.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder for the new corpus.", show_default=False)],
    hold_out: Annotated[
        float, typer.Option(help="Share of each species' recordings to hold out for mixing.")
    ] = 0.25,
    soundscapes: Annotated[int, typer.Option(help="For training, and as many for testing.")] = 12,
    minutes: Annotated[int, typer.Option(help="Length of each.")] = 2,
    snr: Annotated[
        tuple[float, float], typer.Option(help="Range of call against background, dB.")
    ] = (-5.0, 15.0),
    seed: Annotated[
        int, typer.Option(help="A different seed holds out and mixes different ones.")
    ] = 1,
) -> None:
    """Make a corpus with labelled soundscapes from one that has recordings only."""
    mix = importlib.import_module("trainer.corpus.mix")
    console = Screen()
    options = mix.MixOptions(hold_out, soundscapes, minutes, snr, seed)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("soundscapes", total=2 * soundscapes)
        with naming(out):
            mixed = mix.mix_soundscapes(
                data, backgrounds, out, options, lambda done, _: bar.update(task, completed=done)
            )
    console.print(mixed.table(out))


@app.command(rich_help_panel=_AFTER)
def distil(
    run: Annotated[
        Path, typer.Option(help="A finished run; the student goes into it.", show_default=False)
    ],
    sound: Annotated[
        list[Path],
        typer.Option(
            help="Folder of recordings without labels, preferably your own; can be repeated."
        ),
    ] = [],  # noqa: B006 - an empty list for typer
    data: Annotated[
        Path | None,
        typer.Option(help="The run's corpus, whose labelled soundscapes evaluate the student."),
    ] = None,
    weights: Weights = None,
    jobs: Jobs = default_jobs(),  # noqa: B008
    device: DeviceName = "auto",
) -> None:
    """Train one small network to imitate all networks of the run together (student/), for small
    boards."""
    module = importlib.import_module("trainer.student.distil")
    with naming(run):
        module.distil(
            module.DistilOptions(run, tuple(sound), data, weights, jobs, device), Screen()
        )


@app.command(rich_help_panel=_AFTER)
def predict(
    run: Annotated[Path, typer.Option(help="A finished run.", show_default=False)],
    soundscapes: Annotated[Path, typer.Option(help="Folder of recordings.", show_default=False)],
    out: Annotated[Path, typer.Option(help="CSV to write: row_id, birds.", show_default=False)],
    sites: Sites = None,
    device: Annotated[Device, typer.Option(help="Where the networks compute.")] = "auto",
) -> None:
    """Predict the species in every 5-second row of a folder of soundscapes and write a BirdCLEF
    submission."""
    module = importlib.import_module("trainer.tuning.predict")
    console = Screen()
    predictor = module.Predictor(importlib.import_module("trainer.run").Run.open(run), device)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("soundscapes")
        told = module.predict(
            predictor,
            soundscapes,
            out,
            sites,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    told.tell(out, console)
    raise typer.Exit(EXIT_REFUSED if told.unreadable else 0)


@app.command(rich_help_panel=_AFTER)
def score(
    predictions: Annotated[
        Path, typer.Option(help="CSV with row_id (or filename_seconds) and birds.")
    ],
    labels: Annotated[
        Path, typer.Option(help="CSV of the same form, as train_soundscape_labels.csv.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Score predictions for 5-second rows by row-wise F1, as BirdCLEF 2021 did, also of the rows
    with and without birds, and with a confidence interval."""
    scored = importlib.import_module("trainer.tuning.score").score_predictions(predictions, labels)
    if as_json:
        say(json.dumps(scored.as_dict()))
    else:
        Screen().print(scored.table())


@app.command(rich_help_panel=_AFTER)
def score_metadata(
    run: Annotated[Path, typer.Option(help="A run with a metadata model.", show_default=False)],
    metadata: Annotated[
        Path, typer.Option(help="CSV in the 14 columns of train_metadata.csv.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Score a run's metadata model on recordings that were held out."""
    opened = importlib.import_module("trainer.run").Run(run)
    scored = importlib.import_module("trainer.place.place_score").score_places(opened, metadata)
    if as_json:
        say(json.dumps(scored.as_dict()))
    else:
        Screen().print(scored.table(metadata.name))


@app.command(rich_help_panel=_AFTER)
def discover(
    folder: ClipFolder,
    backbone: BackboneFolder,
    out: DiscoverOut,
    distance: Distance = 0.4,
    jobs: Jobs = default_jobs(),  # noqa: B008
) -> None:
    """Group clips of sounds that no class knows, for a person to name."""
    module = importlib.import_module("trainer.discover.discover")
    options = module.DiscoverOptions(folder, backbone, out, distance, jobs=jobs)
    with naming(out):
        raise typer.Exit(module.discover(options, Screen()))


@app.command(rich_help_panel=_ONE_STAGE)
def check_data(
    data: Data,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run, to keep the result there (check.json).")
    ] = None,
    recipe: RecipeName = None,
    jobs: Jobs = default_jobs(),  # noqa: B008
    place: PlaceName = None,
    new: NewSpecies = [],  # noqa: B006
    backbone: Backbone = None,
) -> None:
    """Count what the corpus contains and report its problems."""
    if out is None:
        check = importlib.import_module("trainer.corpus.check")
        checked = check.check_folder(data, jobs, backbone, parse_place(place), tuple(new))
        Screen().print(checked.table())
    else:
        asked = (data, out, recipe)
        _run(("check-data",), *asked, jobs=jobs, place=place, new=new, backbone=backbone)


@app.command(rich_help_panel=_ONE_STAGE)
def folds(
    data: Data,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder of the run; or FILE.csv for the table alone.", show_default=False
        ),
    ],
    recipe: RecipeName = None,
    place: PlaceName = None,
) -> None:
    """Split the recordings into folds by place and season (folds.csv, folds.png); FILE.csv needs no
    run and gets its map as FILE.png."""
    if out.suffix == ".csv":
        # --help does without matplotlib
        foldmap = importlib.import_module("trainer.report.foldmap")
        table = find_recipe(recipe or "published")
        foldmap.folds_table(data, out, table, Screen(), parse_place(place))
    else:
        _run(("folds",), data, out, recipe, place=place)


@app.command(rich_help_panel=_ONE_STAGE)
def spectrograms(
    data: Data,
    out: Out,
    recipe: RecipeName = None,
    jobs: Jobs = default_jobs(),  # noqa: B008
    nocall: Nocall = None,
) -> None:
    """Compute the image of every crop (spectrograms/) and of the backgrounds (backgrounds.npz)."""
    _run(("spectrograms",), data, out, recipe, jobs=jobs, nocall=nocall)


@app.command(rich_help_panel=_ONE_STAGE)
def fit_cnn(
    data: Data,
    out: Out,
    recipe: RecipeName = None,
    weights: Weights = None,
    jobs: Jobs = default_jobs(),  # noqa: B008
    device: DeviceName = "auto",
    devices: Devices = None,
    cluster: Cluster = None,
    track: Track = None,
    nocall: Nocall = None,
    details: Details = False,
    threads: Threads = None,
) -> None:
    """Train the networks, one per kind, fold and seed (members/, oof.json)."""
    asked = (None, weights, jobs, device, devices, cluster, track, nocall, details, threads)
    _run(("fit-cnn",), data, out, recipe, *asked)


@app.command(rich_help_panel=_ONE_STAGE)
def embeddings(
    data: Data,
    out: Out,
    recipe: RecipeName = None,
    backbone: Backbone = None,
    jobs: Jobs = default_jobs(),  # noqa: B008
    nocall: Nocall = None,
) -> None:
    """Compute what a published model makes of every window (embeddings/), for the recipe
    transfer."""
    _run(("embeddings",), data, out, recipe, jobs=jobs, nocall=nocall, backbone=backbone)


@app.command(rich_help_panel=_ONE_STAGE)
def fit_heads(
    data: Data,
    out: Out,
    recipe: RecipeName = None,
    jobs: Jobs = default_jobs(),  # noqa: B008
) -> None:
    """Train the heads on the published model, one of each form per fold (members/, scales.npz)."""
    _run(("fit-heads",), data, out, recipe, jobs=jobs)


@app.command(rich_help_panel=_ONE_STAGE)
def fit_metadata(
    data: Data,
    out: Out,
    recipe: RecipeName = None,
    rasters: Rasters = None,
    kind: PlaceModel = None,
    iterations: Iterations = None,
    details: Details = False,
    no_rasters: NoRasters = False,
) -> None:
    """Train the metadata model on place and day (metadata/). Needs no sound; a new run uses the
    published recipe."""
    stages = _stages()
    own = {"kind": kind, "iterations": iterations, "details": details, "no_rasters": no_rasters}
    options = stages.Options(data, out, recipe, rasters, None, 1, "auto", **own)
    with naming(out):
        stages.run_stages(options, ("fit-metadata",), Screen())


@app.command(rich_help_panel=_ONE_STAGE)
def bag(data: Data, out: Out, recipe: RecipeName = None) -> None:
    """Choose the networks that the station runs (bag.json)."""
    _run(("bag",), data, out, recipe)


@app.command(rich_help_panel=_ONE_STAGE)
def tune(data: Data, out: Out, recipe: RecipeName = None) -> None:
    """Choose padding, weights and thresholds on the labelled soundscapes (tune.json)."""
    _run(("tune",), data, out, recipe)


@app.command(rich_help_panel=_ONE_STAGE)
def report(data: Data, out: Out, recipe: RecipeName = None) -> None:
    """Write all measurements into one page (report.html)."""
    _run(("report",), data, out, recipe)


def main() -> None:
    """Run a command; a user's mistake gives one line, never a traceback."""
    run_program(_commands)


def _commands() -> None:
    with needs_extra("train"), without_decoder_noise():
        app()


if __name__ == "__main__":
    main()
