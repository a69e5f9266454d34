"""Backgrounds: mixed on the device as the waveforms would be, at the ratio and on the share that
the recipe says."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.console import Console

from edge.contract.audio import CROP_SAMPLES, RATE_HZ, Samples, mel_images
from edge.contract.errors import ConfigError, CorpusError
from tests.conftest import hiss, note, write_sound
from tests.helpers.devices import DEVICES, dice
from tests.helpers.trainer_corpus import song
from trainer.corpus.backgrounds import (
    OWN,
    PINK_CROPS,
    BackgroundSet,
    background_crops,
    background_files,
    background_source,
    make_backgrounds,
    pink_noise,
    read_backgrounds,
)
from trainer.corpus.sound import Recording, read_sound
from trainer.file_digests import Contents
from trainer.recipe import Augment
from trainer.training.augment import Backgrounds, mel_power, mix_db, sound_power, stretch

QUIET = Console(quiet=True)
SOUNDS = {
    "white": hiss(7.0, 0.05, 1),
    "pink": pink_noise(1),
    "song": song("midtoo", 7.0, 2),
    "low note": note("lowtoo", 7.0, 0.1) + hiss(7.0, 0.001, 3),
    "high note": note("higtoo", 7.0, 0.01) + hiss(7.0, 0.001, 4),
    "short": np.concatenate([song("higtoo", 2.0, 5), np.zeros(5 * RATE_HZ, np.float32)]),
}


def tensors(sounds: list[Samples], device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Grey images `(n, 1, 128, 281)` and ranges `(n, 1, 2)`."""
    images, ranges = mel_images(np.stack(sounds))
    return torch.from_numpy(images)[:, None].to(device), torch.from_numpy(ranges)[:, None].to(
        device
    )


def decibels(ratio: NDArray[np.floating]) -> NDArray[np.floating]:
    return 10 * np.log10(ratio)


@pytest.mark.parametrize("name", SOUNDS)
def test_images_know_the_power_of_their_waveforms(name: str) -> None:
    pair = [SOUNDS[name], SOUNDS["white"]]
    on_images = decibels(sound_power(mel_power(*tensors(pair))).numpy().ravel())
    on_waveforms = decibels(np.array([np.square(s.astype(float)).mean() for s in pair]))
    assert abs(np.diff(on_images) - np.diff(on_waveforms)) < 1.0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("snr_db", [0.0, 3.0])
@pytest.mark.parametrize(("name", "grey_levels"), [("song", 4), ("low note", 4), ("white", 8)])
def test_a_mixed_image_is_that_of_mixed_waveforms(
    name: str, grey_levels: int, snr_db: float, device: str
) -> None:
    """A pixel of two noises differs with their phases, and so does the darkest one, from which the
    stretch begins."""
    sound = SOUNDS[name]
    noise = SOUNDS["pink"]
    gain = np.sqrt(np.square(sound).mean() / np.square(noise).mean() / 10 ** (snr_db / 10))
    wanted, _ = tensors([sound + gain * noise], device)
    ratio = torch.full((1, 1, 1, 1), snr_db, device=device)
    found = stretch(mix_db(*tensors([sound], device), *tensors([noise], device), ratio))
    assert (found - wanted).abs().median() < grey_levels
    assert np.corrcoef(found.cpu().ravel(), wanted.cpu().ravel())[0, 1] > 0.97


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9), st.floats(-100, 60), st.floats(0, 80), st.floats(-20, 20), st.booleans())
def test_whatever_is_mixed_is_a_grey_image(
    seed: int, low: float, span: float, snr_db: float, silent: bool
) -> None:
    rng = np.random.default_rng(seed)
    grey = torch.from_numpy(rng.integers(0, 256, (2, 2, 128, 281), dtype=np.uint8)) * (not silent)
    ranges = torch.tensor([low, low + span]).expand(2, 2, 2)
    other = torch.from_numpy(rng.integers(0, 256, (2, 1, 128, 281), dtype=np.uint8))
    db = mix_db(
        grey,
        ranges,
        other,
        torch.tensor([-40.0, 10.0]).expand(2, 1, 2),
        torch.full((2, 1, 1, 1), snr_db),
    )
    found = stretch(db)
    assert found.isfinite().all()
    assert found.amin() >= 0
    assert found.amax() <= 255.01
    assert (db.amax(dim=(2, 3)) - db.amin(dim=(2, 3)) <= 80.01).all()


def test_a_faint_background_leaves_the_image_as_it_is() -> None:
    grey, ranges = tensors([SOUNDS["song"]])
    found = stretch(
        mix_db(grey, ranges, *tensors([SOUNDS["white"]]), torch.full((1, 1, 1, 1), 120.0))
    )
    assert torch.allclose(found, grey.float(), atol=0.1)


def flat_set(real: int, pink: int) -> BackgroundSet:
    """Backgrounds that are told apart when mixed loudly: one bright band each."""
    images = np.zeros((real + pink, 128, 281), np.uint8)
    images[np.arange(real + pink), np.arange(real + pink)] = 255
    return BackgroundSet(images, np.tile(np.float32([-60, 0]), (real + pink, 1)), real, "")


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_shares_are_those_of_the_recipe_and_disjoint(device: str) -> None:
    recipe = Augment((1.0, 1.0), 0.0, 0.0, pink=0.25, nocall=0.3, empty=0.2, snr_db=(-30.0, -30.0))
    ranges = np.tile(np.float32([-60, 0]), (4, 1))
    mixer = Backgrounds(flat_set(3, 5), ranges, torch.device(device))
    grey = torch.full((600, 1, 128, 281), 100, dtype=torch.uint8, device=device)
    grey[:, :, 100] = 120
    rows = np.arange(600)[:, None] % 4
    target = torch.full((600, 2), 0.9, device=device)
    mixed, targets = mixer.add(grey, target, rows, recipe, 0.01, dice(device))
    found = mixed[:, 0].mean(dim=2)
    brightest = found.argmax(dim=1).cpu().numpy()
    untouched = (found == grey[:, 0].float().mean(dim=2)).all(dim=1).cpu().numpy()
    counts = np.bincount(np.where(untouched, 8, brightest), minlength=9)[:9]
    assert counts.sum() == 600
    assert abs(counts[:3].sum() / 600 - 0.5) < 0.06
    assert abs(counts[3:8].sum() / 600 - 0.25) < 0.05
    assert abs(counts[8] / 600 - 0.25) < 0.05
    assert counts[:3].min() > 70
    assert counts[3:8].min() > 15
    alone = (targets == 0.01).all(dim=1).cpu().numpy()
    assert ((targets == 0.9).all(dim=1).cpu().numpy() ^ alone).all()
    assert abs(alone.mean() - 0.2) < 0.05
    assert (brightest[alone] < 3).all()
    assert (
        mixed[torch.from_numpy(alone).to(device), 0, 100] < 0.01
    ).all()  # nothing of the sound is left
    untouched, same = mixer.add(
        grey, target, rows, Augment((1.0, 1.0), 0.0, 0.0), 0.01, dice(device)
    )
    assert torch.equal(untouched, grey.float())
    assert torch.equal(same, target)


def test_without_real_backgrounds_pink_noise_stands_in() -> None:
    mixer = Backgrounds(flat_set(0, 5), np.tile(np.float32([-60, 0]), (4, 1)), torch.device("cpu"))
    grey = torch.full((40, 1, 128, 281), 100, dtype=torch.uint8)
    recipe = Augment((1.0, 1.0), 0.0, 0.0, nocall=0.5, empty=0.5, snr_db=(-30.0, -30.0))
    mixed, _ = mixer.add(grey, torch.zeros(40, 2), np.zeros((40, 1), int), recipe, 0.0, dice("cpu"))
    assert set(mixed[:, 0].mean(dim=2).argmax(dim=1).tolist()) <= set(range(5))


@pytest.mark.parametrize("device", DEVICES)
def test_ratios_are_uniform_and_one_per_sample(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[torch.Tensor] = []

    def spy(*args: torch.Tensor) -> torch.Tensor:
        drawn.append(args[-1])
        return mix_db(*args)

    monkeypatch.setattr("trainer.training.augment.mix_db", spy)
    mixer = Backgrounds(flat_set(3, 5), np.tile(np.float32([-60, 0]), (4, 1)), torch.device(device))
    recipe = Augment((1.0, 1.0), 0.0, 0.0, pink=0.5, nocall=0.5, snr_db=(-2.0, 4.0))
    grey = torch.full((400, 1, 128, 281), 9, dtype=torch.uint8, device=device)
    mixer.add(
        grey, torch.zeros(400, 2, device=device), np.zeros((400, 1), int), recipe, 0.0, dice(device)
    )
    snr_db = drawn[0].flatten().cpu().numpy()
    assert len(np.unique(snr_db)) == len(snr_db) == 400
    assert -2 <= snr_db.min() < -1.8
    assert 3.8 < snr_db.max() <= 4
    assert abs(snr_db.mean() - 1) < 0.3
    assert abs(np.quantile(snr_db, 0.25) + 0.5) < 0.4


@settings(max_examples=10, deadline=None)
@given(st.floats(-10, 10), st.integers(0, 5), st.floats(-30, 0))
def test_the_ratio_is_that_of_the_whole_clip(snr_db: float, seed: int, quieter_db: float) -> None:
    rng = np.random.default_rng(seed)
    grey = torch.from_numpy(rng.integers(0, 256, (1, 3, 128, 281), dtype=np.uint8))
    ranges = torch.tensor([[[-60.0, 0.0], [-60.0, 0.0], [-60.0 + quieter_db, quieter_db]]])
    other, other_ranges = tensors([SOUNDS["pink"]])
    db = mix_db(grey, ranges, other, other_ranges, torch.full((1, 1, 1, 1), snr_db))
    sound = mel_power(grey, ranges)
    noise = 10 ** (db / 10) - sound
    assert abs(float(10 * torch.log10(sound_power(sound) / sound_power(noise))) - snr_db) < 0.05
    # it goes on through all crops
    assert torch.allclose(noise[0, 0], noise[0, 1], rtol=0.05, atol=1e-6)


def test_pink_noise_has_equal_power_in_every_octave() -> None:
    power = np.mean([np.square(np.abs(np.fft.rfft(pink_noise(seed)))) for seed in range(4)], axis=0)
    hz = np.fft.rfftfreq(CROP_SAMPLES, 1 / RATE_HZ)
    octaves = [power[(hz >= low) & (hz < 2 * low)].sum() for low in (62.5, 250, 1000, 4000, 8000)]
    assert np.ptp(decibels(np.array(octaves))) < 0.5
    assert not np.array_equal(pink_noise(1), pink_noise(2))
    assert np.array_equal(pink_noise(1), pink_noise(1))


def test_a_short_background_goes_on() -> None:
    crop = background_crops(SOUNDS["white"][: RATE_HZ * 2])
    assert crop.shape == (1, CROP_SAMPLES)
    level = np.square(crop.reshape(7, RATE_HZ)).mean(axis=1)
    assert level.min() > 0.9 * level.max()
    assert len(background_crops(hiss(20.0))) == 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good backgrounds of another rate, in folders; one silent, one that is no sound, and a
    text."""
    folder = tmp_path_factory.mktemp("nocall")
    write_sound(folder / "rain" / "a.ogg", hiss(4.0, 0.1, 1), 44_100)
    write_sound(folder / "b.wav", hiss(13.0, 0.1, 2))
    write_sound(folder / "silent.wav", np.zeros(RATE_HZ, np.float32))
    (folder / "broken.ogg").write_bytes(b"not sound")
    (folder / "README.txt").write_text("where it is from")
    return folder


@pytest.mark.slow
def test_backgrounds_come_from_whatever_is_sound(folder: Path, tmp_path: Path) -> None:
    console = Console(record=True, width=200)
    path = tmp_path / "backgrounds.npz"
    made = make_backgrounds(path, folder, "first", 1, console)
    said = console.export_text()
    assert "broken.ogg: not audio" in said
    assert "silent.wav: silence" in said
    assert "backgrounds: 3 crops of 2 files, 2 skipped; 64 of pink noise" in said
    assert made.real == 3
    assert len(made.images) == len(made.ranges) == 3 + PINK_CROPS
    there = read_backgrounds(path)
    assert np.array_equal(there.images, made.images)
    before = path.stat().st_mtime_ns
    make_backgrounds(path, folder, "first", 1, QUIET)
    assert path.stat().st_mtime_ns == before
    assert make_backgrounds(path, None, "pink alone", 1, QUIET).real == 0
    assert path.stat().st_mtime_ns != before


def test_what_a_corpus_says_is_no_bird_is_a_background(folder: Path, tmp_path: Path) -> None:
    """A whole file of 13 s and a segment of it, without any folder."""
    asked = [(0.0, None), (2.0, 6.0)]
    own = [
        Recording(f"{i}", folder / "b.wav", "nocall", (), None, None, None, 0.0, "", "", *span)
        for i, span in enumerate(asked)
    ]
    path = tmp_path / "backgrounds.npz"
    contents = Contents()
    source = background_source(None, contents, own)
    made = make_backgrounds(path, None, source, 1, QUIET, own)
    whole, part = (read_sound(r.path, 13 * RATE_HZ, r.start_s, r.end_s) for r in own)
    crops = np.concatenate([background_crops(whole), background_crops(part)])
    assert made.real == len(crops)
    assert np.array_equal(made.images[: made.real], mel_images(crops)[0])
    assert source.startswith(OWN)
    assert source != background_source(None, contents, own[:1])
    assert not background_source(folder, contents, own).startswith(OWN)
    assert background_source(folder, contents, own) != background_source(folder, contents)


def test_a_folder_without_sound_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--nocall .*found no sound file in it"):
        background_files(tmp_path)
    (tmp_path / "broken.ogg").write_bytes(b"not sound")
    with pytest.raises(ConfigError, match="none of 1 files can be read as sound"):
        make_backgrounds(tmp_path / "backgrounds.npz", tmp_path, "", 1, QUIET)
    assert not (tmp_path / "backgrounds.npz").exists()
    (tmp_path / "backgrounds.npz").write_bytes(b"half")
    with pytest.raises(CorpusError, match=r"backgrounds\.npz: not readable"):
        read_backgrounds(tmp_path / "backgrounds.npz")
