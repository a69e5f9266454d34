"""python -m trainer: parses the arguments, calls the stages, turns errors into one line and an exit code."""

import importlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID

from edge.contract.errors import BirdstationError
from trainer.recipe import find_recipe, recipe_names
from trainer.workers import default_jobs

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="From a corpus of recordings to a [bold]Run[/bold]: folds, networks, metadata model, weights, threshold."
    "\n\nBegin with [bold]fit-all[/bold]; it resumes where it was stopped. No corpus at hand? [bold]demo-data[/bold].",
)


Device = Literal["auto", "cpu", "cuda"]
_ONE_STAGE, _BEGIN = "Single stages", "Start here"
Data = Annotated[Path, typer.Option(help="Corpus in the BirdCLEF-2021 layout.", show_default=False)]
Out = Annotated[Path, typer.Option(help="Folder of the run; made if missing, resumed if there.", show_default=False)]
RecipeName = Annotated[
    str | None,
    typer.Option("--recipe", help=f"{', '.join(recipe_names())}, or a YAML file; a run keeps the one it began with."),
]
Rasters = Annotated[
    Path | None, typer.Option(help="Folder of GeoTIFFs for the metadata model; without it there is none.")
]
Weights = Annotated[
    Path | None, typer.Option(help="Folder of ImageNet weights, <architecture>.safetensors, where there is no network.")
]
Jobs = Annotated[int, typer.Option(help="Processes; one core each.", min=1, max=64)]
DeviceName = Annotated[Device, typer.Option(help="Where the networks are trained.")]


def _stages() -> Any:
    """trainer.stages, imported late: torch and catboost take seconds, and workers import this file again."""
    return importlib.import_module("trainer.stages")


def _run(
    names: tuple[str, ...],
    data: Path,
    out: Path,
    recipe: str | None,
    rasters: Path | None = None,
    weights: Path | None = None,
    jobs: int = 1,
    device: Device = "auto",
) -> None:
    stages, console = _stages(), Console()
    options = stages.Options(data, out, recipe, rasters, weights, jobs, device)
    run = stages.run_stages(options, names, console)
    if len(names) > 1:
        console.print(stages.stage_table(run))


@app.command(rich_help_panel=_BEGIN)
def fit_all(
    data: Data,
    out: Out,
    recipe: RecipeName = None,
    rasters: Rasters = None,
    weights: Weights = None,
    jobs: Jobs = default_jobs(),  # noqa: B008 - a number, not a call per use
    device: DeviceName = "auto",
) -> None:
    """Every stage in order; those that are done are skipped."""
    _run(_stages().STAGES, data, out, recipe, rasters, weights, jobs, device)


@app.command(rich_help_panel=_BEGIN)
def demo_data(
    out: Annotated[Path, typer.Argument(help="Folder for the corpus.")],
    rasters: Annotated[
        Path | None, typer.Option(help="Folder for its rasters.", show_default="rasters beside OUT")
    ] = None,
    species: Annotated[int, typer.Option(help="Invented species.")] = 8,
    recordings: Annotated[int, typer.Option(help="Recordings of each species.")] = 30,
    soundscapes: Annotated[int, typer.Option(help="Labelled minutes for training, and as many for testing.")] = 6,
    seed: Annotated[int, typer.Option(help="Another seed gives other birds.")] = 1,
) -> None:
    """Make a synthetic corpus to try everything with: nothing to download."""
    make_corpus = importlib.import_module("trainer.demo").make_corpus  # numpy and rasterio: not for --help
    folder = rasters or out.parent / "rasters"
    console = Console()
    with Progress(console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage)
            bars.update(tasks[stage], completed=done, total=total)

        try:
            sizes = {"species": species, "recordings": recordings, "soundscapes": soundscapes}
            made = make_corpus(out, folder, **sizes, seed=seed, progress=show)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
    console.print(
        f"{out}: {made.recordings} recordings of {made.species} species, {made.soundscapes} soundscapes for training "
        f"and {made.test_soundscapes} for testing; rasters in {folder}",
        highlight=False,
    )


@app.command(rich_help_panel=_BEGIN)
def recipe(
    name: Annotated[str, typer.Argument(help=f"{', '.join(recipe_names())}, or a YAML file.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Print a recipe with all its numbers."""
    found = find_recipe(name)
    print(json.dumps(found.as_dict(), indent=1) if as_json else found.as_yaml().rstrip())


@app.command(rich_help_panel=_ONE_STAGE)
def check_data(data: Data, out: Out, recipe: RecipeName = None, jobs: Jobs = default_jobs()) -> None:  # noqa: B008
    """Count what the corpus holds and what is wrong with it (check.json)."""
    _run(("check-data",), data, out, recipe, jobs=jobs)


@app.command(rich_help_panel=_ONE_STAGE)
def folds(data: Data, out: Out, recipe: RecipeName = None) -> None:
    """Split the recordings by place and season (folds.csv, folds.png)."""
    _run(("folds",), data, out, recipe)


@app.command(rich_help_panel=_ONE_STAGE)
def spectrograms(data: Data, out: Out, recipe: RecipeName = None, jobs: Jobs = default_jobs()) -> None:  # noqa: B008
    """Make every crop's image (spectrograms/)."""
    _run(("spectrograms",), data, out, recipe, jobs=jobs)


@app.command(rich_help_panel=_ONE_STAGE)
def fit_cnn(
    data: Data,
    out: Out,
    recipe: RecipeName = None,
    weights: Weights = None,
    jobs: Jobs = default_jobs(),  # noqa: B008
    device: DeviceName = "auto",
) -> None:
    """Train the networks, one per kind, fold and seed (members/, oof.json)."""
    _run(("fit-cnn",), data, out, recipe, None, weights, jobs, device)


@app.command(rich_help_panel=_ONE_STAGE)
def fit_metadata(data: Data, out: Out, recipe: RecipeName = None, rasters: Rasters = None) -> None:
    """Train the metadata model on place and day (metadata/)."""
    _run(("fit-metadata",), data, out, recipe, rasters)


@app.command(rich_help_panel=_ONE_STAGE)
def bag(data: Data, out: Out, recipe: RecipeName = None) -> None:
    """Choose the members that go to the station (bag.json)."""
    _run(("bag",), data, out, recipe)


@app.command(rich_help_panel=_ONE_STAGE)
def tune(data: Data, out: Out, recipe: RecipeName = None) -> None:
    """Choose padding, weights and threshold on the labelled soundscapes (tune.json)."""
    _run(("tune",), data, out, recipe)


@app.command(rich_help_panel=_ONE_STAGE)
def report(data: Data, out: Out, recipe: RecipeName = None) -> None:
    """Write everything that was measured into one page (report.html)."""
    _run(("report",), data, out, recipe)


def main() -> None:
    try:
        app()
    except BirdstationError as error:
        Console(stderr=True, soft_wrap=True).print(f"[red]error:[/red] {escape(str(error))}", highlight=False)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
