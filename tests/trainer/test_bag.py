"""The bag takes the best of each fold and kind, and scores images as its networks do; crop-level
scores are right."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edge.contract.audio import IMAGE_SHAPE
from edge.contract.blend import Blend, acoustic_scores
from edge.contract.errors import CorpusError
from tests.helpers.trainer_run import CODES, CROPS, make_corpus, make_run
from trainer import metrics
from trainer.corpus.recordings import Corpus
from trainer.networks.model import load_network
from trainer.run import MemberInfo, Run
from trainer.tuning.bag import choose, choose_bag, score_images
from trainer.tuning.out_of_fold import crop_table, score_crops


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Corpus]:
    folder = tmp_path_factory.mktemp("bag")
    corpus = make_corpus(folder / "data", recordings=6, soundscapes=0)
    run = make_run(folder / "run", corpus)
    choose_bag(run)
    return run, corpus


def member(kind: str, fold: int, seed: int, f1: float) -> MemberInfo:
    return MemberInfo(
        f"{kind}-fold{fold}-seed{seed}", kind, "lcnet_050", fold, seed, 3, 4, f1, 1, 1, 1, 1.0, "-"
    )


def test_best_seed_of_each_kind_and_fold(made: tuple[Run, Corpus]) -> None:
    names = json.loads((made[0].folder / "bag.json").read_text(encoding="utf8"))["members"]
    assert names == [
        "mixup-fold0-seed1",
        "mixup-fold1-seed1",
        "stripes-fold0-seed2",
        "stripes-fold1-seed2",
    ]


def test_each_fold_at_least_once_and_at_most_so_often() -> None:
    members = [
        member(kind, fold, 1, 0.1 * fold + 0.01 * i)
        for fold in range(5)
        for i, kind in enumerate("abc")
    ]
    for most in (1, 2, 3, 9):
        bag = choose(members, most)
        assert [sum(m.fold == fold for m in bag) for fold in range(5)] == [min(most, 3)] * 5
    assert [m.kind for m in choose(members, 1)] == ["c"] * 5


@given(data=st.data())
def test_the_bag_as_published(data: st.DataObject) -> None:
    """The best of several seeds and settings per fold, each fold at least once and at most twice;
    plain mean within a kind, weighted mean across kinds."""
    folds = data.draw(st.integers(2, 5), label="folds")
    most = data.draw(st.integers(1, 3), label="most")
    f1s = st.one_of(st.sampled_from([0.0, 0.5, float("nan")]), st.floats(0, 1))
    members = [
        member(kind, fold, seed, data.draw(f1s))
        for fold in range(folds)
        for kind in data.draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True))
        for seed in range(data.draw(st.integers(1, 3)))
    ]
    bag = choose(data.draw(st.permutations(members)), most)
    assert bag == choose(members, most)
    value = {m.name: m.valid_f1 if np.isfinite(m.valid_f1) else -1.0 for m in members}
    for fold in range(folds):
        mine = [m for m in bag if m.fold == fold]
        rivals = [m for m in members if m.fold == fold]
        kinds = {m.kind for m in rivals}
        assert len(mine) == len({m.kind for m in mine}) == min(most, len(kinds))
        assert max(value[m.name] for m in mine) == max(value[m.name] for m in rivals)
        for one in mine:
            assert value[one.name] == max(value[m.name] for m in rivals if m.kind == one.kind)
        left = [
            max(value[m.name] for m in rivals if m.kind == kind)
            for kind in kinds - {m.kind for m in mine}
        ]
        assert not left or min(value[m.name] for m in mine) >= max(left)
    weights = {"a": 2.0, "b": 0.5}
    scores = np.random.default_rng(len(bag)).uniform(0, 1, (len(bag), 4, 3)).astype(np.float32)
    of_kind = {
        kind: scores[[m.kind == kind for m in bag]].mean(axis=0) for kind in {m.kind for m in bag}
    }
    shares = {kind: weights.get(kind, 1.0) for kind in of_kind}
    expected = sum(shares[kind] * mean for kind, mean in of_kind.items()) / sum(shares.values())
    found = acoustic_scores(scores, [m.kind for m in bag], Blend(kind_weights=weights))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_choice_does_not_hang_on_the_order() -> None:
    members = [member("a", 0, seed, 0.5) for seed in (3, 1, 2)] + [member("a", 0, 4, float("nan"))]
    assert choose(members, 2) == choose(members[::-1], 2) == [member("a", 0, 1, 0.5)]


def test_fold_without_member_is_named(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "data", recordings=6, soundscapes=0)
    run = make_run(tmp_path / "run", corpus)
    for path in (run.folder / "members").glob("*-fold1-*/member.json"):
        path.unlink()
    with pytest.raises(CorpusError, match="no finished member of fold 1"):
        choose_bag(run)


class Brightness(nn.Module):
    """Stands in for a network where only the passage of images through `score_images` is looked
    at."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift))

    def forward(self, grey: torch.Tensor) -> torch.Tensor:
        assert grey.dtype == torch.float32
        return torch.stack(
            [grey.mean(dim=(1, 2, 3)) / 255 + self.shift, self.shift.expand(len(grey))], dim=1
        )


def test_scores_are_sigmoids_in_the_order_of_images() -> None:
    images = (
        np.zeros((5, *IMAGE_SHAPE), np.uint8)
        + np.array([0, 51, 102, 153, 255], np.uint8)[:, None, None]
    )
    found = score_images([Brightness(0.0), Brightness(-1.0)], images, batch=2)
    logits = np.array([0, 0.2, 0.4, 0.6, 1.0])
    assert found.shape == (2, 5, 2)
    assert found.dtype == np.float32
    assert np.allclose(found[0, :, 0], 1 / (1 + np.exp(-logits)), atol=1e-6)
    assert np.allclose(found[1, :, 0], 1 / (1 + np.exp(1 - logits)), atol=1e-6)
    assert score_images([Brightness(0.0)], images[:0]).shape == (1, 0, 2)


def test_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8 images"):
        score_images([Brightness(0.0)], np.zeros((1, *IMAGE_SHAPE), np.float32))


def test_batch_size_does_not_change_a_networks_scores(made: tuple[Run, Corpus]) -> None:
    network = load_network(made[0], "mixup-fold0-seed1")
    images = np.random.default_rng(0).integers(0, 256, (5, *IMAGE_SHAPE), dtype=np.uint8)
    assert np.allclose(
        score_images([network], images, 1), score_images([network], images, 5), atol=1e-5
    )


def test_crop_table_is_the_bags_mean_of_unseen_crops(made: tuple[Run, Corpus]) -> None:
    run, corpus = made
    table = crop_table(run, corpus, run.bag())
    assert len(table.scores) == CROPS * len(corpus.recordings)
    assert table.recordings == tuple(r.recording for r in corpus.recordings for _ in range(CROPS))
    by_row: dict[int, list[np.ndarray]] = {}
    for info in run.bag():
        oof = run.out_of_fold(info.name)
        for row, scores in zip(oof.rows, oof.scores, strict=True):
            by_row.setdefault(int(row), []).append(scores)
    assert np.allclose(
        table.scores, [np.mean(by_row[i], axis=0) for i in range(len(table.scores))], atol=1e-6
    )
    # the first recording of each species has another behind it
    assert table.ignored.sum() == CROPS * len(CODES)
    assert np.isnan(table.day_of_year).sum() == CROPS * len(CODES)  # the second one has no date


def test_a_background_species_is_neither_right_nor_wrong(made: tuple[Run, Corpus]) -> None:
    run, corpus = made
    table = crop_table(run, corpus, run.bag())
    loud = np.where(table.ignored, np.float32(1.0), table.scores)
    assert score_crops(replace(table, scores=loud), CODES) == score_crops(table, CODES)


def test_perfect_scores_are_perfect(made: tuple[Run, Corpus]) -> None:
    run, corpus = made
    table = crop_table(run, corpus, run.bag())
    score = score_crops(replace(table, scores=np.eye(3, dtype=np.float32)[table.label]), CODES)
    assert (score.balanced_accuracy, score.f1_macro, score.mean_average_precision) == (
        1.0,
        1.0,
        1.0,
    )
    assert [(s.code, s.crops, s.recall) for s in score.species] == [
        (code, 6 * CROPS, 1.0) for code in CODES
    ]


def test_average_precision_by_hand() -> None:
    truth = np.array([True, False, True, False])
    assert metrics.average_precision(truth, np.array([0.9, 0.8, 0.7, 0.1])) == pytest.approx(
        (1 + 2 / 3) / 2
    )
    # all equal: no ranking at all
    assert metrics.average_precision(truth, np.zeros(4)) == pytest.approx(0.5)
    assert np.isnan(metrics.average_precision(np.zeros(4, bool), np.zeros(4)))


def test_class_scores_by_hand() -> None:
    truth = np.array([0, 0, 0, 1, 2])
    found = np.array([0, 0, 1, 1, 1])
    f1 = metrics.class_f1(truth, found, 4)
    assert f1.macro == pytest.approx((0.8 + 0.5 + 0.0) / 3)
    assert f1.weighted == pytest.approx((3 * 0.8 + 0.5) / 5)
    assert f1.micro == pytest.approx(0.6)
    assert metrics.balanced_accuracy(truth, found, 4) == pytest.approx((2 / 3 + 1 + 0) / 3)
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    assert metrics.top_k(np.array([0, 1]), probabilities, 1) == 0.5
    assert metrics.top_k(np.array([0, 1]), probabilities, 2) == 1.0
    assert metrics.log_loss(np.array([0, 1]), probabilities) == pytest.approx(
        -(np.log(0.7) + np.log(0.3)) / 2
    )
