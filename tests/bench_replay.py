"""Replays of archives of 1, 4 and 24 hours with the shipped bundle: cost per hour, speed, memory, the first row.

The command as a user types it, each in a process of its own; what it says of itself in JSON, and the moment when a row
can be read by somebody else.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from edge.config import DEMO_FOLDER
from edge.contract.bundle import read_bundle
from tests.bench_archive import HOUR_S, archive

PEERS = (
    "CPU seconds per hour of 32-kHz Ogg, measured elsewhere on a machine of this kind: BirdNET-Analyzer 84, the best "
    "stock runner of its network 68, the leanest loop 36"
)
STEPS = ("decode", "image", "engine", "store")
_LOOK_EVERY_S = 0.02
_ROUNDS = 5
_LONG_H, _LONG_ROUNDS = 24, 3  # an archive of so many hours takes a minute, and is in so many of the rounds only


@dataclass(frozen=True)
class Plan:
    """One replay."""

    suffix: str
    hours: int
    members: str
    jobs: int


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


def plans(quick: bool) -> Iterator[Plan]:
    """Ogg in full, FLAC once; the longest unless it is to be quick."""
    for members in modes():
        yield Plan("ogg", 1, members, 1)
        yield Plan("ogg", 4, members, 1)
        yield Plan("ogg", 4, members, 2)
        yield Plan("flac", 1, members, 1)
        if not quick:
            yield Plan("ogg", 24, members, 1)
            yield Plan("ogg", 24, members, 2)


def measure(todo: list[Plan], console: Console) -> dict[Plan, Measured]:
    """Of each plan the run of median cost. All in turn, round after round: a machine that gets slower or faster
    meanwhile does so for each of them."""
    runs: dict[Plan, list[Measured]] = {plan: [] for plan in todo}
    turns = [plan for n in range(_ROUNDS) for plan in todo if plan.hours < _LONG_H or n < _LONG_ROUNDS]
    for plan in track(turns, "replays", console=console, transient=True):
        runs[plan].append(run(plan))
    return {plan: sorted(costs, key=lambda cost: cost.cpu_s_per_hour)[len(costs) // 2] for plan, costs in runs.items()}


def run(plan: Plan) -> Measured:
    """One replay into a new database."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        state = Path(name)
        config = state / "station.yaml"
        config.write_text(f"station: {{id: bench}}\nstate: {state}\nmembers: {plan.members}\nwindows: {{hop_s: 5.0}}\n")
        command = [sys.executable, "-m", "edge", "replay", str(archive(plan.suffix, plan.hours)), "--json"]
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
    """Whether anything was analysed, as another process sees it, without waiting for a lock or standing in the way
    while the database is being made."""
    if not database.with_name(f"{database.name}-wal").exists():
        return False
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"file:{database}?mode=ro", 0, uri=True)) as db:
        return bool(db.execute("SELECT EXISTS (SELECT 1 FROM effort)").fetchone()[0])
    return False


def bench_replay(console: Console, quick: bool) -> None:
    """Print the table, and how constant cost and memory are."""
    table = Table(title="Replay with the shipped bundle, 32 kHz, hop 5 s, ONNX Runtime", title_justify="left")
    names = ("archive", "members", "jobs", "CPU-s per hour", "× real time", "first row s", "peak MB")
    for name in (*names, *(f"{step} %" for step in STEPS)):
        table.add_column(name, justify="left" if name in ("archive", "members") else "right")
    found = measure(list(plans(quick)), console)
    for plan, cost in found.items():
        figures = (f"{cost.cpu_s_per_hour:.1f}", f"{cost.x_real_time:.0f}", f"{cost.first_row_s:.2f}")
        shares = (f"{100 * share:.0f}" for share in cost.shares)
        archive_name = f"{plan.hours} h {plan.suffix.upper()}"
        table.add_row(archive_name, plan.members, str(plan.jobs), *figures, f"{cost.peak_mb:.0f}", *shares)
    console.print(table)
    console.print("Steps: shares of the time that they take in all threads. The first row: start of Python included.")
    console.print(f"The run of median cost, of {_ROUNDS} in turn; of {_LONG_H} h of {_LONG_ROUNDS}.")
    for members, jobs in sorted({(plan.members, plan.jobs) for plan in found}):
        console.print(constancy(members, jobs, found))
    console.print(PEERS)


def constancy(members: str, jobs: int, found: dict[Plan, Measured]) -> str:
    """How far archives of several lengths lie from each other."""
    kind = ("ogg", members, jobs)
    same = {plan.hours: cost for plan, cost in found.items() if (plan.suffix, plan.members, plan.jobs) == kind}
    costs = [cost.cpu_s_per_hour for cost in same.values()]
    peaks = [cost.peak_mb for cost in same.values()]
    hours = ", ".join(f"{hours} h" for hours in same)
    return (
        f"{members}, {jobs} jobs, {hours}: CPU-s per hour within {100 * (max(costs) / min(costs) - 1):.1f} %, "
        f"peak memory within {100 * (max(peaks) / min(peaks) - 1):.1f} %"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    bench_replay(Console(width=130), parser.parse_args().quick)
