"""Labels, and which crops an epoch consists of."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from edge.contract.taxonomy import Species, Taxonomy
from trainer.corpus.recordings import Recording
from trainer.corpus.spectrograms import CacheEntry
from trainer.recipe import LabelRecipe, SamplingRecipe
from trainer.training.dataset import (
    CropSet,
    DeviceImages,
    HostImages,
    crop_set,
    epoch_crops,
    first_crops,
    targets,
)

CODES = ("aaa1", "bbb1", "ccc1")
TAXONOMY = Taxonomy(Species(code, code, code) for code in CODES)


def crops(
    counts: dict[str, list[int]], secondary: tuple[str, ...] = (), rating: float = 4.0
) -> CropSet:
    """A CropSet of recordings with these numbers of crops per species."""
    entries = []
    recordings = []
    first = 0
    for code, sizes in counts.items():
        for i, size in enumerate(sizes):
            key = f"{code}/{i}.ogg"
            entries.append(CacheEntry(key, code, first, size))
            others = tuple(s for s in secondary if s != code)
            recordings.append(
                Recording(
                    key, Path(key), code, others, None, None, None, rating if i else 2.0, "", ""
                )
            )
            first += size
    folds = {e.recording: i % 5 for i, e in enumerate(entries)}
    return crop_set(entries, recordings, folds, TAXONOMY)


def test_targets_are_those_of_the_recipe() -> None:
    found = targets(
        crops({"aaa1": [1], "bbb1": [1]}, ("ccc1",)),
        np.array([1, 0]),
        LabelRecipe(0.995, 0.3, 0.0025),
    )
    expected = np.array([[0.0025, 0.995, 0.3], [0.995, 0.0025, 0.3]], np.float32)
    assert np.array_equal(found, expected)


def test_where_nothing_calls_the_labels_go_down_to_other() -> None:
    found = crops({"aaa1": [1], "bbb1": [1, 1]}, ("ccc1",))
    labels = LabelRecipe(0.995, 0.6, 0.0025)
    p = np.array([1.0, 0.5, 0.0], np.float32)
    expected = np.array(
        [[0.995, 0.0025, 0.6], [0.0025, 0.4975, 0.3], [0.0025, 0.0025, 0.0025]], np.float32
    )
    assert np.allclose(targets(found, np.arange(3), labels, p), expected)


@given(
    st.lists(st.floats(0, 1), min_size=3, max_size=3),
    st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3),
)
def test_targets_stay_between_other_and_the_label(values: list[float], p: list[float]) -> None:
    """Smoothing: every cell is primary, secondary or other; calls only pull the first two towards
    other."""
    assume(values[2] < values[0])  # a recipe says so
    found = crops({"aaa1": [1], "bbb1": [1, 1]}, ("ccc1",))
    labels = LabelRecipe(*values)
    plain = targets(found, np.arange(3), labels)
    assert np.array_equal(np.unique(plain), np.unique(np.array(values, np.float32)))
    weighed = targets(found, np.arange(3), labels, np.array(p, np.float32))
    assert (weighed <= plain).all()
    assert (weighed >= np.minimum(plain, np.float32(labels.other))).all()
    assert np.array_equal(targets(found, np.arange(3), labels, np.ones(3, np.float32)), plain)


def test_a_recording_weighs_by_its_rating_and_an_unrated_one_a_little() -> None:
    assert crops({"aaa1": [1, 1]}).weight.tolist() == [0.5, 1.0]
    assert crops({"aaa1": [1, 1]}, rating=0.0).weight.tolist() == pytest.approx([1.0, 0.1])


def test_without_balance_every_recording_comes_equally_often_with_different_crops() -> None:
    found = crops({"aaa1": [1, 2, 5], "bbb1": [10]})
    recordings, images = epoch_crops(found, SamplingRecipe(2, 0.0), np.random.default_rng(0))
    assert np.bincount(recordings).tolist() == [2, 2, 2, 2]
    images = images[:, 0]
    assert (
        (images >= found.first[recordings]) & (images < (found.first + found.count)[recordings])
    ).all()
    for r in range(4):
        assert len(set(images[recordings == r].tolist())) == min(2, found.count[r])


@given(st.lists(st.integers(1, 10), min_size=1, max_size=6), st.integers(1, 6), st.integers(0, 99))
def test_a_clip_is_crops_in_a_row_that_wrap_round_only_where_there_are_fewer(
    counts: list[int], clip: int, seed: int
) -> None:
    found = crops({"aaa1": counts})
    recordings, images = epoch_crops(
        found, SamplingRecipe(3, 0.0), np.random.default_rng(seed), clip
    )
    assert images.shape == (3 * len(counts), clip)
    for r, rows in zip(recordings, images, strict=True):
        position = rows - found.first[r]
        assert ((np.diff(position) == 1) | (found.count[r] < clip)).all()
        assert (position == (position[0] + np.arange(clip)) % found.count[r]).all()
        assert position[0] == 0 or found.count[r] > clip


def test_clips_begin_everywhere_and_draw_the_recordings_that_single_crops_do() -> None:
    found = crops({"aaa1": [8], "bbb1": [3, 2]})
    sampling = SamplingRecipe(2, 0.5)
    singles = epoch_crops(found, sampling, np.random.default_rng(1))[0]
    assert np.array_equal(epoch_crops(found, sampling, np.random.default_rng(1), 6)[0], singles)
    rng = np.random.default_rng(0)
    assert {int(row[0]) for _ in range(40) for row in epoch_crops(found, sampling, rng, 6)[1]} == {
        0,
        1,
        2,
        8,
        11,
    }


def test_full_balance_draws_every_species_equally_often() -> None:
    found = crops({"aaa1": [2] * 2, "bbb1": [2] * 28})
    for balance, low in ((0.0, 2), (0.5, 6), (1.0, 15)):
        recordings, _ = epoch_crops(found, SamplingRecipe(1, balance), np.random.default_rng(0))
        drawn = np.bincount(found.primary[recordings])
        assert drawn[0] == low
        assert drawn.sum() == 30


def test_every_crop_of_a_recording_comes_in_time() -> None:
    found = crops({"aaa1": [6], "bbb1": [3]})
    rng = np.random.default_rng(0)
    seen = {
        int(i) for _ in range(60) for i in epoch_crops(found, SamplingRecipe(1, 0.0), rng)[1][:, 0]
    }
    assert seen == set(range(9))


def test_first_crops_are_each_once() -> None:
    found = crops({"aaa1": [1, 3], "bbb1": [2]})
    recordings, images = first_crops(found, 10)
    assert images.tolist() == list(range(6))
    assert recordings.tolist() == [0, 1, 1, 1, 2, 2]
    recordings, images = first_crops(found, 2)
    assert images.tolist() == [0, 1, 2, 4, 5]
    assert recordings.tolist() == [0, 1, 1, 2, 2]


def test_a_part_keeps_every_column_in_step() -> None:
    found = crops({"aaa1": [1, 3], "bbb1": [2]})
    part = found.where(found.fold == 2)
    assert [len(getattr(part, f.name)) for f in dataclasses.fields(part)] == [1] * 6
    assert part.primary.tolist() == [1]


def test_images_stay_grey_bytes_in_the_order_asked() -> None:
    images = np.arange(6 * 128 * 281, dtype=np.uint32).reshape(6, 128, 281).astype(np.uint8)
    for source in (HostImages, DeviceImages):
        there = source(images, torch.device("cpu"))
        batch = there.place(there.gather(np.array([[4, 0], [4, 2], [1, 1]])))
        assert batch.dtype == torch.uint8
        assert batch.shape == (3, 2, 128, 281)
        assert np.array_equal(batch.flatten(0, 1).numpy(), images[[4, 0, 4, 2, 1, 1]])
