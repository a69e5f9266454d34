"""Exports a trained network as an ONNX file: grey image in, scores out, any batch size. Knows no
bundle."""

from pathlib import Path

import torch
from torch import Tensor, nn

from edge.contract.audio import IMAGE_SHAPE
from export.split_attention import plain
from trainer.networks.onnx_file import write_onnx

BATCH_MAX = 256


class ScoringNetwork(nn.Module):
    """A network with a sigmoid, since members of a bundle return scores."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, grey: Tensor) -> Tensor:
        return torch.sigmoid(self.network(grey))


def to_onnx(network: nn.Module, path: Path) -> None:
    """Write `path` with input `grey` (batch, 1, 128, 281), float32 in 0..255, and output `scores`
    (batch, species) in 0..1."""
    write_onnx(
        ScoringNetwork(plain(network)),
        torch.zeros(2, 1, *IMAGE_SHAPE),
        path,
        ("grey", "scores"),
        BATCH_MAX,
    )


@torch.inference_mode()
def torch_scores(network: nn.Module, grey: Tensor) -> Tensor:
    """Reference scores `(n, species)` of uint8 grey images `(n, 128, 281)`, computed in float32 on
    the CPU."""
    return torch.sigmoid(network.eval()(grey[:, None].to(torch.float32)))
