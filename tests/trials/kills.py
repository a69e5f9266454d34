"""A station that is killed again and again, and what must be the same afterwards as if nobody had
touched it.

    python -m tests.trials.kills --rounds 100 [--what replay|folder|both] [--seed N]

Real processes, a real broker with one subscriber that never leaves, one database through all
rounds. Exits 1 and says what differs if anything does.
"""

import argparse
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edge.contract.blend import Blend
from tests.conftest import hiss, make_bundle, note, write_sound
from tests.helpers.brokers import Broker, Listener, free_port, until
from tests.helpers.records import DETECTIONS, differences, dump
from tests.trials import counted
from tests.trials.kills_in_migration import earlier_version, same_after_killed_migrations

What = Literal["replay", "folder"]
PROJECT = Path(__file__).parents[2]
_POLL_S = 0.003
_STEPS_MAX = 120  # on the disk; a recording takes about 50
_RECORDINGS_A_ROUND = 1.0
_DATABASE_LOCKED_S = 10.0


@dataclass(frozen=True)
class Progress:
    """How far a database is."""

    finished: int = 0
    detections: int = 0
    begun: bool = False  # a recording is begun and not finished


def progress(database: Path) -> Progress:
    """As anyone sees it from outside; nothing while there is no database, or one of an earlier
    version."""
    try:
        with closing(
            sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=_DATABASE_LOCKED_S)
        ) as db:
            finished = db.execute(
                "SELECT count(*) FROM recordings WHERE state <> 'started'"
            ).fetchone()[0]
            detections = db.execute("SELECT count(*) FROM detections").fetchone()[0]
            begun = db.execute(
                "SELECT count(*) FROM recordings WHERE state = 'started'"
            ).fetchone()[0]
    except sqlite3.OperationalError:
        return Progress()
    return Progress(int(finished), int(detections), begun > 0)


# The sounds, with the length that their headers give


def recordings(folder: Path, count: int) -> dict[str, float]:
    """So many good recordings, most with a bird in nearly every window, one that is cut short, and
    two that are no sound. Name -> seconds by the header of those that are."""
    lengths = {}
    suffixes = ("wav", "flac", "ogg")
    for n in range(count):
        seconds = 12.0 + 5 * (n % 3) + 0.25 * (n % 2)
        song = np.concatenate([note(code, seconds / 3) for code in ("lowtoo", "midtoo", "higtoo")])
        name = f"m{n:03d}_20190601_{n // 60:02d}{n % 60:02d}30.{suffixes[n % 3]}"
        write_sound(folder / name, song + hiss(seconds + 1, seed=n)[: len(song)])
        lengths[name] = len(song) / 32_000
    cut = write_sound(folder / "cut_20190531_235950.wav", note("midtoo", 20))
    cut.write_bytes(cut.read_bytes()[:-400_000])  # 6.25 s of 20 are missing
    lengths[cut.name] = 20.0
    (folder / "bad.wav").write_bytes(b"RIFF????WAVEhello")
    (folder / "empty.flac").write_bytes(b"")
    return lengths


def effort_adds_up(database: Path, lengths: dict[str, float]) -> list[str]:
    """Of every recording: seconds analysed and seconds missing are the seconds of its header, to
    one window."""
    with closing(sqlite3.connect(database)) as db:
        counted = dict(
            db.execute(
                "SELECT path, (SELECT total(analysed_s) FROM effort WHERE recording = r.id) + "
                "(SELECT total(seconds) FROM gaps WHERE recording = r.id) FROM recordings r"
            ).fetchall()
        )
    wrong = [
        f"{name}: {counted.get(name)} s"
        for name, s in lengths.items()
        if abs(counted.get(name, 0) - s) > 0.1
    ]
    return [f"effort and gaps do not add up: {', '.join(wrong)}"] if wrong else []


def clips_whole(state: Path) -> list[str]:
    """Every detection's clip is there, every file has its row, nothing half-written is left."""
    with closing(sqlite3.connect(state / "station.db")) as db:
        rows = {str(path): int(size) for path, size in db.execute("SELECT path, bytes FROM clips")}
        used = {
            str(p)
            for (p,) in db.execute(
                "SELECT c.path FROM detections d LEFT JOIN clips c ON c.id = d.clip"
            )
        }
        broken = (
            db.execute("PRAGMA foreign_key_check").fetchall()
            + db.execute("PRAGMA integrity_check").fetchall()[1:]
        )
    files = {
        str(p.relative_to(state / "clips")): p.stat().st_size
        for p in (state / "clips").rglob("*")
        if p.is_file()
    }
    lines = [f"the database itself: {broken[:3]}"] if broken else []
    if files != rows:
        lines.append(
            f"clips: {sorted(files.items() ^ rows.items())[:4]} only as file or only as row"
        )
    if used - set(rows) - {"None"}:
        lines.append(f"detections whose clip is missing: {sorted(used - set(rows))[:4]}")
    return lines


def clip_sums(state: Path) -> dict[str, str]:
    """Path -> digest of every clip."""
    return {
        str(p.relative_to(state)): sha256(p.read_bytes()).hexdigest()
        for p in state.glob("clips/*/*")
    }


# The program, killed


@dataclass
class Figures:
    """What the kills hit, and what a subscriber got."""

    what: str
    kills: Counter[str] = field(default_factory=Counter)
    points: set[int] = field(default_factory=set)  # detections there were at a kill
    in_recording: int = 0
    at_steps: int = 0
    messages: int = 0
    ids: int = 0
    sent_twice: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        kills = ", ".join(f"{count} {where}" for where, count in sorted(self.kills.items()))
        return (
            f"{self.what}: kills: {kills}; {self.at_steps} at a step on the disk, "
            f"{self.in_recording} inside a recording, at {len(self.points)} different counts of "
            f"detections; {self.messages} messages received, {self.ids} ids, {self.sent_twice} "
            f"received more than once; {self.seconds:.0f} s"
        )


def settings(path: Path, bundle: Path, port: int, folder: Path) -> Path:
    """A station.yaml of its own state folder; batches of two half-second steps, so that there are
    many commits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"station: {{id: porch}}\nbundle: {bundle}\nsource: folder\nfolder: {{path: {folder}, "
        f"settle_s: 0.2}}\nmqtt: {{host: 127.0.0.1, port: {port}}}\nruntime: {{batch: 2, threads: "
        "1}\nwindows: {hop_s: 0.5}\nclips: {of_recordings: true, seconds_max: 15, before_s: "
        "1, after_s: 1}\nhealth: {interval_s: 1}\n"
    )
    earlier_version(path.parent / "station.db")
    return path


class Program:
    """One way to run the station, on one state folder."""

    def __init__(self, what: What, config: Path, folder: Path) -> None:
        self.what = what
        self.database = config.parent / "station.db"
        replay = ["replay", str(folder), "--config", str(config)]
        arguments = replay if what == "replay" else ["run", "--config", str(config)]
        self._python = [sys.executable, "-W", "error", "-m"]
        self._arguments = arguments
        self.log = config.parent / "log.txt"

    @contextmanager
    def started(self, *program: str) -> Iterator[subprocess.Popen[bytes]]:
        """Never leaves a process behind."""
        command = [*self._python, *(program or ("edge",)), *self._arguments]
        with self.log.open("ab") as log:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, cwd=PROJECT)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def to_the_end(self, recordings: int) -> list[str]:
        """Undisturbed until all is analysed and sent. Returns what went wrong."""
        with self.started() as process:
            if self.what == "folder":
                until(lambda: process.poll() is not None or self._all_done(recordings), 600)
                process.send_signal(signal.SIGTERM)
            status = process.wait(timeout=600)
        wanted = 0 if self.what == "folder" else 3  # two recordings are refused
        lines = [f"exit status {status}, {wanted} is right"] if status != wanted else []
        return (
            lines
            if self._all_done(recordings)
            else [*lines, "not everything was analysed and sent"]
        )

    def _all_done(self, recordings: int) -> bool:
        with closing(sqlite3.connect(self.database, timeout=_DATABASE_LOCKED_S)) as db:
            waiting = db.execute("SELECT count(*) FROM outbox WHERE sent_utc IS NULL").fetchone()[0]
        return waiting == 0 and progress(self.database).finished == recordings


class Killer:
    """Picks the moments: while it starts, just after something new was committed, some commits
    later, or at a step on the disk (tests/trials/kill_steps.py)."""

    def __init__(self, program: Program, figures: Figures, rng: np.random.Generator) -> None:
        self.program = program
        self.figures = figures
        self.rng = rng
        self._start_s = 3.0  # from its start to the first new row; learnt

    def strike(self, recordings: int) -> None:
        """One start, one SIGKILL. `recordings` there are to do."""
        moment = self.rng.choice(["start", "commit", "later", "step"], p=[0.2, 0.2, 0.1, 0.5])
        before = progress(self.program.database)
        began = time.monotonic()
        steps = (
            ("tests.trials.kill_steps", str(int(self.rng.integers(1, _STEPS_MAX))))
            if moment == "step"
            else ()
        )
        with self.program.started(*steps) as process:
            if moment == "start":
                time.sleep(float(self.rng.uniform(0.0, self._start_s)))
            elif moment == "step":
                self._new(process, before, _STEPS_MAX, recordings)
            elif self._new(process, before, 1, recordings):
                self._start_s = 0.7 * self._start_s + 0.3 * (time.monotonic() - began)
                more = int(self.rng.integers(2, 20)) if moment == "later" else 1
                self._new(process, before, more, recordings)
                time.sleep(float(self.rng.uniform(0.0, 0.03)))
            self.figures.at_steps += moment == "step" and process.poll() == -signal.SIGKILL
            process.send_signal(signal.SIGKILL)
            killed = process.wait() == -signal.SIGKILL
        at = progress(self.program.database)
        ended = not killed or at.finished >= recordings
        where = (
            "after the end"
            if ended
            else "before the first new row"
            if at == before
            else "in the middle"
        )
        self.figures.kills[where] += 1
        self.figures.points.add(at.detections)
        self.figures.in_recording += at.begun and not ended

    def _new(
        self, process: subprocess.Popen[bytes], before: Progress, rows: int, recordings: int
    ) -> bool:
        """Wait until there are so many new detections; False if there is nothing more to come."""
        while process.poll() is None:
            now = progress(self.program.database)
            if now.detections >= before.detections + rows:
                return True
            if now.finished >= recordings:
                return False
            time.sleep(_POLL_S)
        return False


def same_after_kills(folder: Path, what: What, rounds: int, seed: int) -> tuple[Figures, list[str]]:
    """Everything in `folder`: an undisturbed run, then a killed one beside it. Returns figures and
    what differs."""
    figures = Figures(what)
    began = time.monotonic()
    bundle = make_bundle(folder / "bundle", Blend("logit", 1.0, smoothing=0.1))
    lengths = recordings(folder / "all", max(3, round(rounds * _RECORDINGS_A_ROUND)))
    files = sorted(path.name for path in (folder / "all").iterdir())
    total = len(files) + 1  # and the one of the earlier version
    with Broker(folder, free_port(), "max_queued_messages 0") as broker:
        calm = Program(
            what,
            settings(folder / "calm" / "s.yaml", bundle, broker.port, folder / "all"),
            folder / "all",
        )
        with Listener(broker.port, DETECTIONS) as listener:
            wrong = [f"undisturbed: {line}" for line in calm.to_the_end(total)]
            expected = received_by(listener, calm.database)
        source = folder / "in"
        source.mkdir()
        killed = Program(
            what, settings(folder / "killed" / "s.yaml", bundle, broker.port, source), source
        )
        killer = Killer(killed, figures, np.random.default_rng(seed))
        fed = _feed(files, folder, len(files) if what == "replay" else 2, 0)
        with Listener(broker.port, DETECTIONS) as listener:
            for n in range(rounds):
                fed = _feed(files, folder, max(2, len(files) * (n + 1) // rounds), fed)
                killer.strike(fed + 1)
            wrong += killed.to_the_end(total)
            received = received_by(listener, killed.database)
    wrong += differences(dump(killed.database), dump(calm.database))
    wrong += _messages(figures, received, expected, killed.database)
    for state in (folder / "calm", folder / "killed"):
        wrong += clips_whole(state) + effort_adds_up(state / "station.db", lengths)
    if clip_sums(folder / "calm") != clip_sums(folder / "killed"):
        wrong.append("the clips are not the same")
    if not clip_sums(folder / "calm"):
        wrong.append("there are no clips: nothing was tried")
    log = killed.log.read_text()
    if "Traceback" in log:
        wrong.append(f"a traceback in {killed.log}: {log[log.index('Traceback') :][:600]}")
    figures.seconds = time.monotonic() - began
    return figures, wrong


def received_by(listener: Listener, database: Path) -> list[str]:
    """What the listener got, once it has a message of every detection: the broker may still pass
    some on."""
    with closing(sqlite3.connect(database)) as db:
        ids = {str(found) for (found,) in db.execute("SELECT id FROM detections")}
    until(lambda: ids <= {json.loads(payload)["id"] for payload in listener.payloads(DETECTIONS)})
    return listener.payloads(DETECTIONS)


def _feed(files: list[str], folder: Path, wanted: int, fed: int) -> int:
    """Recordings come into the watched folder, each renamed into place. Returns how many there
    are."""
    for name in files[fed:wanted]:
        shutil.copy2(folder / "all" / name, folder / "in" / f".{name}")
        (folder / "in" / f".{name}").rename(folder / "in" / name)
    return max(fed, wanted)


def _messages(
    figures: Figures, received: list[str], expected: list[str], database: Path
) -> list[str]:
    """Each detection at least once, by id exactly once and as without a kill; first in the order of
    the record."""
    times = Counter(json.loads(payload)["id"] for payload in received)
    figures.messages, figures.ids = len(received), len(times)
    figures.sent_twice = sum(count > 1 for count in times.values())
    told = _told(received)
    undisturbed = _told(expected)
    other = [
        key for key in told.keys() | undisturbed.keys() if told.get(key) != undisturbed.get(key)
    ]
    lines = (
        [f"messages: {len(other)} are not what an undisturbed run says: {other[:3]}"]
        if other
        else []
    )
    with closing(sqlite3.connect(database)) as db:
        ids = [str(found) for (found,) in db.execute("SELECT id FROM outbox ORDER BY seq")]
        detections = {str(found) for (found,) in db.execute("SELECT id FROM detections")}
    if set(times) != detections:
        lines.append(
            f"messages: {len(detections - set(times))} never came, {len(set(times) - detections)} "
            "of nothing"
        )
    if list(times) != ids:  # a Counter keeps the order in which it met them
        lines.append("messages: not in order")
    return lines


def _told(payloads: list[str]) -> dict[str, dict[str, Any]]:
    """Id -> message, without what tells when it was sent."""
    told = {}
    for payload in payloads:
        message = json.loads(payload)
        told[str(message["id"])] = {k: v for k, v in message.items() if k not in ("seq", "queued")}
    return told


def main() -> None:
    """Run the rounds and say what came of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=counted, default=100)
    parser.add_argument("--what", choices=["replay", "folder", "both"], default="both")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        said, wrong = same_after_killed_migrations(
            Path(temporary), max(3, arguments.rounds // 3), arguments.seed
        )
        print(said, *(f"WRONG {line}" for line in wrong), sep="\n", flush=True)
        failed = bool(wrong)
    whats: list[What] = ["replay", "folder"] if arguments.what == "both" else [arguments.what]
    for what in whats:
        folder = Path(tempfile.mkdtemp(prefix=f"kills-{what}-"))
        figures, wrong = same_after_kills(folder, what, arguments.rounds, arguments.seed)
        print(figures, *(f"WRONG {line}" for line in wrong), sep="\n", flush=True)
        if wrong:
            failed = True
            print(f"everything is in {folder}")
        else:
            shutil.rmtree(folder)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
