"""Augmentation: what is drawn has the distribution that the recipe says, and nothing else is touched."""

import numpy as np
import pytest
import torch

from trainer.augment import STRIPE_BANDS_MAX, STRIPE_FRAMES_MAX, STRIPES, Dice, augment, mixup, stripes
from trainer.recipe import Augment


def dice(seed: int = 0) -> Dice:
    return Dice(np.random.default_rng(seed), torch.Generator().manual_seed(seed))


def grey(samples: int, level: int = 128) -> torch.Tensor:
    return torch.full((samples, 1, 2, 3), level, dtype=torch.uint8)


def labels(samples: int, classes: int = 4) -> torch.Tensor:
    return torch.eye(classes)[torch.arange(samples) % classes]


def exponents(recipe: Augment, batches: int, samples: int) -> np.ndarray:
    """Exponents `(batches, samples)` that turn grey 128 into what came out."""
    roll = dice()
    found = [augment(grey(samples), labels(samples), recipe, roll)[0][:, 0, 0, 0].numpy() for _ in range(batches)]
    return np.log(np.array(found) / 255) / np.log(128 / 255)


def test_power_is_uniform_and_one_per_batch() -> None:
    found = exponents(Augment((0.5, 3.0), 0.0, 0.0), 400, 2)
    assert np.allclose(found[:, 0], found[:, 1], atol=1e-5)
    drawn = found[:, 0]
    assert drawn.min() >= 0.499
    assert drawn.max() <= 3.001
    assert abs(drawn.mean() - 1.75) < 0.12
    assert abs(np.quantile(drawn, 0.25) - 1.125) < 0.15


def test_power_each_draws_one_per_sample() -> None:
    found = exponents(Augment((0.5, 3.0), 0.0, 0.0, power_each=True), 4, 200)
    assert all(len(np.unique(row.round(5))) > 190 for row in found)
    assert 0.499 <= found.min() < 0.6 < 2.9 < found.max() <= 3.001
    assert abs(found.mean() - 1.75) < 0.1


def test_stripes_hit_their_share_in_both_directions() -> None:
    samples = 600
    image = stripes(torch.ones(samples, 1, 128, 281), 0.8, dice().device)[:, 0]
    black_bands = (image == 0).all(dim=2).sum(dim=1)
    black_frames = (image == 0).all(dim=1).sum(dim=1)
    spared = ((black_bands == 0) & (black_frames == 0)).float().mean()
    assert 0.15 < spared < 0.25
    assert black_bands.max() <= STRIPES * (STRIPE_BANDS_MAX - 1)
    assert black_frames.max() <= STRIPES * (STRIPE_FRAMES_MAX - 1)
    assert black_bands.float().mean() > 8
    assert black_frames.float().mean() > 12
    both = ((black_bands > 0) & (black_frames > 0)).float().mean()
    assert both > 0.7
    assert set(image.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_stripes_of_none_or_all(share: float) -> None:
    image = stripes(torch.ones(50, 1, 128, 281), share, dice().device)
    assert bool((image.amin(dim=(1, 2, 3)) == 1.0).all()) == (share == 0.0)


def test_mixup_mixes_labels_as_it_mixes_images() -> None:
    samples = 64
    target = labels(samples)
    image = target.argmax(dim=1).float()[:, None, None, None].expand(samples, 1, 4, 4).clone()
    mixed, mixed_target = mixup(image, target, 1.0, 0.7, dice().device)
    assert torch.allclose(mixed_target.sum(dim=1), torch.ones(samples))
    own = mixed_target[torch.arange(samples), target.argmax(dim=1)]
    assert ((own - 0.7).abs() < 1e-6).logical_or((own - 1.0).abs() < 1e-6).all()
    expected = (mixed_target * torch.arange(4.0)).sum(dim=1)
    assert torch.allclose(mixed[:, 0, 0, 0], expected, atol=1e-5)


def test_mixup_spares_the_others() -> None:
    samples = 400
    image = torch.rand(samples, 1, 2, 2)
    mixed, _ = mixup(image, labels(samples), 0.5, 0.5, dice().device)
    spared = (mixed == image).flatten(1).all(dim=1).float().mean()
    assert 0.4 < spared < 0.6


def test_lambda_is_one_per_batch_and_uniform_for_alpha_1() -> None:
    roll, recipe, drawn = dice(), Augment((1.0, 1.0), 0.0, 1.0), []
    for _ in range(300):
        _, target = augment(torch.zeros(8, 1, 2, 2, dtype=torch.uint8), torch.eye(8), recipe, roll)
        own = target.diagonal()
        lam = own[own < 1]
        assert torch.allclose(lam, lam[:1].expand(len(lam)))
        drawn += lam[:1].tolist()
    assert abs(np.mean(drawn) - 0.5) < 0.06
    assert abs(np.std(drawn) - 12**-0.5) < 0.04


def test_all_off_changes_nothing() -> None:
    image = torch.randint(0, 256, (8, 1, 128, 281), dtype=torch.uint8)
    out, target = augment(image, labels(8), Augment((1.0, 1.0), 0.0, 0.0), dice())
    assert torch.allclose(out, image.float(), atol=1e-3)
    assert torch.equal(target, labels(8))
    assert out.dtype == torch.float32


def test_the_same_dice_roll_the_same() -> None:
    recipe = Augment((0.5, 3.0), 0.8, 0.5, power_each=True)
    image = torch.randint(0, 256, (8, 1, 128, 281), dtype=torch.uint8)
    first, second = (augment(image, labels(8), recipe, dice(5)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
