"""Augmentation of batches on the device: backgrounds, power transform, stripes, mixup. Knows no
files and no network.

A batch is `(n, c, bands, frames)`: samples of c consecutive crops, mostly one. Nothing here waits
for the device: random numbers for the whole batch are drawn on the host, those for each sample on
the device.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from edge.contract.audio import GREY_MAX, POWER_FLOOR, TOP_DB, Ranges, mel_edges
from trainer.corpus.backgrounds import BackgroundSet
from trainer.recipe import Augment
from trainer.training.dataset import Ints, to_device

# PANNs (Kong et al. 2020, torchlibrosa SpecAugmentation) use two stripes each of up to 8 of 64 mel
# bands and up to 64 frames of 10 ms; here the same share of the bands and the same time: 128 bands,
# frames of 25 ms.
STRIPES = 2
STRIPE_BANDS_MAX = 16
STRIPE_FRAMES_MAX = 26
_FLAT_DB = 1e-3  # a smaller range is that of a constant image, which stays zero


@dataclass(frozen=True)
class Dice:
    """Random generators of one epoch, seeded by seed and epoch alone, so that a resumed run repeats
    them."""

    host: np.random.Generator
    device: torch.Generator


def mel_power(grey: Tensor, ranges: Tensor) -> Tensor:
    """Undo the stretch to grey levels: grey `(n, c, bands, frames)`, with the dB of grey 0 and of
    grey 255 `(n, c, 2)`, to mel power."""
    low = ranges[..., 0, None, None]
    high = ranges[..., 1, None, None]
    return torch.pow(10.0, (low + grey * ((high - low) / GREY_MAX)) / 10.0)


@cache
def _band_width(device: torch.device) -> Tensor:
    """Width of every mel band (Hz), copied to the device once: copies from pageable memory wait for
    the device."""
    edges = mel_edges()
    return torch.from_numpy((edges[2:] - edges[:-2]).astype(np.float32)).to(device)


def sound_power(power: Tensor) -> Tensor:
    """Mean power of the sound of samples `(n, c, bands, frames)`, up to a constant, as `(n, 1, 1,
    1)`. Slaney's area norm makes the power of a band a density; weighted by their widths, the bands
    add up to the power of the waveform."""
    width = _band_width(power.device)[:, None]
    return (power * width).sum(dim=2, keepdim=True).mean(dim=(1, 3), keepdim=True)


def mix_db(
    grey: Tensor, ranges: Tensor, other: Tensor, other_ranges: Tensor, snr_db: Tensor
) -> Tensor:
    """Levels in dB of the sounds of `grey` `(n, c, bands, frames)` mixed with backgrounds `other`
    `(n, 1, bands, frames)`, floored as in the contract. `snr_db` `(n, 1, 1, 1)` is the ratio of the
    powers of the waveforms over the whole sample.

    The powers of independent sounds add up (on average), so no waveform is needed.
    """
    sound = mel_power(grey, ranges)
    noise = mel_power(other, other_ranges)
    gain = sound_power(sound) / sound_power(noise) * torch.pow(10.0, -snr_db / 10.0)
    # Loud sound over very faint noise would make it infinite.
    gain = gain.clamp_max(torch.finfo(gain.dtype).max)
    db = 10.0 * torch.log10((sound + gain * noise).clamp_min(POWER_FLOOR))
    return db.maximum(db.amax(dim=(2, 3), keepdim=True) - TOP_DB)


def stretch(db: Tensor) -> Tensor:
    """Levels in dB `(n, c, bands, frames)` to grey levels 0..255 in float32, not rounded again: the
    mixed images were."""
    low = db.amin(dim=(2, 3), keepdim=True)
    high = db.amax(dim=(2, 3), keepdim=True)
    return (db - low) * (GREY_MAX / (high - low).clamp_min(_FLAT_DB))


class Backgrounds:
    """Backgrounds in device memory, with the ranges of all crops that they are mixed into `(N,
    2)`."""

    def __init__(self, found: BackgroundSet, ranges: Ranges, device: torch.device) -> None:
        self._images = torch.from_numpy(found.images).to(device)
        self._ranges = torch.from_numpy(found.ranges).to(device)
        self._crop_ranges = torch.from_numpy(ranges).to(device)
        self._real = found.real
        self._device = device

    def add(
        self, grey: Tensor, target: Tensor, rows: Ints, recipe: Augment, nothing: float, dice: Dice
    ) -> tuple[Tensor, Tensor]:
        """Mix pink noise into about `recipe.pink` of the samples `(n, c, bands, frames)` and a real
        background into about `recipe.nocall` of them; about `recipe.empty` become a background
        alone, with targets `nothing`. `rows` `(n, c)` are their crops. A sample gets at most one
        background, at one SNR. If there are no real ones, pink noise is used."""
        at, alone, db = self.mix(grey, rows, recipe, dice)
        return grey.float().index_copy(0, at, stretch(db)), target.index_fill(0, alone, nothing)

    def mix(
        self, grey: Tensor, rows: Ints, recipe: Augment, dice: Dice
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Indices of the samples that `add` changes, indices of those that become a background
        alone, and the levels in dB `(changed, c, bands, frames)` of the changed samples."""
        draw = dice.host.random(len(grey))
        chosen = np.flatnonzero(draw < recipe.pink + recipe.nocall + recipe.empty)
        real = (draw[chosen] >= recipe.pink) & (self._real > 0)
        low = np.where(real, 0, self._real)
        high = np.where(real, self._real, len(self._images))
        other = to_device(dice.host.integers(low, high), self._device)
        ratio = dice.host.uniform(*recipe.snr_db, len(chosen))
        alone = draw[chosen] >= recipe.pink + recipe.nocall
        ratio[alone] = -TOP_DB
        snr_db = to_device(ratio.astype(np.float32)[:, None, None, None], self._device)
        at = to_device(chosen, self._device)
        ranges = self._crop_ranges[to_device(rows[chosen], self._device)]
        db = mix_db(
            grey[at].float(),
            ranges,
            self._images[other][:, None],
            self._ranges[other][:, None],
            snr_db,
        )
        return at, to_device(chosen[alone], self._device), db


def power_transform(image: Tensor, recipe: Augment, dice: Dice) -> Tensor:
    """Raise an `image` in [0, 1] to a random power: below 1 raises the background, above 1
    suppresses it."""
    low, high = recipe.power
    if not recipe.power_each:
        return image.pow(float(dice.host.uniform(low, high)))
    drawn = torch.rand((len(image), 1, 1, 1), generator=dice.device, device=image.device)
    return image.pow(low + (high - low) * drawn)


def stripe_mask(length: int, width_max: int, samples: int, generator: torch.Generator) -> Tensor:
    """Random mask `(samples, length)`, False in STRIPES stripes with widths of 0 to width_max -
    1."""
    device = generator.device
    shape = (samples, STRIPES, 1)
    width = torch.randint(0, width_max, shape, generator=generator, device=device)
    start = (torch.rand(shape, generator=generator, device=device) * (length - width)).long()
    at = torch.arange(length, device=device)
    return ~((at >= start) & (at < start + width)).any(dim=1)


def stripes(image: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Draw black stripes in both directions on about `share` of the samples `(n, c, bands,
    frames)`: the same bands in all crops of a sample, different frames in each."""
    samples, crops, bands, frames = image.shape
    spared = torch.rand((samples, 1), generator=generator, device=image.device) >= share
    keep_bands = stripe_mask(bands, STRIPE_BANDS_MAX, samples, generator) | spared
    keep_frames = stripe_mask(frames, STRIPE_FRAMES_MAX, samples * crops, generator).view(
        samples, crops, frames
    )
    keep_frames = keep_frames | spared[:, None]
    return image * (keep_bands[:, None, :, None] & keep_frames[:, :, None, :])


def mixup(
    image: Tensor, target: Tensor, share: float, lam: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mixup as in its CIFAR-10 reference: one lambda per batch; images and targets are mixed with
    those of a random partner, which with binary cross-entropy equals mixing the losses. About
    `share` of the samples are mixed."""
    samples = len(image)
    partner = torch.randperm(samples, generator=generator, device=image.device)
    mixed = torch.rand(samples, generator=generator, device=image.device) < share
    own = torch.where(mixed, lam, 1.0)
    image = image * own[:, None, None, None] + image[partner] * (1.0 - own)[:, None, None, None]
    return image, target * own[:, None] + target[partner] * (1.0 - own)[:, None]


def augment(grey: Tensor, target: Tensor, recipe: Augment, dice: Dice) -> tuple[Tensor, Tensor]:
    """Augment a batch of grey images `(n, c, bands, frames)` and targets `(n, species)`. Returns
    grey levels 0..255 in float32, and targets."""
    lam = float(dice.host.beta(recipe.mixup_alpha, recipe.mixup_alpha))
    image = power_transform(grey.float() / GREY_MAX, recipe, dice)
    if recipe.stripes:
        image = stripes(image, recipe.stripes, dice.device)
    if recipe.mixup:
        image, target = mixup(image, target, recipe.mixup, lam, dice.device)
    return image * GREY_MAX, target
