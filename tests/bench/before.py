"""The code as it was at a commit beside the code as it is now: the same costs of both, in turn.

The old code lies in a work tree of its own in build/bench, with the benchmarks of today over it;
code from before the folders of today with its own, which know its modules' names.
"""

import fcntl
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.bench.images import ONE_THREAD
from tests.bench.ratios import Ratio

PROJECT = Path(__file__).parents[2]
_TODAYS = Path("edge") / "host"  # a folder that no earlier layout has
Costs = dict[str, float]


class NotMeasured(Exception):
    """A part that one of both trees cannot run."""


def compare(
    console: Console, revision: str, parts: Sequence[str], quick: bool, rounds: int, bound: float
) -> bool:
    """Print of each part what each cost was and is, and its ratio, as soon as it is known; whether
    all could be measured."""
    failed = []
    with tree_of(revision) as (tree, commit):
        for part in parts:
            try:
                found = rounds_of(console, tree, part, quick, rounds)
            except NotMeasured as error:
                console.print(str(error), soft_wrap=True)
                failed.append(part)
                continue
            console.print(
                table_of(f"{part}: {commit[:9]} and now, {rounds} rounds in turn", found, bound)
            )
    console.print(
        "Medians; the ratio is the median of the rounds' ratios, with the interval that holds it "
        "(95 %)."
    )
    return not failed


def rounds_of(
    console: Console, tree: Path, part: str, quick: bool, rounds: int
) -> dict[str, list[Costs]]:
    """`before` and `now`, round by round; in every second one now comes first."""
    costs = partial(costs_of, part=part, quick=quick)
    found: dict[str, list[Costs]] = {"before": [], "now": []}
    trees = [("before", tree), ("now", PROJECT)]
    for number in track(range(rounds), part, console=console, transient=True):
        for name, where in trees[:: -1 if number % 2 else 1]:
            found[name].append(costs(where))
    return found


def table_of(title: str, found: dict[str, list[Costs]], bound: float) -> Table:
    """A row for each cost that both have."""
    table = Table(title=title, title_justify="left")
    for name in ("cost", "before", "now", "now / before", f"bound {bound:g}"):
        table.add_column(name, justify="right" if name in ("before", "now") else "left")
    names = dict.fromkeys(name for costs in (*found["now"], *found["before"]) for name in costs)
    for name in names:
        before, now = (
            [costs[name] for costs in found[side] if name in costs] for side in ("before", "now")
        )
        if len(before) != len(now):
            table.add_row(
                name, "-" if not before else "", "-" if not now else "", "of one of both only", ""
            )
            continue
        medians = (f"{statistics.median(values):.3f}" for values in (before, now))
        try:
            ratio = Ratio.of(now, before)
        except ValueError as error:
            table.add_row(name, *medians, str(error), "")
        else:
            table.add_row(name, *medians, str(ratio), ratio.verdict(bound))
    return table


def costs_of(tree: Path, part: str, quick: bool) -> Costs:
    """One round of `part` with the code in `tree`. Raises NotMeasured."""
    command = [sys.executable, "-m", "tests.bench.costs", part, *(["--quick"] if quick else [])]
    environment = os.environ | (ONE_THREAD if part == "images" else {})
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.splitlines() or ["it says nothing"])[-1]
        raise NotMeasured(
            f"{part}: tests/bench/{part}.py with the code in {tree} ended with: {last}"
        )
    return dict(json.loads(done.stdout.splitlines()[-1]))


@contextmanager
def tree_of(revision: str) -> Iterator[tuple[Path, str]]:
    """A work tree of that commit with today's benchmarks, and the commit; nobody else's as long as
    it is open."""
    if git(PROJECT, "rev-parse", "--show-prefix") is None or git(
        PROJECT, "rev-parse", "--show-prefix"
    ):
        sys.exit(f"--before: expected {PROJECT} to be a git checkout of its own")
    commit = git(
        PROJECT, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"
    )
    if not commit:
        sys.exit(f"--before: expected a commit of this repository, found {revision!r}")
    build = PROJECT / "build" / "bench"
    build.mkdir(parents=True, exist_ok=True)
    tree = build / f"before-{commit[:12]}"
    with (build / f"{tree.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _check_out(tree, commit)
        if (tree / _TODAYS).is_dir():
            shutil.rmtree(tree / "tests", ignore_errors=True)
            shutil.copytree(
                PROJECT / "tests", tree / "tests", ignore=shutil.ignore_patterns("__pycache__")
            )
        (tree / "build").mkdir(exist_ok=True)
        archives = tree / "build" / "bench"
        if archives.is_symlink():
            archives.unlink()
        archives.symlink_to(build, target_is_directory=True)
        yield tree, commit


def _check_out(tree: Path, commit: str) -> None:
    """Whole and unchanged, also where an earlier try was killed."""
    # else git would find the project's
    own = git(tree, "rev-parse", "--show-toplevel") == str(tree.resolve())
    if own and git(tree, "reset", "--hard", "--quiet", commit) is not None:
        return
    shutil.rmtree(tree, ignore_errors=True)
    git(PROJECT, "worktree", "prune")
    if git(PROJECT, "worktree", "add", "--detach", "--force", "--force", str(tree), commit) is None:
        sys.exit(f"--before: git makes no work tree in {tree}")


def git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None if it fails."""
    if not folder.is_dir():
        return None
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    return None if done.returncode else done.stdout.strip()
