"""Calls: what stands out against steady noise is told from noise, and every recording keeps a crop
that calls."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edge.contract.audio import CROP_STEP, RATE_HZ, Samples, mel_images
from edge.contract.errors import CorpusError
from tests.conftest import hiss, write_sound
from tests.helpers.trainer_corpus import CODES, make_corpus, song
from trainer.corpus.backgrounds import BackgroundSet, pink_noise
from trainer.corpus.recordings import Corpus
from trainer.corpus.spectrograms import CacheEntry, Spectrograms, make_spectrograms
from trainer.file_digests import Contents
from trainer.training.calls import (
    BEST_MIN,
    background_contrasts,
    fit_detector,
    image_contrasts,
    keep_best,
    make_calls,
    read_calls,
)

QUIET = Console(quiet=True)


def contrasts_of(*sounds: Samples) -> np.ndarray:
    return image_contrasts(*mel_images(np.stack(sounds)))


def coloured(seed: int) -> Samples:
    """Noise of a colour of its own, neither white nor pink, growing or fading."""
    rng = np.random.default_rng(seed)
    sound = pink_noise(seed) * rng.uniform(0.2, 2) + hiss(7.0, rng.uniform(0.001, 0.05), seed)
    return (sound * np.linspace(1.0, rng.uniform(0.5, 2), len(sound))).astype(np.float32)


@pytest.fixture(scope="module")
def backgrounds() -> BackgroundSet:
    sounds = [coloured(seed) for seed in range(20)] + [pink_noise(seed) for seed in range(4)]
    return BackgroundSet(*mel_images(np.stack(sounds)), real=20, source="noise")


def test_contrasts_forget_level_and_colour() -> None:
    sound = song(CODES[0], 7.0, 1)
    plain, loud, coloured_ = contrasts_of(
        sound, 8 * sound, np.append(sound[0], np.diff(sound)).astype(np.float32)
    )
    assert np.abs(loud - plain).max() < 0.5
    # a filter of 6 dB per octave; the call stands out by more than 20 dB
    assert np.abs(coloured_ - plain).max() < 4
    assert plain.max() > 20


def test_silence_at_the_ends_does_not_stand_out() -> None:
    noise = hiss(7.0, 0.05, 1)
    padded = noise.copy()
    padded[4 * RATE_HZ :] = 0
    whole, part = contrasts_of(noise, padded)
    assert np.abs(whole - part).max() < 3
    silence = contrasts_of(np.zeros_like(noise))
    assert np.array_equal(silence, np.zeros_like(silence))


def test_calls_are_told_from_noise_never_heard_before(backgrounds: BackgroundSet) -> None:
    calling = contrasts_of(
        *(song(CODES[i % 2], 7.0, i) + 0.2 * coloured(100 + i) for i in range(12))
    )
    detector = fit_detector(calling, background_contrasts(backgrounds, 1))
    new_calls = contrasts_of(
        *(song("higtoo", 7.0, 50 + i) + 0.2 * coloured(200 + i) for i in range(8))
    )
    new_noise = contrasts_of(*(coloured(300 + i) for i in range(8)))
    assert detector(new_calls).min() > 0.5 > detector(new_noise).max()


@given(
    st.lists(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=10), min_size=1, max_size=5)
)
def test_every_recording_keeps_its_best_crop(recordings: list[list[float]]) -> None:
    sizes = [len(r) for r in recordings]
    first = np.cumsum([1, *sizes])  # a row that no recording has comes before all
    entries = [CacheEntry("", "", int(at), size) for at, size in zip(first, sizes, strict=False)]
    p = np.array([0.5, *chain(*recordings)], np.float32)
    kept = keep_best(p, entries)
    assert kept[0] == 0
    assert ((kept >= 0) & (kept <= 1)).all()
    for entry in entries:
        before, after = (a[entry.first : entry.first + entry.count] for a in (p, kept))
        assert after.max() >= BEST_MIN - 1e-6
        assert (
            np.argsort(after, kind="stable") == np.argsort(before.clip(1e-6), kind="stable")
        ).all()
        if before.max() >= BEST_MIN:
            assert np.allclose(after, before, atol=1e-5)


@pytest.mark.slow
def test_crops_of_a_corpus_get_their_probability(
    tmp_path: Path, backgrounds: BackgroundSet
) -> None:
    """A recording that falls silent: its later crops are noise, and say so. The file is made
    once."""
    data = make_corpus(tmp_path / "corpus", 6, 8.0)
    recording = data / "train_short_audio" / CODES[0] / "XC00.ogg"
    sound = hiss((2 * CROP_STEP + 7 * RATE_HZ) / RATE_HZ, 0.002, 1)
    sound[: 7 * RATE_HZ] = song(CODES[0], 7.0, 2)

    write_sound(recording, sound)
    corpus = Corpus.read(data)
    make_spectrograms(tmp_path / "spectrograms", corpus.recordings, Contents(), 10, 1, QUIET)
    spectrograms = Spectrograms(tmp_path / "spectrograms")
    path = tmp_path / "calls.npz"
    make_calls(path, spectrograms, backgrounds, "this", 1, 1, QUIET)
    p = read_calls(path)
    assert p.shape == (len(spectrograms.images),)
    entry = next(
        e
        for e in spectrograms.entries
        if e.recording.endswith("XC00.ogg") and e.primary_label == CODES[0]
    )
    first, _, last = p[entry.first : entry.first + 3]
    assert first >= BEST_MIN
    assert last < 0.3
    before = path.stat().st_mtime_ns
    make_calls(path, spectrograms, backgrounds, "this", 1, 1, QUIET)
    assert path.stat().st_mtime_ns == before
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CorpusError, match=r"calls\.npz: not readable: .*; remove it"):
        read_calls(path)
