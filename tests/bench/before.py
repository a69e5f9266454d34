"""The code as it was at a commit beside the code as it is now: the same costs of both, in turn.

The old code lies in a work tree of its own in build/bench, with the benchmarks of today over it.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.bench.images import ONE_THREAD
from tests.bench.ratios import Ratio

PROJECT = Path(__file__).parents[2]


def compare(console: Console, revision: str, parts: Sequence[str], quick: bool, rounds: int, bound: float) -> None:
    """Print what each cost was and is, and its ratio."""
    tree, commit = tree_of(revision)
    table = Table(title=f"{commit[:9]} and now, {rounds} rounds in turn", title_justify="left")
    for name in ("part", "cost", "before", "now", "now / before", f"bound {bound:g}"):
        table.add_column(name, justify="right" if name in ("before", "now") else "left")
    for part in parts:
        costs = partial(costs_of, part=part, quick=quick)
        found: dict[str, list[dict[str, float]]] = {"before": [], "now": []}
        trees = [("before", tree), ("now", PROJECT)]
        for number in track(range(rounds), part, console=console, transient=True):
            for name, where in trees[:: -1 if number % 2 else 1]:
                found[name].append(costs(where))
        for cost in found["now"][0]:
            before, now = ([costs[cost] for costs in found[name]] for name in ("before", "now"))
            ratio = Ratio.of(now, before)
            medians = (f"{sorted(values)[rounds // 2]:.3f}" for values in (before, now))
            table.add_row(part, cost, *medians, str(ratio), ratio.verdict(bound))
    console.print(table)
    console.print("Medians; the ratio is the median of the rounds' ratios, with the interval that holds it (95 %).")


def costs_of(tree: Path, part: str, quick: bool) -> dict[str, float]:
    """One round of `part` with the code in `tree`."""
    command = [sys.executable, "-m", "tests.bench.costs", part, *(["--quick"] if quick else [])]
    environment = os.environ | (ONE_THREAD if part == "images" else {})
    done = subprocess.run(command, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{part} cannot be measured in {tree}: today's tests/bench/{part}.py ended with {done.returncode}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def tree_of(revision: str) -> tuple[Path, str]:
    """A work tree of that commit with today's benchmarks, and its name."""
    named = git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", check=False)
    if not named:
        sys.exit(f"--before: expected a commit of this repository, found {revision!r}")
    build = PROJECT / "build" / "bench"
    tree = build / f"before-{named[:12]}"
    if not tree.exists():
        git("worktree", "prune")
        git("worktree", "add", "--detach", "--force", str(tree), named)
    shutil.rmtree(tree / "tests")
    shutil.copytree(PROJECT / "tests", tree / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "build").mkdir(exist_ok=True)
    if not (tree / "build" / "bench").exists():
        (tree / "build" / "bench").symlink_to(build, target_is_directory=True)
    return tree, named


def git(*arguments: str, check: bool = True) -> str:
    """What git prints."""
    done = subprocess.run(["git", *arguments], cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=check)
    return done.stdout.strip()
