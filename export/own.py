"""`make own`: from a folder of recordings sorted by species to a bundle that names them: adopts a
published model, trains heads on it, exports and checks them.

Each step is the real command in its own process and skips what is already done. The recordings are
only read.
"""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from edge.contract.errors import UsageError
from edge.contract.folders import holds_nothing
from export.birds import adopt_model, parse_place, run_step

RUN = "run"
BUNDLE = "bundle"


@dataclass(frozen=True)
class OwnOptions:
    """Options of `make own`."""

    recordings: Path  # any corpus that docs/corpus.md shows
    quiet: Path | None  # folder of sounds without birds
    place: str | None  # "latitude,longitude" of recordings that do not tell theirs
    new: tuple[str, ...]  # names of species that the model does not know
    accept: str | None  # the licence of the model; None: the user is asked
    model: Path | None  # an adopted bundle, instead of BirdNET
    from_folder: Path | None  # of downloaded packages


def run_own(out: Path, console: Console, options: OwnOptions) -> Path:
    """Fill `out` with the adopted model, the run and the bundle. Returns the bundle's folder.
    Raises UsageError, ConfigError, StepFailure."""
    recordings = options.recordings.expanduser()
    if options.place is not None:
        parse_place(options.place)
    if not recordings.is_dir() or holds_nothing(recordings):
        raise UsageError(
            f"{recordings}: no recordings; FOLDER names a folder with a folder of recordings for "
            "each species (docs/corpus.md)"
        )
    if out.resolve().is_relative_to(recordings.resolve()):
        raise UsageError(
            f"{recordings}: contains {out}, the folder for results; FOLDER names a folder of "
            "recordings only"
        )
    asked = (options.accept, options.from_folder)
    model = options.model or adopt_model(out / "birdnet", console, *asked, target="own")
    command: list[str | Path] = ["trainer", "fit-all", "--data", recordings, "--out", out / RUN]
    command += ["--backbone", model]
    command += ["--nocall", options.quiet] if options.quiet is not None else []
    command += ["--place", options.place] if options.place is not None else []
    for name in options.new:
        command += ["--new", name]
    run_step(console, "training", command)
    bundle = out / BUNDLE
    run_step(console, "bundle", ("export", "onnx", "--run", out / RUN, "--out", bundle))
    run_step(console, "verify", ("export", "verify", bundle))
    console.print(
        f"report: {bundle / 'report.html'} (how sure it is, species by species)",
        "put it to work: in station.yaml",
        f"  bundle: {bundle.resolve()}",
        sep="\n",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return bundle
