"""What torch-tensorrt would make of an architecture: which operators it converts, into how many engines.

The second way from a network to TensorRT, for workstations that have torch anyway. Its dry run needs no GPU. The
engines themselves are made from ONNX (export/to_tensorrt.py): a board then needs no torch.
"""

import importlib
import io
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from edge.contract.audio import IMAGE_SHAPE
from edge.contract.errors import EngineError
from export.to_onnx import Scored
from trainer.model import build_network

_BATCH_MAX = 4
_COUNTED = re.compile(r"consists of (\d+) Total Operators, of which (\d+) operators are supported")
_MISSING = re.compile(r"^ (torch\.ops\.\S+): (\d+)$", re.MULTILINE)
_ORIN = SimpleNamespace(name="Orin", major=8, minor=7, total_memory=8 << 30, multi_processor_count=8)
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


def coverage(architecture: str, species: int) -> Coverage:
    """The dry run over an untrained member. Raises EngineError if torch-tensorrt is not installed or its report is not
    understood, ConfigError if timm does not know the architecture."""
    network = Scored(build_network(architecture, species, normalise="bands")).eval()
    rows = torch.export.Dim("rows", min=1, max=_BATCH_MAX)
    program = torch.export.export(network, (torch.zeros(2, 1, *IMAGE_SHAPE),), dynamic_shapes=({0: rows},))
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(_an_orin_where_there_is_no_gpu())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # of its own internals
        stack.enter_context(redirect_stdout(io.StringIO()))  # the report is also printed
        report = Path(folder) / "report.txt"
        _dry_run(program, report)
        return read_report(report.read_text(encoding="utf8") if report.is_file() else "")


def _dry_run(program: Any, report: Path) -> None:
    try:
        torch_tensorrt = importlib.import_module("torch_tensorrt")  # optional, and asks for a GPU when it is imported
    except ImportError as error:
        raise EngineError(
            f"torch-tensorrt is missing ({error}); pip install torch-tensorrt, or torch-tensorrt-rtx without a GPU"
        ) from None
    one, most = (1, 1, *IMAGE_SHAPE), (_BATCH_MAX, 1, *IMAGE_SHAPE)
    images = torch_tensorrt.Input(min_shape=one, opt_shape=one, max_shape=most, dtype=torch.float32)
    torch_tensorrt.dynamo.compile(program, arg_inputs=[images], dryrun=str(report), min_block_size=1)


def read_report(text: str) -> Coverage:
    """What the report of a dry run says."""
    counted = _COUNTED.search(text)
    if counted is None:
        raise EngineError("torch-tensorrt wrote no report that is understood; 2.14 is what this was made with")
    operators, converted = map(int, counted.groups())
    first = text[: text.find("Aggregate Stats")]
    engines = len(re.findall(r"TRT Engine #\d+", first))
    return Coverage(operators, converted, engines, {name: int(count) for name, count in _MISSING.findall(first)})


@contextmanager
def _an_orin_where_there_is_no_gpu() -> Iterator[None]:
    """A dry run compiles nothing, but torch-tensorrt asks which GPU it would be for."""
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
