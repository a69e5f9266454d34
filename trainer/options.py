"""Command-line options that several commands of the trainer share: types, help texts, parsing."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from edge.contract.coordinates import check_coordinates
from edge.contract.errors import UsageError
from trainer.recipe import MetadataKind, recipe_names

Device = Literal["auto", "cpu", "cuda"]
Data = Annotated[
    Path,
    typer.Option(
        help="Corpus: a folder of sound files for each species, or sound files with a table of "
        "annotations, or BirdCLEF's layout; see docs/corpus.md.",
        show_default=False,
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        help="Folder of the run; created if missing, resumed if it exists.", show_default=False
    ),
]
RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help=f"{', '.join(recipe_names())}, or a YAML file; a run keeps the one it started with.",
    ),
]
Rasters = Annotated[
    Path | None,
    typer.Option(
        help="Folder of maps of climate and land cover (GeoTIFF) for the model of place and season."
    ),
]
NoRasters = Annotated[
    bool,
    typer.Option(
        "--no-rasters", help="Do without a model of place and season, even if the run has one."
    ),
]
Backbone = Annotated[
    Path | None,
    typer.Option(
        help="Bundle of a published model (python -m export adopt), on whose embedding the recipe "
        "transfer trains heads; a run keeps a copy."
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="Folder of ImageNet weights, <architecture>.safetensors, for work without internet."
    ),
]
Jobs = Annotated[int, typer.Option(help="Processes; one core each.", min=1, max=64)]
Threads = Annotated[
    int | None,
    typer.Option(
        help="CPU threads for each network; results depend on it, so a run keeps the number it was "
        "started with.",
        min=1,
        max=64,
        show_default="1",
    ),
]
DeviceName = Annotated[Device, typer.Option(help="Where the networks are trained.")]
Devices = Annotated[
    str | None,
    typer.Option(
        help="Train several networks at once, one on each device: 0,1 for two GPUs, cpu,cpu for "
        "two halves of the CPU."
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        help="Train the networks as tasks of this Ray cluster: auto, host:port, ray://…; all nodes "
        "need access to OUT."
    ),
]
Nocall = Annotated[
    Path | None,
    typer.Option(
        help="Folder of sounds without birds, for recipes that mix in backgrounds or weight labels "
        "by calls."
    ),
]
PlaceName = Annotated[
    str | None,
    typer.Option(
        "--place",
        metavar="LAT,LON",
        help="Where recordings were made of which neither a table nor the file says so, in "
        "degrees, e.g. 48.52,9.06.",
    ),
]
NewSpecies = Annotated[
    list[str],
    typer.Option(
        "--new",
        metavar="NAME",
        help="A species of the corpus that the adopted model does not know; can be repeated.",
    ),
]
Track = Annotated[
    bool | None,
    typer.Option(
        "--track/--no-track",
        help="Log to MLflow: OUT/tracking, or the server in MLFLOW_TRACKING_URI.",
        show_default="where MLflow is installed",
    ),
]
PlaceModel = Annotated[
    MetadataKind | None, typer.Option("--kind", help="Overrides the recipe's, for a new run.")
]
Iterations = Annotated[
    int | None,
    typer.Option(
        help="Overrides the recipe's: trees, or the maximum number of epochs of the networks.",
        min=1,
    ),
]
Sites = Annotated[
    Path | None,
    typer.Option(
        help="Coordinates of the sites, as soundscape_sites.csv; without them, place and season "
        "are ignored."
    ),
]
Details = Annotated[
    bool, typer.Option("--details", help="Print more about each network and stage.")
]
ClipFolder = Annotated[
    Path,
    typer.Argument(
        help="Folder of short sound files, and perhaps clips.csv, as docs/discover.md shows.",
        show_default=False,
    ),
]
BackboneFolder = Annotated[
    Path,
    typer.Option(
        help="Adopted bundle whose network has an embedding (python -m export adopt).",
        show_default=False,
    ),
]
DiscoverOut = Annotated[
    Path, typer.Option(help="Folder for page, groups and corpus.", show_default=False)
]
Distance = Annotated[
    float,
    typer.Option(help="Cosine distance at which groups end; the page shows what others give."),
]


def parse_place(text: str | None) -> tuple[float, float] | None:
    """The place that `--place LAT,LON` names, in degrees. Raises UsageError."""
    if text is None:
        return None
    try:
        latitude, longitude = (float(part) for part in text.split(","))
        check_coordinates(latitude, longitude)
    except ValueError as error:
        raise UsageError(
            f"--place: expected LAT,LON in degrees, such as 48.52,9.06, found {text!r}"
        ) from error
    return latitude, longitude
