"""The plan of `python -m export trt` on this machine: networks to compile, their sources, and
existing engines.

Needs no TensorRT, so that a plan can be made anywhere.
"""

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from edge.contract.audio import IMAGE, WAVEFORM, FrontEnd
from edge.contract.bundle import Bundle, BundleMember, file_sha256
from edge.contract.errors import EngineError
from edge.engines.cuda import Cuda
from edge.engines.device import Device, board_of, import_tensorrt, l4t_of, power_mode, this_device
from edge.engines.engine_record import (
    Builder,
    EngineMember,
    EngineRecord,
    Precision,
    is_whole,
    read_record,
)

# Names of the networks' inputs.
INPUTS: dict[FrontEnd, str] = {IMAGE: "grey", WAVEFORM: "sound"}
# Tried in turn: boards of 4 and 8 GB share their memory with the GPU.
WORKSPACE_MIB = (1024, 512, 256)
_FREE_MIN = 1_500_000_000  # bytes; with less the compiler of a large member is killed
_TENSORRT_MIN = (10, 3)


@dataclass(frozen=True)
class SourceFile:
    """A file of the bundle from which a member may be compiled."""

    precision: Precision
    file: Path
    sha256: str


@dataclass(frozen=True)
class Step:
    """One network to compile, from the first of its sources that keeps parity; or its existing
    engine `done`."""

    member: BundleMember
    index: int
    sources: tuple[SourceFile, ...]
    batch_max: int
    builder: Builder
    done: EngineMember | None


@dataclass(frozen=True)
class Machine:
    """Facts about the machine, and problems."""

    facts: tuple[tuple[str, str], ...]
    device: Device | None
    problem: str | None  # the reason why nothing can be compiled here
    warnings: tuple[str, ...]


def plan_steps(
    bundle: Bundle,
    out: Path,
    device: Device | None,
    batch_max: int,
    precision: Precision,
    builder: Builder,
) -> list[Step]:
    """A step for each network of the bundle. An engine in `out` is reused if this builder made it
    for `device`."""
    record = _record(out)
    usable = (
        {m.name: m for m in record.members}
        if record and device and not device.refuses(record.device)
        else {}
    )
    steps = []
    for index, member in enumerate(bundle.manifest.networks):
        sources = _sources(bundle, member, precision)
        there = usable.get(member.name)
        needed = (sources[0].sha256, batch_max, builder)
        same = there and (there.wanted_sha256, there.batch_max, there.builder) == needed
        done = there if there and same and is_whole(out, there) else None
        steps.append(Step(member, index, sources, batch_max, builder, done))
    return steps


def _record(out: Path) -> EngineRecord | None:
    try:
        return read_record(out)
    except EngineError:  # of an older version, or damaged: it is replaced
        return None


def _sources(bundle: Bundle, member: BundleMember, precision: Precision) -> tuple[SourceFile, ...]:
    """Sources of a member in the order of trying: half precision first, if asked for and
    available."""
    full = bundle.folder / member.file
    sources = [SourceFile("fp32", full, file_sha256(full))]
    if precision == "fp16" and member.half:
        half = bundle.folder / member.half
        sources.insert(0, SourceFile("fp16", half, file_sha256(half)))
    return tuple(sources)


def examine(root: Path = Path("/")) -> Machine:
    """Examine this machine: module, driver, GPU, memory, board. Never fails; `root` is its file
    system."""
    board = [("board", board_of(root)), ("L4T", l4t_of(root)), ("power mode", power_mode())]
    facts = [(name, value) for name, value in board if value]
    warnings = []
    try:
        trt = import_tensorrt()
        facts.append(("TensorRT", str(trt.__version__)))
        if tuple(int(part) for part in trt.__version__.split(".")[:2]) < _TENSORRT_MIN:
            raise EngineError(
                f"TensorRT is too old: expected 10.3 (JetPack 6) or newer, found {trt.__version__}"
            )
        cuda = Cuda()
        device = this_device(trt, cuda, root)
        free, total = cuda.memory()
    except EngineError as error:
        return Machine(tuple(facts), None, str(error), ())
    facts.append(("GPU", f"{device.gpu}, compute capability {device.compute_capability}"))
    facts.append(("CUDA", f"{device.cuda}, driver {device.driver}"))
    facts.append(("memory", f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"))
    if free < _FREE_MIN:
        warnings.append(
            f"only {free / 1e9:.1f} GB are free: stop the desktop and other users of the GPU, or "
            "add swap"
        )
    return Machine(tuple(facts), device, None, tuple(warnings))


def plan_table(machine: Machine, steps: list[Step]) -> Table:
    """The plan as a table."""
    here = (
        " · ".join(f"{name} {value}" for name, value in machine.facts)
        or "no facts about this machine"
    )
    workspace = ", ".join(map(str, WORKSPACE_MIB))
    caption = (
        f"tried with {workspace} MiB of workspace in turn; half precision that fails parity "
        "becomes fp32"
    )
    table = Table(title=here, title_justify="left", caption=caption, caption_justify="left")
    for name in ("member", "precision", "MB of ONNX", "what"):
        table.add_column(name, justify="right" if name == "MB of ONNX" else "left", overflow="fold")
    for step in steps:
        first = step.sources[0]
        size = first.file.stat().st_size / 1e6
        what = f"exists ({step.done.precision})" if step.done else "compile"
        table.add_row(step.member.name, first.precision, f"{size:.1f}", what)
    return table
