"""The one definition of sound: equal to librosa, and the same image however the stream is cut into
blocks."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import librosa
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.contract import audio
from edge.contract.audio import (
    CONTEXT_SAMPLES,
    CROP_SAMPLES,
    CROP_STEP,
    FRAME_HOP,
    IMAGE_SHAPE,
    RATE_HZ,
    WINDOW_SAMPLES,
    Window,
    WindowCutter,
    mel_edges,
    mel_filters,
    mel_image,
    mel_images,
    training_crops,
)
from tests import HANGS_S
from tests.conftest import hiss, note


def librosa_db(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """The published mel spectrogram in dB, by librosa."""
    mel = librosa.feature.melspectrogram(
        y=samples,
        sr=32_000,
        n_fft=3200,
        hop_length=800,
        n_mels=128,
        fmin=0,
        fmax=16_000,
        pad_mode="reflect",
    )
    return np.asarray(librosa.power_to_db(mel))


def librosa_image(samples: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The published image, by librosa."""
    db = librosa_db(samples)
    span = db.max() - db.min()
    return (
        np.zeros(db.shape, np.uint8)
        if span == 0
        else np.floor(255 * (db - db.min()) / span).astype(np.uint8)
    )


def song(seed: int = 3) -> NDArray[np.float32]:
    """Seven seconds of gliding notes in noise."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(CROP_SAMPLES) / RATE_HZ
    glide = np.sin(2 * np.pi * np.cumsum(3000 + 2000 * np.sin(2 * np.pi * 1.7 * time_s)) / RATE_HZ)
    gate = np.sin(2 * np.pi * 0.9 * time_s) > 0.3
    return (0.2 * glide * gate + 0.01 * rng.standard_normal(CROP_SAMPLES)).astype(np.float32)


SOUNDS = {
    "song": song(),
    "noise": hiss(7, 0.1),
    "faint noise": hiss(7, 1e-4),
    "note": note("midtoo", 7),
    "notes in noise": note("lowtoo", 7) + note("higtoo", 7, 0.05) + hiss(7),
    "clicks": np.where(np.arange(CROP_SAMPLES) % 9973 == 0, 0.9, 0).astype(np.float32),
    "half silent": np.concatenate([hiss(3, 0.05), np.zeros(4 * RATE_HZ, np.float32)]),
    "clipped": np.clip(song() * 20, -1, 1),
    "offset": song() + np.float32(0.3),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SOUNDS)
def test_image_equals_librosa_within_one_grey_level(name: str) -> None:
    ours = mel_image(SOUNDS[name])
    theirs = librosa_image(SOUNDS[name])
    assert ours.shape == IMAGE_SHAPE
    assert ours.dtype == np.uint8
    assert np.mean(np.abs(ours.astype(int) - theirs) <= 1) >= 0.999


def test_mel_filters_equal_librosa() -> None:
    theirs = librosa.filters.mel(sr=32_000, n_fft=3200, n_mels=128, fmin=0, fmax=16_000)
    np.testing.assert_allclose(mel_filters(), theirs, rtol=1e-5, atol=1e-9)


def test_silence_and_constant_give_zeros() -> None:
    assert not mel_image(np.zeros(CROP_SAMPLES, np.float32)).any()
    assert not mel_image(np.zeros((2, CROP_SAMPLES), np.float32)).any()


def test_image_spans_all_greys() -> None:
    image = mel_image(song())
    assert image.min() == 0
    assert image.max() == 255


def test_batch_equals_single() -> None:
    crops = np.stack([song(1), song(2), np.zeros(CROP_SAMPLES, np.float32)])
    np.testing.assert_array_equal(mel_image(crops), np.stack([mel_image(crop) for crop in crops]))


@pytest.mark.parametrize("shape", [(CROP_SAMPLES - 1,), (2, 3, CROP_SAMPLES), ()])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"224000\) samples"):
        mel_image(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("seconds", "crops"), [(0.5, 1), (7, 1), (11.6, 1), (11.7, 2), (16.4, 3), (60, 10), (600, 10)]
)
def test_training_crops(seconds: float, crops: int) -> None:
    clip = hiss(seconds)
    found = training_crops(clip)
    assert found.shape == (crops, CROP_SAMPLES)
    for index, crop in enumerate(found):
        part = clip[index * CROP_STEP :][:CROP_SAMPLES]
        np.testing.assert_array_equal(crop[: len(part)], part)
        assert not crop[len(part) :].any()


def cut(
    sound: NDArray[np.float32], blocks: list[int], hop: int, padding: audio.Padding = "context"
) -> list[Window]:
    cutter = WindowCutter(hop, padding)
    windows = []
    at = 0
    for size in [*blocks, len(sound)]:
        windows += cutter.push(sound[at : at + size])
        at += size
    return windows + cutter.close()


@pytest.mark.parametrize("padding", ["context", "zeros", "image"])
@given(
    seconds=st.floats(0.1, 24),
    hop=st.sampled_from([800, 16_000, 40_800, 80_000, 160_000]),
    blocks=st.lists(st.integers(1, 200_000), max_size=6),
)
@settings(max_examples=15, deadline=None)
def test_windows_do_not_depend_on_blocks(
    padding: audio.Padding, seconds: float, hop: int, blocks: list[int]
) -> None:
    hop = max(hop, 8_000)
    sound = hiss(seconds, 0.05) + note("midtoo", seconds, 0.01)
    one = cut(sound, [], hop, padding)
    many = cut(sound, blocks, hop, padding)
    assert [(w.start, w.samples) for w in one] == [(w.start, w.samples) for w in many]
    for a, b in zip(one, many, strict=True):
        np.testing.assert_array_equal(a.input, b.input)


@given(samples=st.integers(3_200, 900_000), hop=st.integers(1, 200).map(lambda n: n * FRAME_HOP))
@settings(max_examples=25, deadline=None)
def test_every_sample_is_in_a_window(samples: int, hop: int) -> None:
    hop = max(hop, 20 * FRAME_HOP)
    windows = cut(np.full(samples, 0.1, np.float32), [], hop)
    assert windows[0].start == 0
    assert windows[-1].start + windows[-1].samples == samples
    for before, after in pairwise(windows):
        assert 0 < after.start - before.start <= hop
    whole = [w for w in windows if w.start % hop == 0 and w.start + WINDOW_SAMPLES <= samples]
    assert len(whole) == max(0, (samples - WINDOW_SAMPLES) // hop + 1)


@pytest.mark.parametrize("hop", [80_000, 160_000])
def test_stream_equals_the_image_of_its_crop(hop: int) -> None:
    sound = np.concatenate([song(1), song(2), song(3)])
    for window in cut(sound, [100_000], hop):
        first = window.start - CONTEXT_SAMPLES
        if first >= 0 and first + CROP_SAMPLES <= len(sound):
            image = mel_image(sound[first : first + CROP_SAMPLES])
            assert np.mean(np.abs(image.astype(int) - window.input) <= 1) >= 0.9999
    for window in cut(sound, [100_000], hop, "zeros"):
        crop = np.zeros(CROP_SAMPLES, np.float32)
        crop[:WINDOW_SAMPLES] = sound[window.start : window.start + WINDOW_SAMPLES]
        assert np.mean(np.abs(mel_image(crop).astype(int) - window.input) <= 1) >= 0.9999


def test_ends_are_mirrored_or_zero() -> None:
    sound = song()[: 6 * RATE_HZ]
    first = cut(sound, [], 160_000)[0]
    mirrored = np.concatenate([sound[:CONTEXT_SAMPLES][::-1], sound])
    assert np.mean(np.abs(mel_image(mirrored).astype(int) - first.input) <= 1) >= 0.9999
    image = cut(sound, [], 160_000, "image")[0].input
    assert not image[:, :40].any()
    assert not image[:, 241:].any()
    assert image[:, 40:241].max() == 255


def test_level_is_in_dbfs() -> None:
    (window,) = cut(note("midtoo", 5, level=1.0), [], 80_000)
    assert window.level_dbfs == pytest.approx(-3.01, abs=0.02)
    (silent,) = cut(np.zeros(WINDOW_SAMPLES, np.float32), [], 80_000)
    assert silent.level_dbfs == -np.inf
    assert not silent.input.any()


def test_threads_cut_the_same_windows_at_once() -> None:
    sounds = [hiss(17, 0.05) + note("midtoo", 17, 0.01 * (1 + i)) for i in range(4)]

    def images(sound: NDArray[np.float32]) -> NDArray[np.uint8]:
        return np.stack([window.input for window in cut(sound, [30_000] * 12, 40_000)])

    alone = [images(sound) for sound in sounds]
    with ThreadPoolExecutor(len(sounds)) as pool:
        together = list(pool.map(images, sounds * 3))
    for index, found in enumerate(together):
        np.testing.assert_array_equal(found, alone[index % len(sounds)])


_OWN_THREAD = """
import sys, time
from pathlib import Path
import numpy as np
from edge.contract.audio import WindowCutter

def others():
    own = Path("/proc/self").resolve().name
    return [task for task in Path("/proc/self/task").iterdir() if task.name != own]

def others_s():
    return sum(int((task / "schedstat").read_text().split()[0]) for task in others()) / 1e9

while any((task / "stat").read_text().rsplit(")", 1)[1].split()[0] == "R" for task in others()):
    time.sleep(0.05)  # BLAS's threads wait actively at first
before = others_s()
if sys.argv[1] == "cut":
    assert len(WindowCutter(80_000).push(np.full(60 * 32_000, 0.1, np.float32))) > 20
else:
    np.ones((1000, 1000), np.float32) @ np.ones((1000, 1000), np.float32)
print(others_s() - before)
"""


@pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="looks at threads as Linux shows them"
)
@pytest.mark.skipif(
    "len(os.sched_getaffinity(0)) == 1", reason="BLAS has no threads of its own on one core"
)
def test_no_thread_of_blas_helps() -> None:
    """They would wait actively for more, in each of several threads that cut sound at once."""

    def others_s(what: str) -> float:
        command = [sys.executable, "-c", _OWN_THREAD, what]
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "2"}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=HANGS_S
        )
        return float(done.stdout)

    assert others_s("cut") < 0.001
    assert others_s("multiply") > 0.001, "a product that BLAS shares out"


def test_pushed_sound_may_be_overwritten() -> None:
    sound = song()
    block = np.empty(16_000, np.float32)
    windows = []
    cutter = WindowCutter(80_000)
    for start in range(0, len(sound), len(block)):
        block[:] = sound[start : start + len(block)]
        windows += cutter.push(block)
    for window, expected in zip(windows + cutter.close(), cut(sound, [], 80_000), strict=True):
        np.testing.assert_array_equal(window.input, expected.input)


def test_positions_count_from_the_first_sample() -> None:
    cutter = WindowCutter(160_000, first_sample=1_000_000)
    windows = cutter.push(hiss(20)) + cutter.close()
    assert [w.start for w in windows] == [1_000_000 + i * 160_000 for i in range(4)]


def test_memory_of_a_stream_is_bounded() -> None:
    cutter = WindowCutter()
    for _ in range(60):
        cutter.push(hiss(2))
        assert cutter.nbytes < 2_000_000


@pytest.mark.parametrize("hop", [0, -800, 801, 160_800])
def test_bad_hops_are_refused(hop: int) -> None:
    with pytest.raises(ValueError, match="multiple of 800"):
        WindowCutter(hop)


def test_images_come_with_the_levels_that_the_stretch_takes_away() -> None:
    crops = np.stack(
        [song(seed)[:CROP_SAMPLES] for seed in (1, 2)] + [np.zeros(CROP_SAMPLES, np.float32)]
    )
    crops[1] *= 0.1
    images, ranges = mel_images(crops)
    assert np.array_equal(images, mel_image(crops))
    assert ranges.dtype == np.float32
    for image, (low, high), crop in zip(images, ranges, crops, strict=True):
        db = librosa_db(crop)
        assert np.abs(low + image / 255 * (high - low) - db).max() <= (high - low) / 255 + 0.02
    assert ranges[2].tolist() == pytest.approx([-100.0, -100.0])  # silence: POWER_FLOOR


def test_the_filters_add_up_to_one_when_each_counts_by_its_width() -> None:
    edges = mel_edges()
    hz = np.fft.rfftfreq(3200, 1 / RATE_HZ)
    total = (edges[2:] - edges[:-2]) / 2 @ mel_filters()
    assert np.allclose(total[(hz >= edges[1]) & (hz <= edges[-2])], 1.0, atol=1e-5)
