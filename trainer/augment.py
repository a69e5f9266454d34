"""Augmentation on the device, per batch: power transform, stripes, mixup. Knows no files and no network.

Nothing here waits for the device: numbers of the whole batch are drawn on the host, those per sample on the device.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainer.model import GREY_MAX
from trainer.recipe import Augment

# PANNs (Kong et al. 2020, torchlibrosa SpecAugmentation): two stripes each of up to 8 of 64 mel bands and up to 64
# frames of 10 ms; the same share of the bands and the same time here: 128 bands, frames of 25 ms.
STRIPES = 2
STRIPE_BANDS_MAX = 16
STRIPE_FRAMES_MAX = 26


@dataclass(frozen=True)
class Dice:
    """Random numbers of one epoch: reproducible from seed and epoch alone, so that a resumed run repeats them."""

    host: np.random.Generator
    device: torch.Generator


def power_transform(image: Tensor, recipe: Augment, dice: Dice) -> Tensor:
    """`image` in [0, 1] to a random power: below 1 lifts the background, above 1 drowns it."""
    low, high = recipe.power
    if not recipe.power_each:
        return image.pow(float(dice.host.uniform(low, high)))
    drawn = torch.rand((len(image), 1, 1, 1), generator=dice.device, device=image.device)
    return image.pow(low + (high - low) * drawn)


def stripe_mask(length: int, width_max: int, samples: int, generator: torch.Generator) -> Tensor:
    """True where a sample keeps its image, `(samples, length)`: STRIPES stripes of 0 to width_max - 1 at random."""
    device = generator.device
    shape = (samples, STRIPES, 1)
    width = torch.randint(0, width_max, shape, generator=generator, device=device)
    start = (torch.rand(shape, generator=generator, device=device) * (length - width)).long()
    at = torch.arange(length, device=device)
    return ~((at >= start) & (at < start + width)).any(dim=1)


def stripes(image: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Black stripes in both directions on about `share` of the samples of `(n, 1, bands, frames)`."""
    samples, _, bands, frames = image.shape
    spared = torch.rand((samples, 1), generator=generator, device=image.device) >= share
    keep_bands = stripe_mask(bands, STRIPE_BANDS_MAX, samples, generator) | spared
    keep_frames = stripe_mask(frames, STRIPE_FRAMES_MAX, samples, generator) | spared
    return image * (keep_bands[:, None, :, None] & keep_frames[:, None, None, :])


def mixup(image: Tensor, target: Tensor, share: float, lam: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """As in the CIFAR-10 reference: one lambda per batch, images and targets mixed with those of a random partner;
    with binary cross-entropy the same as mixing the losses. About `share` of the samples are mixed."""
    samples = len(image)
    partner = torch.randperm(samples, generator=generator, device=image.device)
    mixed = torch.rand(samples, generator=generator, device=image.device) < share
    own = torch.where(mixed, lam, 1.0)
    image = image * own[:, None, None, None] + image[partner] * (1.0 - own)[:, None, None, None]
    return image, target * own[:, None] + target[partner] * (1.0 - own)[:, None]


def augment(grey: Tensor, target: Tensor, recipe: Augment, dice: Dice) -> tuple[Tensor, Tensor]:
    """A batch of uint8 images `(n, 1, bands, frames)` and targets `(n, species)` to float32 grey levels 0..255 and
    targets, augmented."""
    lam = float(dice.host.beta(recipe.mixup_alpha, recipe.mixup_alpha))
    image = power_transform(grey.float() / GREY_MAX, recipe, dice)
    if recipe.stripes:
        image = stripes(image, recipe.stripes, dice.device)
    if recipe.mixup:
        image, target = mixup(image, target, recipe.mixup, lam, dice.device)
    return image * GREY_MAX, target
