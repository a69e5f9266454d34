"""A day of sound through an adopted bundle: whether memory is flat and an hour always costs the
same.

    python -m tests.trials.birds_day BUNDLE SOUND [--hours 1,4,24]

SOUND is a folder of recordings, of which hours of 32-kHz Ogg are made, each in another order. They
are replayed, then given to the daemon with the folder source, and each process tells what it took.
One thread, hop 5 s.
"""

import argparse
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from edge.contract.audio import RATE_HZ
from edge.contract.program import run_program
from tests.trials.birds_speed import HOUR_S, PROJECT, sound_of

_FIRST = datetime(2024, 5, 1)
_PIECE_S = 10


def write_hours(sound: NDArray[np.float32], folder: Path, hours: int) -> None:
    """So many files of an hour, of the same pieces in another order each."""
    pieces = sound[: len(sound) // (_PIECE_S * RATE_HZ) * _PIECE_S * RATE_HZ].reshape(
        -1, _PIECE_S * RATE_HZ
    )
    folder.mkdir()
    for hour in range(hours):
        random = np.random.default_rng(hour)
        name = f"{_FIRST + timedelta(hours=hour):%Y%m%d_%H%M%S}.ogg"
        with soundfile.SoundFile(folder / name, "w", RATE_HZ, 1) as file:
            for index in random.integers(0, len(pieces), HOUR_S // _PIECE_S):
                # libsndfile's encoder crashes on large writes
                for second in np.split(pieces[index], _PIECE_S):
                    file.write(second)


def settings(state: Path, bundle: Path, *lines: str) -> Path:
    """A station.yaml in a state folder of its own."""
    state.mkdir()
    config = state / "station.yaml"
    place = "latitude: 48.52, longitude: 9.06"
    basic = [
        f"station: {{id: trial, {place}}}",
        f"bundle: {bundle.absolute()}",
        "windows: {hop_s: 5}",
    ]
    config.write_text("\n".join([*basic, "runtime: {threads: 1}", *lines]) + "\n")
    return config


def replay(config: Path, folder: Path, hours: int) -> None:
    """The command as a user types it."""
    before = os.times()
    begin = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "edge",
        "replay",
        str(folder),
        "--config",
        str(config),
        "--jobs",
        "1",
        "--json",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=PROJECT
    )
    first = _first_row(config.with_name("station.db"), begin)
    found = json.loads(process.communicate()[0].splitlines()[-1])
    after = os.times()
    cpu_s = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    print(
        f"| replay | {hours} | {cpu_s / hours:.2f} | {found['peak_rss_mb']:.0f} | {first:.1f} | "
        f"{found['detections']} detections, {found['audio_s'] / 3600:.2f} h |",
        flush=True,
    )


def _first_row(database: Path, begin: float) -> float:
    """Seconds until effort is in the record."""
    while True:
        try:
            with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
                if db.execute("SELECT count(*) FROM effort").fetchone()[0]:
                    return time.perf_counter() - begin
        except sqlite3.Error:
            pass
        time.sleep(0.02)


def daemon(config: Path, hours: int) -> None:
    """The station on the folder, until all of it is analysed; memory is told of each hour."""
    command = [sys.executable, "-m", "edge", "run", "--config", str(config)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=PROJECT
    )
    memory: dict[int, float] = {}
    done = 0
    while done < hours and process.poll() is None:
        time.sleep(0.2)
        try:
            with closing(
                sqlite3.connect(f"file:{config.with_name('station.db')}?mode=ro", uri=True)
            ) as db:
                (done,) = db.execute(
                    "SELECT count(*) FROM recordings WHERE state = 'analysed'"
                ).fetchone()
        except sqlite3.Error:
            continue
        memory.setdefault(done, _rss_mb(process.pid))
    before = os.times()
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    after = os.times()
    cpu_s = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    told = ", ".join(
        f"{hour}: {mb:.0f}" for hour, mb in memory.items() if hour in (1, 2, 4, 8, 12, 16, 20, 24)
    )
    print(
        f"| daemon, folder | {hours} | {cpu_s / hours:.2f} | {max(memory.values()):.0f} | | MB "
        f"after hour {told} |"
    )


def _rss_mb(process: int) -> float:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> None:
    """Replays of each length, then the daemon with the longest."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("sound", type=Path)
    parser.add_argument(
        "--hours", type=lambda text: [int(one) for one in text.split(",")], default=[1, 4, 24]
    )
    arguments = parser.parse_args()
    sound = sound_of(arguments.sound)
    print(f"load {os.getloadavg()[0]:.1f}\n")
    print(
        "| | hours | CPU s an hour | MB at most | first row after, s | "
        "|\n|---|---|---|---|---|---|",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for hours in arguments.hours:
            write_hours(sound, work / f"{hours}h", hours)
            replay(settings(work / f"replay{hours}", arguments.bundle), work / f"{hours}h", hours)
        watched = f"source: folder\nfolder: {{path: {work / f'{hours}h'}, settle_s: 0}}"
        daemon(settings(work / "daemon", arguments.bundle, watched), hours)


if __name__ == "__main__":
    run_program(main)
