"""The daemon as a process at a virtual sound card, and what can be seen of it from outside: rows,
books, haste."""

import json
import signal
import sqlite3
import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests import HANGS_S
from tests.helpers.brokers import until
from tests.helpers.sound_card import CARD_HZ, Card

PROJECT = Path(__file__).parents[2]
WINDOW_S = 5.0
_START_S_MAX = 600.0  # a slow bundle's probe
_POLL_S = 0.02


@dataclass
class Watched:
    """What happened while the daemon was there; times are Unix times."""

    started: float = 0.0
    ended: float = 0.0  # asked to stop
    gone: float = 0.0
    status: int = -1
    cpu_share: float = 0.0  # of one core, from its first committed window on
    rss_mb: float = 0.0
    commit_s: list[float] = field(default_factory=list)  # of every window: from its end to its row


class Daemon:
    """`python -m edge run` as a process of its own, in `folder`, with the code of `project`."""

    def __init__(
        self,
        card: Card,
        folder: Path,
        bundle: Path,
        *lines: str,
        buffer_s: float = 60,
        health_s: float = 1,
        project: Path = PROJECT,
    ) -> None:
        folder.mkdir()
        self.config = folder / "station.yaml"
        self.database = folder / "station.db"
        self._health = folder / "health.json"
        microphone = f"{{device: pulse, rate_hz: {CARD_HZ}, buffer_s: {buffer_s:g}}}"
        settings = [
            "station: {id: forest}",
            f"bundle: {bundle}",
            f"microphone: {microphone}",
            *lines,
        ]
        self.config.write_text(
            "\n".join([*settings, f"health: {{interval_s: {health_s:g}}}"]) + "\n"
        )
        self.log = folder / "log.txt"
        self._card, self._project, self.seen = card, project, Watched()
        self._watch, self._leave = threading.Thread(target=self._watch_commits), threading.Event()

    def __enter__(self) -> "Daemon":
        command = [sys.executable, "-m", "edge", "run", "--config", str(self.config)]
        self.seen.started = time.time()
        with self.log.open("ab") as log:
            self.process = self._card.started(command, stderr=log, cwd=self._project)
        try:
            assert until(lambda: self.process.poll() is None and self.rows(_UNTIL), _START_S_MAX), (
                self.log.read_text()
            )
        except BaseException:
            self.process.kill()
            raise
        self.count_from_now()
        self._watch.start()
        return self

    def count_from_now(self) -> None:
        """Begin anew with what `seen` tells of its haste and of how late its rows are."""
        self._heard_at, self._cpu = time.time(), self._cpu_s()
        self.seen.commit_s = []

    def __exit__(self, *_: object) -> None:
        seen = self.seen
        seen.cpu_share = (self._cpu_s() - self._cpu) / (time.time() - self._heard_at)
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        seen.rss_mb = int(status.split("VmRSS:")[1].split()[0]) / 1024
        self._leave.set()
        self._watch.join()
        seen.ended = time.time()
        self.process.send_signal(signal.SIGTERM)
        try:
            seen.status = self.process.wait(timeout=HANGS_S)
        finally:
            self.process.kill()
            seen.gone = time.time()

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Of its database, as anyone else reads it; nothing while there is none."""
        try:
            with closing(
                sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10)
            ) as db:
                return db.execute(sql).fetchall()
        except sqlite3.OperationalError:
            return []

    def health(self) -> dict[str, Any]:
        """health.json as it is now."""
        found: dict[str, Any] = json.loads(self._health.read_text())
        return found

    def _cpu_s(self) -> float:
        # as clock_getcpuclockid(3) has it, in nanoseconds
        return time.clock_gettime(~self.process.pid << 3 | 2)

    def _watch_commits(self) -> None:
        """A commit is seen 20 ms after it at the latest."""
        last = 0
        before = 0.0
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10)) as db:
            while not self._leave.wait(_POLL_S):
                version = db.execute("PRAGMA data_version").fetchone()[0]
                if version == last:
                    continue
                (start, analysed_s), now, last = db.execute(_UNTIL).fetchone(), time.time(), version
                end = unix(start) + analysed_s
                if end > before:
                    self.seen.commit_s += [now - end] if before else []
                    before = end


# Up to where the newest stretch is analysed; no row while there is none.
_UNTIL = """SELECT r.start_utc, sum(e.analysed_s) FROM recordings r JOIN effort e
ON e.recording = r.id
    WHERE r.rowid = (SELECT max(recordings.rowid) FROM recordings JOIN effort ON recording = id)
    GROUP BY r.id"""
BOOKS = """SELECT r.start_utc, sum(e.analysed_s), 'analysed' FROM recordings r JOIN effort e
ON e.recording = r.id
    GROUP BY r.id UNION ALL SELECT start_utc, seconds, reason FROM gaps ORDER BY 1"""
_HEARD = """SELECT d.recording, d.offset_s, d.species, d.start_utc, d.score, d.threshold
FROM detections d
    ORDER BY d.start_utc, d.species"""


def unix(utc: str) -> float:
    """Of a time as the record has it."""
    return datetime.strptime(utc, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc).timestamp()


def books(daemon: Daemon) -> tuple[list[str], list[str]]:
    """Figures of effort and gaps, and what is wrong with them: they add up to the time that the
    daemon was there, to one window, and each begins where the one before ended."""
    rows = [(unix(start), float(s), why) for start, s, why in daemon.rows(BOOKS)]
    seen = daemon.seen
    began = rows[0][0]
    told = sum(s for _, s, _ in rows)
    apart = [after[0] - (row[0] + row[1]) for row, after in pairwise(rows)]
    worst = max(map(abs, apart), default=0.0)
    gaps: dict[str, list[float]] = {}
    for _, seconds, why in rows:
        gaps.setdefault(why, []).append(seconds)
    kinds = ", ".join(f"{why} {sum(s):.2f} s in {len(s)}" for why, s in gaps.items())
    line = (
        f"books from {began - seen.started:.1f} s after its start on: {kinds}; together {told:.2f} "
        f"s; {seen.ended - began:.2f} s until it was asked to stop, {seen.gone - began:.2f} s "
        f"until it was gone; rows abut to {worst * 1000:.0f} ms"
    )
    adds_up = seen.ended - began - WINDOW_S <= told <= seen.gone - began + WINDOW_S
    wrong = (
        [] if adds_up else ["effort and gaps do not add up to the time that the daemon was there"]
    )
    wrong += (
        []
        if worst < 0.1
        else [f"a row does not begin where the one before ended: {worst:.3f} s apart"]
    )
    wrong += [] if seen.status == 0 else [f"exit status {seen.status}"]
    text = daemon.log.read_text()
    return [line], wrong + (["a traceback in its log"] if "Traceback" in text else [])


@dataclass(frozen=True)
class Heard:
    """One detection."""

    recording: str
    offset_s: float
    species: str
    time: float
    score: float
    threshold: float


def heard(database: Path) -> list[Heard]:
    """All detections, by time."""
    with closing(sqlite3.connect(database)) as db:
        return [
            Heard(r, o, species, unix(at), s, t) for r, o, species, at, s, t in db.execute(_HEARD)
        ]
