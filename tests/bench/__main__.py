"""`make bench`: how fast, as ratios from one run on this machine. Never a test: a busy machine is
not a bug.

    python -m tests.bench [--only images,replay] [--quick | --long]
    python -m tests.bench --before REV [--only images,replay] [--quick] [--rounds 7] [--bound 1.05]

Each part runs in a process of its own, with the bundle and the soundscapes that ship with
birdstation. With --before the same costs are taken of the code as it was at a commit and as it is
now, in turn. Costs are compared by one rule (ratios.py).
"""

import argparse
import math
import os
import platform
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from tests.bench.before import compare
from tests.bench.costs import PARTS as COMPARED
from tests.bench.ratios import ROUNDS

PROJECT = Path(__file__).parents[2]
PARTS = ("images", "decoding", "replay", "second", "live", "bag", "training")


def main() -> None:
    """Run the parts that are asked for, one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", type=lambda names: tuple(names.split(",")), help="of " + ",".join(PARTS)
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--quick", action="store_true", help="shorter archives, half a minute of live sound"
    )
    length.add_argument("--long", action="store_true", help="archives of 24 hours, too")
    parser.add_argument(
        "--before", metavar="REV", help=f"a commit to compare with: {', '.join(COMPARED)}"
    )
    parser.add_argument("--rounds", type=int, help=f"of --before, {ROUNDS} (the default) or more")
    parser.add_argument(
        "--bound", type=float, help="of --before: a ratio that is still allowed (1.05)"
    )
    arguments = parser.parse_args()
    parts = arguments.only or (COMPARED if arguments.before else PARTS)
    unknown = sorted(set(parts) - set(COMPARED if arguments.before else PARTS))
    if unknown:
        parser.error(
            f"--only: expected some of {', '.join(COMPARED if arguments.before else PARTS)}, found "
            f"{unknown}"
        )
    if not arguments.before and (arguments.rounds, arguments.bound) != (None, None):
        parser.error("--rounds and --bound: expected with --before")
    rounds = arguments.rounds or ROUNDS
    bound = 1.05 if arguments.bound is None else arguments.bound
    if rounds < ROUNDS:
        parser.error(f"--rounds: expected {ROUNDS} or more, found {rounds}")
    if not 0 < bound < math.inf:
        parser.error(f"--bound: expected a number above 0, found {bound}")
    load = os.getloadavg()[0]
    print(
        f"{os.cpu_count()} cores, load {load:.1f}, {platform.machine()}, Python "
        f"{platform.python_version()}"
    )
    if load > 0.5:
        print("other programs run here: trust ratios of CPU time, not what depends on the clock")
    sys.stdout.flush()
    if arguments.before:
        console = Console(width=120)
        whole = compare(console, arguments.before, parts, arguments.quick, rounds, bound)
        sys.exit(0 if whole else 1)
    for part in parts:
        command = [
            sys.executable,
            "-m",
            f"tests.bench.{part}",
            *(["--quick"] if arguments.quick else []),
        ]
        command += ["--long"] if arguments.long and part == "replay" else []
        subprocess.run(command, cwd=PROJECT, check=True)


if __name__ == "__main__":
    main()
