"""One trained network to one ONNX file: grey image in, scores out, any batch size. Knows no bundle."""

import contextlib
import io
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from edge.contract.audio import IMAGE_SHAPE

OPSET = 18  # the newest that every TensorRT from 10.3 on parses
BATCH_MAX = 256


class _Scored(nn.Module):
    """The network with its sigmoid: what leaves a bundle's member is a score."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, grey: Tensor) -> Tensor:
        return torch.sigmoid(self.network(grey))


def to_onnx(network: nn.Module, path: Path) -> None:
    """Write `path`: input `grey` (batch, 1, 128, 281) float32 of 0..255, output `scores` (batch, species) in 0..1.

    Weights lie inside the file. The graph is checked by ONNX's own checker.
    """
    example = torch.zeros(2, 1, *IMAGE_SHAPE)
    batch = torch.export.Dim("batch", min=1, max=BATCH_MAX)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # the exporter chats on stdout
        warnings.simplefilter("ignore")  # and warns of its own internals
        program = torch.onnx.export(
            _Scored(network).eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["grey"],
            output_names=["scores"],
            dynamic_shapes=({0: batch},),
            verbose=False,
        )
        assert program is not None, "the dynamo exporter returns a program"
        program.save(str(path), external_data=False)
    model = onnx.load(path)
    for node in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        node.ClearField("metadata_props")  # paths and stack traces of the machine that exported
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


@torch.inference_mode()
def torch_scores(network: nn.Module, grey: Tensor) -> Tensor:
    """Reference scores `(n, species)` of grey images `(n, 128, 281)` uint8, float32 on the CPU."""
    return torch.sigmoid(network.eval()(grey[:, None].to(torch.float32)))
