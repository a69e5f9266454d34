"""What a run has heard and could not store before it ended: the next one says so, and not that the
station was off."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from edge.analysis.recognizer import Recognizer
from edge.config import Config, load_config
from edge.contract.bundle import read_bundle
from edge.daemon.ledger import Ledger
from edge.store.clock import ClockTable
from edge.store.unstored_time import Note
from tests import HANGS_S
from tests.conftest import hiss, note
from tests.edge.test_bad_disk import fill
from tests.edge.test_live import Scene, listening, play, rows
from tests.helpers.clip_station import on_small_disk

StationYaml = Callable[..., Path]
GAPS = (
    "SELECT reason, round(sum(seconds), 3), max(detail) FROM gaps GROUP BY reason ORDER BY reason"
)


@pytest.fixture(scope="module")
def recognizer(bundle_folder: Path) -> Recognizer:
    return Recognizer(read_bundle(bundle_folder))


@pytest.fixture
def config(station_yaml: StationYaml) -> Config:
    return load_config(station_yaml(station="id: porch, timezone: Europe/Berlin"))


@contextmanager
def locked(config: Config) -> Iterator[None]:
    with closing(sqlite3.connect(config.database, isolation_level=None, timeout=30)) as editor:
        editor.execute("BEGIN IMMEDIATE")
        yield
        editor.execute("ROLLBACK")


class Runs:
    """Runs of one station, one after the other, on one machine whose time goes on."""

    def __init__(self, config: Config, recognizer: Recognizer) -> None:
        self.config = config
        self.recognizer = recognizer
        self.scene = Scene()

    def pass_(self, seconds: float) -> None:
        self.scene.at_s += seconds
        self.scene.end_s = self.scene.at_s

    def hear(self, seconds: int, ledger: Ledger) -> None:
        """All of it is told when this returns."""
        with listening(self.config, self.scene, self.recognizer, ledger) as live:
            self.scene.sound(np.concatenate([note("lowtoo", 5), hiss(seconds - 5)]))
            play(live, self.scene)

    def ledger(self) -> Ledger:
        ledger = Ledger(self.config.database, self.config.station.id, self.recognizer.bundle)
        ledger.record.patience_s = 0.01
        return ledger

    def run(self, seconds: int = 10) -> None:
        """A run that ends as it should."""
        with closing(self.ledger()) as ledger:
            self.hear(seconds, ledger)
            assert ledger.waiting == 0


def test_a_stop_while_it_is_locked(config: Config, recognizer: Recognizer) -> None:
    """In a thread of its own, as in the daemon."""
    runs = Runs(config, recognizer)
    runs.run()
    runs.pass_(100)
    ledger = runs.ledger()
    ledger.start()
    runs.hear(10, ledger)
    assert ledger.settled(HANGS_S)
    with locked(config):
        runs.hear(20, ledger)
        ledger.close(0.1)
        (noted,) = Note(config.database).read()
    assert "locked" in noted.why or "no time left" in noted.why
    runs.pass_(50)
    runs.run()
    assert Note(config.database).read() == []
    assert rows(config, GAPS) == [("off", 150.0, ""), ("store", 20.0, noted.why)]
    assert rows(config, "SELECT sum(analysed_s) FROM effort") == [(30.0,)]
    minutes = (
        "SELECT utc_offset_minutes, boot = (SELECT boot FROM boots LIMIT 1) FROM gaps WHERE reason "
        "= 'store'"
    )
    assert rows(config, minutes) == [(120, 1)]


def test_of_a_run_that_stored_nothing_at_all(config: Config, recognizer: Recognizer) -> None:
    """Nor the one after it: the record hears of both by the note alone, in their order."""
    runs = Runs(config, recognizer)
    runs.run()
    with locked(config):
        for seconds in (20, 30):
            runs.pass_(100)
            with closing(runs.ledger()) as ledger:
                runs.hear(seconds, ledger)
    assert len(Note(config.database).read()) == 2
    runs.pass_(100)
    runs.run()
    assert [row[:2] for row in rows(config, GAPS)] == [("off", 300.0), ("store", 50.0)]
    spans = rows(config, "SELECT start_utc, end_utc FROM gaps ORDER BY start_utc")
    assert all(ends <= begins for (_, ends), (begins, _) in pairwise(spans))
    assert rows(config, "SELECT count(*) FROM boots") == [(4,)]


def test_a_kill_while_it_waits(
    config: Config, recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was noted until then; the latest note counts."""
    monkeypatch.setattr("edge.daemon.writer._NOTE_S", 0.0)
    monkeypatch.setattr("edge.daemon.writer._NOTE_S_MAX", HANGS_S)
    runs = Runs(config, recognizer)
    ledger = runs.ledger()
    runs.hear(10, ledger)
    with locked(config):
        runs.hear(20, ledger)
        ledger.flush(now=True)
        runs.hear(30, ledger)
        ledger.flush(now=True)
        ledger.record.close()  # and no word more
    runs.pass_(50)
    runs.run()
    assert [row[:2] for row in rows(config, GAPS)] == [("off", 50.0), ("store", 50.0)]


def test_what_is_stored_after_all_is_no_gap(config: Config, recognizer: Recognizer) -> None:
    """Whether the note could be taken back, or a kill came before."""
    runs = Runs(config, recognizer)
    with closing(runs.ledger()) as ledger:
        runs.hear(10, ledger)
        with locked(config):
            runs.hear(20, ledger)
            ledger.flush(now=True)
            text = Note(config.database).path.read_bytes()
        ledger.flush(now=True)
        assert Note(config.database).read() == []
    Note(config.database).path.write_bytes(text)
    runs.run()
    assert rows(config, "SELECT count(*) FROM gaps WHERE reason = 'store'") == [(0,)]
    assert rows(config, "SELECT sum(analysed_s) FROM effort") == [(40.0,)]


def test_a_clock_that_a_person_has_put_right_since_stays_right(
    config: Config, recognizer: Recognizer
) -> None:
    runs = Runs(config, recognizer)
    ended = runs.ledger()
    runs.hear(10, ended)
    with locked(config):
        runs.hear(20, ended)
        ended.close()
    with ClockTable(config.database) as table:
        ((boot, before),) = table.rows("SELECT DISTINCT boot, offset_ms FROM boots")
        table.fix(str(boot), 3600.0, zone=config.zone)
    with closing(runs.ledger()) as ledger:
        ledger.flush(now=True)
    assert rows(config, "SELECT DISTINCT offset_ms, known FROM boots") == [
        (before + 3_600_000, "fixed")
    ]
    assert rows(config, "SELECT min(start_utc) FROM gaps WHERE reason = 'store'") == [
        ("2019-06-01T13:00:10.000Z",)
    ]


SAID = (
    b'{"run": "r", "source": "microphone", "boot": "b", "began_s": 1, "offset_ms": 1700000000000, '
    b'"known": "synced",'
    b' "zone": null, "until_s": 60.5, "why": ""}\n'
)


def test_a_note_is_read(tmp_path: Path) -> None:
    note = Note(tmp_path / "station.db")
    note.path.write_bytes(SAID)
    assert [one.until_s for one in note.read()] == [60.5]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\0" * 4096,
        b"\xff\xfe{",
        b'{"run": 1}\n[]\n7\nnull\n',
        SAID[:100],
        SAID.replace(b"synced", b"well"),
        SAID.replace(b"null", b'"Nowhere/At_all"'),
        SAID.replace(b"60.5", b"1e999"),
        SAID.replace(b"60.5", b"NaN"),
        SAID.replace(b"60.5", b"1e12"),
        SAID.replace(b"60.5", b"-5"),
        SAID.replace(b"1700000000000", b"17" + b"0" * 30),
    ],
)
def test_a_note_that_is_none_holds_up_nothing(
    config: Config, recognizer: Recognizer, text: bytes
) -> None:
    Note(config.database).path.write_bytes(text)
    Runs(config, recognizer).run()
    assert rows(config, GAPS) == []


def test_where_it_cannot_be_written_the_end_comes_all_the_same(
    config: Config, recognizer: Recognizer
) -> None:
    """Then nothing knows of it but the log."""
    Note(config.database).path.mkdir()
    runs = Runs(config, recognizer)
    runs.run()
    with locked(config), closing(runs.ledger()) as ledger:
        runs.hear(20, ledger)
    runs.run()
    assert [row[:2] for row in rows(config, GAPS)] == [("off", 20.0)]


def body_full(disk: Path, bundle_folder: Path) -> None:
    settings = disk / "state" / "station.yaml"
    settings.parent.mkdir()
    settings.write_text(f"station: {{id: porch}}\nbundle: {bundle_folder}\n")
    config = load_config(settings)
    runs = Runs(config, Recognizer(read_bundle(bundle_folder)))
    ledger = runs.ledger()
    ledger.start()
    runs.hear(10, ledger)
    assert ledger.settled(HANGS_S)
    fill(disk)
    runs.hear(800, ledger)  # what the log has room for is stored
    ledger.close(0.2)
    (noted,) = Note(config.database).read()
    assert "full" in noted.why
    (disk / "somebody-elses").unlink()
    runs.run()
    stored = rows(config, "SELECT sum(analysed_s) FROM effort")[0][0]
    missing = rows(config, "SELECT sum(seconds) FROM gaps WHERE reason = 'store'")[0][0]
    assert missing > 0
    assert stored + missing == pytest.approx(10 + 800 + 10)


def test_a_full_disk_takes_it(tmp_path: Path, bundle_folder: Path) -> None:
    """Its place was set aside."""
    on_small_disk("tests.edge.test_unstored.body_full", tmp_path, 24, bundle_folder)


def test_a_disk_that_stands_still_holds_no_end(
    config: Config, recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The note is written beside the end, which waits a moment for it."""
    goes_on = threading.Event()
    monkeypatch.setattr("edge.store.unstored_time.os.fsync", lambda _: goes_on.wait(HANGS_S))
    runs = Runs(config, recognizer)
    runs.run()
    with locked(config):
        ledger = runs.ledger()
        ledger.start()
        runs.hear(20, ledger)
        ledger.close(0.1)
        assert not goes_on.is_set()
        goes_on.set()
    assert ledger._thread is not None
    ledger._thread.join(HANGS_S)
