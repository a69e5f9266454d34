"""The networks: any timm architecture on the contract's grey image. Knows no training."""

from pathlib import Path
from typing import Any

import safetensors
import timm
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import logging as hub_logging
from torch import Tensor, nn
from torch.nn import functional

from edge.contract.errors import ConfigError
from trainer.recipe import Normalise

GREY_MAX = 255.0
_VARIANCE_MIN = 1e-4  # one grey level squared is 1.5e-5
_WEIGHTS = "model.safetensors"  # of a model on the Hugging Face hub; a .bin beside it is a pickle and never read


def normalise_bands(image: Tensor) -> Tensor:
    """`(N, 1, bands, frames)`: every band without its mean over time, the whole to unit deviation. Steady noise and the
    colour of a microphone go, what sounds on and off stays; a black image stays black."""
    image = image - image.mean(dim=3, keepdim=True)
    return image / (image.square().mean(dim=(1, 2, 3), keepdim=True) + _VARIANCE_MIN).sqrt()


class Network(nn.Module):
    """Grey images `(N, 1, 128, 281)`, float32 0..255, to logits `(N, classes)`; the scaling is part of the graph."""

    def __init__(self, body: nn.Module, stem_pool: int, normalise: Normalise) -> None:
        super().__init__()
        self.body = body
        self.stem_pool = stem_pool
        self.normalise = normalise

    def forward(self, grey: Tensor) -> Tensor:
        image = grey / GREY_MAX
        if self.stem_pool > 1:
            image = functional.avg_pool2d(image, self.stem_pool)
        if self.normalise == "bands":
            image = normalise_bands(image)
        logits: Tensor = self.body(image)
        return logits


def build_network(
    architecture: str,
    classes: int,
    *,
    stem_pool: int = 1,
    normalise: Normalise = "none",
    pretrained: Path | bool = False,
) -> nn.Module:
    """A timm network with one input channel and `classes` outputs, in training mode on the CPU.

    `stem_pool` averages the image over so many pixels first, `normalise` is `normalise_bands` or nothing.
    `pretrained`: True takes the ImageNet weights from the Hugging Face hub (or its cache), a folder takes
    `<architecture>.safetensors` from there; the stem's three channels are summed, the classifier is new. Raises
    ConfigError if the architecture is unknown or the weights are not to be had: never silently random.
    """
    check_architecture(architecture)
    options: dict[str, Any] = {"in_chans": 1, "num_classes": classes}
    if pretrained is False:
        return Network(timm.create_model(architecture, **options), stem_pool, normalise)
    file = find_weights(architecture, pretrained)
    try:
        overlay = {"file": str(file)}
        body = timm.create_model(architecture, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except (RuntimeError, OSError, KeyError, safetensors.SafetensorError) as error:
        raise ConfigError(f"{file}: not the weights of {architecture}: {str(error).splitlines()[0]}") from error
    return Network(body, stem_pool, normalise)


def check_architecture(architecture: str) -> None:
    """Raise ConfigError unless timm has this architecture."""
    if not timm.is_model(architecture):
        close = timm.list_models(f"*{architecture.split('.')[0][:8]}*")[:5]
        hint = f"; close: {', '.join(close)}" if close else ""
        raise ConfigError(f"architecture {architecture!r}: unknown to timm {timm.__version__}{hint}")


def find_weights(architecture: str, source: Path | bool) -> Path:
    """The safetensors file with the ImageNet weights. Raises ConfigError saying how to get it."""
    advice = f"put {architecture}.safetensors into a folder and give it as --weights FOLDER"
    if isinstance(source, Path):
        file = source / f"{architecture}.safetensors"
        if not file.is_file():
            raise ConfigError(f"{file}: no such file; the recipe wants ImageNet weights (pretrained: true): {advice}")
        return file
    config = timm.get_pretrained_cfg(architecture)
    if config is None or not config.hf_hub_id:
        raise ConfigError(f"{architecture}: timm knows no ImageNet weights; set pretrained: false, or {advice}")
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # a machine without a network gets our one line, not its six retries
    try:
        return Path(hf_hub_download(config.hf_hub_id, _WEIGHTS))
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = str(error).split("\n")[0].split(". ")[0]
        raise ConfigError(f"ImageNet weights of {architecture} not to be had ({reason}); {advice}") from error
