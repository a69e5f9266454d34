"""The daemon on a real small disk that is read-only at first and fills up later: it hears on, says
so, stores again.

The microphone is a tape that plays faster than time; everything else is the station as it runs.
"""

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge.daemon.station
from edge.contract.audio import RATE_HZ
from edge.daemon.live_microphone import Live
from edge.daemon.station import Station
from edge.types import Chunk, Gap
from tests import HANGS_S
from tests.conftest import hiss, noon_zone, note
from tests.helpers.clip_station import on_small_disk

SONG = np.concatenate([note("lowtoo", 5), hiss(20), note("higtoo", 5), hiss(20)])


class Tape:
    """Plays SONG for ever, half a second per read, some fifty times faster than time; Microphone's
    interface."""

    waiting_s = 0.0
    silent = None
    card = "a tape"
    trouble = None

    def __init__(self, _settings: object) -> None:
        to_full_hour_s = 3600 - time.time() % 3600
        # a stretch ends at each full hour
        self.begun_s = self.at_s = time.monotonic() + to_full_hour_s - 30

    def read(self, _timeout_s: float) -> Chunk | Gap | None:
        time.sleep(0.01)
        position = round((self.at_s - self.begun_s) * RATE_HZ) % len(SONG)
        piece = SONG[position : position + RATE_HZ // 2]
        chunk = Chunk(self.at_s, piece)
        self.at_s += len(piece) / RATE_HZ
        return chunk

    def reanchor(self) -> float:
        return 0.0

    def close(self) -> Gap | None:
        return None


class TapeLive(Live):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments, open_microphone=Tape)  # type: ignore[arg-type]


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + HANGS_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def fill(folder: Path) -> None:
    """Until not a byte is free."""
    with (folder / "somebody-elses").open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


def rows(database: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(database)) as db, db:
        found = db.execute(sql).fetchall()
    db.close()
    return found


def body(disk: Path, bundle: Path, outside: Path) -> None:
    """On a disk of its own; run in a child by the test."""
    config = outside / "station.yaml"
    config.write_text(
        f"station: {{id: porch, timezone: {noon_zone()}}}\nbundle: {bundle}\nstate: "
        f"{disk}\nhealth: {{interval_s: 1, folder: {outside}}}\nclips: {{seconds_max: 15, "
        "before_s: 0, after_s: 0}\nretention: {disk_share: 0.99, hours_left: 0}\n"
    )
    edge.daemon.station.Live = TapeLive  # type: ignore[misc]
    assert os.system(f"mount -o remount,ro {disk}") == 0
    station = Station(config)
    thread = threading.Thread(target=station.run)
    thread.start()

    def health() -> dict[str, Any]:
        try:
            return dict(json.loads((outside / "health.json").read_text()))
        except FileNotFoundError:
            return {"state": "", "problems": [], "analysed_today_s": 0}

    def trouble() -> bool:
        return any("cannot be stored" in problem for problem in health()["problems"])

    database = disk / "station.db"
    try:
        until(lambda: health()["state"] and health()["hearing"], "it hears")
        until(trouble, "it says that the disk is read-only")
        until(lambda: health()["analysed_today_s"] > 60, "it hears all the same")
        assert os.system(f"mount -o remount,rw {disk}") == 0
        until(lambda: not trouble(), "it stores")
        until(
            lambda: database.exists() and rows(database, "SELECT count(*) FROM clips")[0][0] > 2,
            "clips are saved",
        )
        stored = rows(database, "SELECT count(*) FROM detections")[0][0]
        fill(disk)
        until(trouble, "it says that the disk is full")
        assert health()["hearing"]
        before = health()["analysed_today_s"]
        until(lambda: health()["analysed_today_s"] > before + 60, "it hears on")
        (disk / "somebody-elses").unlink()
        until(lambda: not trouble(), "it stores again")
        until(
            lambda: rows(database, "SELECT count(*) FROM detections")[0][0] > stored + 20,
            "what was heard is stored",
        )
    finally:
        station.stop()
        thread.join(30)
    assert not thread.is_alive()
    stretches = rows(
        database,
        "SELECT audio_s, (SELECT total(analysed_s) FROM effort WHERE recording = r.id) FROM "
        "recordings r",
    )
    assert len(stretches) > 1, "each hour is a row of its own"
    for audio_s, analysed_s in stretches:
        assert audio_s == pytest.approx(analysed_s, abs=0.01), "no window was lost"
    # the tape begins later
    assert rows(database, "SELECT reason, seconds FROM gaps WHERE reason <> 'off'") == []
    for (path,) in rows(database, "SELECT c.path FROM detections d JOIN clips c ON c.id = d.clip"):
        assert (disk / "clips" / path).is_file()
    dangling = (
        "SELECT count(*) FROM detections WHERE clip IS NOT NULL AND clip NOT IN (SELECT id FROM "
        "clips)"
    )
    assert rows(database, dangling) == [(0,)]
    assert rows(database, "PRAGMA integrity_check") == [("ok",)]
    assert not list((disk / "clips").rglob("*.part"))


@pytest.mark.slow
def test_full_and_read_only(tmp_path: Path, bundle_folder: Path) -> None:
    disk = tmp_path / "disk"
    outside = tmp_path / "outside"
    disk.mkdir()
    outside.mkdir()
    on_small_disk("tests.edge.test_bad_disk.body", disk, 96, bundle_folder, outside)
