"""The record under several hands: writers that meet, a full disk's words, a database of nobody's
making."""

import json
import sqlite3
import threading
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import pytest

from edge.contract.bundle import read_bundle
from edge.contract.errors import StoreError
from edge.store.outbox import OutboxTable
from edge.store.record import Store
from edge.types import Effort, Message, RecordingRow

START = datetime(2019, 6, 1, 5, 30, tzinfo=timezone.utc)


def recording(name: str) -> RecordingRow:
    return RecordingRow(name, f"{name}.wav", 1, 2, "0", START, "name", "recorded", 0, None)


def test_writers_that_meet_wait_for_each_other(tmp_path: Path, bundle_folder: Path) -> None:
    """A replay and its publisher write to one file; neither may fail because the other was
    quicker."""
    database = tmp_path / "station.db"
    bundle = read_bundle(bundle_folder)
    with Store(database) as store:
        store.add_bundle(bundle, "{}")
    failed: list[StoreError] = []
    done = threading.Event()

    def publish() -> None:
        try:
            with OutboxTable(database) as outbox:
                while not done.is_set():
                    outbox.mark_sent([waiting.seq for waiting in outbox.waiting(0, 20)])
        except StoreError as error:
            failed.append(error)

    publisher = threading.Thread(target=publish)
    publisher.start()
    try:
        with Store(database) as store:
            for n in range(150):
                store.begin(recording(f"r{n}"), "porch", bundle.id, "a")
                store.add(
                    f"r{n}",
                    bundle.id,
                    [],
                    [Message(f"m{n}", "t", json.dumps(n))],
                    [Effort(START, 5.0)],
                )
                store.finish(f"r{n}", 5.0, 1, None)
            assert store.rows("SELECT count(*) FROM outbox")[0][0] == 150
    finally:
        done.set()
        publisher.join()
    assert not failed


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path, bundle_folder: Path) -> None:
    with Store(tmp_path / "station.db") as store:
        store.add_bundle(read_bundle(bundle_folder), "{}")
        with pytest.raises(StoreError, match="FOREIGN KEY"):
            store.add("nobody", "nothing", [], [Message("m", "t", "1")], [Effort(START, 5.0)])
        assert store.waiting_count() == 0
        store.begin(recording("r"), "porch", read_bundle(bundle_folder).id, "a")
        assert store.add("r", "nothing", [], [Message("m", "t", "1")], [Effort(START, 5.0)]) == 0
        assert store.waiting_count() == 1


def test_what_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "station.db").write_text(
        "these are notes, and long enough not to be an empty file " * 9
    )
    with pytest.raises(StoreError, match=r"station\.db: file is not a database"):
        Store(tmp_path / "station.db")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        Store(tmp_path / "file" / "station.db")


def test_anyone_can_read_it_with_plain_sql(tmp_path: Path) -> None:
    with Store(tmp_path / "station.db"):
        pass
    db = sqlite3.connect(tmp_path / "station.db")
    assert db.execute("SELECT * FROM heard").fetchall() == []
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    db.close()


def test_after_a_full_disk_it_goes_on(tmp_path: Path, bundle_folder: Path) -> None:
    """SQLite's own page limit stands in for the disk: the same error, at the same call."""
    bundle = read_bundle(bundle_folder)
    with Store(tmp_path / "station.db") as store:
        store.add_bundle(bundle, "{}")
        store.begin(recording("r"), "porch", bundle.id, "a")
        pages = store.rows("PRAGMA page_count")[0][0]
        store.rows(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match="disk is full"):
            store.add("r", bundle.id, [], [Message("m", "t", "x" * 100_000)], [])
        assert store.waiting_count() == 0
        store.rows("PRAGMA max_page_count = 1000000")
        store.add("r", bundle.id, [], [Message("m", "t", "x" * 100_000)], [])
        assert store.waiting_count() == 1


@pytest.mark.parametrize("table", ["accounts", "recordings"])  # others have recordings, too
def test_another_programs_database_is_left_alone(table: str, tmp_path: Path) -> None:
    path = tmp_path / "station.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"CREATE TABLE {table} (name TEXT)")
        db.execute(f"INSERT INTO {table} VALUES ('a')")
        db.commit()
    before = path.read_bytes()
    with pytest.raises(
        StoreError,
        match=rf"expected a station's record, found another program's database \({table}\)",
    ):
        Store(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name], "no copy of it"
