"""Networks: any timm architecture on the grey image of the contract, and the members of a run.
Knows no training."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import safetensors
import timm
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import logging as hub_logging
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn import functional

from edge.contract.audio import GREY_MAX, IMAGE_SHAPE
from edge.contract.bundle import file_sha256
from edge.contract.errors import ConfigError, CorpusError
from trainer.book import ALL_STAGES
from trainer.networks.checkpoint import read_weights
from trainer.recipe import Normalise
from trainer.run import WEIGHTS, Run

_VARIANCE_MIN = 1e-4  # one grey level squared is 1.5e-5
# 0.449: mean of the three channels, which the folded stem takes as one.
_IMAGENET_MEAN = sum(IMAGENET_DEFAULT_MEAN) / 3
_IMAGENET_STD = sum(IMAGENET_DEFAULT_STD) / 3  # 0.226
# File of a model on the Hugging Face hub; a .bin beside it is a pickle and never read.
_WEIGHTS = "model.safetensors"


def normalise_bands(image: Tensor) -> Tensor:
    """Normalise `(N, 1, bands, frames)`: subtract from every band its mean over time, and scale the
    image to unit deviation. Removes steady noise and the frequency response of a microphone;
    changing sounds remain. A black image stays black."""
    image = image - image.mean(dim=3, keepdim=True)
    return image / (image.square().mean(dim=(1, 2, 3), keepdim=True) + _VARIANCE_MIN).sqrt()


def normalise_standard(image: Tensor) -> Tensor:
    """Normalise `(N, 1, bands, frames)`: each image to zero mean and unit deviation. A black image
    stays black."""
    image = image - image.mean(dim=(2, 3), keepdim=True)
    return image / (image.square().mean(dim=(2, 3), keepdim=True) + _VARIANCE_MIN).sqrt()


def normalise_imagenet(image: Tensor) -> Tensor:
    """Normalise with the constants of ImageNet training (timm's IMAGENET_DEFAULT_MEAN and _STD)."""
    return (image - _IMAGENET_MEAN) / _IMAGENET_STD


_NORMALISE: dict[Normalise, Callable[[Tensor], Tensor]] = {
    "none": lambda image: image,
    "bands": normalise_bands,
    "standard": normalise_standard,
    "imagenet": normalise_imagenet,
}


class Network(nn.Module):
    """Grey images `(N, 1, 128, 281)`, float32 0..255, to logits `(N, classes)`; the scaling is part
    of the graph.

    Samples of c crops, `(N, c, 128, 281)`, have their feature maps joined along time before the
    head, as in the second-placed solution of 2021: a network trained on long clips can score short
    ones.
    """

    def __init__(self, body: nn.Module, stem_pool: int, normalise: Normalise) -> None:
        super().__init__()
        self.body = body
        self.stem_pool = stem_pool
        self.normalise = normalise

    def forward(self, grey: Tensor) -> Tensor:
        body: Any = self.body  # a timm model
        samples, crops = grey.shape[:2]
        image = (grey if crops == 1 else grey.flatten(0, 1)[:, None]) / GREY_MAX
        if self.stem_pool > 1:
            image = functional.avg_pool2d(image, self.stem_pool)
        image = _NORMALISE[self.normalise](image)
        if crops == 1:
            logits: Tensor = body(image)
            return logits
        maps = body.forward_features(image).unflatten(0, (samples, crops))
        joined: Tensor = body.forward_head(maps.movedim(1, 3).flatten(3, 4))
        return joined


class _Described(Protocol):
    """A record that describes its network: MemberInfo, StudentInfo."""

    @property
    def architecture(self) -> str: ...
    @property
    def classes(self) -> int: ...
    @property
    def stem_pool(self) -> int: ...
    @property
    def normalise(self) -> Normalise: ...


@dataclass(frozen=True)
class NetworkSpec:
    """Everything but the weights: a timm architecture with one input channel and `classes` outputs;
    `stem_pool` is the factor of average pooling before the network, `normalise` the normalisation
    after it."""

    architecture: str
    classes: int
    stem_pool: int = 1
    normalise: Normalise = "none"

    @classmethod
    def of(cls, info: _Described) -> "NetworkSpec":
        """The network that a finished member or student has."""
        return cls(info.architecture, info.classes, info.stem_pool, info.normalise)


def build_network(spec: NetworkSpec, pretrained: Path | bool = False) -> nn.Module:
    """A new network in training mode on the CPU.

    `pretrained`: True takes the ImageNet weights from the Hugging Face hub (or its cache), a folder
    takes `<architecture>.safetensors` from there; the stem's three channels are summed, the
    classifier is new. Raises ConfigError if the architecture is unknown or the weights are
    unavailable: never falls back to random ones.
    """
    check_architecture(spec.architecture)
    options: dict[str, Any] = {"in_chans": 1, "num_classes": spec.classes}
    if pretrained is False:
        body = timm.create_model(spec.architecture, **options)
        return Network(body, spec.stem_pool, spec.normalise)
    file = find_weights(spec.architecture, pretrained)
    try:
        overlay = {"file": str(file)}
        body = timm.create_model(
            spec.architecture, pretrained=True, pretrained_cfg_overlay=overlay, **options
        )
    except (RuntimeError, OSError, KeyError, safetensors.SafetensorError) as error:
        raise ConfigError(
            f"{file}: not the weights of {spec.architecture}: {str(error).splitlines()[0]}"
        ) from error
    return Network(body, spec.stem_pool, spec.normalise)


def check_architecture(architecture: str) -> None:
    """Raise ConfigError unless timm has this architecture."""
    if not timm.is_model(architecture):
        close = timm.list_models(f"*{architecture.split('.')[0][:8]}*")[:5]
        hint = f"; close: {', '.join(close)}" if close else ""
        raise ConfigError(
            f"architecture {architecture!r}: unknown to timm {timm.__version__}{hint}"
        )


def check_clips(architecture: str) -> None:
    """Raise ConfigError unless the architecture has feature maps `(n, channels, bands, frames)`, as
    needed to join those of a clip."""
    maps: object = None
    with torch.device("meta"):  # shapes alone: no weights, no arithmetic
        body: Any = timm.create_model(architecture, in_chans=1, num_classes=2).eval()
        if hasattr(body, "forward_features") and hasattr(body, "forward_head"):
            # Some transformers take only images of their own size.
            with suppress(AssertionError, RuntimeError):
                maps = body.forward_features(torch.zeros(1, 1, *IMAGE_SHAPE))
    if not isinstance(maps, Tensor) or maps.ndim != 4 or maps.shape[1] != body.num_features:
        raise ConfigError(
            f"architecture {architecture!r}: gives no feature maps (n, channels, bands, frames) of "
            "our images, which clip_crops above 1 needs; use a convolutional network, or "
            "clip_crops: 1"
        )


def find_weights(architecture: str, source: Path | bool) -> Path:
    """The safetensors file with the ImageNet weights. Raises ConfigError with advice on how to get
    it."""
    advice = f"put {architecture}.safetensors into a folder and give it as --weights FOLDER"
    if isinstance(source, Path):
        file = source / f"{architecture}.safetensors"
        if not file.is_file():
            raise ConfigError(
                f"{file}: no such file; the recipe needs ImageNet weights (pretrained: true): "
                f"{advice}"
            )
        return file
    config = timm.get_pretrained_cfg(architecture)
    if config is None or not config.hf_hub_id:
        raise ConfigError(
            f"{architecture}: timm knows no ImageNet weights; set pretrained: false, or {advice}"
        )
    # Without a network connection, show our one line instead of its six retries.
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        return Path(hf_hub_download(config.hf_hub_id, _WEIGHTS))
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = str(error).split("\n")[0].split(". ")[0]
        raise ConfigError(
            f"ImageNet weights of {architecture} are not available ({reason}); {advice}"
        ) from error


def load_network(run: Run, name: str) -> nn.Module:
    """Load a member's network in eval mode, on the CPU, in float32. Raises CorpusError naming the
    file."""
    info = run.member(name)
    path = run.member_folder(name) / WEIGHTS
    if info.files and path.is_file() and file_sha256(path) != info.files[WEIGHTS]:
        raise CorpusError(f"{path}: is damaged: it is not what was trained; {ALL_STAGES}")
    network = build_network(NetworkSpec.of(info))
    read_weights(path, network)
    return network.eval()
