"""What builders rely on: the rule by which benchmarks compare, the tests of what changed, the list of trials."""

import re
import subprocess
import sys
from math import comb
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.ratios import ROUNDS, Ratio, interleaved, interval_rank
from tests.changed import tests_of as files_of  # else pytest takes it for a test

PROJECT = Path(__file__).parents[1]


# ratios


def test_rounds_are_taken_in_turn_there_and_back() -> None:
    order: list[str] = []

    def cost(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = interleaved({name: lambda n=name: cost(n) for name in "abc"})  # type: ignore[misc]
    assert order[:9] == list("abccbaabc")
    assert len(order) == 3 * ROUNDS
    assert found["a"][:3] == [1.0, 6.0, 7.0]


def test_fewer_rounds_than_seven_are_no_comparison() -> None:
    with pytest.raises(ValueError, match="expected at least 7 rounds, found 6"):
        interleaved({}, 6)


@pytest.mark.parametrize(("rounds", "outside"), [(7, 0), (8, 0), (9, 1), (11, 1), (12, 2), (21, 5), (31, 9)])
def test_the_interval_is_that_of_the_tables(rounds: int, outside: int) -> None:
    """Of the sign test: C(9, 0) + C(9, 1) = 10 of 512 lie beyond on either side, and so on."""
    assert interval_rank(rounds) == outside
    beyond = [2 * sum(comb(rounds, i) for i in range(k + 1)) / 2**rounds for k in (outside, outside + 1)]
    assert beyond[0] <= 0.05 < beyond[1]


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    random, held = np.random.default_rng(1), 0
    for _ in range(2000):
        ratio = Ratio.of(random.lognormal(0.0, 0.3, 9).tolist(), [1.0] * 9)
        assert ratio.low <= ratio.median <= ratio.high
        held += ratio.low <= 1.0 <= ratio.high
    assert 0.945 < held / 2000 < 0.98


@given(st.lists(st.floats(0.1, 10), min_size=ROUNDS, max_size=40), st.floats(0.2, 5))
def test_a_drift_that_meets_both_alike_changes_no_ratio(drift: list[float], factor: float) -> None:
    ratio = Ratio.of([factor * cost for cost in drift], drift)
    assert (ratio.low, ratio.median, ratio.high) == pytest.approx((factor, factor, factor))


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(1.06, 1.2, "worse"), (1.04, 1.2, "not shown to be worse"), (0.9, 1.05, "not worse"), (1.05, 1.06, "not shown")],
)
def test_worse_is_said_when_the_whole_interval_is(low: float, high: float, said: str) -> None:
    assert Ratio(1.05, low, high).verdict(1.05).startswith(said)
    assert str(Ratio(1.05, low, high)) == f"1.05 ({low:.2f} to {high:.2f})"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--before", "nosuch"), "--before: expected a commit of this repository, found 'nosuch'"),
        (("--before", "HEAD", "--only", "live"), "--only: expected some of images, decoding, replay, training, found"),
        (("--only", "speed"), "--only: expected some of images, decoding, replay, live, bag, training, found"),
        (("--before", "HEAD", "--rounds", "3"), "--rounds: expected 7 or more, found 3"),
        (("--quick", "--long"), "not allowed with argument"),
    ],
)
def test_a_wrong_call_of_the_benchmarks_is_one_line(arguments: tuple[str, ...], line: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", *arguments], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert line in done.stderr.splitlines()[-1]


# the tests of what changed


@pytest.mark.parametrize(
    ("changed", "some", "none"),
    [
        ("edge/capture/schedule.py", "tests/test_schedule.py", "tests/test_trainer_fit.py"),
        ("trainer/validation.py", "tests/test_trainer_member.py", "tests/test_brokers.py"),
        ("tests/test_audio.py", "tests/test_audio.py", "tests/test_contract.py"),
        ("tests/trainer_corpus.py", "tests/test_trainer_fit.py", "tests/test_brokers.py"),
        ("systemd/sysusers" + ".conf", "tests/test_service.py", "tests/test_audio.py"),
        ("pyproject" + ".toml", "tests/test_project.py", "tests/test_audio.py"),
        ("edge/reports/why.py", "tests/test_why.py", "tests/test_trainer_fit.py"),
    ],
)
def test_what_changed_finds_its_tests(changed: str, some: str, none: str) -> None:
    found = files_of([changed])
    assert some in found
    assert none not in found


@pytest.mark.slow
def test_every_source_has_tests_to_run() -> None:
    sources = [p.relative_to(PROJECT).as_posix() for p in (PROJECT / "edge").rglob("*.py") if p.name != "__init__.py"]
    assert [source for source in sources if not files_of([source])] == []


# what is run by hand


def test_every_trial_is_in_the_list_of_what_was_verified() -> None:
    told = (PROJECT / "docs" / "verification.md").read_text(encoding="utf8")
    trials = {path.stem for path in (PROJECT / "tests" / "trials").glob("*.py")}
    commands = {name for name in trials if f"python -m tests.trials.{name} -" in _docstring(name)}
    assert commands
    for name in commands:
        rows = [line for line in told.splitlines() if f"`python -m tests.trials.{name}" in line]
        assert rows, f"{name}: no line in docs/verification.md"
        assert any(re.search(r"\b20\d\d-\d\d-\d\d\b", row) for row in rows), f"{name}: when was it run?"


def _docstring(trial: str) -> str:
    text = (PROJECT / "tests" / "trials" / f"{trial}.py").read_text(encoding="utf8")
    return text.split('"""')[1] if '"""' in text else ""
