"""What a day costs: the daemon at the pace of time, in percent of one core, megabytes, and how late
rows are.

    python -m tests.bench.live [--quick]

The soak's daemon with its broker and its made-up microphone (soak.py), at the default hop of 2.5 s:
each way to answer in a process of its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edge.host.machine import rss_mb
from tests.bench.replay import modes
from tests.trials.soak import Soak

PROJECT = Path(__file__).parents[2]
WARM_UP_H = 0.05  # as fast as it goes: whatever is allocated once is then allocated
SECONDS = 120.0
QUICK_S = 30.0
_BARE = "import edge.daemon.station; from edge.host.machine import rss_mb; print(rss_mb())"


class MembersSoak(Soak):
    """A soak under station.yaml's `members`."""

    members = "bag"

    def _settings(self, port: int) -> Path:
        path = super()._settings(port)
        path.write_text(f"{path.read_text()}members: {self.members}\n")
        return path


def measure(members: str, seconds: float) -> dict[str, Any]:
    """One daemon for so long; resident memory without what the soak itself holds."""
    bare_mb = float(
        subprocess.run(
            [sys.executable, "-c", _BARE], capture_output=True, text=True, check=True
        ).stdout
    )
    with tempfile.TemporaryDirectory(prefix="bench-live-") as folder:
        soak = MembersSoak(Path(folder), seed=1, sample_s=600, trace=False)
        soak.members = members
        own_mb = (rss_mb() or 0.0) - bare_mb
        figures = soak.run(WARM_UP_H, seconds)
        return figures | {"rss_mb": (rss_mb() or 0.0) - own_mb}


def bench_live(console: Console, seconds: float) -> None:
    """Print the table."""
    table = Table(
        title=f"Live: {seconds:.0f} s at the pace of time, hop 2.5 s, ONNX Runtime",
        title_justify="left",
    )
    columns = (
        "% of one core",
        "of it images and networks",
        "resident MB",
        "median s",
        "99 % s",
        "windows",
    )
    for name in ("members", *columns):
        table.add_column(name, justify="left" if name == "members" else "right")
    for members in modes():
        command = [
            sys.executable,
            "-m",
            "tests.bench.live",
            "--members",
            members,
            "--seconds",
            str(seconds),
        ]
        done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        cpu = found["real time"]
        late = found["latency"]
        networks = cpu["images and networks %"]
        row = late["end of window to committed s"]
        times = (f"{row['median']:.2f}", f"{row['p99']:.2f}", str(late["windows"]))
        whole = networks + cpu["beside the model %"]
        table.add_row(members, f"{whole:.1f}", f"{networks:.1f}", f"{found['rss_mb']:.0f}", *times)
    console.print(table)
    console.print(
        "Seconds from the end of a window to its committed row; 1 s of them is the context after "
        "the window."
    )


def main() -> None:
    """The table; with --members the figures of one daemon, as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--members", choices=("bag", "student", "cascade"))
    parser.add_argument("--seconds", type=float)
    arguments = parser.parse_args()
    seconds = arguments.seconds or (QUICK_S if arguments.quick else SECONDS)
    if arguments.members:
        print(json.dumps(measure(arguments.members, seconds)))
    else:
        bench_live(Console(width=110), seconds)


if __name__ == "__main__":
    main()
