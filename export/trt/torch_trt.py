"""The second way from a bundle's network to a TensorRT plan, for workstations that have torch
anyway: torch-tensorrt.

A board needs no torch: there export/trt/native.py compiles. The plan is of the same kind, and the
same engine runs it.
"""

import importlib
import io
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from rich.table import Table

from edge.contract.bundle import Bundle, BundleMember
from edge.contract.errors import BundleError, EngineError
from export.trt.native import CompiledPlan
from export.trt.onnx_torch import OnnxNetwork
from export.trt.plan import INPUTS, Step

_VERSION_MIN = (2, 14)  # before it names and types of inputs and outputs are not ours to say
_MIB = 1 << 20
_COUNTED = re.compile(r"consists of (\d+) Total Operators, of which (\d+) operators are supported")
_MISSING = re.compile(r"^ (torch\.ops\.\S+): (\d+)$", re.MULTILINE)
_ORIN = SimpleNamespace(
    name="Orin", major=8, minor=7, total_memory=8 << 30, multi_processor_count=8
)
_ANSWERS = {  # what torch-tensorrt asks of the GPU on import and before a dry run
    "get_device_capability": (_ORIN.major, _ORIN.minor),
    "get_device_properties": _ORIN,
    "get_device_name": _ORIN.name,
    "current_device": 0,
    "mem_get_info": (_ORIN.total_memory, _ORIN.total_memory),
}


@dataclass(frozen=True)
class Coverage:
    """One network's operators. An engine more is a way back to torch between two."""

    operators: int
    converted: int
    engines: int
    missing: dict[str, int]  # operator -> how often


@dataclass(frozen=True)
class NetworkInputs:
    """What a network takes and which output is asked of it."""

    shape: tuple[int, ...]  # of one window
    input: str = "grey"
    output: str | None = None  # None: the first


def build_with_torch(
    onnx: bytes, takes: NetworkInputs, batch_max: int, *, workspace_mib: int
) -> CompiledPlan:
    """Compile `onnx` for the GPU at hand, all of it in one engine, for batches of 1 to `batch_max`
    windows.

    Raises BundleError if torch-tensorrt does not take the network, EngineError if it is not
    installed or failed, which less workspace or more free memory may mend; it says why on stderr.
    """
    program = _program(onnx, takes, batch_max)
    with imported() as torch_tensorrt, tempfile.TemporaryDirectory() as folder:
        name = f"torch-tensorrt {torch_tensorrt.__version__}"
        unsupported = importlib.import_module(
            "torch_tensorrt.dynamo.conversion"
        ).UnsupportedOperatorException
        try:
            plan = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
                program,
                arg_inputs=[_windows(torch_tensorrt, takes, batch_max)],
                arg_input_binding_names=(takes.input,),
                output_binding_names="scores",
                require_full_compilation=True,  # else what it does not know stays behind in torch
                min_block_size=1,
                disable_tf32=True,  # it would round float32 to 10 bits of mantissa
                workspace_size=workspace_mib * _MIB,
                # Its own would be shared by all users of the machine; one of another TensorRT makes
                # it fail.
                timing_cache_path=str(Path(folder) / "timing.cache"),
            )
        except unsupported as error:
            raise BundleError(f"{name} does not take the network: {_line(error)}") from error
        except RuntimeError as error:
            raise EngineError(
                f"{name} built no engine with {workspace_mib} MiB of workspace: {_line(error)}"
            ) from error
    return CompiledPlan(plan, b"")


def coverage(onnx: bytes, takes: NetworkInputs, batch_max: int) -> Coverage:
    """torch-tensorrt's dry run, which needs no GPU. Raises BundleError if the network is not known
    here, EngineError if torch-tensorrt is not installed or its report is not understood."""
    program = _program(onnx, takes, batch_max)
    with ExitStack() as stack:
        # What it warns of holds for modules that stay in torch, such as batches of two at least;
        # not for our engines.
        logging.disable(logging.WARNING)
        stack.callback(logging.disable, logging.NOTSET)
        torch_tensorrt = stack.enter_context(imported())
        stack.enter_context(redirect_stdout(io.StringIO()))  # the report is also printed
        report = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "report.txt"
        torch_tensorrt.dynamo.compile(
            program,
            arg_inputs=[_windows(torch_tensorrt, takes, batch_max)],
            dryrun=str(report),
            min_block_size=1,
        )
        return read_report(report.read_text(encoding="utf8") if report.is_file() else "")


def coverage_table(bundle: Bundle, steps: Sequence[Step]) -> Table:
    """What the dry run says of each network of a plan. Raises as `coverage`."""
    table = Table(title="torch-tensorrt, dry run", title_justify="left")
    for name in ("member", "precision", "operators", "converted", "engines", "left to torch"):
        table.add_column(name, overflow="fold")
    for step in steps:
        source = step.sources[0]
        found = coverage(source.file.read_bytes(), takes_of(bundle, step.member), step.batch_max)
        missing = (
            ", ".join(f"{count} × {operator}" for operator, count in found.missing.items())
            or "nothing"
        )
        counts = (found.operators, found.converted, found.engines)
        table.add_row(step.member.name, source.precision, *map(str, counts), missing)
    return table


def takes_of(bundle: Bundle, member: BundleMember) -> NetworkInputs:
    """What a member of a bundle takes and gives."""
    return NetworkInputs(bundle.input_shape, INPUTS[bundle.manifest.front], member.output)


def read_report(text: str) -> Coverage:
    """What the report of a dry run says."""
    counted = _COUNTED.search(text)
    if counted is None:
        raise EngineError(
            "torch-tensorrt wrote no report that is understood; 2.14 is what this was made with"
        )
    operators, converted = map(int, counted.groups())
    first = text[: text.find("Aggregate Stats")]
    engines = len(re.findall(r"TRT Engine #\d+", first))
    return Coverage(
        operators, converted, engines, {name: int(count) for name, count in _MISSING.findall(first)}
    )


def _program(onnx: bytes, takes: NetworkInputs, batch_max: int) -> Any:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = torch.export.Dim("rows", min=1, max=_open(batch_max))
    example = torch.zeros(2, *takes.shape, device=device)
    network = OnnxNetwork(onnx, takes.output).eval().to(device)
    try:
        return torch.export.export(network, (example,), dynamic_shapes=({0: rows},))
    except RuntimeError as error:
        raise BundleError(f"torch.export does not take the network: {_line(error)}") from error


def _line(error: Exception) -> str:
    """The first of its lines that says anything: what follows can be the whole graph."""
    return next(
        (line.strip() for line in str(error).splitlines() if line.strip()), "it does not say why"
    )


def _windows(torch_tensorrt: Any, takes: NetworkInputs, batch_max: int) -> Any:
    one = (1, *takes.shape)
    most = (_open(batch_max), *takes.shape)
    return torch_tensorrt.Input(
        min_shape=one, opt_shape=one, max_shape=most, dtype=torch.float32, name=takes.input
    )


def _open(batch_max: int) -> int:
    """A batch of at least two, since one alone would be a fixed shape."""
    return max(2, batch_max)


@contextmanager
def imported() -> Iterator[Any]:
    """torch-tensorrt, while its questions about the GPU are answered and its warnings, of its own
    internals, are off.

    Raises EngineError if it is not installed or too old.
    """
    with _an_orin_where_there_is_no_gpu(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # optional, and asks for a GPU when it is imported
            module = importlib.import_module("torch_tensorrt")
        except ImportError as error:
            raise EngineError(
                f"torch-tensorrt is missing ({error}); pip install torch-tensorrt, or "
                f"torch-tensorrt-rtx without a GPU"
            ) from None
        version = tuple(int(part) for part in module.__version__.split(".")[:2])
        if version < _VERSION_MIN:
            raise EngineError(
                f"torch-tensorrt is too old: expected 2.14 or newer, found {module.__version__}"
            )
        yield module


@contextmanager
def _an_orin_where_there_is_no_gpu() -> Iterator[None]:
    """torch-tensorrt asks which GPU it is for, a dry run's too, which compiles nothing."""
    if torch.cuda.is_available():
        yield
        return
    real = {name: getattr(torch.cuda, name) for name in _ANSWERS}
    for name, answer in _ANSWERS.items():
        setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
    try:
        yield
    finally:
        for name, function in real.items():
            setattr(torch.cuda, name, function)
