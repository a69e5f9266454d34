"""Does `trainer predict` need more memory for a day in one file than for a minute, and is it as
fast as it was?

    python -m tests.trials.predict_memory [--hours 24] [--run RUN] [--before REV]

Makes a run with a bag of two tiny networks (or takes RUN) and files of 1 min, 6 min and so many
hours: noise with chirps, as FLAC. Each is predicted in a process of its own, whose peak memory is
what the kernel says. The hours may take 50 MB more than the minute; of RUN, than the six minutes:
those fill a batch of 64 windows, and what its networks need for that, a minute's 12 windows do not
show. With --before the CPU time for an hour of sound, of one thread, is compared with the code of
that commit, in turn. Ends with 1 if it takes more memory or is slower.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from edge.contract.audio import RATE_HZ
from edge.contract.program import run_program
from tests.bench.before import PROJECT, tree_of
from tests.bench.images import ONE_THREAD
from tests.bench.ratios import ROUNDS, Ratio, interleaved
from tests.helpers.trainer_run import finish, make_corpus, make_run
from tests.trials import above_zero
from trainer.files import write_json
from trainer.tuning.tune import tune

# The kernel's figure of the whole process (ru_maxrss) begins with what its parent had.
_PROGRAM = """
import atexit, runpy, sys
from pathlib import Path
peak, status = Path(sys.argv[1]), Path("/proc/self/status")
atexit.register(lambda: peak.write_text(status.read_text().split("VmHWM:")[1].split()[0]))
sys.argv = ["trainer", *sys.argv[2:]]
runpy.run_module("trainer", run_name="__main__")
"""
MORE_MB = 50
SLOWER = 1.05  # as in make bench
_MINUTE = 60 * RATE_HZ


@dataclass(frozen=True)
class Cost:
    """What one command took."""

    peak_mb: float
    cpu_s: float


def write_sound(folder: Path, minutes: int) -> Path:
    """A folder with one file of so many minutes: one of three minutes after the other."""
    folder.mkdir()
    random = np.random.default_rng(0)
    time_s = np.arange(_MINUTE) / RATE_HZ
    parts = []
    for low_hz in (1500, 2500, 4000):
        chirps = np.sin(2 * np.pi * (low_hz + 800 * (time_s % 0.2)) * time_s) * (time_s % 3 < 0.2)
        parts.append((3000 * chirps + random.normal(0, 8, _MINUTE)).astype(np.int16))
    with soundfile.SoundFile(folder / "1_AAA_20190101.flac", "w", RATE_HZ, 1, "PCM_16") as file:
        for minute in range(minutes):
            file.write(parts[minute % len(parts)])
    return folder


def predict_cost(
    run: Path, folder: Path, out: Path, tree: Path = PROJECT, one_thread: bool = False
) -> Cost:
    """Predict a folder with the code in `tree`, in a process of its own."""
    peak = out.with_suffix(".kb")
    command = [
        sys.executable,
        "-c",
        _PROGRAM,
        str(peak),
        "predict",
        "--run",
        str(run),
        "--device",
        "cpu",
    ]
    child = subprocess.Popen(
        [*command, "--soundscapes", str(folder), "--out", str(out)],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)} | (ONE_THREAD if one_thread else {}),
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"predict, with the code in {tree}, ended with {child.returncode}")
    return Cost(int(peak.read_text()) / 1024, used.ru_utime + used.ru_stime)


def own_run(work: Path) -> Path:
    """A run whose networks are tiny and untrained."""
    corpus = make_corpus(work / "data", recordings=8)
    run = make_run(work / "run", corpus)
    write_json(run.folder / "bag.json", {"members": ["mixup-fold1-seed1", "stripes-fold0-seed1"]})
    tune(run, corpus)
    finish(run)
    return run.folder


def memory(run: Path, work: Path, hours: float, own: bool) -> bool:
    """Print what each length takes; whether that does not grow."""
    lengths = {"1 min": 1, "6 min": 6, f"{hours:g} h": round(60 * hours)}
    costs = {}
    for name, minutes in lengths.items():
        folder = write_sound(work / name.replace(" ", ""), minutes)
        costs[name] = predict_cost(run, folder, work / f"{minutes}.csv")
        print(
            f"{name}: {costs[name].peak_mb:.0f} MB at most, {costs[name].cpu_s:.1f} CPU-s",
            flush=True,
        )
    minute, six, long = costs.values()
    compared = minute if own else six
    more = long.peak_mb - compared.peak_mb
    print(
        f"{hours:g} h take {more:.0f} MB more than {'1 min' if own else '6 min'} ({MORE_MB} "
        "allowed)"
    )
    return more <= MORE_MB


def speed(run: Path, work: Path, revision: str) -> bool:
    """Print CPU time for an hour of sound as it was and as it is; whether it is not slower."""
    folder = write_sound(work / "hour", 60)
    with tree_of(revision) as (tree, commit):

        def cost(code: Path, name: str) -> float:
            return predict_cost(
                run, folder, work / name, code, one_thread=True
            ).cpu_s  # of several, some spin

        costs = interleaved(
            {"before": partial(cost, tree, "a.csv"), "now": partial(cost, PROJECT, "b.csv")}
        )
    ratio = Ratio.of(costs["now"], costs["before"])
    medians = " and ".join(f"{statistics.median(costs[name]):.1f}" for name in ("before", "now"))
    same = (work / "a.csv").read_bytes() == (work / "b.csv").read_bytes()
    print(f"an hour of sound: {medians} CPU-s at {commit[:9]} and now, {ROUNDS} rounds in turn")
    print(
        f"now / before {ratio}: {ratio.verdict(SLOWER)} ({SLOWER:g}); predictions "
        f"{'equal' if same else 'DIFFER'}"
    )
    return same and ratio.verdict(SLOWER) != "worse"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=above_zero, default=24)
    parser.add_argument("--run", type=Path, help="instead of the trial's own")
    parser.add_argument("--before", metavar="REV")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        run = arguments.run.absolute() if arguments.run else own_run(work)
        good = speed(run, work, arguments.before) if arguments.before else True
        good = memory(run, work, arguments.hours, arguments.run is None) and good
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    sys.exit(not good)


if __name__ == "__main__":
    run_program(main)
