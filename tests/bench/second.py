"""A second run over an archive in which nothing has changed: what a file costs, and how much of it
is read.

The command as a user types it, over many files in which nothing has changed since the first run;
over the same after each was touched, when it reads all of them for their digests; and over a single
file, which is what starting costs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from rich.console import Console

from edge.contract.audio import RATE_HZ
from tests.bench.ratios import ROUNDS, Ratio, interleaved

FILES = 300
MINUTES = 1
_FIRST_S = 1_714_500_000


@dataclass(frozen=True)
class Cost:
    """Of one run."""

    cpu_s: float
    wall_s: float
    read_bytes: int  # asked of the system, by this process


def archive(folder: Path, files: int) -> Path:
    """So many different minutes of faint noise, each with a name that says when."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(files)
    noise = (rng.standard_normal(MINUTES * 60 * RATE_HZ) * 300).astype(np.int16)
    for number in range(files):
        noise[:RATE_HZ] = rng.integers(-300, 300, RATE_HZ)
        name = time.strftime("%Y%m%d_%H%M%S.wav", time.gmtime(_FIRST_S + 60 * MINUTES * number))
        soundfile.write(folder / name, noise, RATE_HZ, "PCM_16")
    return folder


def run(folder: Path, config: Path) -> Cost:
    """One replay; all of it must have been done before."""
    code = "import sys; from edge.__main__ import main\n"
    code += "try: main()\nfinally: print(open('/proc/self/io').read(), file=sys.stderr)"
    start = time.perf_counter()
    before = os.times()
    command = [sys.executable, "-c", code, "replay", str(folder), "--config", str(config), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    wall_s = time.perf_counter() - start
    after = os.times()
    found = json.loads(done.stdout.splitlines()[-1])
    if found["unchanged"] != found["recordings"]:
        sys.exit(
            f"expected an unchanged archive, found {found['unchanged']} of {found['recordings']}"
        )
    read = next(
        int(line.split()[1]) for line in done.stderr.splitlines() if line.startswith("rchar")
    )
    cpu_s = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    return Cost(cpu_s, wall_s, read)


def touched(folder: Path, config: Path) -> Cost:
    """A run after every file got another time."""
    for path in folder.iterdir():
        path.touch()
    return run(folder, config)


def bench_second(console: Console, files: int) -> None:
    """Print what a second run costs."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        state = Path(name)
        (state / "station.yaml").write_text(
            f"station: {{id: bench}}\nstate: {state}\nwindows: {{hop_s: 5.0}}\n"
        )
        one = archive(state / "one", 1)
        many = archive(state / "many", files)
        config = state / "station.yaml"
        for folder in (one, many):
            command = [sys.executable, "-m", "edge", "replay", str(folder), "--config", str(config)]
            subprocess.run(command, capture_output=True, check=True)
        size = sum(path.stat().st_size for path in many.iterdir())
        runs: dict[str, list[Cost]] = {}

        def cost(what: str, work: Callable[[Path, Path], Cost], folder: Path) -> float:
            runs.setdefault(what, []).append(work(folder, config))
            return runs[what][-1].cpu_s

        costs = interleaved(
            {
                "one": lambda: cost("one", run, one),
                "unchanged": lambda: cost("unchanged", run, many),
                "touched": lambda: cost("touched", touched, many),
            }
        )
    title = (
        f"Second run over {files} files of {MINUTES} min, {size / 1e6:.0f} MB: medians of {ROUNDS} "
        "rounds in turn"
    )
    console.print(title)
    start = np.median([[run.cpu_s, run.wall_s, run.read_bytes] for run in runs["one"]], axis=0)
    for what in ("unchanged", "touched"):
        cpu_s, wall_s, read = (
            np.median([[r.cpu_s, r.wall_s, r.read_bytes] for r in runs[what]], axis=0) - start
        )
        console.print(
            f"{what}: {1000 * cpu_s / files:.2f} CPU-ms and {1000 * wall_s / files:.2f} ms a file "
            f"beyond the start, {read / files / 1024:.0f} KiB of each read, {read / size:.1%} of "
            "its sound"
        )
    console.print(f"unchanged against one file: CPU {Ratio.of(costs['unchanged'], costs['one'])}")
    console.print(
        f"touched against unchanged: CPU {Ratio.of(costs['touched'], costs['unchanged'])}"
    )


def main() -> None:
    """The lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="50 files")
    bench_second(Console(width=130), 50 if parser.parse_args().quick else FILES)


if __name__ == "__main__":
    main()
