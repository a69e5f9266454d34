"""Augmentation on the device, per batch: other sounds, power transform, stripes, mixup. Knows no
files and no network.

A batch is `(n, c, bands, frames)`: samples of c crops in a row, mostly one. Nothing here waits for
the device: numbers of the whole batch are drawn on the host, those per sample on the device.
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

# PANNs (Kong et al. 2020, torchlibrosa SpecAugmentation): two stripes each of up to 8 of 64 mel
# bands and up to 64 frames of 10 ms; the same share of the bands and the same time here: 128 bands,
# frames of 25 ms.
STRIPES = 2
STRIPE_BANDS_MAX = 16
STRIPE_FRAMES_MAX = 26
_FLAT_DB = 1e-3  # a range below is that of a constant image: all zeros


@dataclass(frozen=True)
class Dice:
    """Random numbers of one epoch: reproducible from seed and epoch alone, so that a resumed run
    repeats them."""

    host: np.random.Generator
    device: torch.Generator


def mel_power(grey: Tensor, ranges: Tensor) -> Tensor:
    """What the stretch to grey levels took away is put back: grey `(n, c, bands, frames)` and the
    dB of grey 0 and of grey 255, `(n, c, 2)`, to mel power."""
    low = ranges[..., 0, None, None]
    high = ranges[..., 1, None, None]
    return torch.pow(10.0, (low + grey * ((high - low) / GREY_MAX)) / 10.0)


@cache
def _band_width(device: torch.device) -> Tensor:
    """Width of every mel band (Hz), copied to the device once: a copy from ordinary memory would
    wait for it."""
    edges = mel_edges()
    return torch.from_numpy((edges[2:] - edges[:-2]).astype(np.float32)).to(device)


def sound_power(power: Tensor) -> Tensor:
    """Mean power of the sound of samples `(n, c, bands, frames)`, up to a constant, as `(n, 1, 1,
    1)`. Slaney's area norm makes a band's power a density, so each counts by its width; then the
    bands add up to the waveform's power."""
    width = _band_width(power.device)[:, None]
    return (power * width).sum(dim=2, keepdim=True).mean(dim=(1, 3), keepdim=True)


def mix_db(
    grey: Tensor, ranges: Tensor, other: Tensor, other_ranges: Tensor, snr_db: Tensor
) -> Tensor:
    """The dB of the sounds of `grey` `(n, c, bands, frames)` with those of `other` `(n, 1, bands,
    frames)` behind them, floored as in the contract. `snr_db` `(n, 1, 1, 1)` is the ratio of the
    waveforms' powers over the whole sample.

    The powers of sounds that know nothing of each other add up (in the mean), so no waveform is
    needed.
    """
    sound = mel_power(grey, ranges)
    noise = mel_power(other, other_ranges)
    gain = sound_power(sound) / sound_power(noise) * torch.pow(10.0, -snr_db / 10.0)
    # of the loudest sound over the faintest noise it is infinite
    gain = gain.clamp_max(torch.finfo(gain.dtype).max)
    db = 10.0 * torch.log10((sound + gain * noise).clamp_min(POWER_FLOOR))
    return db.maximum(db.amax(dim=(2, 3), keepdim=True) - TOP_DB)


def stretch(db: Tensor) -> Tensor:
    """dB `(n, c, bands, frames)` to grey levels 0..255, float32, not cut to integers: those that
    were mixed were."""
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
        """Mix pink noise into about `recipe.pink` of the samples `(n, c, bands, frames)`, a real
        background into about `recipe.nocall` others; about `recipe.empty` become a background
        alone, with targets `nothing`. `rows` `(n, c)` are their crops. A sample has one background
        at one ratio. Without real ones pink noise stands in."""
        at, alone, db = self.mix(grey, rows, recipe, dice)
        return grey.float().index_copy(0, at, stretch(db)), target.index_fill(0, alone, nothing)

    def mix(
        self, grey: Tensor, rows: Ints, recipe: Augment, dice: Dice
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Which samples `add` changes, which of them become a background alone, and the dB
        `(changed, c, bands, frames)` of those that change."""
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
    """`image` in [0, 1] to a random power: below 1 lifts the background, above 1 drowns it."""
    low, high = recipe.power
    if not recipe.power_each:
        return image.pow(float(dice.host.uniform(low, high)))
    drawn = torch.rand((len(image), 1, 1, 1), generator=dice.device, device=image.device)
    return image.pow(low + (high - low) * drawn)


def stripe_mask(length: int, width_max: int, samples: int, generator: torch.Generator) -> Tensor:
    """True where a sample keeps its image, `(samples, length)`: STRIPES stripes of 0 to width_max -
    1 at random."""
    device = generator.device
    shape = (samples, STRIPES, 1)
    width = torch.randint(0, width_max, shape, generator=generator, device=device)
    start = (torch.rand(shape, generator=generator, device=device) * (length - width)).long()
    at = torch.arange(length, device=device)
    return ~((at >= start) & (at < start + width)).any(dim=1)


def stripes(image: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Black stripes in both directions on about `share` of the samples of `(n, c, bands, frames)`:
    the same bands in all crops of a sample, other frames in each."""
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
    """As in the CIFAR-10 reference: one lambda per batch, images and targets mixed with those of a
    random partner; with binary cross-entropy the same as mixing the losses. About `share` of the
    samples are mixed."""
    samples = len(image)
    partner = torch.randperm(samples, generator=generator, device=image.device)
    mixed = torch.rand(samples, generator=generator, device=image.device) < share
    own = torch.where(mixed, lam, 1.0)
    image = image * own[:, None, None, None] + image[partner] * (1.0 - own)[:, None, None, None]
    return image, target * own[:, None] + target[partner] * (1.0 - own)[:, None]


def augment(grey: Tensor, target: Tensor, recipe: Augment, dice: Dice) -> tuple[Tensor, Tensor]:
    """A batch of grey images `(n, c, bands, frames)` and targets `(n, species)` to float32 grey
    levels 0..255 and targets, augmented."""
    lam = float(dice.host.beta(recipe.mixup_alpha, recipe.mixup_alpha))
    image = power_transform(grey.float() / GREY_MAX, recipe, dice)
    if recipe.stripes:
        image = stripes(image, recipe.stripes, dice.device)
    if recipe.mixup:
        image, target = mixup(image, target, recipe.mixup, lam, dice.device)
    return image * GREY_MAX, target
