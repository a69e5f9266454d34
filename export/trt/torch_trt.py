"""Compiles a network of a bundle to a TensorRT plan with torch-tensorrt, on workstations that have
torch.

Boards need no torch: there export/trt/native.py compiles. The plan has the same form, and the same
engine runs it.
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

# Earlier versions do not let us choose names and types of inputs and outputs.
_VERSION_MIN = (2, 14)
_MIB = 1 << 20
_COUNTED = re.compile(r"consists of (\d+) Total Operators, of which (\d+) operators are supported")
_MISSING = re.compile(r"^ (torch\.ops\.\S+): (\d+)$", re.MULTILINE)
_ORIN = SimpleNamespace(
    name="Orin", major=8, minor=7, total_memory=8 << 30, multi_processor_count=8
)
_ANSWERS = {  # torch-tensorrt's questions about the GPU, on import and before a dry run
    "get_device_capability": (_ORIN.major, _ORIN.minor),
    "get_device_properties": _ORIN,
    "get_device_name": _ORIN.name,
    "current_device": 0,
    "mem_get_info": (_ORIN.total_memory, _ORIN.total_memory),
}


@dataclass(frozen=True)
class Coverage:
    """Operators of one network. More than one engine means that torch computes something between
    them."""

    operators: int
    converted: int
    engines: int
    missing: dict[str, int]  # operator -> how often


@dataclass(frozen=True)
class NetworkInputs:
    """Input and output of a network."""

    shape: tuple[int, ...]  # of one window
    input: str = "grey"
    output: str | None = None  # None: the first


def build_with_torch(
    onnx: bytes, takes: NetworkInputs, batch_max: int, *, workspace_mib: int
) -> CompiledPlan:
    """Compile all of `onnx` into one engine for the GPU of this machine, for batches of 1 to
    `batch_max` windows.

    Raises BundleError if torch-tensorrt does not support the network, EngineError if it is not
    installed or failed, which less workspace or more free memory may fix; it prints the reason on
    stderr.
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
                require_full_compilation=True,  # else unsupported operators stay in torch
                min_block_size=1,
                disable_tf32=True,  # TF32 rounds the mantissa to 10 bits
                workspace_size=workspace_mib * _MIB,
                # The default is shared by all users of the machine, and one of another TensorRT
                # makes it fail.
                timing_cache_path=str(Path(folder) / "timing.cache"),
            )
        except unsupported as error:
            raise BundleError(f"{name} does not support the network: {_line(error)}") from error
        except RuntimeError as error:
            raise EngineError(
                f"{name} built no engine with {workspace_mib} MiB of workspace: {_line(error)}"
            ) from error
    return CompiledPlan(plan, b"")


def coverage(onnx: bytes, takes: NetworkInputs, batch_max: int) -> Coverage:
    """Coverage by torch-tensorrt's dry run, which needs no GPU. Raises BundleError if the network
    is not supported here, EngineError if torch-tensorrt is not installed or its report is not
    understood."""
    program = _program(onnx, takes, batch_max)
    with ExitStack() as stack:
        # Its warnings, such as a minimum batch of two, concern modules that stay in torch, not our
        # engines.
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
    """A table of the dry run for each network of a plan. Raises like `coverage`."""
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
    """Input and output of a member of a bundle."""
    return NetworkInputs(bundle.input_shape, INPUTS[bundle.manifest.front], member.output)


def read_report(text: str) -> Coverage:
    """Parse the report of a dry run. Raises EngineError if it is not understood."""
    counted = _COUNTED.search(text)
    if counted is None:
        raise EngineError(
            "the report of torch-tensorrt is not understood; this was made for version 2.14"
        )
    operators, converted = map(int, counted.groups())
    first = text[: text.find("Aggregate Stats")]
    engines = len(re.findall(r"TRT Engine #\d+", first))
    return Coverage(
        operators, converted, engines, {name: int(count) for name, count in _MISSING.findall(first)}
    )


def _program(onnx: bytes, takes: NetworkInputs, batch_max: int) -> Any:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = torch.export.Dim("rows", min=1, max=_dynamic_batch(batch_max))
    example = torch.zeros(2, *takes.shape, device=device)
    network = OnnxNetwork(onnx, takes.output).eval().to(device)
    try:
        return torch.export.export(network, (example,), dynamic_shapes=({0: rows},))
    except RuntimeError as error:
        raise BundleError(f"torch.export does not support the network: {_line(error)}") from error


def _line(error: Exception) -> str:
    """The first line of an error that is not empty: what follows may be the whole graph."""
    return next(
        (line.strip() for line in str(error).splitlines() if line.strip()), "no reason given"
    )


def _windows(torch_tensorrt: Any, takes: NetworkInputs, batch_max: int) -> Any:
    one = (1, *takes.shape)
    most = (_dynamic_batch(batch_max), *takes.shape)
    return torch_tensorrt.Input(
        min_shape=one, opt_shape=one, max_shape=most, dtype=torch.float32, name=takes.input
    )


def _dynamic_batch(batch_max: int) -> int:
    """A batch size of at least two, since one would be a fixed shape."""
    return max(2, batch_max)


@contextmanager
def imported() -> Iterator[Any]:
    """Import torch-tensorrt, with its questions about the GPU answered and its warnings about its
    own internals disabled.

    Raises EngineError if it is not installed or too old.
    """
    with _pretended_gpu(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # Optional; asks for a GPU on import.
            module = importlib.import_module("torch_tensorrt")
        except ImportError as error:
            raise EngineError(
                f"torch-tensorrt is missing ({error}); pip install torch-tensorrt, or "
                "torch-tensorrt-rtx without a GPU"
            ) from None
        version = tuple(int(part) for part in module.__version__.split(".")[:2])
        if version < _VERSION_MIN:
            raise EngineError(
                f"torch-tensorrt is too old: expected 2.14 or newer, found {module.__version__}"
            )
        yield module


@contextmanager
def _pretended_gpu() -> Iterator[None]:
    """Pretend to be an Orin if there is no GPU: torch-tensorrt asks for one even for a dry run,
    which compiles nothing."""
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
