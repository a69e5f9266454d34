"""ResNeSt's split attention as plain convolutions: the same results from operators that every
runtime computes fast.

timm computes the two groups of a block as one grouped convolution and uses five-dimensional views
of them, through which no CPU runtime keeps its layout. Training keeps timm's form
(trainer/networks/precision.py); this is for exported networks.
"""

import copy
from typing import Any

import torch
from timm.layers.split_attn import SplitAttn
from timm.models.resnest import ResNestBottleneck
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_Halves = tuple[Tensor, Tensor]


def plain(network: nn.Module) -> nn.Module:
    """A copy of the network in eval mode, with each block of two groups rewritten."""
    network = copy.deepcopy(network).eval()
    for block in network.modules():
        if isinstance(block, ResNestBottleneck) and _has_two_groups(block):
            _rewrite(block)
    return network


def _has_two_groups(block: ResNestBottleneck) -> bool:
    """True if the first convolution of a block is followed directly by an attention over two
    groups."""
    attention = block.conv2
    two = isinstance(attention, SplitAttn) and attention.radix == attention.conv.groups == 2
    return two and attention.fc1.groups == 1 and block.avd_first is None


def _rewrite(block: Any) -> None:
    block.conv1 = _InHalves(fuse_conv_bn_eval(block.conv1, block.bn1))
    block.bn1 = nn.Identity()
    block.act1 = nn.Identity()
    block.conv2 = _TwoGroups(block.conv2)


class _InHalves(nn.Module):
    """A 1x1 convolution with ReLU, computed separately for the two halves of the channels."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.first, self.second = (_part(conv, half) for half in range(2))

    def forward(self, image: Tensor) -> _Halves:
        return torch.relu(self.first(image)), torch.relu(self.second(image))


class _TwoGroups(nn.Module):
    """`SplitAttn.forward` for two groups: their weights are a softmax of two, computed from the
    mean of their sum."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        conv = fuse_conv_bn_eval(attention.conv, attention.bn0)
        self.first, self.second = (_part(conv, half) for half in range(2))
        self.inner = fuse_conv_bn_eval(attention.fc1, attention.bn1)
        logits = attention.fc2
        apart = [
            values - values.roll(len(values) // 2, 0) for values in (logits.weight, logits.bias)
        ]
        self.odds = _like(logits, *apart)  # of each half relative to the other

    def forward(self, halves: _Halves) -> Tensor:
        first = torch.relu(self.first(halves[0]))
        second = torch.relu(self.second(halves[1]))
        mean = first.mean((2, 3), keepdim=True) + second.mean((2, 3), keepdim=True)
        shares = torch.sigmoid(self.odds(torch.relu(self.inner(mean)))).chunk(2, dim=1)
        found: Tensor = first * shares[0] + second * shares[1]
        return found


def _part(conv: nn.Conv2d, half: int) -> nn.Conv2d:
    """The part of a convolution for one half of the output channels; with two groups, from its own
    half of the input."""
    size = conv.out_channels // 2
    rows = slice(half * size, (half + 1) * size)
    return _like(conv, conv.weight[rows], conv.bias[rows])  # type: ignore[index]


def _like(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    out, inputs, *size = weight.shape
    kernel: Any = tuple(size)
    shape: Any = (conv.stride, conv.padding, conv.dilation)
    made = nn.Conv2d(inputs, out, kernel, *shape)
    with torch.no_grad():
        made.weight.copy_(weight)
        made.bias.copy_(bias)  # type: ignore[union-attr]
    return made
