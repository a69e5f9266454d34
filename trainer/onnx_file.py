"""A network as an ONNX file that names nothing of the machine it was made on. Knows no bundle and no run."""

import contextlib
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge.contract.errors import CorpusError

OPSET = 18  # the newest that every TensorRT from 10.3 on parses


def write_onnx(network: nn.Module, example: Tensor, path: Path, names: tuple[str, str], rows_max: int) -> None:
    """Write `path`: one input and one output of these names, shaped as `example` and what the network makes of it, with
    1 to `rows_max` rows. Weights lie inside the file. The graph is checked by ONNX's own checker."""
    rows = torch.export.Dim("rows", min=1, max=rows_max)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # the exporter chats on stdout
        warnings.simplefilter("ignore")  # and warns of its own internals
        program = torch.onnx.export(
            network.eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_shapes=({0: rows},),
            verbose=False,
        )
        assert program is not None, "the dynamo exporter returns a program"
        program.save(str(path), external_data=False)
    model = onnx.load(path)
    for node in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        node.ClearField("metadata_props")  # paths and stack traces of the machine that exported
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def run_onnx(
    path: Path, inputs: Mapping[str, NDArray[Any]], output: str, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """One output of the network in a file, of this shape. Raises CorpusError naming the file."""
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (found,) = session.run([output], dict(inputs))
    except Exception as error:  # ONNX Runtime's errors have no common base but Exception
        reason = " ".join(str(error).split())[:200]
        raise CorpusError(f"{path}: ONNX Runtime cannot run it: {reason}; {damaged(path.parent)}") from error
    if found.shape != shape:
        raise CorpusError(f"{path}: {output}: expected {shape}, found {found.shape}; {damaged(path.parent)}")
    return np.asarray(found, np.float32)


def damaged(folder: Path) -> str:
    """What to do about a metadata model of which a file cannot be used."""
    return f"remove {folder} and run: python -m trainer fit-all"
