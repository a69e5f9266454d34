"""Hearing under siege: a microphone at the pace of time while the database is locked, the disk
stands still, a clean-up of a large record runs, the prior takes its time and settings are read
again each second; one after the other, then all at once. Beside it a second station has a file of 4
GB in its folder.

    python -m tests.trials.siege [--minutes 30] [--detections 1000000] [--folder DIR]

Wants root: it mounts and freezes. The daemon as it ships, with a stand-in for PortAudio; the state
on an ext4 of its own in a loop device, which fsfreeze holds still; health elsewhere. Minutes scale
what is done: of 30 the lock has 4, the prior 3, the frozen disk 1.5. Prints seconds lost, gaps with
their reasons, the longest pause of the watchdog, how long each end took. Exits 1 if sound was lost
(but by an end under a lock), the books do not add up, the watchdog was not fed for its half, or an
end took more than 10 s.
"""

import argparse
import os
import random
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.edge.test_siege import locked
from tests.trials import above_zero, counted

PROJECT = Path(__file__).parents[2]
DEMO = PROJECT / "edge/demo"
WATCHDOG_S = 60.0
STOP_S_MAX = 10.0
_DISK_BYTES = 6 << 30  # sparse
_FILE_BYTES = 4 << 30


class Daemon:
    """One station as a process, its service manager's socket, and what came of it."""

    def __init__(self, folder: Path, *lines: str, state: Path | None = None) -> None:
        folder.mkdir()
        self.folder = folder
        self.state = state or folder
        self.config = folder / "station.yaml"
        self.log = folder / "log.txt"
        settings = [f"state: {self.state}", f"health: {{interval_s: 2, folder: {folder}}}", *lines]
        self.config.write_text("\n".join(settings) + "\n")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self.fed: list[float] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while said := self._socket.recv(4096):
            self.fed += [time.monotonic()] if b"WATCHDOG=1" in said else []

    def start(self, *program: str, **environment: str) -> None:
        """Begin; returns at once."""
        told = {
            "NOTIFY_SOCKET": str(self.folder / "notify"),
            "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6)),
        }
        with self.log.open("ab") as log:
            command = [sys.executable, *program, str(self.config)]
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=PROJECT, env=os.environ | told | environment
            )

    def pause_s(self, since: float) -> float:
        """The longest without a word to the watchdog."""
        fed = [since, *(at for at in self.fed if at > since), time.monotonic()]
        return max(after - before for before, after in pairwise(fed))

    def stop(self) -> float:
        """Seconds until its end; -1 if it did not end well."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return -1.0
        return time.monotonic() - begun if status == 0 else -1.0

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Of its record."""
        with closing(
            sqlite3.connect(f"file:{self.state}/station.db?mode=ro", uri=True, timeout=30)
        ) as db:
            return db.execute(sql).fetchall()


def until(condition: Any, what: str, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(sqlite3.Error, OSError):
            if condition():
                return
        time.sleep(0.1)
    sys.exit(f"never: {what}")


@contextmanager
def own_disk(folder: Path) -> Iterator[Path]:
    """An ext4 in a loop device."""
    image = folder / "disk.img"
    disk = folder / "disk"
    with image.open("wb") as file:
        file.truncate(_DISK_BYTES)
    disk.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=1", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=False)
        image.unlink()


@contextmanager
def frozen(disk: Path) -> Iterator[None]:
    """Nothing can be written to it, whoever tries waits."""
    subprocess.run(["fsfreeze", "-f", str(disk)], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "-u", str(disk)], check=True)


@contextmanager
def read_again(daemon: Daemon) -> Iterator[None]:
    """Settings, each second."""
    leave = threading.Event()

    def ask() -> None:
        while not leave.wait(1):
            daemon.process.send_signal(signal.SIGHUP)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        leave.set()
        thread.join()


def large_record(daemon: Daemon, count: int) -> None:
    """So many detections of years ago, every tenth with a clip of no bytes."""
    replay = ["-m", "edge", "replay", str(sorted((DEMO / "soundscapes").glob("*.ogg"))[0])]
    subprocess.run(
        [sys.executable, *replay, "--config", str(daemon.config)],
        cwd=PROJECT,
        check=True,
        capture_output=True,
    )
    chance = random.Random(1)

    def utc(number: int) -> str:
        return datetime.fromtimestamp(1_600_000_000 + 60 * number, timezone.utc).strftime(
            "%Y-%m-%dT%H:%M:%S.000Z"
        )

    clips = daemon.state / "clips"
    with closing(sqlite3.connect(daemon.state / "station.db")) as db, db:
        (bundle,), codes = (
            db.execute("SELECT id FROM bundles").fetchone(),
            [code for (code,) in db.execute("SELECT code FROM species")],
        )
        like = "SELECT * FROM recordings LIMIT 1"
        names = [column[0] for column in db.execute(like).description]
        row = dict(zip(names, db.execute(like).fetchone(), strict=True)) | {
            "source": "replay",
            "path": "old",
            "id": "old",
        }
        marks = ", ".join("?" for _ in row)
        db.execute(
            f"INSERT INTO recordings ({', '.join(row)}) VALUES ({marks})", list(row.values())
        )
        paths = [
            f"2020-09-13/x_0.50_20200913T000000.000Z_{number:08x}.flac"
            for number in range(count // 10)
        ]
        db.executemany(
            "INSERT INTO clips (id, path, recording, start_utc, seconds, bytes, created_utc) "
            "VALUES (?, ?, 'old', ?, 9, 9, ?)",
            ((f"c{n}", path, utc(n * 10), utc(n * 10)) for n, path in enumerate(paths)),
        )
        db.executemany(
            "INSERT INTO detections (id, recording, bundle, species, start_utc, end_utc, offset_s, "
            "score, acoustic, threshold, rule, member_low, member_high, members, runner_ups, clip) "
            "VALUES (?, 'old', ?, ?, ?, ?, 0, ?, 0.8, 0.5, 'bundle', 0.7, 0.9, '[]', '[]', ?)",
            (
                (
                    f"d{n}",
                    bundle,
                    chance.choice(codes),
                    utc(n),
                    utc(n),
                    chance.random(),
                    None if n % 10 else f"c{n // 10}",
                )
                for n in range(count // 10 * 10)
            ),
        )
    (clips / "2020-09-13").mkdir(parents=True, exist_ok=True)
    for path in paths:
        (clips / path).touch()


def slow_python(folder: Path, seconds: float) -> Path:
    """For the prior's child."""
    path = folder / "slow-python"
    path.write_text(f'#!/bin/sh\nsleep {seconds:.0f}\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return path


def file_of_4_gb(folder: Path) -> None:
    """A WAV of zeros that takes no room."""
    folder.mkdir()
    size = _FILE_BYTES - 1 - 36
    head = (
        b"RIFF"
        + struct.pack("<I", size + 36)
        + b"WAVEfmt "
        + struct.pack("<IHHIIHH", 16, 1, 1, 32000, 64000, 2, 16)
    )
    with (folder / "long_20190601_000000.wav").open("wb") as file:
        file.write(head + b"data" + struct.pack("<I", size))
        file.truncate(_FILE_BYTES - 1)


def besiege(daemon: Daemon, disk: Path, unit_s: float) -> None:
    """One after the other, and all at once."""
    database = daemon.state / "station.db"

    def phase(name: str, seconds: float, *what: Any) -> None:
        since = time.monotonic()
        with ExitStack() as stack:
            for siege in what:
                stack.enter_context(siege)
            time.sleep(seconds)
        print(
            f"{name}, {seconds:.0f} s: longest without a word to the watchdog "
            f"{daemon.pause_s(since):.1f} s",
            flush=True,
        )

    phase("the prior", 6 * unit_s)
    phase("locked", 8 * unit_s, locked(database))
    phase("frozen", 3 * unit_s, frozen(disk))
    phase("settings each second", 2 * unit_s, read_again(daemon))
    phase("all at once", 3 * unit_s, locked(database), read_again(daemon), frozen(disk))
    phase("nothing", 38 * unit_s)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=above_zero, default=30)
    parser.add_argument("--detections", type=counted, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    unit_s = arguments.minutes  # of 30 minutes the lock has 8 units of 30 s
    with (
        tempfile.TemporaryDirectory(prefix="siege-", dir=arguments.folder) as name,
        own_disk(Path(name)) as disk,
    ):
        wrong = trial(Path(name), disk, unit_s, arguments.detections)
    print("\n".join(wrong) or "nothing is wrong")
    sys.exit(1 if wrong else 0)


def trial(folder: Path, disk: Path, unit_s: float, detections: int) -> list[str]:
    """What is wrong."""
    clips = "clips: {seconds_max: 15, before_s: 0, after_s: 0}"
    # fuller than that: all but the best clips go
    keep = "retention: {disk_share: 0.01, hours_left: 0}"
    station = "station: {id: siege, latitude: 49.0, longitude: 8.0}"
    daemon = Daemon(folder / "card", station, clips, keep, state=disk)
    large_record(daemon, detections)
    old = daemon.rows("SELECT count(*) FROM clips")[0][0]
    file_of_4_gb(folder / "in")
    beside = Daemon(
        folder / "folder",
        "station: {id: beside}",
        "source: folder",
        f"folder: {{path: {folder / 'in'}}}",
    )
    for priors in disk.glob("priors/*"):
        priors.unlink()
    slow = slow_python(folder, 6 * unit_s)
    begun = time.monotonic()
    beside.start("-m", "edge", "run", "--config")
    daemon.start("-m", "tests.helpers.stand_in_card", PRIOR_PYTHON=str(slow))
    until(
        lambda: daemon.rows("SELECT count(*) FROM recordings WHERE source = 'microphone'")[0][0],
        "it hears",
    )
    besiege(daemon, disk, unit_s)
    wrong = []
    for what, of in (("the card's", daemon), ("the folder's", beside)):
        pause_s = of.pause_s(begun)
        print(f"{what} longest without a word to the watchdog: {pause_s:.1f} s")
        wrong += (
            [] if pause_s < WATCHDOG_S / 2 else [f"{what} watchdog was not fed for {pause_s:.0f} s"]
        )
    ends = [("beside a file of 4 GB", beside.stop()), ("undisturbed", daemon.stop())]
    sieged_s = lost_s(daemon)
    for what, siege in (
        ("locked", lambda: locked(disk / "station.db")),
        ("settings", lambda: read_again(daemon)),
    ):
        before = daemon.rows("SELECT count(*) FROM effort")
        daemon.start("-m", "tests.helpers.stand_in_card", PRIOR_PYTHON=str(slow))
        until(
            lambda before=before: daemon.rows("SELECT count(*) FROM effort") > before,
            "it hears again",
        )
        with siege():
            time.sleep(3)
            ends.append((f"while {what}", daemon.stop()))
    for of in (daemon, beside):
        print(
            *(
                line
                for line in of.log.read_text().splitlines()
                if "ERROR" in line or "ended without" in line
            ),
            sep="\n",
        )
    for what, seconds in ends:
        print(f"an end {what}: {seconds:.1f} s")
        wrong += [] if 0 <= seconds <= STOP_S_MAX else [f"an end {what} took {seconds:.1f} s"]
    return wrong + judged(daemon, old, sieged_s)


def lost_s(daemon: Daemon) -> float:
    """Seconds of sound lost, as its books say."""
    lost = daemon.rows("SELECT total(seconds) FROM gaps WHERE reason NOT IN ('off', 'schedule')")
    return float(lost[0][0])


def judged(daemon: Daemon, old: int, sieged_s: float) -> list[str]:
    """What is wrong in its books; `sieged_s` of sound were lost before the ends. An end under a
    lock loses what waits for the lock, and its books say so."""
    gaps = daemon.rows("SELECT reason, count(*), round(sum(seconds), 2) FROM gaps GROUP BY reason")
    print("gaps:", *(f"{reason} {count} ({seconds:g} s)" for reason, count, seconds in gaps))
    of_card = "FROM recordings WHERE source = 'microphone'"
    heard = daemon.rows(f"SELECT count(*), round(sum(audio_s), 1) {of_card}")[0]
    effort = daemon.rows(
        f"SELECT round(sum(analysed_s), 1) FROM effort WHERE recording IN (SELECT id {of_card})"
    )[0][0]
    priors = daemon.rows(
        f"SELECT count(*), count(prior) FROM detections WHERE recording IN (SELECT id {of_card})"
    )[0]
    left = daemon.rows("SELECT count(*) FROM clips WHERE recording = 'old'")[0][0]
    print(f"{heard[0]} stretches, {heard[1]} s heard, {effort} s in effort")
    print(f"{priors[0]} detections, {priors[1]} of them with a prior")
    print(f"clips of years ago: {old} before, {left} left")
    begun, until_utc = daemon.rows(
        "SELECT min(julianday(start_utc)), max(julianday(start_utc) + audio_s / 86400.0) FROM "
        "recordings WHERE source = 'microphone'"
    )[0]
    told = effort + sum(seconds for reason, _, seconds in gaps)
    elapsed = (until_utc - begun) * 86_400
    print(f"{elapsed:.1f} s from the first sound to the last, {told:.1f} s in the books")
    ends_s = lost_s(daemon) - sieged_s
    print(
        f"sound lost under siege: {sieged_s:.2f} s; by the ends, as a gap 'store': {ends_s:.2f} s"
    )
    wrong = [f"{sieged_s:.1f} s of sound were lost"] if sieged_s else []
    wrong += [f"{ends_s:.1f} s of sound were lost by the ends"] if ends_s > STOP_S_MAX else []
    return wrong + ([] if abs(elapsed - told) < 10 else ["the books do not add up"])


if __name__ == "__main__":
    main()
