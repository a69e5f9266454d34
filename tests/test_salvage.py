"""A damaged database: set aside, salvaged, never a reason not to start."""

import sqlite3
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import pytest
from sqlite_utils import Database

from edge.contract.bundle import read_bundle
from edge.contract.errors import StoreError
from edge.store.record import Store
from edge.store.salvage import sound_database
from edge.store.schema import first_schema, migrations
from edge.types import Effort, Message, RecordingRow

START = datetime(2019, 6, 1, 5, 30, tzinfo=timezone.utc)
RECORDINGS = 400


def filled(database: Path, bundle_folder: Path) -> None:
    bundle = read_bundle(bundle_folder)
    with Store(database) as store:
        store.add_bundle(bundle, "{}")
        for n in range(RECORDINGS):
            row = RecordingRow(f"r{n:04d}", f"{n}.wav", 1, 2, "0", START, "name", "recorded", 0, None)
            store.begin(row, "porch", bundle.id, "a")
            store.add(row.id, bundle.id, [], [Message(f"m{n}", "t", "x" * 300)], [Effort(START, 5.0)])
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
    page = next(n for n in range(len(raw) // size - 1, 0, -1) if raw[n * size : (n + 1) * size].count(b"xxxx") > 100)
    raw[page * size : (page + 1) * size] = b"\xa5" * size
    database.write_bytes(raw)
    said = sound_database(database)
    assert said is not None
    assert "set aside as station.db.damaged-" in said
    assert len(list(tmp_path.glob("station.db.damaged-*"))) == 1
    assert count(database, "recordings") == RECORDINGS
    assert RECORDINGS - 30 < count(database, "outbox") < RECORDINGS
    assert sound_database(database) is None


@pytest.mark.parametrize("content", [b"these are notes, and long enough not to be an empty file " * 99, b"\0" * 9000])
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
        "INSERT INTO recordings (id, station, path, bytes, mtime_ns, start_utc, utc_offset_minutes, state, bundle,"
        " analysis, audio_s) VALUES ('r', 'porch', 'a.wav', 1, 2, '2019-06-01T05:30:00.000Z', 60, 'analysed', 'b',"
        " 'a', 50.0)"
    )
    db.execute(
        "INSERT INTO detections VALUES ('d', 'r', 'b', 'x', '2019-06-01T05:30:00.000Z', '2019-06-01T05:30:05.000Z',"
        " 0.0, 0.9, 0.9, NULL, 0.5, 'bundle', 0.8, 0.95, -30.0)"
    )
    db.execute("INSERT INTO effort VALUES ('r', '2019-06-01T05:00:00.000Z', 50.0, 50.0, 0.0, '')")
    db.execute("INSERT INTO effort VALUES ('r', '2019-06-01T05:00:00.000Z', 0.0, 0.0, 10.0, 'truncated')")
    db.execute("INSERT INTO outbox VALUES (7, 'd', 't', '{}', '2019-06-01T05:30:00.000Z', NULL)")
    db.execute("INSERT INTO outbox VALUES (8, 'e', 't', '{}', '2019-06-01T05:30:00.000Z', '2019-06-01T05:31:00.000Z')")
    names = [m.name for m in migrations.pending(db)]
    db.table("_sqlite_migrations").insert({"migration_set": "birdstation", "name": names[0], "applied_at": "then"})
    db.conn.commit()
    db.close()
    with Store(database) as store:
        assert store.rows("SELECT analysed_s, shed FROM effort") == [(50.0, 0)]
        assert store.rows("SELECT seconds, reason, detail, recording FROM gaps") == [
            (10.0, "damaged", "truncated", "r")
        ]
        assert store.rows("SELECT seq, state FROM outbox ORDER BY seq") == [(7, "waiting"), (8, "sent")]
        assert store.counters() == {"messages created": 2, "messages sent": 1}
        assert store.rows("SELECT score, shed, clip, members FROM detections") == [(0.9, 0, None, None)]
        assert store.rows("SELECT day, analysed_s, lost_s FROM effort_by_day") == [("2019-06-01", 50.0, 10.0)]
        assert store.rows("SELECT day, first, detections FROM species_by_day") == [("2019-06-01", "06:30:00", 1)]
        assert store.rows("SELECT hour, detections, days FROM hourly_activity") == [("06", 1, 1)]


def test_a_damaged_one_of_an_earlier_version_keeps_its_rows(tmp_path: Path) -> None:
    """A column that came later has its default in what is salvaged, as in what is brought up."""
    database = tmp_path / "station.db"
    db = Database(sqlite3.connect(database))
    migrations.apply(db, stop_before="decided_by")
    db.execute("INSERT INTO bundles VALUES ('b', '{}', '2019-06-01T00:00:00.000Z')")
    db.execute("INSERT INTO species VALUES ('x', 'X x', 'X')")
    db.execute(
        "INSERT INTO recordings (id, station, path, bytes, mtime_ns, state, bundle, analysis)"
        " VALUES ('r', 'porch', 'a.wav', 1, 2, 'analysed', 'b', 'a')"
    )
    db.execute(
        "INSERT INTO detections VALUES ('d', 'r', 'b', 'x', '2019-06-01T05:30:00.000Z', '2019-06-01T05:30:05.000Z',"
        " 0.0, 0.9, 0.9, NULL, 0.5, 'bundle', 0.8, 0.95, -30.0, '[0.8, 0.95]', '[]', 0, NULL)"
    )
    db.conn.commit()
    size, pages = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count"))
    root = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'detections_time'").fetchone()[0]
    db.close()
    raw = bytearray(database.read_bytes())
    raw[(root - 1) * size : root * size] = b"\xa5" * size  # an index alone: every row can still be read
    assert len(raw) == size * pages
    database.write_bytes(raw)
    assert "set aside" in str(sound_database(database))
    with Store(database) as store:
        assert store.rows("SELECT id, score, members, decided_by FROM detections") == [("d", 0.9, "[0.8, 0.95]", "bag")]
