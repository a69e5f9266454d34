"""Channels that cancel: the louder one is heard, and nothing else changes."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from edge.capture.recording import Decoder, stream
from edge.contract.audio import RATE_HZ

Sound = npt.NDArray[np.float32]


def noise(seconds: float, level: float = 0.1, seed: int = 0) -> Sound:
    return (level * np.random.default_rng(seed).standard_normal(round(seconds * RATE_HZ))).astype(
        np.float32
    )


def heard(folder: Path, *channels: Sound, **options: str) -> tuple[Sound, str | None]:
    path = folder / f"x.{options.get('format', 'wav').lower()}"
    with soundfile.SoundFile(
        path, "w", RATE_HZ, len(channels), **{"subtype": "FLOAT"} | options
    ) as file:
        for at in range(0, len(channels[0]), RATE_HZ):
            file.write(np.stack(channels, axis=1)[at : at + RATE_HZ])
    with Decoder(path) as decoder:
        sound = np.concatenate(list(decoder))  # type: ignore[arg-type]
        return sound, decoder.note


def test_opposite_channels(tmp_path: Path) -> None:
    bird = noise(5)
    sound, note = heard(tmp_path, bird, -bird)
    assert np.array_equal(sound, bird)
    assert note == "channels cancel: the louder one, 1, was taken"


@pytest.mark.parametrize("seconds", [0.15, 0.6, 1.1])
def test_short_ones(tmp_path: Path, seconds: float) -> None:
    bird = noise(seconds)
    assert np.array_equal(heard(tmp_path, bird, -bird)[0], bird)


def test_the_louder_one_is_taken(tmp_path: Path) -> None:
    bird = noise(5)
    sound, note = heard(tmp_path, -0.95 * bird, bird)
    assert np.array_equal(sound, bird)
    assert note == "channels cancel: the louder one, 2, was taken"


def test_with_an_offset_and_hum_that_do_not_cancel(tmp_path: Path) -> None:
    hum = (0.05 * np.sin(2 * np.pi * 50 * np.arange(5 * RATE_HZ) / RATE_HZ) + 0.03).astype(
        np.float32
    )
    bird = noise(5)
    sound, note = heard(tmp_path, hum + bird, hum - bird)
    assert note is not None
    assert np.abs(sound).std() > 0.05


def test_quiet_moments_keep_the_channel(tmp_path: Path) -> None:
    """There the channels' own noise decides nothing: a call 15 dB above it is heard at its
    level."""
    bird = np.concatenate([noise(4), np.zeros(10 * RATE_HZ, np.float32), noise(1, 0.00056, 3)])
    left = noise(15, 0.0001, 1)
    right = noise(15, 0.0001, 2)
    sound, note = heard(tmp_path, left + bird, right - bird)
    assert note is not None
    assert sound[-RATE_HZ:].std() > 0.0005


def test_silence_first(tmp_path: Path) -> None:
    bird = np.concatenate([np.zeros(8 * RATE_HZ, np.float32), noise(3)])
    sound, note = heard(tmp_path, bird, -bird)
    assert sound[9 * RATE_HZ :].std() == pytest.approx(0.1, rel=0.05)
    assert note is not None


def test_a_cable_that_fails_in_the_middle(tmp_path: Path) -> None:
    bird = noise(20)
    sign = np.ones(20 * RATE_HZ, np.float32)
    sign[10 * RATE_HZ :] = -1
    sound, note = heard(tmp_path, bird, sign * bird)
    assert np.array_equal(sound[: 9 * RATE_HZ], bird[: 9 * RATE_HZ])
    assert np.array_equal(sound[11 * RATE_HZ :], bird[11 * RATE_HZ :])
    assert note is not None
    assert note.endswith(" s on")
    assert 9.0 < float(note.split()[-3]) < 11.0


def test_a_channel_that_dies_after_it_was_taken(tmp_path: Path) -> None:
    bird = noise(10)
    left = bird.copy()
    left[5 * RATE_HZ :] = 0
    sound, _ = heard(tmp_path, left, -bird * np.float32(0.9))
    assert sound[6 * RATE_HZ :].std() == pytest.approx(0.09, rel=0.05)


@pytest.mark.parametrize(
    "channels",
    [
        (noise(5), noise(5, seed=1)),  # two microphones
        (noise(5), np.zeros(5 * RATE_HZ, np.float32)),  # one is dead
        (noise(5), 0.5 * noise(5)),
        (noise(5), -0.7 * noise(5)),  # they cancel in part: 16 dB
        (noise(5, 5e-6), -noise(5, 5e-6)),  # below everything
        (np.zeros(5 * RATE_HZ, np.float32), np.zeros(5 * RATE_HZ, np.float32)),
        (noise(5), noise(5, seed=1), noise(5, seed=2), noise(5, seed=3)),
    ],
)
def test_the_mean_stays_where_it_holds_the_sound(
    tmp_path: Path, channels: tuple[Sound, ...]
) -> None:
    sound, note = heard(tmp_path, *channels)
    assert note is None
    assert np.allclose(sound, np.mean(channels, axis=0), atol=1e-6)


def test_four_channels_that_cancel(tmp_path: Path) -> None:
    bird = noise(5)
    other = noise(5, 0.05, 1)
    sound, note = heard(tmp_path, other, bird, -bird, -other)
    assert np.array_equal(sound, bird)
    assert note == "channels cancel: the louder one, 2, was taken"


def test_the_choice_does_not_depend_on_block_or_codec(tmp_path: Path) -> None:
    bird = noise(20, 0.05)
    sign = np.ones(20 * RATE_HZ, np.float32)
    sign[10 * RATE_HZ :] = -1
    notes = [
        heard(tmp_path, bird, sign * bird, format=kind, subtype="PCM_16")[1]
        for kind in ("WAV", "FLAC", "AIFF", "W64")
    ]
    assert len(set(notes)) == 1
    assert notes[0] is not None
    short = np.concatenate(list(stream(tmp_path / "x.flac", block_s=0.1)))
    assert np.array_equal(short, np.concatenate(list(stream(tmp_path / "x.flac", block_s=60.0))))
    assert np.allclose(short, np.concatenate(list(stream(tmp_path / "x.wav"))), atol=1e-4)
