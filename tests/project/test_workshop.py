"""What builders rely on: the rule by which benchmarks compare, the tests of what changed, the list
of trials."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from math import comb
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.before import table_of, tree_of
from tests.bench.ratios import ROUNDS, Ratio, interleaved, interval_rank
from tests.changed import tests_by_file as files_by_file  # else pytest takes it for a test
from tests.changed import tests_of as files_of

PROJECT = Path(__file__).parents[2]


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


@pytest.mark.parametrize(
    ("rounds", "outside"), [(7, 0), (8, 0), (9, 1), (11, 1), (12, 2), (21, 5), (31, 9)]
)
def test_the_interval_is_that_of_the_tables(rounds: int, outside: int) -> None:
    """Of the sign test: C(9, 0) + C(9, 1) = 10 of 512 lie beyond on either side, and so on."""
    assert interval_rank(rounds) == outside
    beyond = [
        2 * sum(comb(rounds, i) for i in range(k + 1)) / 2**rounds for k in (outside, outside + 1)
    ]
    assert beyond[0] <= 0.05 < beyond[1]


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    held = 0
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
    [
        (1.06, 1.2, "worse"),
        (1.04, 1.2, "not shown to be worse"),
        (0.9, 1.05, "not worse"),
        (1.05, 1.06, "not shown"),
    ],
)
def test_worse_is_said_when_the_whole_interval_is(low: float, high: float, said: str) -> None:
    assert Ratio(1.05, low, high).verdict(1.05).startswith(said)
    assert str(Ratio(1.05, low, high)) == f"1.05 ({low:.2f} to {high:.2f})"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--before", "nosuch"), "--before: expected a commit of this repository, found 'nosuch'"),
        (
            ("--before", "HEAD", "--only", "live"),
            "--only: expected some of images, decoding, replay, training, found",
        ),
        (
            ("--only", "speed"),
            "--only: expected some of images, decoding, replay, second, live, bag, training, found",
        ),
        (("--before", "HEAD", "--rounds", "3"), "--rounds: expected 7 or more, found 3"),
        (("--before", "HEAD", "--bound", "nan"), "--bound: expected a number above 0, found nan"),
        (("--bound", "1.1"), "--rounds and --bound: expected with --before"),
        (("--quick", "--long"), "not allowed with argument"),
    ],
)
def test_a_wrong_call_of_the_benchmarks_is_one_line(arguments: tuple[str, ...], line: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert line in done.stderr.splitlines()[-1]


# the tests of what changed


@pytest.mark.parametrize(
    ("changed", "some", "none"),
    [
        ("edge/capture/schedule.py", "tests/edge/test_schedule.py", "tests/trainer/test_fit.py"),
        (
            "trainer/training/validation.py",
            "tests/trainer/test_member.py",
            "tests/edge/test_brokers.py",
        ),
        ("tests/edge/test_audio.py", "tests/edge/test_audio.py", "tests/edge/test_contract.py"),
        (
            "tests/helpers/trainer_corpus.py",
            "tests/trainer/test_fit.py",
            "tests/edge/test_brokers.py",
        ),
        ("systemd/sysusers" + ".conf", "tests/edge/test_service.py", "tests/edge/test_audio.py"),
        ("pyproject" + ".toml", "tests/project/test_project.py", "tests/edge/test_audio.py"),
        ("edge/reports/why.py", "tests/edge/test_why.py", "tests/trainer/test_fit.py"),
    ],
)
def test_what_changed_finds_its_tests(changed: str, some: str, none: str) -> None:
    found = files_of([changed])
    assert some in found
    assert none not in found


def test_every_source_has_tests_to_run() -> None:
    sources = [
        path.relative_to(PROJECT).as_posix()
        for package in ("edge", "trainer", "export")
        for path in (PROJECT / package).rglob("*.py")
        if path.name != "__init__.py"
    ]
    found = files_by_file(sources)
    assert len(found) == len(sources) > 200
    assert [
        name for name, tests in found.items() if tests <= {"tests/project/test_project.py"}
    ] == []


def checkout(folder: Path) -> Path:
    """A small repository with the tool in it: two commits, and a file whose name git would write in
    quotes."""
    (folder / "tests").mkdir(parents=True)
    for name in ("edge", "trainer", "export"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("")
    shutil.copy(PROJECT / "tests" / "changed.py", folder / "tests")
    (folder / "tests" / "__init__.py").write_text("")
    (folder / "edge" / "owl.py").write_text("HOOT = 1\n")
    (folder / "tests" / "test_night.py").write_text(
        "from edge.owl import HOOT\n\n\ndef test_hoot():\n    assert HOOT\n"
    )
    git(folder, "init", "-q")
    for message in ("one", "two"):
        (folder / message).write_text("")
        git(folder, "add", "-A")
        git(folder, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", message)
    return folder


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True)


def check(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.changed", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "edge" / "owl.py").write_text("HOOT = 0\n"),
        lambda folder: git(folder, "rm", "-q", "edge/owl.py"),
        lambda folder: git(folder, "mv", "edge/owl.py", "edge/eagle.py"),
        lambda folder: (folder / "tests" / "test_vögel.py").write_text(
            "def test_bird():\n    assert 0\n"
        ),
        lambda folder: (folder / "tests" / 'test_"two words".py').write_text(
            "def test_bird():\n    assert 0\n"
        ),
    ],
    ids=["changed", "removed", "moved", "umlaut", "quotes"],
)
def test_a_change_that_breaks_a_test_is_found(
    change: Callable[[Path], object], tmp_path: Path
) -> None:
    folder = checkout(tmp_path / "a b")
    change(folder)
    done = check(folder, "-q")
    assert done.returncode not in (0, 5), done.stdout + done.stderr


@pytest.mark.slow
def test_a_module_that_is_new_since_the_last_look_is_found(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "repo")
    (folder / "tests" / "test_first.py").write_text(
        "from edge.new import X\n\n\ndef test_x():\n    assert X\n"
    )
    assert check(folder, "-q").returncode != 0, "the test is there before what it tests"
    (folder / "edge" / "new.py").write_text("X = 1\n")
    git(folder, "add", "-A")
    for message in ("three", "four"):
        git(
            folder,
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "commit",
            "-q",
            "--allow-empty",
            "-m",
            message,
        )
    (folder / "edge" / "new.py").write_text("X = 0\n")
    done = check(folder, "-q")
    assert "tests/test_first.py" in done.stdout
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--since", "nosuch"), "--since: expected a commit of this repository, found 'nosuch'"),
        (("--since", "tests"), "--since: expected a commit of this repository, found 'tests'"),
        (("--since=--stat",), "--since: expected a commit of this repository, found '--stat'"),
    ],
)
def test_a_wrong_call_of_check_is_one_line(
    arguments: tuple[str, ...], line: str, tmp_path: Path
) -> None:
    done = check(checkout(tmp_path / "repo"), *arguments)
    assert (done.returncode, done.stderr.strip()) == (1, line)


def test_check_outside_of_git_says_what_to_do(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "repo")
    shutil.rmtree(folder / ".git")
    done = check(folder)
    assert (done.returncode, "run make test" in done.stderr, "Traceback" in done.stderr) == (
        1,
        True,
        False,
    )


# the code of a commit beside that at hand


@pytest.mark.slow
def test_a_work_tree_is_whole_again_whatever_happened_to_it() -> None:
    if not (PROJECT / ".git").exists():
        pytest.skip("no git checkout")
    with tree_of("HEAD") as (tree, commit):
        assert (tree / "tests" / "bench" / "before.py").read_text() == (
            PROJECT / "tests/bench/before.py"
        ).read_text()
    (tree / "edge" / "__init__.py").write_text("raise SystemExit('changed by hand')\n")
    shutil.rmtree(tree / "tests")
    for damage in (lambda: None, lambda: shutil.rmtree(tree), lambda: (tree / ".git").unlink()):
        damage()
        with tree_of(commit) as (again, _):
            assert again == tree
            assert "changed by hand" not in (tree / "edge" / "__init__.py").read_text()
            assert (tree / "tests" / "bench" / "costs.py").is_file()
    # nobody else's now: a checkout's folder is not to grow with every commit that is tested
    with tree_of(commit):
        git(PROJECT, "worktree", "remove", "--force", str(tree))


def test_costs_of_one_side_and_costs_that_are_no_ratio_have_a_row() -> None:
    before = [{"same": 1.0, "zero": 0.0, "gone": 1.0}] * ROUNDS
    now = [{"same": 2.0, "zero": 1.0, "new": 1.0}] * ROUNDS
    table = table_of("t", {"before": before, "now": now}, 1.05)
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert [(row[0], row[3], row[4]) for row in rows] == [
        ("same", "2.00 (2.00 to 2.00)", "worse"),
        ("zero", "no ratio of what is not above 0", ""),
        ("new", "of one of both only", ""),
        ("gone", "of one of both only", ""),
    ]


# ports


@pytest.mark.slow
def test_workers_share_no_port() -> None:
    program = (
        "from tests.helpers.brokers import free_port; print(*(free_port() for _ in range(30)))"
    )
    found: list[set[int]] = []
    for worker, count in ((0, 4), (3, 4), (95, 96)):
        environment = os.environ | {
            "PYTEST_XDIST_WORKER": f"gw{worker}",
            "PYTEST_XDIST_WORKER_COUNT": str(count),
        }
        command = [sys.executable, "-c", program]
        done = subprocess.run(
            command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=True
        )
        found.append({int(port) for port in done.stdout.split()})
    assert not found[0] & found[1]
    assert all(len(ports) == 30 and max(ports) < 32_768 for ports in found)


# what is run by hand


def test_every_trial_is_in_the_list_of_what_was_verified() -> None:
    told = (PROJECT / "docs" / "verification.md").read_text(encoding="utf8")
    trials = {path.stem for path in (PROJECT / "tests" / "trials").glob("*.py")}
    commands = {name for name in trials if f"python -m tests.trials.{name} -" in _docstring(name)}
    assert commands
    for name in commands:
        rows = [line for line in told.splitlines() if f"`python -m tests.trials.{name}" in line]
        assert rows, f"{name}: no line in docs/verification.md"
        assert any(re.search(r"\b20\d\d-\d\d-\d\d\b", row) for row in rows), (
            f"{name}: when was it run?"
        )


def _docstring(trial: str) -> str:
    text = (PROJECT / "tests" / "trials" / f"{trial}.py").read_text(encoding="utf8")
    return text.split('"""')[1] if '"""' in text else ""
