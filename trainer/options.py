"""Command-line options that several commands of the trainer share: their types and help texts."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from trainer.recipe import recipe_names

Device = Literal["auto", "cpu", "cuda"]
Data = Annotated[
    Path,
    typer.Option(
        help="Corpus: a table, and a folder for each species; see docs/corpus.md.",
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
Track = Annotated[
    bool | None,
    typer.Option(
        "--track/--no-track",
        help="Log to MLflow: OUT/tracking, or the server in MLFLOW_TRACKING_URI.",
        show_default="where MLflow is installed",
    ),
]
Details = Annotated[
    bool, typer.Option("--details", help="Print more about each network and stage.")
]
