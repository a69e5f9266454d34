"""Writes a network as an ONNX file without traces of the machine that exported it. Knows no bundle
and no run."""

import contextlib
import io
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

OPSET = 18  # the newest that every TensorRT from 10.3 on parses


def write_onnx(
    network: nn.Module, example: Tensor, path: Path, names: tuple[str, str], rows_max: int
) -> None:
    """Write `path` with one input and one output of these names. The input is shaped like `example`
    but has 1 to `rows_max` rows. Weights are inside the file. ONNX's checker checks the graph."""
    rows = torch.export.Dim("rows", min=1, max=rows_max)
    # The exporter chats on stdout.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
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
