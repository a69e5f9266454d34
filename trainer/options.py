"""Options that several commands of the trainer take, as typer reads them: types and help."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from trainer.recipe import recipe_names

Device = Literal["auto", "cpu", "cuda"]
Data = Annotated[
    Path,
    typer.Option(
        help="Corpus: a table and a folder for each species, as docs/corpus.md shows.",
        show_default=False,
    ),
]
Out = Annotated[
    Path,
    typer.Option(help="Folder of the run; made if missing, resumed if there.", show_default=False),
]
RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help=f"{', '.join(recipe_names())}, or a YAML file; a run keeps the one it began with.",
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
        "--no-rasters", help="Without a model of place and season, also where the run has one."
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="Folder of ImageNet weights, <architecture>.safetensors, where there is no network."
    ),
]
Jobs = Annotated[int, typer.Option(help="Processes; one core each.", min=1, max=64)]
Threads = Annotated[
    int | None,
    typer.Option(
        help="Of each network on the CPU; sums depend on it, so that a run keeps what it began "
        "with.",
        min=1,
        max=64,
        show_default="1",
    ),
]
DeviceName = Annotated[Device, typer.Option(help="Where the networks are trained.")]
Devices = Annotated[
    str | None,
    typer.Option(
        help="Networks side by side, one at a time on each: 0,1 for two GPUs, cpu,cpu for halves "
        "of the CPU."
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        help="Networks as tasks of this Ray cluster: auto, host:port, ray://…; all nodes must see "
        "OUT."
    ),
]
Nocall = Annotated[
    Path | None,
    typer.Option(
        help="Folder of sounds without birds, for recipes that mix backgrounds or weigh labels by "
        "calls."
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
Details = Annotated[bool, typer.Option("--details", help="Say more of each network and stage.")]
