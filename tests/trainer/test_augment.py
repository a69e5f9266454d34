"""Augmentation: what is drawn has the distribution that the recipe says, and nothing else is
touched."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.devices import DEVICES, dice
from trainer.recipe import Augment
from trainer.training.augment import (
    STRIPE_BANDS_MAX,
    STRIPE_FRAMES_MAX,
    STRIPES,
    augment,
    mixup,
    stripes,
)

pytestmark = pytest.mark.parametrize("device", DEVICES)


def grey(device: str, samples: int, crops: int = 1, level: int = 128) -> torch.Tensor:
    return torch.full((samples, crops, 2, 3), level, dtype=torch.uint8, device=device)


def labels(device: str, samples: int, classes: int = 4) -> torch.Tensor:
    return torch.eye(classes, device=device)[torch.arange(samples) % classes]


def exponents(
    device: str, recipe: Augment, batches: int, samples: int, crops: int = 1
) -> np.ndarray:
    """Exponents `(batches, samples, crops)` that turn grey 128 into what came out."""
    roll = dice(device)
    image = grey(device, samples, crops)
    target = labels(device, samples)
    found = [
        augment(image, target, recipe, roll)[0][:, :, 0, 0].cpu().numpy() for _ in range(batches)
    ]
    return np.log(np.array(found) / 255) / np.log(128 / 255)


def test_power_is_uniform_and_one_per_batch(device: str) -> None:
    found = exponents(device, Augment((0.5, 3.0), 0.0, 0.0), 400, 2)
    assert np.allclose(found[:, 0], found[:, 1], atol=1e-5)
    drawn = found[:, 0, 0]
    assert drawn.min() >= 0.499
    assert drawn.max() <= 3.001
    assert abs(drawn.mean() - 1.75) < 0.12
    assert abs(np.quantile(drawn, 0.25) - 1.125) < 0.15


def test_power_each_draws_one_per_sample(device: str) -> None:
    found = exponents(device, Augment((0.5, 3.0), 0.0, 0.0, power_each=True), 4, 200, crops=2)
    assert np.allclose(found[..., 0], found[..., 1], atol=1e-5)  # a clip is one sample
    found = found[..., 0]
    assert all(len(np.unique(row.round(5))) > 190 for row in found)
    assert 0.499 <= found.min() < 0.6 < 2.9 < found.max() <= 3.001
    assert abs(found.mean() - 1.75) < 0.1


def test_stripes_hit_their_share_in_both_directions(device: str) -> None:
    samples = 600
    image = stripes(torch.ones(samples, 1, 128, 281, device=device), 0.8, dice(device).device)[
        :, 0
    ].cpu()
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


def test_stripes_of_a_clip_have_the_same_bands_and_other_frames(device: str) -> None:
    image = stripes(torch.ones(60, 3, 128, 281, device=device), 0.5, dice(device).device)
    bands = (image == 0).all(dim=3)
    frames = (image == 0).all(dim=2)
    assert (bands == bands[:, :1]).all()
    striped = frames.any(dim=(1, 2)) | bands.any(dim=(1, 2))
    assert 15 < int(striped.sum()) < 45
    assert float((frames[striped][:, 0] != frames[striped][:, 1]).any(dim=1).float().mean()) > 0.8


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_stripes_of_none_or_all(device: str, share: float) -> None:
    image = stripes(torch.ones(50, 1, 128, 281, device=device), share, dice(device).device)
    assert bool((image.amin(dim=(1, 2, 3)) == 1.0).all()) == (share == 0.0)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.integers(1, 3), st.integers(0, 99))
def test_mixup_mixes_labels_as_it_mixes_images(
    device: str, share: float, lam: float, crops: int, seed: int
) -> None:
    """Images that are their label's number in all pixels stay what their labels say; labels keep
    their sum."""
    target = labels(device, 64)
    image = target.argmax(dim=1).float()[:, None, None, None].expand(64, crops, 4, 4).clone()
    mixed, mixed_target = mixup(image, target, share, lam, dice(device, seed).device)
    assert torch.allclose(mixed_target.sum(dim=1).cpu(), torch.ones(64), atol=1e-5)
    own = mixed_target[torch.arange(64), target.argmax(dim=1)]
    partner_differs = own < 1
    assert torch.allclose(own[partner_differs].cpu(), torch.tensor(lam), atol=1e-5)
    expected = (mixed_target * torch.arange(4.0, device=device)).sum(dim=1)
    assert torch.allclose(mixed, expected[:, None, None, None].expand_as(mixed), atol=1e-5)


def test_mixup_spares_the_others(device: str) -> None:
    image = torch.rand(400, 1, 2, 2, device=device)
    mixed, _ = mixup(image, labels(device, 400), 0.5, 0.5, dice(device).device)
    spared = (mixed == image).flatten(1).all(dim=1).float().mean()
    assert 0.4 < spared < 0.6


def test_lambda_is_one_per_batch_and_uniform_for_alpha_1(device: str) -> None:
    roll = dice(device)
    recipe = Augment((1.0, 1.0), 0.0, 1.0)
    drawn = []
    image = torch.zeros(8, 1, 2, 2, dtype=torch.uint8, device=device)
    target = torch.eye(8, device=device)
    for _ in range(300):
        own = augment(image, target, recipe, roll)[1].diagonal()
        lam = own[own < 1]
        assert torch.allclose(lam, lam[:1].expand(len(lam)))
        drawn += lam[:1].tolist()
    assert abs(np.mean(drawn) - 0.5) < 0.06
    assert abs(np.std(drawn) - 12**-0.5) < 0.04


@pytest.mark.parametrize("crops", [1, 3])
def test_all_off_changes_nothing(device: str, crops: int) -> None:
    image = torch.randint(0, 256, (8, crops, 128, 281), dtype=torch.uint8, device=device)
    target = labels(device, 8)
    out, found = augment(image, target, Augment((1.0, 1.0), 0.0, 0.0), dice(device))
    assert torch.allclose(out, image.float(), atol=1e-3)
    assert torch.equal(found, target)
    assert out.dtype == torch.float32


def test_the_same_dice_roll_the_same(device: str) -> None:
    recipe = Augment((0.5, 3.0), 0.8, 0.5, power_each=True)
    image = torch.randint(0, 256, (8, 1, 128, 281), dtype=torch.uint8, device=device)
    first, second = (augment(image, labels(device, 8), recipe, dice(device, 5)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
