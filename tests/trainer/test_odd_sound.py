"""No recording, however odd, poisons a training: it is refused with a reason, or its images, mixed
with any other's, and the loss on them are finite numbers."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.nn import functional

from edge.contract.audio import CROP_SAMPLES, RATE_HZ, TOP_DB, Samples, mel_images, training_crops
from edge.contract.errors import RecordingError
from tests.helpers.devices import dice
from trainer.corpus.backgrounds import BackgroundSet, pink_noise
from trainer.corpus.recordings import probe_audio, read_sound
from trainer.networks.model import NetworkSpec, build_network
from trainer.recipe import Augment
from trainer.training.augment import Backgrounds, augment, mix_db, stretch

RANDOM = np.random.default_rng(1)
USUAL: Samples = RANDOM.normal(0, 0.1, 8 * RATE_HZ).astype(np.float32)
SECONDS = np.arange(8 * RATE_HZ) / RATE_HZ
INT32 = np.float32(2.0**31)

TAKEN: dict[str, tuple[Samples, int]] = {
    "silent": (np.zeros(8 * RATE_HZ, np.float32), RATE_HZ),
    "constant": (np.full(8 * RATE_HZ, 0.7, np.float32), RATE_HZ),
    "clipped": (np.sign(USUAL), RATE_HZ),
    "overshoots": (USUAL * 12, RATE_HZ),
    "in units of 16 bits": (USUAL * np.float32(32_768), RATE_HZ),
    "as loud as 32 bits count": (np.sign(USUAL) * INT32, RATE_HZ),
    "a buzz as loud": (
        np.sign(np.sin(2 * np.pi * 20 * SECONDS)).astype(np.float32) * INT32,
        RATE_HZ,
    ),
    "as loud and resampled": (np.sign(USUAL) * INT32, 48_000),
    "a constant as loud": (np.full(8 * RATE_HZ, INT32), RATE_HZ),
    "one loud sample": ((SECONDS == 4).astype(np.float32) * INT32, RATE_HZ),
    "smaller than numbers": (USUAL * np.float32(1e-38), RATE_HZ),
    "hardly more than silence": (USUAL * np.float32(2e-5), RATE_HZ),
    "short": (USUAL[:6400], RATE_HZ),
    "eight channels": (np.repeat(USUAL[:96_000, None], 8, axis=1), RATE_HZ),
    "a megahertz": (USUAL, 1_000_000),
    "not a number after 3 s": (np.where(SECONDS < 3, USUAL, np.nan).astype(np.float32), RATE_HZ),
    "3.4e38 after 3 s": (np.where(SECONDS < 3, USUAL, 3.4e38).astype(np.float32), RATE_HZ),
}
REFUSED: dict[str, tuple[Samples, int, str]] = {
    "empty": (USUAL[:0], RATE_HZ, "0 samples"),
    "one sample": (USUAL[:1], RATE_HZ, "too short"),
    "a hertz": (USUAL[:20_000], 1, "sample rate of 1 Hz"),
    "not a number": (
        np.full(8 * RATE_HZ, np.nan, np.float32),
        RATE_HZ,
        "samples that are not numbers",
    ),
    "endless": (np.full(8 * RATE_HZ, -np.inf, np.float32), RATE_HZ, "samples that are not numbers"),
    "1e30": (np.sign(USUAL) * np.float32(1e30), RATE_HZ, "1e+30, far beyond full scale"),
    "3.4e38": (
        np.full(8 * RATE_HZ, 3.4e38, np.float32),
        RATE_HZ,
        "samples of 3e+38, far beyond full scale",
    ),
}


def written(folder: Path, samples: Samples, rate_hz: int) -> Path:
    soundfile.write(folder / "x.wav", samples, rate_hz, subtype="FLOAT")
    return folder / "x.wav"


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_sound_is_refused_with_its_reason(name: str, tmp_path: Path) -> None:
    samples, rate_hz, reason = REFUSED[name]
    path = written(tmp_path, samples, rate_hz)
    probe_audio(path)  # never raises
    with pytest.raises(RecordingError, match=reason.replace("+", r"\+")):
        read_sound(path, CROP_SAMPLES)


def test_the_loss_is_finite_whatever_was_recorded_and_mixed(tmp_path: Path) -> None:
    """Every odd sound with every other and pink noise behind it, and alone, at the ends of what a
    recipe may ask."""
    crops = [
        training_crops(read_sound(written(tmp_path, *sound), CROP_SAMPLES))[:1]
        for sound in TAKEN.values()
    ]
    images, ranges = mel_images(np.concatenate(crops))
    assert np.isfinite(ranges).all()
    sounding = ranges[:, 1] > ranges[:, 0]
    pink, pink_ranges = mel_images(np.stack([pink_noise(0)]))
    for number in np.flatnonzero(sounding):
        other = torch.from_numpy(images[[number]])[:, None].float()
        other_ranges = torch.from_numpy(ranges[[number]])
        for ratio in (-TOP_DB, 60.0):
            db = mix_db(
                torch.from_numpy(images)[:, None].float(),
                torch.from_numpy(ranges)[:, None],
                *(other, other_ranges[:, None], torch.full((1, 1, 1, 1), ratio)),
            )
            assert torch.isfinite(stretch(db)).all(), (list(TAKEN)[number], ratio)
    behind = BackgroundSet(
        np.concatenate([images[sounding], pink]),
        np.concatenate([ranges[sounding], pink_ranges]),
        sounding.sum(),
        "",
    )
    backgrounds = Backgrounds(behind, ranges, torch.device("cpu"))
    grey = torch.from_numpy(images)[:, None]
    rows = np.arange(len(images))[:, None]
    target = torch.eye(3)[torch.arange(len(images)) % 3]
    torch.manual_seed(0)
    network = build_network(NetworkSpec("test_efficientnet", 3, stem_pool=4))
    roll = dice("cpu")
    for recipe in (
        Augment(
            power=(0.5, 3.0),
            stripes=0.8,
            mixup=0.5,
            pink=0.4,
            nocall=0.4,
            empty=0.2,
            snr_db=(-60.0, -60.0),
        ),
        Augment(power=(0.01, 100.0), stripes=0.0, mixup=1.0, nocall=1.0, snr_db=(60.0, 60.0)),
        Augment(power=(1.0, 1.0), stripes=0.0, mixup=0.0, empty=1.0),
    ):
        mixed, labels = backgrounds.add(grey, target, rows, recipe, 0.0, roll)
        image, labels = augment(mixed, labels, recipe, roll)
        loss = functional.binary_cross_entropy_with_logits(network(image), labels)
        loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_an_image_is_the_same_in_integer_units(tmp_path: Path) -> None:
    """A program forgot to divide by 32768: nothing is lost by it, up to a level of grey."""
    usual, large = (
        mel_images(
            training_crops(
                read_sound(written(tmp_path, USUAL * np.float32(scale), RATE_HZ), CROP_SAMPLES)
            )
        )
        for scale in (1, 32_768)
    )
    assert np.abs(usual[0].astype(int) - large[0]).max() <= 1
    assert np.allclose(large[1] - usual[1], 20 * np.log10(32_768), atol=0.01)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value)")
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_no_image_is_made_of_what_has_no_power(value: float) -> None:
    with pytest.raises(ValueError, match="expected crops of finite power, found dB of"):
        mel_images(np.full((1, CROP_SAMPLES), value, np.float32) * USUAL[:1])
