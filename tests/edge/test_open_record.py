"""The record that is open is the one that its name leads to, and sound: whatever becomes of its
file while it is."""

import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from edge.analysis.stretch import BatchResult
from edge.clips.disk_reserve import Reserve
from edge.config import Config
from edge.contract.bundle import Bundle, read_bundle
from edge.contract.errors import DamagedError, GoneError
from edge.daemon.clip_cleanup import House
from edge.daemon.ledger import Ledger
from edge.host.clock import Clock
from edge.store.backup import backup
from edge.store.clips import ClipTable
from edge.store.connection import suspected
from edge.store.outbox import OutboxTable
from edge.store.salvage import set_aside
from edge.types import ClipRow, Detection, Effort, GapRow, Message, RecordingRow
from tests.helpers.clip_station import on_small_disk

NOBODY = 65534
START = datetime(2019, 6, 1, 5, 30, tzinfo=timezone.utc)


class Run:
    """A station's ledger that hears ten seconds at a time, and what must be in the record in the
    end."""

    def __init__(
        self,
        folder: Path,
        bundle: Bundle,
        boot: str = "b",
        on_again: Callable[[], object] = lambda: None,
    ) -> None:
        self.database = folder / "station.db"
        self.bundle = bundle
        self.boot = boot
        self.ledger = Ledger(self.database, "porch", bundle, on_again=on_again)
        self.told: set[str] = set()
        self.heard_s = 0.0
        self.row = RecordingRow(
            f"{boot}0", "microphone/0", 0, 0, "", START, "clock", "config", 0, None
        )
        self.row = replace(self.row, source="microphone", boot=boot)
        self.ledger.begin(self.row, "a")

    def hear(self, times: int = 1) -> None:
        """Each time a detection, its message, and effort."""
        code = next(iter(self.bundle.taxonomy)).code
        for _ in range(times):
            name = f"{self.boot}d{len(self.told)}"
            at = START + timedelta(seconds=self.heard_s)
            until = at + timedelta(seconds=5)
            scores = (0.9, 0.9, None, 0.5, "bundle", 0.9, 0.9, -40.0)
            detection = Detection(name, self.row.id, at, until, self.heard_s, code, *scores)
            self.heard_s += 10.0
            self.told.add(name)
            message = Message(name, "t", "{}")
            effort = Effort(START, self.heard_s)
            self.ledger.found(
                BatchResult(
                    self.row, [detection], [message], [effort], self.heard_s, 1, [], 0, -40.0
                )
            )

    def missing(self, seconds: float) -> None:
        """A gap."""
        self.ledger.gap(
            GapRow(f"{self.boot}gap", "microphone", START + timedelta(hours=1), seconds, "overflow")
        )

    def look(self) -> None:
        """What the daemon does many times a second."""
        self.ledger.flush()

    def end(self) -> None:
        """The stretch and the run end; the record is what was told."""
        self.ledger.finish(self.row, self.heard_s, 1)
        assert self.ledger.waiting == 0, self.ledger.error
        self.ledger.close()
        self.check()

    def check(self) -> None:
        """All that was told is in the record, and it is whole."""
        with closing(sqlite3.connect(self.database)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert db.execute("PRAGMA foreign_key_check").fetchall() == []
            for table in ("detections", "outbox"):
                assert self.told <= {name for (name,) in db.execute(f"SELECT id FROM {table}")}
            sql = "SELECT coalesce(sum(analysed_s), 0) FROM effort WHERE recording = ?"
            assert db.execute(sql, (self.row.id,)).fetchone() == (self.heard_s,)
            counters = dict(db.execute("SELECT name, value FROM counters"))
            assert (
                counters["messages created"]
                == db.execute("SELECT count(*) FROM outbox").fetchone()[0]
            )
            assert db.execute(
                "SELECT count(*) FROM recordings WHERE state = 'started'"
            ).fetchone() == (0,)


@pytest.fixture
def bundle(bundle_folder: Path) -> Bundle:
    return read_bundle(bundle_folder)


@pytest.fixture
def run(tmp_path: Path, bundle: Bundle) -> Iterator[Run]:
    """A station in its second run, in the middle of a stretch."""
    state = tmp_path / "state"
    before = Run(state, bundle, "a")
    before.hear(2)
    before.end()
    run = Run(state, bundle)
    run.hear(3)
    yield run
    run.ledger.close()
    suspected.clear()


def ids(database: Path, table: str = "detections") -> set[str]:
    with closing(sqlite3.connect(database)) as db:
        return {str(name) for (name,) in db.execute(f"SELECT id FROM {table}")}


@pytest.mark.parametrize("with_logs", [True, False])
def test_deleted_it_is_written_anew_with_all_that_it_held(run: Run, with_logs: bool) -> None:
    for path in run.database.parent.glob("station.db*"):
        if with_logs or path == run.database:
            path.unlink()
    run.look()
    assert run.database.exists()
    run.hear(2)
    assert "was deleted while the station ran" in str(run.ledger.record.problem)
    run.end()
    assert {"ad0", "ad1"} <= ids(run.database)  # of the run before: nothing else held them any more


@pytest.mark.parametrize("with_logs", [True, False])
def test_moved_it_goes_on_in_a_new_one_and_the_old_is_whole(
    run: Run, tmp_path: Path, with_logs: bool
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in sorted(run.database.parent.glob("station.db*")):
        if with_logs or path == run.database:
            path.rename(elsewhere / path.name)
    run.hear(2)
    assert f"was moved (to {elsewhere / 'station.db'})" in str(run.ledger.record.problem)
    run.end()
    assert ids(elsewhere / "station.db") >= {"ad0", "ad1", "bd0", "bd1", "bd2"}
    assert "ad0" not in ids(run.database)  # they have their own file


def test_the_whole_state_folder_moved(run: Run, tmp_path: Path) -> None:
    run.database.parent.rename(tmp_path / "other")
    run.hear()
    run.end()
    assert ids(tmp_path / "other" / "station.db") >= {"ad0", "bd2"}


@pytest.mark.parametrize("quiet", [True, False])
def test_replaced_by_a_backup_it_goes_on_in_that(run: Run, tmp_path: Path, quiet: bool) -> None:
    """SQLite would lay the log of the one over the other."""
    copy = backup(run.database, tmp_path / "backups", 7, "porch")
    run.hear(3)
    with ClipTable(run.database) as table, table._transaction():
        table._db.execute("INSERT INTO counters VALUES ('detections suppressed', 3)")
    shutil.copy(copy, tmp_path / "new.db")
    (tmp_path / "new.db").replace(run.database)
    if quiet:
        run.look()
    else:
        run.missing(5.0)
        run.hear(2)
    assert "was replaced by another file while the station ran" in str(run.ledger.record.problem)
    assert ids(run.database, "gaps") == (set() if quiet else {"bgap"})
    run.end()
    assert ids(run.database) >= {"ad0", "ad1"}
    with closing(sqlite3.connect(run.database)) as db:
        assert db.execute(
            "SELECT value FROM counters WHERE name = 'detections suppressed'"
        ).fetchone() == (3,)


def test_replaced_by_that_of_an_earlier_run_or_another_station(
    run: Run, tmp_path: Path, bundle: Bundle
) -> None:
    """Numbers of messages that are taken there are given anew; a stretch that was open there is
    ended."""
    other = Run(tmp_path / "other", bundle, "c")
    other.hear(9)
    other.ledger.record.close()  # as by a kill
    run.missing(5.0)
    (tmp_path / "other" / "station.db").replace(run.database)
    run.hear()
    run.end()
    assert other.told <= ids(run.database, "outbox")


@pytest.mark.parametrize("names", [("-wal",), ("-shm",), ("-wal", "-shm")])
def test_its_log_deleted_what_was_in_it_is_written_back(run: Run, names: tuple[str, ...]) -> None:
    """Somebody takes them for leftovers; the last commits are in the log alone, and others would
    begin another."""
    with OutboxTable(run.database) as outbox:
        outbox.counts()
        for name in names:
            run.database.with_name(f"station.db{name}").unlink()
        run.look()
        assert "lost its -wal or -shm while the station ran" in str(run.ledger.record.problem)
        with pytest.raises(GoneError, match="left without"):
            outbox.counts()
    assert run.told <= ids(run.database)
    run.hear(2)
    with OutboxTable(run.database) as outbox:
        assert outbox.counts()["created"] == 7
    run.end()


def test_taken_away_again_and_again(run: Run) -> None:
    for times in range(1, 4):
        run.hear(times)
        run.database.unlink()
        run.look()
    run.hear()
    run.end()
    assert "ad0" in ids(run.database)


def test_what_cannot_be_read_any_more_costs_itself_alone(run: Run) -> None:
    """The begun stretch is entered anew, so that what follows has something to refer to."""
    run.ledger.store().raw.close()
    run.told.clear()
    run.database.unlink()
    run.hear(2)
    assert "some of them could not be read any more" in str(run.ledger.record.problem)
    run.end()


def save(run: Run, detection: str) -> str:
    """A clip of this detection, with its file."""
    folder = run.database.parent / "clips"
    clip = f"clip of {detection}"
    path = (
        f"2019-06-01/{run.row.id}_0.90_20190601T053000.000Z_{abs(hash(detection)) % 16**8:08x}.wav"
    )

    def put() -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"sound")

    with ClipTable(run.database) as table:
        table.add(ClipRow(clip, path, run.row.id, START, 5.0, 5), [detection], put)
    return path


@pytest.mark.parametrize("killed", [False, True])
def test_a_disk_that_was_away_has_its_clips_and_no_others(
    tmp_path: Path, bundle: Bundle, killed: bool
) -> None:
    """What is saved meanwhile lies in the folder under it, out of sight when it is back; what was
    let go of there, since it was away with the disk, has its clip again. Also where a kill left
    files to go."""
    config = Config(state=tmp_path / "state")
    disk = tmp_path / "disk"
    under = tmp_path / "under"
    house = House(lambda: config, Reserve(config.state), Clock(), lambda _: None)
    run = Run(config.state, bundle, on_again=house.reconcile)
    run.hear(2)
    before = save(run, "bd0")
    config.state.rename(disk)
    config.state.mkdir()
    run.hear(2)
    with ClipTable(run.database) as table:
        assert table.rows("SELECT path FROM clips") == []
        if killed:
            with table._transaction():
                table._db.execute("INSERT INTO clips_going VALUES (?)", (before,))
    meanwhile = save(run, "bd2")
    config.state.rename(under)
    disk.rename(config.state)
    run.hear(2)
    with ClipTable(run.database) as table:
        assert table.rows("SELECT id, path FROM clips") == [("clip of bd0", before)]
        assert table.rows("SELECT id, clip FROM detections WHERE clip IS NOT NULL") == [
            ("bd0", "clip of bd0")
        ]
        assert table.going() == set()
    assert (config.clips_folder / before).is_file()
    assert (under / "clips" / meanwhile).is_file()
    run.end()


def test_others_notice_too(run: Run) -> None:
    with OutboxTable(run.database) as outbox, ClipTable(run.database) as clips:
        run.database.rename(run.database.with_name("kept.db"))
        with pytest.raises(GoneError, match=r"station\.db: was moved or deleted while it was open"):
            outbox.counts()
        with pytest.raises(GoneError):
            clips.forget(["x"])


def spoil(database: Path, *names: str) -> None:
    """Other bytes on the first pages of these tables and indices, as a worn card gives them
    back."""
    with closing(sqlite3.connect(database)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        roots = dict(db.execute("SELECT name, rootpage FROM sqlite_master"))
        size = db.execute("PRAGMA page_size").fetchone()[0]
    with database.open("r+b") as file:
        for name in names:
            file.seek((roots[name] - 1) * size)
            file.write(b"\xa5" * size)
    # SQLite reads pages again when another has written
    with closing(sqlite3.connect(database)) as db, db:
        db.execute("INSERT OR REPLACE INTO counters VALUES ('another', abs(random()))")


def test_damage_is_mended_while_it_runs(run: Run) -> None:
    spoil(run.database, "detections_time")
    run.hear(2)
    run.look()
    assert run.ledger.error is None
    (aside,) = set_aside(run.database)
    assert aside.name in str(run.ledger.record.problem)
    assert not run.ledger.record.lost_rows
    run.end()
    assert {"ad0", "ad1"} <= ids(run.database)
    aside.unlink()
    assert run.ledger.record.problem is None  # somebody has seen it


def test_damage_that_takes_rows_is_mended_too_and_what_is_heard_then_is_kept(run: Run) -> None:
    spoil(run.database, "detections")
    run.told.clear()
    run.hear(2)
    run.look()
    assert run.ledger.waiting == 0
    assert run.ledger.record.lost_rows
    run.end()


def test_a_file_that_became_something_else_is_mended(run: Run) -> None:
    """The first page is another's; a reader met it first."""
    run.ledger.store().raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    raw = bytearray(run.database.read_bytes())
    raw[:100] = b"notes of somebody" + bytes(83)
    run.database.write_bytes(raw)
    with pytest.raises(DamagedError):
        OutboxTable(run.database)
    assert run.database in suspected
    run.look()
    assert run.database not in suspected
    assert len(set_aside(run.database)) == 1
    run.told.clear()
    run.hear(2)
    run.look()
    assert run.ledger.waiting == 0


def test_damage_that_a_reader_meets_is_mended(run: Run) -> None:
    spoil(run.database, "outbox_waiting")
    with pytest.raises(DamagedError), OutboxTable(run.database) as outbox:
        outbox.waiting(0, 10)
    run.look()
    with OutboxTable(run.database) as outbox:
        assert len(outbox.waiting(0, 10)) == 5
    run.end()


def test_no_room_to_mend_is_told_and_waited_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(run.database, "detections_time")
    monkeypatch.setattr("edge.store.salvage._SPARE_BYTES", 1 << 60)
    run.hear(2)
    run.look()
    assert "MB more are needed" in str(run.ledger.error)
    assert run.ledger.record.advice == "make room on the disk"
    assert run.ledger.waiting == 2
    monkeypatch.undo()
    run.ledger.flush(now=True)
    run.end()


@pytest.fixture
def own(bundle: Bundle) -> Iterator[tuple[Path, Bundle]]:
    """A state folder, and a bundle, of a user to whom modes of files mean something."""
    with tempfile.TemporaryDirectory() as name:
        root = os.geteuid() == 0
        shutil.copy(bundle.folder / "manifest.json", name)
        if root:
            os.chown(name, NOBODY, NOBODY)
            os.seteuid(NOBODY)
        try:
            yield Path(name) / "state", replace(bundle, folder=Path(name))
        finally:
            if root:
                os.seteuid(0)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("station.db", 0o444),
        ("station.db", 0),
        ("station.db-shm", 0o444),
        ("station.db-wal", 0o400),
        (".", 0o555),
    ],
)
def test_the_file_that_may_not_be_written_is_named_and_mended_it_goes_on(
    own: tuple[Path, Bundle], name: str, mode: int
) -> None:
    state, bundle = own
    Run(state, bundle, "a").end()
    if name.startswith("station.db-"):
        (state / name).touch()
    there = state / name
    before = there.stat().st_mode & 0o777
    there.chmod(mode)
    run = Run(state, bundle)
    run.hear(2)
    if name.startswith("station.db-"):  # SQLite made it so: it is given its right again
        assert run.ledger.error is None
    else:
        assert f"{there} may not be written (mode {mode:04o}, owner " in str(run.ledger.error)
        assert f"type `chmod u+rw{'x' if name == '.' else ''} {there}`" in str(run.ledger.error)
        assert run.ledger.record.advice == "run that command, and the station continues by itself"
        there.chmod(before)
    run.ledger.flush(now=True)
    run.end()
    assert all(path.stat().st_mode & 0o200 for path in state.iterdir())


def body_read_only(disk: Path, bundle_folder: Path) -> None:
    run = Run(disk / "state", read_bundle(bundle_folder))
    run.ledger.record.close()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    run.hear()
    assert "is on a file system that is mounted read-only" in str(run.ledger.error), (
        run.ledger.error
    )
    assert run.ledger.record.advice == "mount it writable, and the station continues by itself"
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    run.ledger.flush(now=True)
    run.end()


def test_a_disk_that_is_mounted_read_only_is_no_matter_of_modes(
    tmp_path: Path, bundle_folder: Path
) -> None:
    """As ext4 becomes after an error of its disk."""
    on_small_disk("tests.edge.test_open_record.body_read_only", tmp_path, 24, bundle_folder)


@pytest.mark.parametrize("what", ["folder", "loop", "stranger", "torn"])
def test_what_is_no_record_is_to_be_moved_away(tmp_path: Path, bundle: Bundle, what: str) -> None:
    """There is room and there are rights; nothing but another name helps, and then nothing is lost
    that waited."""
    database = tmp_path / "station.db"
    if what == "folder":
        database.mkdir()
    elif what == "loop":
        database.symlink_to(database)
    else:
        sql = "CREATE TABLE notes (a)" if what == "stranger" else "DROP TABLE gaps"
        if what == "torn":
            Run(tmp_path, bundle, "a").ledger.close()
        with closing(sqlite3.connect(database)) as db:
            db.execute(sql)
    run = Run(tmp_path, bundle)
    run.hear()
    run.missing(3.0)
    assert run.ledger.error
    assert "move station.db away, and the station begins a new record" in run.ledger.record.advice
    database.rename(tmp_path / "moved")
    run.ledger.flush(now=True)
    assert run.ledger.error is None
    assert run.ledger.waiting == 0
    run.ledger.close()


def test_the_advice_fits_the_cause(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.store.open_record.BUSY_TIMEOUT_S", 0.05)
    run = Run(tmp_path, bundle)
    with closing(sqlite3.connect(run.database, isolation_level=None)) as editor:
        editor.execute("BEGIN IMMEDIATE")
        run.hear()
        assert "locked" in str(run.ledger.error)
        assert run.ledger.record.advice.startswith("close the program that has it open for writing")
        editor.execute("ROLLBACK")
    run.ledger.flush(now=True)
    run.end()
