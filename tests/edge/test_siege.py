"""Whoever hears waits for nothing: what may stand still beside it does, and it hears on, is fed and
ends in time.

The microphone is a tape that plays some fifty times faster than time (test_bad_disk.py); the rest
is the station as it runs, with a real database, sockets and programs. Minutes of it at the pace of
time: tests/trials/siege.py.
"""

import json
import logging
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.analysis.recognizer import Recognizer
from edge.analysis.stretch import Analyst
from edge.clips.maker import ClipMaker
from edge.config import Config, load_config
from edge.contract.bundle import read_bundle
from edge.contract.errors import BirdstationError, StoreError
from edge.daemon.ledger import Ledger
from edge.daemon.live_microphone import station_place
from edge.daemon.log_thread import LINES_MAX, written_beside
from edge.daemon.station import Station
from edge.daemon.threads import Errand, Leave, Worker
from edge.host.clock import boot_id
from edge.host.machine import this_process
from edge.host.notify import Notifier
from edge.prior import table_cache as priors
from edge.replay.attempt_log import AttemptLog, note_stop
from edge.store.attempts import AttemptCount
from edge.store.clips import ClipTable
from edge.store.record import Store
from edge.store.unstored_time import Note
from edge.types import Chunk, FileState, Gap
from tests import HANGS_S
from tests.conftest import hiss, noon_zone, note, write_sound
from tests.edge.test_bad_disk import Tape
from tests.edge.test_live import NOON, Scene, listening, play
from tests.helpers.stand_in_card import hearing

StationYaml = Callable[..., Path]
HERE = f"id: porch, timezone: {noon_zone()}"  # no midnight comes while the tape runs ahead
PLACE = f"{HERE}, latitude: 20.0, longitude: 10.0"
CLIPS = "clips: {seconds_max: 15, before_s: 0, after_s: 0}"
WELL = "health: {interval_s: 1}"


@pytest.fixture(scope="module")
def recognizer(bundle_folder: Path) -> Recognizer:
    return Recognizer(read_bundle(bundle_folder))


class Systemd:
    """A notification socket, as systemd binds it; how often each thing was said."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self._said = ""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while said := self._socket.recv(4096).decode():
            self._said += said + "\n"

    def count(self, what: str) -> int:
        """So far."""
        return self._said.count(what)

    def close(self) -> None:
        """Nobody listens any more."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", str(self.path))
        self._thread.join()
        self._socket.close()
        self.path.unlink()


class Running:
    """A station in a thread; what it says is in its files, its log and at the socket."""

    def __init__(self, config: Path, systemd: Systemd) -> None:
        notifier = Notifier({"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "400000"})
        self.station = Station(config, notifier)
        self._systemd = systemd
        self.config = self.station.config
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.station.run()
        except BaseException as error:
            self.error = error

    def health(self) -> dict[str, Any]:
        """As the station has it; empty before the first."""
        health = self.station._health
        return dict(json.loads(health.to_json())) if health else {}

    def says(self, words: str) -> bool:
        """Whether a problem has these words."""
        return any(words in problem for problem in self.health().get("problems", ()))

    def analysed_s(self) -> float:
        """Of today."""
        return float(self.health().get("analysed_today_s", 0.0))

    def gets_on(self, more_s: float = 30.0) -> None:
        """It hears so much more, and the watchdog is fed meanwhile."""
        before_s = self.analysed_s()
        fed = self._systemd.count("WATCHDOG=1")
        until(lambda: self.analysed_s() > before_s + more_s, "it hears on")
        until(lambda: self._systemd.count("WATCHDOG=1") > fed + 1, "the watchdog is fed")

    def stop(self) -> None:
        """It ends, whatever stands still."""
        self.station.stop()
        self.thread.join(HANGS_S)
        assert not self.thread.is_alive()


def rows(database: Path, sql: str) -> list[tuple[Any, ...]]:
    """Of a database as anyone reads it; none while it has no tables."""
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
            return db.execute(sql).fetchall()
    except sqlite3.OperationalError:
        return []


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + HANGS_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@contextmanager
def running(config: Path, tape: Callable[[Any], Any] = Tape) -> Iterator[Running]:
    systemd = Systemd(config.parent)
    with closing(systemd), hearing(tape):
        found = Running(config, systemd)
        found.thread.start()
        try:
            yield found
        finally:
            found.stop()


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """An editor with changes that are not saved."""
    with closing(sqlite3.connect(database, isolation_level=None, timeout=30)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


def program(path: Path, lines: str) -> str:
    """A stand-in for the Python that makes priors."""
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return str(path)


# The database


@pytest.mark.slow
def test_a_locked_database_costs_nothing_but_time(
    station_yaml: StationYaml, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clean-up of clips waits for the same lock, in a thread of its own."""
    monkeypatch.setattr("edge.daemon.writer._LOCKED_S_MAX", 0.5)
    with running(station_yaml(WELL, CLIPS, station=HERE)) as run:
        database = run.config.database
        until(lambda: rows(database, "SELECT 1 FROM clips"), "a clip")
        with locked(database):
            stored = rows(database, "SELECT count(*) FROM detections")
            until(lambda: run.says("database is locked"), "it says so")
            run.gets_on(60)
            assert rows(database, "SELECT count(*) FROM detections") == stored
        until(lambda: not run.says("database is locked"), "it stores again")
        run.gets_on(1)
    assert run.error is None
    assert rows(database, "SELECT reason FROM gaps WHERE reason <> 'off'") == []
    of_each = (
        "SELECT audio_s, (SELECT total(analysed_s) FROM effort WHERE recording = r.id) FROM "
        "recordings r"
    )
    assert all(
        audio_s == pytest.approx(analysed_s, abs=0.01)
        for audio_s, analysed_s in rows(database, of_each)
    )
    assert rows(database, "SELECT count(*) FROM detections WHERE clip IS NULL") == [(0,)], (
        "clips wait for their rows"
    )


@pytest.mark.slow
def test_an_end_leaves_a_locked_database(
    station_yaml: StationYaml, caplog: pytest.LogCaptureFixture
) -> None:
    with running(station_yaml(WELL, CLIPS, station=HERE)) as run:
        until(
            lambda: rows(run.config.database, "SELECT 1 FROM effort") and run.analysed_s() > 10,
            "it hears",
        )
        with locked(run.config.database):
            run.gets_on(10)
            run.stop()
    assert run.error is None
    (line,) = [
        record.getMessage()
        for record in caplog.records
        if "could not be stored" in record.getMessage()
    ]
    assert "entries with" in line
    assert "s of sound could not be stored" in line
    assert "locked" in line or "no time left" in line
    (noted,) = Note(run.config.database).read()
    assert line.endswith(noted.why)


def ledger_of(config: Config, recognizer: Recognizer) -> tuple[Ledger, ClipMaker]:
    clips = ClipMaker(
        lambda: ledger.patient(lambda: ClipTable(config.database)), config, recognizer.bundle.id
    )
    ledger = Ledger(config.database, config.station.id, recognizer.bundle, clips)
    return ledger, clips


def test_beyond_its_bound_sound_waits_for_no_clip_and_detections_do(
    station_yaml: StationYaml, recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder in the way of the database; 20 s may wait."""
    monkeypatch.setattr("edge.daemon.ledger.SOUND_S_MAX", 20.0)
    config = load_config(station_yaml(CLIPS))
    scene = Scene()
    config.database.mkdir()
    ledger, clips = ledger_of(config, recognizer)
    with closing(ledger), listening(config, scene, recognizer, ledger) as live:
        scene.sound(np.concatenate([note("lowtoo", 5), hiss(25), note("midtoo", 5), hiss(5)]))
        play(live, scene)
        assert ledger.waiting_sound_s == 20.0
        assert ledger.given_up_s == 20.0
        config.database.rmdir()
        ledger.flush(now=True)
        scene.sound(np.concatenate([note("higtoo", 5), hiss(30)]))
        play(live, scene)
    assert ledger.waiting_sound_s == 0.0
    assert clips.failed == 0
    with_clip = rows(
        config.database,
        "SELECT DISTINCT species FROM detections WHERE clip IS NOT NULL ORDER BY species",
    )
    assert with_clip == [("higtoo",), ("lowtoo",)]
    assert (
        rows(config.database, "SELECT count(*) FROM detections WHERE species = 'midtoo'")[0][0] > 0
    )
    assert rows(config.database, "SELECT count(*) FROM gaps WHERE reason <> 'off'") == [(0,)]


@pytest.mark.parametrize("moment", ["while it stores", "between two"])
def test_a_store_that_stands_still_holds_no_end(
    moment: str, station_yaml: StationYaml, recognizer: Recognizer, caplog: pytest.LogCaptureFixture
) -> None:
    """As a call does on a disk that answers nothing, and goes on when it answers again."""
    config = load_config(station_yaml())
    stands = threading.Event()
    goes_on = threading.Event()

    def stand_still(_: Store) -> None:
        stands.set()
        goes_on.wait(HANGS_S)

    ledger = Ledger(config.database, "porch", recognizer.bundle, on_open=stand_still)
    ledger.start()
    try:
        assert stands.wait(HANGS_S)
        scene = Scene()
        with listening(config, scene, recognizer, ledger) as live:
            scene.sound(hiss(10))
            play(live, scene)
        if moment == "while it stores":
            ledger.close(0.1)
            assert not ledger.closed
            (line,) = [record.getMessage() for record in caplog.records]
            assert line.endswith(
                "entries with 10 s of sound could not be stored: there was no time left"
            )
    finally:
        goes_on.set()
    if moment == "between two":
        assert ledger.settled(HANGS_S)
        ledger.close()
        assert rows(config.database, "SELECT sum(analysed_s) FROM effort") == [(10.0,)]
    until(lambda: ledger.closed, "its thread ends")


def test_an_entry_that_nobody_foresaw_costs_itself_alone(
    station_yaml: StationYaml, recognizer: Recognizer, caplog: pytest.LogCaptureFixture
) -> None:
    config = load_config(station_yaml())
    scene = Scene()
    ledger = Ledger(config.database, "porch", recognizer.bundle)
    ledger.start()
    with listening(config, scene, recognizer, ledger) as live:
        ledger.then(lambda store: store.no_such_question)  # type: ignore[attr-defined]
        scene.sound(hiss(10))
        play(live, scene)
    ledger.close(HANGS_S)
    assert isinstance(ledger.broke, AttributeError)
    assert "Traceback" in caplog.text
    assert rows(config.database, "SELECT sum(analysed_s) FROM effort") == [(10.0,)]


# Settings


@pytest.mark.slow
def test_a_reload_that_cannot_be_taken_changes_nothing(
    station_yaml: StationYaml, caplog: pytest.LogCaptureFixture
) -> None:
    """A detector that is none, settings that are gone."""
    config = station_yaml(WELL, station=HERE)
    right = config.read_text()
    (config.parent / "none.onnx").write_bytes(b"nothing")
    caplog.set_level("INFO")
    with running(config) as run:
        until(lambda: run.analysed_s() > 0, "it hears")
        for name in ("gone.onnx", "none.onnx"):
            caplog.clear()
            config.write_text(f"{right}privacy: {{human: all, detector: {name}}}\n")
            run.station.reload()
            until(lambda: "settings not applied: privacy.detector: " in caplog.text, "it says so")
        run.gets_on()
        config.write_text(f"{right}detect: {{threshold: 0.123}}\n")
        run.station.reload()
        until(lambda: "settings reloaded" in caplog.text, "it reads them")
        low = "SELECT min(threshold) FROM detections"
        until(lambda: rows(run.config.database, low)[0][0] == pytest.approx(0.123), "it uses them")
        config.unlink()
        run.station.reload()
        until(lambda: "settings not applied: " in caplog.messages[-1], "there are none any more")
        run.gets_on(1)
    assert run.error is None
    assert run.station.stuck == []


@pytest.mark.parametrize("line", ["{detector: gone.onnx}", "{human: all, detector: none.onnx}"])
def test_the_same_at_a_start_ends_it(station_yaml: StationYaml, line: str) -> None:
    config = station_yaml(f"privacy: {line}")
    (config.parent / "none.onnx").write_bytes(b"nothing")
    with pytest.raises(BirdstationError, match=r"privacy\.detector: ") as error:
        Station(config).run()
    assert error.value.exit_code == 78


# A disk that stands still, a card that nobody foresaw


@pytest.mark.slow
def test_a_disk_that_answers_nothing_holds_health_alone(
    station_yaml: StationYaml, tmp_path: Path
) -> None:
    """For its folder of health stands a pipe in the place of the file."""
    health = tmp_path / "health"
    health.mkdir()
    os.mkfifo(health / ".health.json.new")
    with running(station_yaml(f"health: {{interval_s: 1, folder: {health}}}", station=HERE)) as run:
        until(lambda: run.analysed_s() > 0, "it hears")
        run.gets_on()
        run.stop()
        assert run.station.stuck == ["health files"]
    assert run.error is None
    assert rows(run.config.database, "SELECT count(*) FROM recordings WHERE state = 'started'") == [
        (0,)
    ]


class Strange(Tape):
    """After ten seconds its driver raises what nobody knows."""

    def read(self, timeout_s: float) -> Chunk | Gap | None:
        if self.at_s - self.begun_s > 10:
            raise ZeroDivisionError("strange")
        return super().read(timeout_s)

    def __init__(self, settings: object) -> None:
        super().__init__(settings)
        self.begun_s = self.at_s


@pytest.mark.slow
def test_a_thread_that_dies_ends_the_station_with_what_it_has_stored(
    station_yaml: StationYaml, caplog: pytest.LogCaptureFixture
) -> None:
    with running(station_yaml(WELL, station=HERE), Strange) as run:
        run.thread.join(HANGS_S)
        assert isinstance(run.error, BirdstationError)
    assert run.error.exit_code == 1
    assert "hearing: unexpected error: ZeroDivisionError('strange')" in str(run.error)
    assert "Traceback" in caplog.text
    ((analysed_s, state),) = rows(run.config.database, "SELECT audio_s, state FROM recordings")
    assert state == "analysed"
    assert analysed_s == pytest.approx(10, abs=1)


# The prior


@pytest.mark.slow
def test_until_its_prior_is_there_sound_alone_decides(
    station_yaml: StationYaml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its child fails, then is killed, then takes its time; the folder for tables cannot be had."""
    lines = (
        f"cd {tmp_path}; [ -e failed ] || {{ touch failed; echo no space left >&2; exit 1; }}\n"
        "[ -e killed ] || { touch killed; kill -9 $$; }\n"
        f'touch slow; until [ -e go ]; do sleep 0.05; done; exec {sys.executable} "$@"'
    )
    monkeypatch.setattr(
        "edge.prior.place_table.sys.executable", program(tmp_path / "slow-python", lines)
    )
    monkeypatch.setattr(priors, "_AGAIN_S", 0.1)
    monkeypatch.setattr("edge.daemon.station._KEPT_S_MAX", 0.0)
    config = station_yaml(WELL, station=PLACE)
    (config.parent / "priors").touch()
    with running(config) as run:
        until(lambda: run.says("sound alone decides"), "it says so")
        until(lambda: (tmp_path / "slow").exists(), "it is tried again")
        run.gets_on()
        assert rows(run.config.database, "SELECT count(prior) FROM detections") == [(0,)]
        (tmp_path / "go").touch()
        until(lambda: not run.says("table of place"), "it is there")
        run.gets_on()
    assert run.error is None
    stretches = (
        "SELECT count(DISTINCT recording), count(prior) > 0 FROM detections WHERE prior IS {} NULL"
    )
    for which in ("", "NOT"):
        assert rows(run.config.database, stretches.format(which))[0][0] >= 1, (
            "each stretch has one or has none"
        )
    both = (
        "SELECT count(*) FROM (SELECT 1 FROM detections GROUP BY recording HAVING count(DISTINCT "
        "prior IS NULL) > 1)"
    )
    assert rows(run.config.database, both) == [(0,)]
    assert rows(run.config.database, "SELECT count(*) FROM gaps WHERE reason <> 'off'") == [(0,)]


@pytest.mark.slow
def test_recordings_wait_for_theirs_and_can_be_left(
    station_yaml: StationYaml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (
        f"touch {tmp_path}/asked; until [ -e {tmp_path}/go ]; do sleep 0.05; done; exec "
        f'{sys.executable} "$@"'
    )
    monkeypatch.setattr(
        "edge.prior.place_table.sys.executable", program(tmp_path / "slow-python", lines)
    )
    write_sound(tmp_path / "in" / "a_20190601_053000.wav", note("lowtoo", 10))
    folder = f"folder: {{path: {tmp_path / 'in'}, settle_s: 0}}"
    config = station_yaml("source: folder", folder, WELL, station=PLACE)
    with running(config) as run:
        until(lambda: run.says("recordings wait for it"), "it says so")
        fed = run._systemd.count("WATCHDOG=1")
        until(lambda: run._systemd.count("WATCHDOG=1") > fed + 1, "the watchdog is fed")
    assert run.error is None
    assert run.station.stuck == []
    assert rows(run.config.database, "SELECT state FROM recordings") == [("started",)]
    (tmp_path / "go").touch()
    with running(config) as run:
        until(
            lambda: rows(run.config.database, "SELECT state FROM recordings") == [("analysed",)],
            "it goes on",
        )
    assert rows(run.config.database, "SELECT count(*) FROM detections WHERE prior IS NULL") == [
        (0,)
    ]


def test_one_that_cannot_be_made_is_tried_again_with_the_recording(
    station_yaml: StationYaml,
    recognizer: Recognizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever waits for it does not end of it."""
    monkeypatch.setattr(
        "edge.prior.place_table.sys.executable",
        program(tmp_path / "python", "echo no memory >&2; exit 1"),
    )
    config = load_config(station_yaml(station=PLACE))
    tables = priors.AwaitedPriors(recognizer.bundle, tmp_path / "priors")
    analyst = Analyst(config, recognizer, tables)
    place = station_place(config)
    assert place is not None
    with pytest.raises(BirdstationError, match="no memory") as error:
        analyst.priors.table(place)
    assert error.value.exit_code == 1
    assert "no memory" in (tables.problem or "")
    monkeypatch.undo()
    assert analyst.priors.table(place) is not None
    assert tables.problem is None


# The parts


def test_an_end_that_is_held_is_no_death_of_the_program(station_yaml: StationYaml) -> None:
    """A stop that a recording cannot follow is noted beside the database, which may be what holds
    it."""
    config = load_config(station_yaml())
    gone = "999999999 1"
    file = FileState(1, 1, 1, "")
    with Store(config.database) as store:
        for was_told, tried in ((False, AttemptCount(1, 0)), (True, AttemptCount(1, 1))):
            store.attempt("porch", "a.wav", file, boot_id(), gone)
            if was_told:
                note_stop(config.database)
                path = config.database.with_name("stopped")
                assert path.read_text() == this_process()
                path.write_text(gone)
            AttemptLog(store, "porch")
            assert store.tried("porch") == {"a.wav": tried}


def test_the_watchdog_is_fed_for_what_no_restart_would_mend(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    config = load_config(station_yaml())
    scene = Scene(NOON)
    with listening(config, scene, recognizer) as live:
        scene.sound(hiss(10))
        play(live, scene)
        decided_at = scene.at_s
        scene.at_s += 59
        assert live.gets_on(decided_at)
        scene.at_s += 2
        assert not live.gets_on(decided_at), "sound comes, and nothing is decided"
        for reason, minutes, fed in (
            ("no device", 14, True),
            ("no device", 16, False),
            ("store", 600, True),
        ):
            live.step()
            scene.silent = Gap(scene.at_s - 60 * minutes, 60.0 * minutes, reason)  # type: ignore[arg-type,assignment]
            assert live.gets_on(decided_at) is fed, (reason, minutes)
        scene.at_s += 61
        assert not live.gets_on(decided_at), "its thread stands still"
        scene.silent = None


def test_a_log_that_nobody_takes_holds_no_one() -> None:
    """Of a handler that stands still, as a pipe does that is full."""
    goes_on = threading.Event()
    said = []

    class Still(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            goes_on.wait(HANGS_S)
            said.append(record.getMessage())

    logger = logging.Logger("siege")
    still = Still()
    logger.addHandler(still)
    with written_beside(logger):
        for number in range(LINES_MAX + 100):
            logger.warning("line %d", number)
        goes_on.set()
        until(lambda: len(said) > LINES_MAX // 2, "they are written")
        logger.warning("the last")
        until(lambda: said[-1] == "the last", "all of them are")
    assert said[0] == "line 0"
    (lost,) = [line for line in said if "log lines were lost" in line]
    assert int(lost.split()[0]) in (99, 100)
    assert logger.handlers == [still]


@pytest.mark.slow
def test_a_log_that_nobody_reads_holds_no_end(tmp_path: Path, station_yaml: StationYaml) -> None:
    """A pipe that is full from the start, as of a terminal that was stopped."""
    (tmp_path / "in").mkdir()
    config = station_yaml("source: folder", f"folder: {{path: {tmp_path / 'in'}}}", WELL)
    read, write = os.pipe()
    os.set_blocking(write, False)
    with suppress(BlockingIOError):
        while True:
            os.write(write, bytes(4096))
    os.set_blocking(write, True)
    command = [sys.executable, "-m", "edge", "run", "--config", str(config)]
    with subprocess.Popen(command, stdout=write, stderr=write) as station:
        until((config.parent / "health.json").exists, "it runs")
        station.terminate()
        assert station.wait(HANGS_S) == 0
    os.close(read)
    os.close(write)


def test_a_worker_takes_steps_until_it_leaves_or_dies() -> None:
    done: list[str] = []

    def leave() -> None:
        raise Leave

    def die() -> None:
        raise StoreError("gone")

    for step, failed in ((leave, None), (die, StoreError)):
        worker = Worker("worker", step, lambda: done.append("last"))
        worker.start()
        assert worker.join(HANGS_S)
        assert (type(worker.failed) if worker.failed else None) == failed
    assert done == ["last", "last"]


def test_an_errand_is_done_once_more_if_it_is_asked_meanwhile() -> None:
    begun = threading.Semaphore(0)
    go_on = threading.Semaphore(0)
    done = []

    def do() -> None:
        begun.release()
        go_on.acquire()
        done.append(1)

    errand = Errand("errand", do)
    errand.start()
    errand.ask()
    assert begun.acquire(timeout=HANGS_S)
    for _ in range(3):
        errand.ask()
    assert not errand.wait(0.01)
    go_on.release(2)
    assert errand.wait(HANGS_S)
    assert len(done) == 2
    errand.leave()
    assert errand.join(HANGS_S)
    assert errand.failed is None
