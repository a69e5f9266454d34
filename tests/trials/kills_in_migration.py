"""A database of the first release that is brought up to date, and the program killed meanwhile."""

import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
from sqlite_utils import Database

from edge.store.schema import migrations
from tests.helpers.records import DETECTIONS, differences, dump

PROJECT = Path(__file__).parents[2]


def earlier_version(database: Path) -> None:
    """A database as the first release left it, with a row in every table: the first starts bring it
    up."""
    with closing(sqlite3.connect(database)) as connection:
        db = Database(connection)
        migrations.apply(db, stop_before="station_schema")
        db.table("bundles").insert(
            {"id": "b0", "manifest": "{}", "first_used_utc": "2019-01-01T00:00:00.000Z"}
        )
        db.table("species").insert(
            {"code": "lowtoo", "scientific_name": "Tonus", "common_name": "Tooter"}
        )
        db.execute(
            "INSERT INTO recordings VALUES ('r0', 'porch', 'gone.wav', 1, 2, '0', "
            "'2019-01-01T00:00:00.000Z', 'name', 'recorded', 0, NULL, NULL, 'analysed', NULL, "
            "'b0', 'a0', 5.0, 1, '2019-01-02T00:00:00.000Z')"
        )
        db.execute(
            "INSERT INTO detections VALUES ('d0', 'r0', 'b0', 'lowtoo', '2019-01-01T00:00:00.000Z',"
            " '2019-01-01T00:00:05.000Z', 0.0, 0.9, 0.9, NULL, 0.5, 'bundle', 0.9, 0.9, -30.0)"
        )
        db.execute(
            "INSERT INTO effort VALUES ('r0', '2019-01-01T00:00:00.000Z', 5.0, 5.0, 0.0, '')"
        )
        db.execute(
            "INSERT INTO outbox (id, topic, payload, created_utc) VALUES (?, ?, ?, "
            "'2019-01-01T00:00:00.000Z')",
            ("d0", DETECTIONS, '{"id": "d0"}'),
        )
        connection.commit()


def same_after_killed_migrations(folder: Path, rounds: int, seed: int) -> tuple[str, list[str]]:
    """A large database of the earlier version is opened, and that is killed. Returns figures and
    what is wrong."""
    program = (
        "import sys, pathlib, edge.store.record as r; print(flush=True); "
        "r.Store(pathlib.Path(sys.argv[1])).close()"
    )
    folder.mkdir(parents=True, exist_ok=True)
    origin = folder / "origin.db"
    calm = folder / "calm.db"
    at = folder / "at.db"
    earlier_version(origin)
    with closing(sqlite3.connect(origin)) as db:
        hours = ((f"{n:08d}", 5.0, 5.0, 0.0, "") for n in range(10_000))
        db.executemany("INSERT INTO effort VALUES ('r0', ?, ?, ?, ?, ?)", hours)
        db.commit()
    shutil.copy(origin, calm)
    took_s = _open_and_kill(program, calm, None)
    expected = dump(calm)
    rng = np.random.default_rng(seed)
    hits = Counter[str]()
    with closing(sqlite3.connect(":memory:")) as db:
        all_of_them = len(list(migrations.pending(Database(db))))
    wrong = [] if len(expected["effort"]) == 10_001 else ["the migration lost effort"]
    for _ in range(rounds):
        for left in folder.glob("at.db*"):
            left.unlink()
        shutil.copy(origin, at)
        _open_and_kill(program, at, float(rng.uniform(0.0, took_s * 0.3)))
        with closing(sqlite3.connect(at)) as db:
            tables = {str(name) for (name,) in db.execute("SELECT name FROM sqlite_master")}
            columns = {str(row[1]) for row in db.execute("PRAGMA table_info(effort)")}
            seen = {str(row[1]) for row in db.execute("PRAGMA table_info(detections)")}
            recorded = db.execute("SELECT count(*) FROM _sqlite_migrations").fetchone()[0]
        new = {
            "gaps" in tables,
            "effort_before" in tables or "shed" in columns,
            "decided_by" in seen,
            recorded == all_of_them,
        }
        if len(new) != 1:
            wrong.append(f"half a migration: {recorded} recorded, effort has {sorted(columns)}")
        hits["after the commit" if new == {True} else "before the commit"] += 1
        _open_and_kill(program, at, None)
        wrong += differences(dump(at), expected)
    return f"migration of {took_s:.2f} s: killed " + ", ".join(
        f"{n} {w}" for w, n in sorted(hits.items())
    ), wrong


def _open_and_kill(program: str, database: Path, after_s: float | None) -> float:
    """Open a database in a process that is killed so long after it began to; None: not at all.
    Returns seconds."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(database)], stdout=subprocess.PIPE, cwd=PROJECT
    )
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
        began = time.monotonic()
        if after_s is not None:
            time.sleep(after_s)
            process.kill()
        status = process.wait(timeout=60)
    assert after_s is not None or status == 0
    return time.monotonic() - began
