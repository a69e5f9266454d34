"""A record that is damaged, or replaced by a copy: what it can say no more of the time is a gap,
the books add up."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from edge.analysis.stretch import BatchResult
from edge.contract.bundle import Bundle, read_bundle
from edge.daemon.ledger import Ledger
from edge.host.clock import Line
from edge.store.backup import backup
from edge.store.connection import suspected
from edge.types import Effort, GapRow, RecordingRow, StationRun, utc_text
from tests.edge.test_open_record import spoil

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
BEGAN_S = 100.0
OFFSET_MS = 1_780_000_000_000
LINE = Line(OFFSET_MS, "synced")
LOST = "the record was damaged: what it said of this time is lost"


class Run:
    """A microphone's run, told span by span."""

    def __init__(self, database: Path, bundle: Bundle, line: Line = LINE) -> None:
        self.ledger = Ledger(database, "porch", bundle)
        self.run = StationRun("run", "microphone", "boot", BEGAN_S, line.offset_ms, line.known)
        self.ledger.begin_run(self.run)
        self.at_s = BEGAN_S

    def utc(self, boot_s: float) -> datetime:
        return EPOCH + timedelta(milliseconds=OFFSET_MS + round(boot_s * 1000))

    def begin(self) -> RecordingRow:
        start = self.utc(self.at_s)
        name = f"live{self.at_s:.0f}"
        row = RecordingRow(
            id=name,
            path=f"microphone/{name}",
            bytes=0,
            mtime_ns=0,
            sha256="",
            start=start,
            time_source="clock",
            zone_source="config",
            utc_offset_minutes=0,
            place=None,
            source="microphone",
            clock_state="synced",
            boot="boot",
            run="run",
            boot_s=self.at_s,
        )
        self.ledger.begin(row, "a")
        return row

    def hear(self, row: RecordingRow, until_s: float) -> None:
        hour = row.start.replace(minute=0, second=0, microsecond=0)
        self.ledger.found(
            BatchResult(row, [], [], [Effort(hour, until_s)], until_s, 1, [], 0, -40.0)
        )

    def stretch(self, seconds: float) -> None:
        row = self.begin()
        self.hear(row, seconds)
        self.ledger.finish(row, seconds, 1)
        self.at_s += seconds

    def gap(self, seconds: float) -> None:
        row = GapRow(
            f"gap{self.at_s:.0f}",
            "microphone",
            self.utc(self.at_s),
            seconds,
            "overflow",
            boot="boot",
        )
        row = GapRow(**{**row.__dict__, "run": "run", "boot_s": self.at_s, "clock_state": "synced"})
        self.ledger.gap(row)
        self.at_s += seconds


TOLD = (
    "SELECT boot_s, (SELECT sum(analysed_s) FROM effort WHERE recording = r.id) AS s, 'heard' FROM "
    "recordings r WHERE s IS NOT NULL UNION ALL SELECT boot_s, seconds, reason FROM gaps ORDER BY 1"
)


def assert_whole(told: list[tuple[float, float, str]], until_s: float) -> None:
    """All of the time, and nothing twice."""
    at_s = BEGAN_S
    for boot_s, seconds, _ in told:
        assert boot_s == pytest.approx(at_s, abs=1e-3), told
        at_s += seconds
    assert at_s == pytest.approx(until_s), told


@pytest.fixture
def run(tmp_path: Path, bundle_folder: Path) -> Iterator[Run]:
    run = Run(tmp_path / "station.db", read_bundle(bundle_folder))
    yield run
    run.ledger.close()
    suspected.clear()


@pytest.mark.parametrize("table", ["effort", "recordings", "gaps", "sqlite_autoindex_effort_1"])
def test_of_what_is_lost_the_books_say_so(tmp_path: Path, run: Run, table: str) -> None:
    """While it is heard; a second repair changes nothing, and an index costs nothing."""
    run.stretch(20)
    run.gap(7)
    run.stretch(30)
    open_ = run.begin()
    run.hear(open_, 5)
    for until_s in (10, 15):
        spoil(tmp_path / "station.db", table)
        run.hear(open_, until_s)
        run.ledger.follow(run.run)  # asks for gaps, too
        run.ledger.flush(now=True)
        run.ledger.flush(now=True)
    assert run.ledger.waiting == 0, run.ledger.error
    run.ledger.finish(open_, 15, 1)
    run.ledger.close()
    with closing(sqlite3.connect(tmp_path / "station.db")) as db:
        told = db.execute(TOLD).fetchall()
        details = {
            detail for (detail,) in db.execute("SELECT detail FROM gaps WHERE reason = 'store'")
        }
    assert_whole(told, 172.0)
    lost = {"effort": 50.0, "recordings": 50.0, "gaps": 7.0}.get(table, 0.0)
    assert sum(seconds for _, seconds, what in told if what == "store") == pytest.approx(lost), told
    assert {what for *_, what in told} <= {"heard", "overflow", "store"}
    assert details <= {LOST}


def test_a_recording_that_is_short_of_effort_is_read_again(tmp_path: Path, run: Run) -> None:
    row = RecordingRow("file", "a.wav", 9, 9, "s", run.utc(0), "name", "config", 0, None)
    store = run.ledger.store()
    store.begin(row, "porch", run.ledger._bundle.id, "these settings")
    hour = row.start.replace(minute=0, second=0, microsecond=0)
    store.add("file", run.ledger._bundle.id, [], [], [Effort(hour, 60.0)])
    store.finish("file", 60.0, 20, None)
    spoil(tmp_path / "station.db", "effort")
    run.stretch(5)
    run.ledger.flush(now=True)
    rows = run.ledger.store().rows("SELECT analysis FROM recordings ORDER BY id")
    assert rows == [("",), ("a",)]


@pytest.mark.parametrize("spoilt", [(), ("effort",), ("recordings",)])
def test_a_copy_of_before_the_clock_was_set_is_put_back(
    tmp_path: Path, bundle_folder: Path, spoilt: tuple[str, ...]
) -> None:
    """What this run wrote goes on along the line that is known by now, each second once; what of it
    cannot be read any more is said."""
    database = tmp_path / "station.db"
    run = Run(database, read_bundle(bundle_folder), Line(OFFSET_MS - 86_400_000, "unsynced"))
    run.stretch(20)
    open_ = run.begin()
    run.hear(open_, 5)
    run.ledger.flush(now=True)
    copy = backup(database, tmp_path / "copies", 7, "porch")
    run.run = replace(run.run, offset_ms=OFFSET_MS, known="synced")
    run.hear(open_, 12)
    run.ledger.finish(open_, 12, 1)
    run.at_s += 12
    run.ledger.follow(run.run)
    run.stretch(8)
    open_ = run.begin()
    run.hear(open_, 4)
    if spoilt:
        spoil(database, *spoilt)
    shutil.copy(copy, tmp_path / "new.db")
    (tmp_path / "new.db").replace(database)
    run.hear(open_, 10)
    run.ledger.flush(now=True)
    run.ledger.flush(now=True)
    assert run.ledger.waiting == 0, run.ledger.error
    run.ledger.finish(open_, 10, 1)
    assert run.ledger.store().line("run") == LINE
    run.ledger.close()
    with closing(sqlite3.connect(database)) as db:
        told = db.execute(TOLD).fetchall()
        starts = db.execute(
            "SELECT boot_s, start_utc FROM recordings UNION ALL SELECT boot_s, start_utc FROM gaps"
        )
        rows = starts.fetchall()
    assert [start for _, start in rows] == [utc_text(run.utc(at_s)) for at_s, _ in rows]
    assert_whole(told, 150.0)
    assert {what for *_, what in told} <= ({"heard", "store"} if spoilt else {"heard"})
