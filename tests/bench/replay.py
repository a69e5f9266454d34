"""Replays of archives of 1 and 4 hours (24 with --long): cost per hour, speed, memory, the first
row.

The shipped bundle and the command as a user types it, each in a process of its own; what it says of
itself in JSON, and the moment when a row can be read by somebody else.
"""

import argparse
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from edge.config import DEMO_FOLDER
from edge.contract.bundle import read_bundle
from tests.bench.archive import HOUR_S, archive
from tests.bench.ratios import ROUNDS, Ratio, interleaved

PEERS = (
    "CPU seconds per hour of 32-kHz Ogg, measured elsewhere on a machine of this kind: "
    "BirdNET-Analyzer 84, the best stock runner of its network 68, the leanest loop 36"
)
STEPS = ("decode", "image", "engine", "store")
_LOOK_EVERY_S = 0.02
# of a long archive's cost per hour and memory, against a short one's
CONSTANT_MAX = 1.05
MEMORY_MAX = 1.1


@dataclass(frozen=True)
class Plan:
    """One replay."""

    suffix: str
    hours: int
    members: str
    jobs: int

    def like(self, other: "Plan") -> bool:
        """The same but for its length."""
        return replace(self, hours=other.hours) == other


@dataclass(frozen=True)
class Measured:
    """What it took."""

    cpu_s_per_hour: float
    x_real_time: float
    peak_mb: float
    first_row_s: float  # from the start of the process until somebody else can read a row of effort
    shares: tuple[float, ...]  # of STEPS in the time that they took together


def modes() -> list[str]:
    """What `members` may be with the shipped bundle."""
    student = read_bundle(DEMO_FOLDER / "bundle").manifest.student
    return ["bag"] if student is None else ["student", "cascade", "bag"]


def plans(long: bool) -> Iterator[Plan]:
    """Ogg of 1 and 4 hours, FLAC once; 24 hours if it may take long."""
    for members in modes():
        yield Plan("ogg", 1, members, 1)
        yield Plan("ogg", 4, members, 1)
        yield Plan("ogg", 4, members, 2)
        yield Plan("flac", 1, members, 1)
        if long:
            yield Plan("ogg", 24, members, 1)
            yield Plan("ogg", 24, members, 2)


def measure(todo: list[Plan], console: Console) -> dict[Plan, list[Measured]]:
    """All plans, in turn."""
    runs: dict[Plan, list[Measured]] = {plan: [] for plan in todo}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("replays", total=ROUNDS * len(todo))

        def cost(plan: Plan) -> float:
            runs[plan].append(run(plan))
            progress.advance(task)
            return runs[plan][-1].cpu_s_per_hour

        interleaved({str(plan): partial(cost, plan) for plan in todo})
    return runs


def costs(quick: bool) -> dict[str, float]:
    """CPU seconds per hour, seconds to the first row and megabytes of a replay of an hour, by each
    kind of members."""
    found = {}
    for members in modes()[:1] if quick else modes():
        cost = run(Plan("ogg", 1, members, 1))
        found[f"{members}, CPU s an hour"] = cost.cpu_s_per_hour
        found[f"{members}, first row s"] = cost.first_row_s
        found[f"{members}, peak MB"] = cost.peak_mb
    return found


def run(plan: Plan) -> Measured:
    """One replay into a new database."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        state = Path(name)
        config = state / "station.yaml"
        config.write_text(
            f"station: {{id: bench}}\nstate: {state}\nmembers: {plan.members}\nwindows: {{hop_s: "
            "5.0}\n"
        )
        command = [
            sys.executable,
            "-m",
            "edge",
            "replay",
            str(archive(plan.suffix, plan.hours)),
            "--json",
        ]
        start = time.perf_counter()
        with subprocess.Popen(
            [*command, "--config", str(config), "--jobs", str(plan.jobs)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            while not has_row(state / "station.db") and process.poll() is None:
                time.sleep(_LOOK_EVERY_S)
            first_row_s = time.perf_counter() - start
            output, _ = process.communicate()
        if process.returncode:
            sys.exit(f"{plan}: the replay ended with {process.returncode}")
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    spent = [found["seconds"].get(step, 0.0) for step in STEPS]
    return Measured(
        cpu_s_per_hour=found["cpu_s"] / (found["audio_s"] / HOUR_S),
        x_real_time=found["x_real_time"],
        peak_mb=found["peak_rss_mb"],
        first_row_s=first_row_s,
        shares=tuple(seconds / sum(spent) for seconds in spent),
    )


def has_row(database: Path) -> bool:
    """Whether anything was analysed, as another process sees it, without waiting for a lock or
    standing in the way while the database is being made."""
    if not database.with_name(f"{database.name}-wal").exists():
        return False
    with (
        suppress(sqlite3.OperationalError),
        closing(sqlite3.connect(f"file:{database}?mode=ro", 0, uri=True)) as db,
    ):
        return bool(db.execute("SELECT EXISTS (SELECT 1 FROM effort)").fetchone()[0])
    return False


def bench_replay(console: Console, todo: list[Plan]) -> None:
    """Print the table, and how constant cost and memory are."""
    title = (
        f"Replay with the shipped bundle, 32 kHz, hop 5 s, ONNX Runtime: medians of {ROUNDS} "
        "rounds in turn"
    )
    table = Table(title=title, title_justify="left")
    names = (
        "archive",
        "members",
        "jobs",
        "CPU-s per hour",
        "× real time",
        "first row s",
        "peak MB",
    )
    for name in (*names, *(f"{step} %" for step in STEPS)):
        table.add_column(name, justify="left" if name in ("archive", "members") else "right")
    found = measure(todo, console)
    for plan, runs in found.items():
        cost = sorted(runs, key=lambda run: run.cpu_s_per_hour)[len(runs) // 2]
        figures = (
            f"{cost.cpu_s_per_hour:.1f}",
            f"{cost.x_real_time:.0f}",
            f"{cost.first_row_s:.2f}",
        )
        shares = (f"{100 * share:.0f}" for share in cost.shares)
        archive_name = f"{plan.hours} h {plan.suffix.upper()}"
        table.add_row(
            archive_name, plan.members, str(plan.jobs), *figures, f"{cost.peak_mb:.0f}", *shares
        )
    console.print(table)
    console.print(
        "Steps: shares of the time that they take in all threads. The first row: start of Python "
        "included."
    )
    for plan in found:
        shortest = min((p for p in found if p.like(plan)), key=lambda p: p.hours)
        if shortest != plan:
            console.print(constancy(plan, found[plan], shortest, found[shortest]))
    console.print(PEERS)


def constancy(plan: Plan, runs: list[Measured], shorter: Plan, others: list[Measured]) -> str:
    """How cost and memory of an archive lie to those of a shorter one."""
    cost, peak = (
        Ratio.of([getattr(run, key) for run in runs], [getattr(run, key) for run in others])
        for key in ("cpu_s_per_hour", "peak_mb")
    )
    return (
        f"{plan.members}, {plan.jobs} jobs, {plan.hours} h against {shorter.hours} h: CPU-s per "
        f"hour {cost}, {cost.verdict(CONSTANT_MAX)} than {CONSTANT_MAX}; peak memory {peak}, "
        f"{peak.verdict(MEMORY_MAX)} than {MEMORY_MAX}"
    )


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="archives of one hour, and no FLAC")
    parser.add_argument("--long", action="store_true", help="archives of 24 hours, too")
    arguments = parser.parse_args()
    todo = list(plans(arguments.long))
    if arguments.quick:
        todo = [plan for plan in todo if plan.hours == 1 and plan.suffix == "ogg"]
    bench_replay(Console(width=130), todo)


if __name__ == "__main__":
    main()
