"""`make bench`: how fast, as ratios from one run on this machine. Never a test: a busy machine is not a bug.

    python tests/bench.py [--only images,replay] [--quick]

Each part runs in a process of its own, with the bundle and the soundscapes that ship with birdstation.
"""

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PARTS = ("images", "decoding", "replay", "live", "bag", "training")


def main() -> None:
    """Run the parts that are asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda names: names.split(","), default=PARTS, help="of " + ",".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="shorter archives, half a minute of live sound")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.only) - set(PARTS))
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f}, {platform.machine()}, Python {platform.python_version()}")
    if load > 0.5:
        print("other programs run here: trust ratios of CPU time, not what depends on the clock")
    sys.stdout.flush()
    for part in arguments.only:
        command = [sys.executable, "-m", f"tests.bench_{part}", *(["--quick"] if arguments.quick else [])]
        subprocess.run(command, cwd=PROJECT, check=True)


if __name__ == "__main__":
    main()
