"""A damaged database: set aside, salvaged, never a reason not to start."""

import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlite_utils import Database

from edge.__main__ import app
from edge.config import load_config
from edge.contract.bundle import read_bundle
from edge.contract.errors import DamagedError, StoreError
from edge.contract.program import run_program
from edge.store.connection import suspected
from edge.store.record import Store
from edge.store.salvage import set_aside, sound_database
from edge.store.schema import first_schema, migrations
from edge.types import Effort, Message, RecordingRow
from tests.helpers.children import children

START = datetime(2019, 6, 1, 5, 30, tzinfo=timezone.utc)
RECORDINGS = 400


def filled(database: Path, bundle_folder: Path) -> None:
    bundle = read_bundle(bundle_folder)
    with Store(database) as store:
        store.add_bundle(bundle, "{}")
        for n in range(RECORDINGS):
            row = RecordingRow(
                f"r{n:04d}", f"{n}.wav", 1, 2, "0", START, "name", "recorded", 0, None
            )
            store.begin(row, "porch", bundle.id, "a")
            store.add(
                row.id, bundle.id, [], [Message(f"m{n}", "t", "x" * 300)], [Effort(START, 5.0)]
            )
    with closing(sqlite3.connect(database)) as db, db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def count(database: Path, table: str) -> int:
    with Store(database) as store:
        return int(store.rows(f"SELECT count(*) FROM {table}")[0][0])


def test_a_sound_one_is_left_alone(tmp_path: Path, bundle_folder: Path) -> None:
    database = tmp_path / "station.db"
    assert sound_database(database) is None
    filled(database, bundle_folder)
    before = database.read_bytes()
    assert sound_database(database) is None
    assert database.read_bytes() == before


def test_a_torn_page_costs_its_rows_and_no_more(tmp_path: Path, bundle_folder: Path) -> None:
    database = tmp_path / "station.db"
    filled(database, bundle_folder)
    with closing(sqlite3.connect(database)) as db, db:
        size = db.execute("PRAGMA page_size").fetchone()[0]
        leaves = db.execute("SELECT name FROM sqlite_master WHERE name = 'outbox'").fetchall()
        assert leaves
    db.close()
    raw = bytearray(database.read_bytes())
    page = next(
        n
        for n in range(len(raw) // size - 1, 0, -1)
        if raw[n * size : (n + 1) * size].count(b"xxxx") > 100
    )
    raw[page * size : (page + 1) * size] = b"\xa5" * size
    database.write_bytes(raw)
    said = sound_database(database)
    assert said is not None
    assert "set aside as station.db.damaged-" in said.said
    assert len(list(tmp_path.glob("station.db.damaged-*"))) == 1
    assert count(database, "recordings") == RECORDINGS
    assert RECORDINGS - 30 < count(database, "outbox") < RECORDINGS
    assert sound_database(database) is None


@pytest.mark.parametrize(
    "content", [b"these are notes, and long enough not to be an empty file " * 99, b"\0" * 9000]
)
def test_what_is_no_database_is_set_aside(tmp_path: Path, content: bytes) -> None:
    database = tmp_path / "station.db"
    database.write_bytes(content)
    assert "set aside" in str(sound_database(database))
    assert next(tmp_path.glob("station.db.damaged-*")).read_bytes() == content
    assert count(database, "recordings") == 0


def test_a_header_cut_short_is_set_aside(tmp_path: Path, bundle_folder: Path) -> None:
    database = tmp_path / "station.db"
    filled(database, bundle_folder)
    database.write_bytes(database.read_bytes()[: 7 * 4096 + 100])
    assert "set aside" in str(sound_database(database))
    assert count(database, "outbox") <= RECORDINGS


def test_a_folder_in_its_place_is_not_damage(tmp_path: Path) -> None:
    (tmp_path / "station.db").mkdir()
    with pytest.raises(StoreError, match=r"station\.db"):
        sound_database(tmp_path / "station.db")


def test_an_old_database_is_brought_up_with_its_rows(tmp_path: Path) -> None:
    """As the first version left it: effort with losses inside, an outbox without states."""
    database = tmp_path / "station.db"
    db = Database(sqlite3.connect(database))
    first_schema(db)
    db.execute("INSERT INTO bundles VALUES ('b', '{}', '2019-06-01T00:00:00.000Z')")
    db.execute("INSERT INTO species VALUES ('x', 'X x', 'X')")
    db.execute(
        "INSERT INTO recordings (id, station, path, bytes, mtime_ns, start_utc, "
        "utc_offset_minutes, state, bundle, analysis, audio_s) VALUES ('r', 'porch', 'a.wav', 1, "
        "2, '2019-06-01T05:30:00.000Z', 60, 'analysed', 'b', 'a', 50.0)"
    )
    db.execute(
        "INSERT INTO detections VALUES ('d', 'r', 'b', 'x', '2019-06-01T05:30:00.000Z', "
        "'2019-06-01T05:30:05.000Z', 0.0, 0.9, 0.9, NULL, 0.5, 'bundle', 0.8, 0.95, -30.0)"
    )
    db.execute("INSERT INTO effort VALUES ('r', '2019-06-01T05:00:00.000Z', 50.0, 50.0, 0.0, '')")
    db.execute(
        "INSERT INTO effort VALUES ('r', '2019-06-01T05:00:00.000Z', 0.0, 0.0, 10.0, 'truncated')"
    )
    db.execute("INSERT INTO outbox VALUES (7, 'd', 't', '{}', '2019-06-01T05:30:00.000Z', NULL)")
    db.execute(
        "INSERT INTO outbox VALUES (8, 'e', 't', '{}', '2019-06-01T05:30:00.000Z', "
        "'2019-06-01T05:31:00.000Z')"
    )
    names = [m.name for m in migrations.pending(db)]
    db.table("_sqlite_migrations").insert(
        {"migration_set": "birdstation", "name": names[0], "applied_at": "then"}
    )
    db.conn.commit()
    db.close()
    with Store(database) as store:
        assert store.rows("SELECT analysed_s, shed FROM effort") == [(50.0, 0)]
        assert store.rows("SELECT seconds, reason, detail, recording FROM gaps") == [
            (10.0, "damaged", "truncated", "r")
        ]
        assert store.rows("SELECT seq, state FROM outbox ORDER BY seq") == [
            (7, "waiting"),
            (8, "sent"),
        ]
        assert store.counters() == {"messages created": 2, "messages sent": 1}
        assert store.rows("SELECT score, shed, clip, members FROM detections") == [
            (0.9, 0, None, None)
        ]
        assert store.rows("SELECT day, analysed_s, lost_s FROM effort_by_day") == [
            ("2019-06-01", 50.0, 10.0)
        ]
        assert store.rows("SELECT day, first, detections FROM species_by_day") == [
            ("2019-06-01", "06:30:00", 1)
        ]
        assert store.rows("SELECT hour, detections, days FROM hourly_activity") == [("06", 1, 1)]


def test_a_damaged_one_of_an_earlier_version_keeps_its_rows(tmp_path: Path) -> None:
    """A column that came later has its default in what is salvaged, as in what is brought up."""
    database = tmp_path / "station.db"
    db = Database(sqlite3.connect(database))
    migrations.apply(db, stop_before="decided_by")
    db.execute("INSERT INTO bundles VALUES ('b', '{}', '2019-06-01T00:00:00.000Z')")
    db.execute("INSERT INTO species VALUES ('x', 'X x', 'X')")
    db.execute(
        "INSERT INTO recordings (id, station, path, bytes, mtime_ns, state, bundle, analysis) "
        "VALUES ('r', 'porch', 'a.wav', 1, 2, 'analysed', 'b', 'a')"
    )
    db.execute(
        "INSERT INTO detections VALUES ('d', 'r', 'b', 'x', '2019-06-01T05:30:00.000Z', "
        "'2019-06-01T05:30:05.000Z', 0.0, 0.9, 0.9, NULL, 0.5, 'bundle', 0.8, 0.95, -30.0, '[0.8, "
        "0.95]', '[]', 0, NULL)"
    )
    db.conn.commit()
    size, pages = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count")
    )
    root = db.execute(
        "SELECT rootpage FROM sqlite_master WHERE name = 'detections_time'"
    ).fetchone()[0]
    db.close()
    raw = bytearray(database.read_bytes())
    # an index alone: every row can still be read
    raw[(root - 1) * size : root * size] = b"\xa5" * size
    assert len(raw) == size * pages
    database.write_bytes(raw)
    assert "set aside" in str(sound_database(database))
    with Store(database) as store:
        assert store.rows("SELECT id, score, members, decided_by FROM detections") == [
            ("d", 0.9, "[0.8, 0.95]", "bag")
        ]


def test_every_table_has_rowids(tmp_path: Path) -> None:
    """By which its rows are read around damage, and carried from one file to another."""
    with Store(tmp_path / "station.db") as store:
        tables = store.rows("SELECT name, sql FROM sqlite_master WHERE type = 'table'")
    assert [name for name, sql in tables if "WITHOUT ROWID" in str(sql).upper()] == []


def spoil(database: Path, *pages: int) -> bytes:
    """Other bytes in these pages of the outbox's rows, counted from the end; returns the damaged
    file."""
    with closing(sqlite3.connect(database)) as db:
        size = db.execute("PRAGMA page_size").fetchone()[0]
    raw = bytearray(database.read_bytes())
    rows = [
        n for n in range(len(raw) // size) if raw[n * size : (n + 1) * size].count(b"xxxx") > 100
    ]
    for page in pages:
        raw[rows[page] * size : (rows[page] + 1) * size] = b"\xa5" * size
    database.write_bytes(raw)
    return bytes(raw)


COMMANDS = (
    ("clock", "show"),
    ("clock", "fix", "--boot", "b", "--seconds", "1"),
    ("retention", "--dry-run"),
    ("backup",),
    ("why", "d0"),
    ("review", "d0", "correct"),
    ("pictures",),
    ("replay", "."),
)


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("what", ["no database", "its schema"])
def test_a_command_says_who_mends_it(
    arguments: tuple[str, ...],
    what: str,
    station_yaml: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And that is so."""
    config = station_yaml()
    database = load_config(config).database
    Store(database).close()
    raw = bytearray(database.read_bytes())
    raw[0:16] = b"notes of a hand." if what == "no database" else raw[0:16]
    raw[100:108] = b"\xa5" * 8
    database.write_bytes(raw)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as end:
            run_program(lambda: app([*arguments, "--config", str(config)]))
    finally:
        signal.signal(signal.SIGINT, before)
        suspected.clear()
    assert end.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert str(database) in line
    assert line.endswith(
        "; start or restart the station: it sets the file aside, salvages what can be read and "
        "continues in a new one"
    )
    assert sound_database(database) is not None
    assert sound_database(database) is None


def killed_at(step: int, database: Path) -> None:
    """Repair it, and die at this step of those that can be seen from outside."""
    left = [step]

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*args: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **named)

        return instead

    for module, name in (
        (os, "fsync"),
        (os, "link"),
        (os, "rename"),
        (os, "replace"),
        (os, "rmdir"),
    ):
        setattr(module, name, counted(getattr(module, name)))
    sqlite3.connect = counted(sqlite3.connect)
    sound_database(database)


def test_a_repair_that_is_killed_is_done_again(tmp_path: Path, bundle_folder: Path) -> None:
    """At each of its steps; what was damaged is never lost, what could be read is there in the end,
    once."""
    origin = tmp_path / "origin.db"
    filled(origin, bundle_folder)
    damaged = spoil(origin, 3)
    ended: list[int] = []
    while not ended or ended[-1] != 0:
        folder = tmp_path / f"killed{len(ended)}"
        folder.mkdir()
        database = folder / "station.db"
        database.write_bytes(damaged)
        ended += children(partial(killed_at, len(ended) + 1, database))
        again = sound_database(database)
        assert again is None or "set aside" in again.said
        assert sound_database(database) is None
        kept = set_aside(database)
        assert [file.read_bytes() == damaged for file in kept] == [True]
        assert {p.name for p in folder.iterdir()} <= {
            "station.db",
            "station.db-wal",
            "station.db-shm",
            kept[0].name,
        }
        assert count(database, "recordings") == RECORDINGS
        assert RECORDINGS - 30 < count(database, "outbox") < RECORDINGS
    assert len(ended) > 8
    assert set(ended[:-1]) == {-signal.SIGKILL}


def test_programs_that_start_at_once_repair_once(tmp_path: Path, bundle_folder: Path) -> None:
    database = tmp_path / "station.db"
    filled(database, bundle_folder)
    spoil(database, 3)
    assert children(*[lambda: sound_database(database)] * 4) == [0] * 4
    assert len(set_aside(database)) == 1
    assert count(database, "recordings") == RECORDINGS


def test_rows_between_two_damaged_pages_are_read(tmp_path: Path, bundle_folder: Path) -> None:
    database = tmp_path / "station.db"
    filled(database, bundle_folder)
    spoil(database, 2, 12, 22)
    said = sound_database(database)
    assert said is not None
    assert said.lost == 1
    assert RECORDINGS - 3 * 15 < count(database, "outbox") < RECORDINGS


def test_numbers_that_were_given_do_not_come_again(tmp_path: Path, bundle_folder: Path) -> None:
    database = tmp_path / "station.db"
    filled(database, bundle_folder)
    spoil(database, -1)
    assert sound_database(database) is not None
    with Store(database) as store:
        assert store.rows("SELECT max(seq) < ? FROM outbox", (RECORDINGS,)) == [(1,)]
        assert store.rows("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'") == [
            (RECORDINGS,)
        ]


def test_without_room_it_stays_as_it_is_and_the_missing_is_told(
    tmp_path: Path, bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "station.db"
    filled(database, bundle_folder)
    damaged = spoil(database, 3)
    monkeypatch.setattr("edge.store.salvage._SPARE_BYTES", 1 << 60)
    with pytest.raises(
        DamagedError, match=r"\d+ MB more are needed on its disk; make room"
    ) as refused:
        sound_database(database)
    assert "\n" not in str(refused.value)
    assert database.read_bytes() == damaged
    assert not set_aside(database)
    monkeypatch.undo()
    assert sound_database(database) is not None
