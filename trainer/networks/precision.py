"""Precision and memory layout of networks in training: bfloat16 if the processor supports it,
channels last.

The choice depends on the processor alone, so that a resumed run continues as it began. Weights,
optimiser and losses are always float32. Knows no data and no loss.
"""

from pathlib import Path
from types import MethodType

import torch
from timm.layers.split_attn import SplitAttn
from torch import Tensor, nn

from edge.contract.errors import ConfigError
from trainer.run import TrainingPrecision

# As /proc/cpuinfo names them; without, bfloat16 is emulated and slow.
_CPU_FLAGS = {"avx512_bf16", "amx_bf16"}


def choose_device(name: str) -> str:
    """Resolve `auto` to a GPU if there is one. Raises ConfigError if the GPU asked for is
    missing."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no GPU here; allowed: auto, cpu")
    return name


def choose_precision(device: torch.device) -> TrainingPrecision:
    """Choose bf16 if the device multiplies bfloat16 in hardware, else fp32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    cpuinfo = Path("/proc/cpuinfo")
    flags = (
        cpuinfo.read_text(encoding="ascii", errors="replace").split() if cpuinfo.is_file() else []
    )
    return "bf16" if _CPU_FLAGS.intersection(flags) else "fp32"


def prepare(network: nn.Module, precision: TrainingPrecision, device: torch.device) -> nn.Module:
    """Move a network to its device, with its layout and (on a GPU) compiled for training. Its
    weights keep their names and values."""
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in network.modules():
        if isinstance(module, SplitAttn) and module.radix > 1:
            module.forward = MethodType(_split_attention, module)  # type: ignore[method-assign]
        if (
            device.type == "cpu"
            and precision == "bf16"
            and isinstance(module, nn.Conv2d)
            and _wide_depthwise(module)
        ):
            module.forward = MethodType(_in_float32, module)  # type: ignore[method-assign]
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # batches have one size
        network.compile()  # on a CPU it takes a minute and gains nothing
    return network


def autocast(precision: TrainingPrecision, device: torch.device) -> torch.autocast:
    """The context in which the network is called."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def _wide_depthwise(conv: nn.Conv2d) -> bool:
    return conv.groups == conv.in_channels > 1 and conv.kernel_size[0] > 3


def _in_float32(self: nn.Conv2d, image: Tensor) -> Tensor:
    """A depthwise convolution of 5x5 or more in float32: on a CPU the gradient of its weights takes
    three times as long in bfloat16, a third of a step of EfficientNet-B3 (torch 2.14)."""
    with torch.autocast("cpu", enabled=False):
        return type(self).forward(self, image.float()).to(image.dtype)


def _split_attention(self: SplitAttn, image: Tensor) -> Tensor:
    """timm's `SplitAttn.forward` without its five-dimensional views, which would end the
    channels_last layout for all later layers."""
    image = self.act0(self.drop(self.bn0(self.conv(image))))
    parts = image.chunk(self.radix, dim=1)
    gap = torch.stack([part.mean((2, 3), keepdim=True) for part in parts]).sum(dim=0)
    weights = self.rsoftmax(self.fc2(self.act1(self.bn1(self.fc1(gap))))).view(len(image), -1, 1, 1)
    found = [
        part * weight for part, weight in zip(parts, weights.chunk(self.radix, dim=1), strict=True)
    ]
    total: Tensor = sum(found[1:], found[0])
    return total
