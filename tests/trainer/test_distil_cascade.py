"""Margins: what a cascade decides beside bag and student; bundles with a student and those older
than students."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.contract.blend import Blend
from edge.contract.bundle import (
    MANIFEST,
    PROBE,
    SUMS,
    _content_id,
    file_sha256,
    read_bundle,
    seal_bundle,
)
from edge.contract.errors import BundleError
from trainer.student.cascade import MARGIN_MAX, Answers, Margins, choose_margins, judge_margins

_WINDOWS = 60
_SPECIES = 3


@st.composite
def _answers(draw: st.DrawFn, smoothing: float | None = None) -> Answers:
    """A student that is the bag with noise, over recordings of ten windows, some of them with a
    prior."""
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    odds = random.normal(-1, 3, (_WINDOWS, _SPECIES))
    heard = odds + random.normal(0, draw(st.floats(0, 3)), odds.shape)
    prior = random.dirichlet(np.ones(_SPECIES), _WINDOWS).astype(np.float32)
    prior[random.random(_WINDOWS) < 0.5] = np.nan
    stretch = np.arange(_WINDOWS) // 10
    weight = draw(st.sampled_from([0.0, 0.2])) if smoothing is None else smoothing
    blend = Blend(
        draw(st.sampled_from(["mean", "logit"])), draw(st.sampled_from([0.0, 0.5])), {}, weight
    )
    bag, student = (np.asarray(1 / (1 + np.exp(-o)), np.float32) for o in (odds, heard))
    own = random.uniform(0.1, 0.9, _SPECIES).astype(np.float32)
    return Answers(bag, student, prior, stretch, own, own, blend)


@given(_answers())
def test_without_margins_the_student_decides_and_with_the_widest_the_bag(answers: Answers) -> None:
    none = answers.opened(0.0, 0.0)
    all_of_them = answers.opened(MARGIN_MAX, MARGIN_MAX)
    assert not none.any()
    assert all_of_them.all()
    np.testing.assert_array_equal(answers.cascade(none), answers.decided(answers.student))
    np.testing.assert_array_equal(answers.cascade(all_of_them), answers.decided(answers.bag))


@given(_answers(smoothing=0.0), st.floats(0, 5), st.floats(0, 5), st.floats(0, 5))
def test_wider_margins_open_more_and_agree_more(
    answers: Answers, below: float, above: float, more: float
) -> None:
    narrow = answers.opened(below, above)
    for wide in (answers.opened(below + more, above), answers.opened(below, above + more)):
        assert not (narrow & ~wide).any()
        assert answers.agreement(wide) >= answers.agreement(narrow)


@settings(max_examples=10)
@given(_answers())
def test_chosen_margins_reach_the_goal_where_they_were_chosen(answers: Answers) -> None:
    margins = choose_margins(answers, goal=0.9)  # of 60 windows, so six may differ, less luck
    assert answers.agreement(answers.opened(margins.below, margins.above)) >= 0.9


def test_a_perfect_student_opens_nothing() -> None:
    perfect = _answers_of(np.linspace(0.01, 0.99, 200))
    assert choose_margins(perfect) == Margins(0.0, 0.0)
    too_few = perfect.take(np.arange(200) < 199)
    assert choose_margins(too_few) == Margins(MARGIN_MAX, MARGIN_MAX)


def test_margins_are_judged_on_recordings_that_they_were_not_chosen_on() -> None:
    """One recording in five is heard otherwise, so that margins chosen without it are too narrow
    for it."""
    answers = _answers_of(np.linspace(0.02, 0.98, 1000))
    odd = np.arange(1000) % 5 == 3
    shy = np.where(odd[:, None] & (answers.bag > 0.5), answers.bag - 0.3, answers.bag).astype(
        np.float32
    )
    judged = judge_margins(replace(answers, student=shy))
    assert judged.margins.below > 0.8  # it knows all of them
    assert 0.8 < judged.agreement < 0.95


def _answers_of(scores: np.ndarray) -> Answers:
    bag = np.repeat(scores[:, None], _SPECIES, axis=1).astype(np.float32)
    half = np.full(_SPECIES, 0.5, np.float32)
    stretch = np.arange(len(bag))
    return Answers(bag, bag, np.full_like(bag, np.nan), stretch, half, half, Blend())


def test_margins_are_as_wide_as_the_student_errs() -> None:
    answers = _answers_of(np.linspace(0.02, 0.98, 1000))
    # says 0.3 to 0.5 of a bird
    shy = np.where(answers.bag > 0.5, answers.bag - 0.2, answers.bag).astype(np.float32)
    margins = choose_margins(replace(answers, student=shy))
    assert margins.below == margins.above == pytest.approx(0.85, abs=0.15)  # -logit(0.3)


def test_joined_recordings_are_no_neighbours() -> None:
    answers = replace(
        _answers_of(np.linspace(0.1, 0.9, 20)),
        blend=Blend(smoothing=0.2),
        stretch=np.zeros(20, int),
    )
    both = answers.join(answers)
    np.testing.assert_array_equal(
        both.blended(both.bag), np.tile(answers.blended(answers.bag), (2, 1))
    )


# the bundle


def test_the_student_is_one_of_the_networks(student_bundle: Path) -> None:
    bundle = read_bundle(student_bundle)
    assert [network.name for network in bundle.manifest.networks] == ["stripes", "mixup", "student"]
    assert len(bundle.manifest.members) == 2
    assert bundle.probe().student_scores.shape == (len(bundle.probe().clips), len(bundle.taxonomy))


def test_a_bundle_older_than_students_is_read(own_bundle: Path) -> None:
    raw = json.loads((own_bundle / MANIFEST).read_text())
    del raw["student"]
    for member in raw["members"]:
        del member["int8"]
    with np.load(own_bundle / PROBE) as file:
        arrays = {name: file[name] for name in file if name != "student_scores"}
    np.savez_compressed(own_bundle / PROBE, **arrays)
    lines = (own_bundle / SUMS).read_text().splitlines()
    sums = {
        name: file_sha256(own_bundle / name) for name in (line.split("  ")[1] for line in lines)
    }
    raw["id"] = _content_id(
        raw, {name: digest for name, digest in sums.items() if name != MANIFEST}
    )
    (own_bundle / MANIFEST).write_text(json.dumps(raw))
    sums[MANIFEST] = file_sha256(own_bundle / MANIFEST)
    (own_bundle / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    bundle = read_bundle(own_bundle)
    assert bundle.manifest.student is None
    assert bundle.manifest.networks == bundle.manifest.members
    assert bundle.probe().student_scores.size == 0


def test_the_students_file_is_checked_as_a_members_is(student_bundle: Path, tmp_path: Path) -> None:
    for name, change in (
        ("damaged", lambda path: path.write_bytes(path.read_bytes()[:-1])),
        ("missing", Path.unlink),
    ):
        broken = Path(shutil.copytree(student_bundle, tmp_path / name))
        change(broken / "members" / "student.onnx")
        with pytest.raises(BundleError, match=rf"student\.onnx: .*{name}"):
            read_bundle(broken)
    gone = Path(shutil.copytree(student_bundle, tmp_path / "gone"))
    (gone / "members" / "student.onnx").unlink()
    with pytest.raises(
        BundleError, match=r"member student: no file members/student\.onnx in the bundle"
    ):
        seal_bundle(gone, read_bundle(student_bundle).manifest)


def test_a_probe_without_the_students_scores_is_refused(
    student_bundle: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(student_bundle, tmp_path / "bundle"))
    bundle = read_bundle(folder)
    replace(bundle.probe(), student_scores=np.empty((0, 0), np.float32)).write(folder / PROBE)
    sealed = seal_bundle(folder, bundle.manifest)
    with pytest.raises(BundleError, match="made for another student"):
        sealed.probe()


def test_margins_below_zero_are_refused(student_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(student_bundle, tmp_path / "bundle"))
    raw = json.loads((folder / MANIFEST).read_text())
    raw["student"]["below"] = -1.0
    (folder / MANIFEST).write_text(json.dumps(raw))
    lines = (folder / SUMS).read_text().splitlines()
    kept = [line for line in lines if not line.endswith(MANIFEST)]
    (folder / SUMS).write_text(
        "\n".join([*kept, f"{file_sha256(folder / MANIFEST)}  {MANIFEST}"]) + "\n"
    )
    with pytest.raises(BundleError, match=r"student\.below and above must not be negative"):
        read_bundle(folder)
