"""A network that gives no number for a window: it never means that nothing is there.

The engines are ONNX Runtime's, whose answers for some windows are spoilt afterwards.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.analysis.recognizer import Recognizer
from edge.contract.audio import Input
from edge.contract.blend import Scores
from edge.contract.bundle import Bundle, read_bundle
from edge.engines.engine import answers_of
from edge.engines.onnx import OnnxEngine

BAD = [np.nan, np.inf, -np.inf]


class Spoilt(OnnxEngine):
    """For the last window, some members say `value` of one species."""

    def __init__(self, bundle: Bundle, networks: Any, spoilt: Sequence[int], value: float) -> None:
        super().__init__(answers_of(bundle, networks), input_shape=bundle.input_shape)
        self._spoilt = spoilt
        self._value = value

    def scores(self, inputs: Input, members: Sequence[int] | None = None) -> Scores:
        scores = super().scores(inputs, members)
        for at, member in enumerate(range(len(scores)) if members is None else members):
            if member in self._spoilt:
                scores[at, -1, 1] = self._value
        return scores


class Accelerator:
    """The same, and no ONNX Runtime."""

    name = "accelerator"
    tolerance = 1e-3

    def __init__(self, engine: Spoilt) -> None:
        self._engine = engine

    def scores(self, inputs: Input, members: Sequence[int] | None = None) -> Scores:
        return self._engine.scores(inputs, members)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("value", BAD)
def test_the_other_members_decide(
    bundle_folder: Path, value: float, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = read_bundle(bundle_folder)
    inputs = bundle.probe().inputs
    networks = bundle.manifest.members
    recognizer = Recognizer(bundle, engine=Spoilt(bundle, networks, [0], value))
    whole = Recognizer(bundle).recognise(inputs, None)
    found = recognizer.recognise(inputs, None)
    np.testing.assert_array_equal(found.acoustic[:-1], whole.acoustic[:-1])
    assert np.isfinite(found.blended).all()
    assert np.isnan(found.members[0, -1, 1])
    assert (found.acoustic[-1] > 0).all()
    trouble = (
        f"the networks: no score for 1 of the last {len(inputs)} windows: {networks[0].name} gave "
        "no number"
    )
    assert (recognizer.trouble or "").startswith(trouble)
    assert [r.getMessage().startswith(trouble) for r in caplog.records] == [True]


def test_where_no_member_gives_one_it_is_said(bundle_folder: Path) -> None:
    bundle = read_bundle(bundle_folder)
    every = range(len(bundle.manifest.members))
    recognizer = Recognizer(bundle, engine=Spoilt(bundle, bundle.manifest.members, every, np.nan))
    found = recognizer.recognise(bundle.probe().inputs, None)
    assert np.isfinite(found.blended).all(), "a neighbour is not spoilt by it"
    assert recognizer.trouble


def test_an_accelerator_that_gives_none_is_given_up(bundle_folder: Path) -> None:
    bundle = read_bundle(bundle_folder)
    inputs = bundle.probe().inputs
    recognizer = Recognizer(
        bundle, engine=Accelerator(Spoilt(bundle, bundle.manifest.members, [0], np.nan))
    )
    found = recognizer.recognise(inputs, None)
    assert recognizer.degraded == "accelerator gave no number for a window"
    assert recognizer.trouble is None
    np.testing.assert_array_equal(found.members, Recognizer(bundle).recognise(inputs, None).members)


@pytest.mark.parametrize("members", ["cascade", "student"])
def test_a_student_that_gives_none_leaves_the_window_to_the_bag(
    student_bundle: Path, members: Any
) -> None:
    bundle = read_bundle(student_bundle)
    inputs = bundle.probe().inputs
    alone = Recognizer(bundle, members=members)
    student = len(alone.networks) - 1
    recognizer = Recognizer(
        bundle, engine=Spoilt(bundle, alone.networks, [student], np.nan), members=members
    )
    found = recognizer.recognise(
        inputs, None, undecided=lambda scores: np.zeros(len(scores), np.bool_)
    )
    assert np.isfinite(found.blended).all()
    assert found.decided_by[-1] == ("bag" if members == "cascade" else "student")
    assert set(found.decided_by[:-1]) == {"student"}
    assert "gave no number" in (recognizer.trouble or "")
