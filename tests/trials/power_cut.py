"""The power fails, again and again, while a program repairs, migrates, copies, cleans up or
publishes.

    python -m tests.trials.power_cut --cuts 100 [--seed 1] [--only salvage,publish] [--folder DIR]

Wants root, loop devices and mkfs.ext4. The program works on an ext4 of its own in a file; at a
random moment it is held, the file is copied, and it goes on. What ext4 had not written yet is
missing in the copy, as after a power cut. A copy counts if nothing was written to the device while
it was made. Each is mounted, which replays the journal, and opened as at a start: the record must
be whole and hold everything that was acknowledged before the cut (its commit had returned), each
row of a clip must have its file, and what a broker has been sent must be in it.
"""

import argparse
import hashlib
import json
import os
import random
import selectors
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

from edge.clips.disk_reserve import Reserve
from edge.clips.retention import DiskBytes, Retention
from edge.config import RetentionSettings
from edge.contract.bundle import read_bundle
from edge.store.backup import backup
from edge.store.clips import ClipTable
from edge.store.record import Store
from edge.store.salvage import set_aside, sound_database
from edge.types import ClipRow, Detection, Effort, Message, RecordingRow
from tests.helpers.brokers import TOPIC, Broker, Listener, free_port, publisher_of
from tests.trials.kills_in_migration import earlier_version

PROJECT = Path(__file__).parents[2]
BUNDLE = PROJECT / "edge" / "demo" / "bundle"
START = datetime(2019, 6, 1, 5, 30, tzinfo=timezone.utc)
_IMAGE_MB = 96
_LONGEST_S = 0.25  # between two cuts
_COPY_TRIES = 200


# The programs: each says a line when something is on the disk


class Writer:
    """Detections, one in each transaction."""

    def __init__(self, database: Path) -> None:
        self.bundle = read_bundle(BUNDLE)
        self.database = database
        self.written = 0
        with Store(database, durable=True) as store:
            store.add_bundle(self.bundle, "{}")
            row = RecordingRow("r", "r.wav", 1, 2, "0", START, "name", "recorded", 0, None)
            store.begin(row, "porch", self.bundle.id, "a")

    def write(self, count: int) -> list[Detection]:
        """So many more; returns them."""
        code = next(iter(self.bundle.taxonomy)).code
        made = []
        with Store(self.database, durable=True) as store:
            for _ in range(count):
                self.written += 1
                name = f"d{self.written}"
                at = START + timedelta(seconds=self.written)
                scores = (self.written % 97 / 97, 0.9, None, 0.5, "bundle", 0.9, 0.9, -40.0)
                made.append(
                    Detection(
                        name, "r", at, at + timedelta(seconds=5), float(self.written), code, *scores
                    )
                )
                effort = [Effort(START, float(self.written))]
                store.add(
                    "r",
                    self.bundle.id,
                    made[-1:],
                    [Message(name, TOPIC, f'{{"id": "{name}"}}')],
                    effort,
                )
                print(name, flush=True)
        return made


def salvage(state: Path) -> None:
    """Its indices are damaged, and repaired, again and again: no row is lost by that."""
    database = state / "station.db"
    writer = Writer(database)
    while True:
        writer.write(5)
        with closing(sqlite3.connect(database)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            root, size = (
                db.execute(sql).fetchone()[0]
                for sql in (
                    "SELECT rootpage FROM sqlite_master WHERE name = 'detections_time'",
                    "PRAGMA page_size",
                )
            )
        handle = os.open(database, os.O_WRONLY)
        os.pwrite(handle, b"\xa5" * size, (root - 1) * size)
        os.fsync(handle)
        os.close(handle)
        sound_database(database)
        for aside in set_aside(database):
            aside.unlink()


def migration(state: Path) -> None:
    """A database of the first version is brought up, again and again."""
    origin = state / "origin"
    database = state / "station.db"
    earlier_version(origin)
    shutil.copy(origin, state / "new")
    while True:
        for beside in ("-wal", "-shm"):
            (state / f"station.db{beside}").unlink(missing_ok=True)
        os.sync()
        (state / "new").replace(database)
        os.sync()
        print("d0", flush=True)
        Store(database, durable=True).close()
        shutil.copy(origin, state / "new")


def copies(state: Path) -> None:
    """Copies are made beside a writer; of the last one it is said that it is there."""
    writer = Writer(state / "station.db")
    while True:
        writer.write(3)
        made = backup(state / "station.db", state / "backups", 2, "porch")
        print(f"copy {made.name}", flush=True)


def cleanup(state: Path) -> None:
    """Clips are saved and go by their age."""
    writer = Writer(state / "station.db")
    folder = state / "clips"
    saved = 0
    settings = RetentionSettings(days=1, per_species=1)
    with ClipTable(state / "station.db", durable=True) as table:
        keeper = Retention(
            table, folder, Reserve(state), settings, lambda _: DiskBytes(10**12, 9 * 10**11)
        )
        while True:
            for detection in writer.write(4):
                saved += 1
                path = f"2019-06-01/lowtoo_0.50_20190601T053000.000Z_{saved:08x}.flac"
                clip = ClipRow(f"c{saved}", path, "r", START + timedelta(seconds=saved), 5.0, 8)
                table.add(clip, [detection.id], lambda path=path: _put(folder / path))
            keeper.tidy(datetime.now(timezone.utc) + timedelta(days=2))


def _put(path: Path) -> None:
    """As edge/clips/maker.py puts a clip in place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(b"fLaC0123")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    for folder in (path.parent, path.parent.parent):
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def publish(state: Path) -> None:
    """Messages go to a broker as they are committed."""
    writer = Writer(state / "station.db")
    with publisher_of(state / "station.db", int(os.environ["BROKER_PORT"])):
        while True:
            writer.write(3)
            time.sleep(0.01)


PROGRAMS: dict[str, Callable[[Path], None]] = {
    "salvage": salvage,
    "migration": migration,
    "copies": copies,
    "cleanup": cleanup,
    "publish": publish,
}


# The machine


def _sh(*command: object) -> str:
    return subprocess.run(
        [*map(str, command)], check=True, capture_output=True, text=True
    ).stdout.strip()


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[str]:
    """An ext4 in a file; gives its device."""
    at.mkdir(exist_ok=True)
    device = _sh("losetup", "--find", "--show", image)
    try:
        _sh("mount", device, at)
        try:
            yield device
        finally:
            _sh("umount", at)
    finally:
        _sh("losetup", "--detach", device)


def cut(program: "subprocess.Popen[str]", device: str, image: Path, copy: Path) -> bool:
    """Copy the device as it is now, with the program held; False if it was written to whenever that
    was tried."""
    block = Path("/sys/block") / Path(device).name
    program.send_signal(signal.SIGSTOP)
    try:
        for _ in range(_COPY_TRIES):
            before = _writes(block)
            _sh("cp", "--sparse=always", image, copy)
            if before == _writes(block) and before[-1] == 0:
                return True
        return False
    finally:
        program.send_signal(signal.SIGCONT)


def _writes(block: Path) -> tuple[int, ...]:
    """Writes that were done, their sectors, and how many are on their way."""
    stat = (block / "stat").read_text().split()
    return int(stat[4]), int(stat[6]), int((block / "inflight").read_text().split()[1])


def wrong_in(state: Path, said: list[str], received: set[str], ever: set[str]) -> list[str]:
    """What is not as it must be after a start on this disk; a broker had been sent so much, and
    `ever` in the end."""
    database = state / "station.db"
    if not said and not received:
        return []
    sound_database(database)
    with Store(database, durable=True) as store:
        wrong = [str(row) for row in store.rows("PRAGMA integrity_check") if row != ("ok",)]
        wrong += [f"refers to nothing: {row}" for row in store.rows("PRAGMA foreign_key_check")]
        stored = {str(name) for (name,) in store.rows("SELECT id FROM detections")}
        told = {line for line in said if not line.startswith("copy ")}
        for what, names in (("acknowledged", told), ("published", received)):
            wrong += (
                [f"{what} and not stored: {sorted(names - stored)[:3]}"] if names - stored else []
            )
        sent = {str(name) for (name,) in store.rows("SELECT id FROM outbox WHERE state = 'sent'")}
        wrong += (
            [f"marked as sent, and no broker has it: {sorted(sent - ever)[:3]}"]
            if sent - ever
            else []
        )
        clips = [str(path) for (path,) in store.rows("SELECT path FROM clips")]
        missing = [path for path in clips if not (state / "clips" / path).is_file()]
        wrong += [f"rows without a clip: {missing[:3]}"] if missing else []
    copied = [line[5:] for line in said if line.startswith("copy ")]
    there = sorted((state / "backups").glob("station-*.db"))
    if copied and not any(copy.name >= copied[-1] for copy in there):
        wrong.append(f"no copy {copied[-1]}")
    for copy in there:
        sums = copy.with_name(f"{copy.name}.sha256").read_text().split()[0]
        wrong += [f"{copy.name} is not what its sum says"] if _sum(copy) != sums else []
    return wrong


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def trial(name: str, cuts: int, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """Cut the power of one program so often. Returns figures and what was wrong."""
    dice = random.Random(seed)
    image = folder / f"{name}.img"
    figures = Counter[str]()
    wrong = list[str]()
    with image.open("wb") as file:
        file.truncate(_IMAGE_MB << 20)
    _sh("mkfs.ext4", "-q", "-F", image)
    copies_at: list[tuple[Path, list[str], set[str]]] = []
    with ExitStack() as stack:
        port = free_port()
        stack.enter_context(Broker(folder, port))
        listener = stack.enter_context(Listener(port, TOPIC))
        device = stack.enter_context(mounted(image, folder / "disk"))
        command = [
            sys.executable,
            "-m",
            "tests.trials.power_cut",
            "--program",
            name,
            "--folder",
            str(folder / "disk"),
        ]
        environment = os.environ | {"BROKER_PORT": str(port)}
        program = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=PROJECT, env=environment
        )
        assert program.stdout
        os.set_blocking(program.stdout.fileno(), False)
        said: list[str] = []
        try:
            _wait_for(program)
            while len(copies_at) < cuts:
                time.sleep(dice.uniform(0.0, _LONGEST_S))
                copy = folder / f"{name}{len(copies_at)}.img"
                if program.poll() is not None:
                    return figures, [f"{name}: ended with {program.returncode}"]
                said = said + _lines(program)
                before = _ids(listener)
                held = cut(program, device, image, copy)
                figures["cuts" if held else "not copied at rest"] += 1
                if held:
                    copies_at.append((copy, said, before))
        finally:
            program.kill()
            program.wait()
    for copy, told, before in copies_at:
        with mounted(copy, folder / "after"):
            found = wrong_in(folder / "after" / "state", told, before, _ids(listener))
            wrong += [f"{copy.name}: {line}" for line in found]
            figures["acknowledged"] = max(figures["acknowledged"], len(told))
            figures["published"] = max(figures["published"], len(before))
        copy.unlink()
    image.unlink()
    return figures, wrong


def _ids(listener: Listener) -> set[str]:
    """Of the messages that the broker has passed on."""
    return {str(json.loads(message.payload)["id"]) for message in list(listener.messages)}


def _wait_for(program: "subprocess.Popen[str]") -> None:
    with selectors.DefaultSelector() as selector:
        assert program.stdout
        selector.register(program.stdout, selectors.EVENT_READ)
        selector.select(60)


def _lines(program: "subprocess.Popen[str]") -> list[str]:
    """What it has said since."""
    assert program.stdout
    return [line.strip() for line in program.stdout if line.endswith("\n")]


def main() -> int:
    """Run the trial; exit 1 if anything was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cuts", type=int, default=100, help="in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default=",".join(PROGRAMS))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--program", choices=PROGRAMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.program:
        state = options.folder / "state"
        state.mkdir(exist_ok=True)
        PROGRAMS[options.program](state)
    names = options.only.split(",")
    wrong: list[str] = []
    for name in names:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            figures, found = trial(name, -(-options.cuts // len(names)), options.seed, Path(folder))
        print(f"{name}: {dict(figures)}; wrong: {found or 'nothing'}", flush=True)
        wrong += found
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
