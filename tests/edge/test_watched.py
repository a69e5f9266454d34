"""A folder that the daemon watches, as its users see it: a real process, files that come, grow,
change and vanish."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from edge.analysis.recognizer import Recognizer
from edge.analysis.stretch import Analyst, BatchResult
from edge.clips.maker import ClipMaker
from edge.clips.waiting_table import PatientClips
from edge.config import load_config
from edge.contract.audio import Image
from edge.contract.blend import Scores
from edge.contract.bundle import read_bundle
from edge.contract.errors import EXIT_CONFIG
from edge.daemon.ledger import Ledger
from edge.daemon.threads import Leave
from edge.daemon.watched_folder import WatchedFolder
from edge.replay.archive import recordings_in
from edge.replay.replay import Replay
from edge.store.clips import ClipTable
from edge.store.record import Store
from edge.types import GapRow
from tests.conftest import hiss, noon_zone, note, write_sound
from tests.helpers.brokers import TOPIC, Broker, Listener, counts, free_port, gate, until
from tests.trials.kills import effort_adds_up, recordings

StationYaml = Callable[..., Path]
PROJECT = Path(__file__).parents[2]
PATIENCE_S = 240.0
HEALTH_S = 1
STOP_S_MAX = 120.0  # on a machine that is busy with other tests; alone it takes a second
LONG_S = 500  # of a recording: far more windows than are analysed while this test looks twice


class Daemon:
    """`python -m edge run` on one settings file; what it logs is kept through restarts."""

    def __init__(self, config: Path) -> None:
        self.state = config.parent
        self.log = config.parent / "log.txt"
        self._command = [
            sys.executable,
            "-W",
            "error",
            "-m",
            "edge",
            "run",
            "--config",
            str(config),
        ]

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """Ends by SIGTERM, in time and with status 0."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=PROJECT)
        try:
            yield process
            process.terminate()
            assert process.wait(timeout=STOP_S_MAX) == 0, self.log.read_text()
            assert "Traceback" not in self.log.read_text()
        finally:
            process.kill()
            process.wait()

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Plain SQL; nothing while there is no database."""
        if not (self.state / "station.db").exists():
            return []
        try:
            with closing(sqlite3.connect(self.state / "station.db", timeout=10)) as db:
                return db.execute(sql).fetchall()
        except sqlite3.OperationalError:
            return []

    def finished(self) -> dict[str, str]:
        """Path -> analysed or refused, in the order in which they were."""
        order = "SELECT path, state FROM recordings WHERE state <> 'started' ORDER BY finished_utc"
        return {str(path): str(state) for path, state in self.rows(order)}

    def health(self) -> dict[str, Any]:
        """The last health.json; the first is waited for."""
        path = self.state / "health.json"
        assert until(path.exists, PATIENCE_S)
        return dict(json.loads(path.read_text()))

    def problems(self) -> list[str]:
        """Of health, but for the machine's own: nobody sets the clock where tests run, and its disk
        may be full."""
        machines = ("The clock", "The disk", "Only")
        found = [
            problem for problem in self.health()["problems"] if not problem.startswith(machines)
        ]
        assert self.health()["state"] != "ok" or not found
        return found

    def says(self, words: str, times: int) -> bool:
        """Whether its log has these words so often."""
        return self.log.read_text().count(words) == times

    def comes(self, *names: str) -> bool:
        """Wait until these are finished."""
        return until(lambda: set(names) <= set(self.finished()), PATIENCE_S)


def watching(folder: Path, *lines: str) -> list[str]:
    return [
        "source: folder",
        f"folder: {{path: {folder}, settle_s: 1}}",
        f"health: {{interval_s: {HEALTH_S}}}",
        *lines,
    ]


def song(code: str = "midtoo", seconds: float = 10.0) -> Any:
    return note(code, seconds) + hiss(seconds)


@pytest.mark.slow
def test_files_that_come_grow_and_change(tmp_path: Path, station_yaml: StationYaml) -> None:
    folder = tmp_path / "in"
    away = tmp_path / "elsewhere"
    config = station_yaml(*watching(folder))
    daemon = Daemon(config)
    for day in (3, 1, 2):
        path = write_sound(away / f"r{day}_2019060{day}_053000.wav", song())
        os.utime(path, (1.5e9 - day, 1.5e9 - day))  # written in another order than recorded
    (away / "bad_20190604_053000.wav").write_bytes(b"RIFF????WAVEhello")
    whole = write_sound(tmp_path / "grows.wav", song(seconds=20)).read_bytes()
    with daemon.running() as process:
        assert until(lambda: daemon.health().get("hearing") is False, PATIENCE_S)
        assert daemon.problems()
        assert "is the disk mounted?" in daemon.health()["problems"][0]
        away.rename(folder)
        survivors = [f"r{day}_2019060{day}_053000.wav" for day in (1, 2, 3)]
        assert daemon.comes(*survivors, "bad_20190604_053000.wav")
        assert list(daemon.finished())[:3] == survivors, "oldest first, by when they were recorded"
        (folder / "deep").mkdir()
        grows = folder / "deep" / "grows_20190605_053000.wav"
        for at in range(0, len(whole), 200_000):  # seven pieces, each before the last has settled
            with grows.open("ab") as file:
                file.write(whole[at : at + 200_000])
            time.sleep(0.3)
        write_sound(folder / ".moved.wav", song()).rename(folder / "moved_20190606_053000.wav")
        assert daemon.comes("deep/grows_20190605_053000.wav", "moved_20190606_053000.wav")
        assert until(lambda: daemon.health()["hearing"] and not daemon.problems(), PATIENCE_S)
        assert until(lambda: daemon.health()["waiting_s"] == 0, PATIENCE_S)
        assert until(
            lambda: daemon.health()["last_sound_utc"] == "2019-06-06T05:30:10.000Z", PATIENCE_S
        )
        config.write_text(config.read_text() + "detect: {threshold: 0.123}\n")
        process.send_signal(signal.SIGHUP)
        assert until(lambda: "settings reloaded" in daemon.log.read_text(), PATIENCE_S)
        config.write_text(config.read_text() + "nonsense: 1\n")
        process.send_signal(signal.SIGHUP)
        assert until(lambda: "settings not applied" in daemon.log.read_text(), PATIENCE_S)
        write_sound(folder / "later_20190607_053000.wav", song())
        assert daemon.comes("later_20190607_053000.wav")
    for name, threshold in (("moved", 0.5), ("later", 0.123)):
        assert daemon.rows(f"SELECT DISTINCT round(threshold, 4) FROM detections {of(name)}") == [
            (threshold,)
        ]
    grown = (
        "path LIKE '%grows%' AND grown_into IS NULL"  # a busy machine may pause between two pieces
    )
    assert daemon.rows(f"SELECT count(*), max(audio_s) FROM recordings WHERE {grown}") == [
        (1, 20.0)
    ]
    assert daemon.finished()["bad_20190604_053000.wav"] == "refused"
    assert daemon.rows("SELECT DISTINCT source FROM recordings") == [("folder",)]
    assert daemon.log.read_text().count("bad_20190604_053000.wav: refused") == 1
    assert len(daemon.finished()) == 7


@pytest.mark.slow
def test_settings_that_cannot_be_taken_over_change_nothing(
    tmp_path: Path, station_yaml: StationYaml
) -> None:
    """A reload never ends the daemon: nobody starts it again after status 78."""
    folder = tmp_path / "in"
    folder.mkdir()
    config = station_yaml(*watching(folder))
    daemon = Daemon(config)
    right = config.read_text()
    with daemon.running() as process:
        assert until(lambda: daemon.health().get("hearing") is True, PATIENCE_S)
        for count, wrong in enumerate(
            ("{detector: gone.onnx}", "{detector: gone.onnx, human: all}"), 1
        ):
            config.write_text(right + f"privacy: {wrong}\n")
            process.send_signal(signal.SIGHUP)
            said = partial(daemon.says, "settings not applied: privacy.detector: ", count)
            assert until(said, PATIENCE_S)
        config.write_text(right + "detect: {threshold: 0.123}\n")
        process.send_signal(signal.SIGHUP)
        assert until(lambda: "settings reloaded" in daemon.log.read_text(), PATIENCE_S)
        write_sound(folder / "later_20190607_053000.wav", song())
        assert daemon.comes("later_20190607_053000.wav")
    assert daemon.rows("SELECT DISTINCT round(threshold, 4) FROM detections") == [(0.123,)]


@pytest.mark.slow
def test_a_writer_that_pauses_and_a_card_that_is_swapped(
    tmp_path: Path, station_yaml: StationYaml
) -> None:
    """A pause longer than settle_s gives a part away, whose rows must not stay beside those of the
    whole; a card that has the names, sizes and times of another is another."""
    folder = tmp_path / "in"
    daemon = Daemon(station_yaml(*watching(folder)))
    slow = folder / "slow_20190605_053000.wav"
    card = folder / "card" / "r_20190606_053000.wav"
    whole = write_sound(
        tmp_path / "whole.wav", np.concatenate([song(seconds=12), song("higtoo", 12)])
    ).read_bytes()
    cards = [
        write_sound(tmp_path / f"{code}.wav", song(code)).read_bytes()
        for code in ("lowtoo", "higtoo")
    ]
    folder.mkdir()
    card.parent.mkdir()
    counted = "SELECT path, audio_s FROM recordings WHERE state = 'analysed' ORDER BY path, audio_s"
    with daemon.running():
        for count, end in enumerate((len(whole) // 3, len(whole) // 2, len(whole)), start=1):
            with slow.open("ab") as file:
                file.write(whole[slow.stat().st_size : end])
            assert until(
                lambda n=count: len(daemon.rows(counted)) == 1 and _seen(daemon, slow.name) == n,
                PATIENCE_S,
            )
        for count, content in enumerate(cards, start=1):
            card.write_bytes(content)
            os.utime(card, (1.5e9, 1.5e9))
            assert until(lambda n=count: _seen(daemon, "card/" + card.name) == n, PATIENCE_S)
        assert until(lambda: daemon.health()["waiting_s"] == 0, PATIENCE_S)
        assert until(lambda: len(daemon.rows(counted)) == 3, PATIENCE_S)
    assert daemon.rows(counted) == [("card/" + card.name, 10.0)] * 2 + [(slow.name, 24.0)]
    assert daemon.rows("SELECT sum(analysed_s) FROM effort") == [(44.0,)]
    heard = (
        "SELECT species, count(DISTINCT recording) FROM detections GROUP BY species ORDER BY "
        "species"
    )
    assert daemon.rows(heard) == [("higtoo", 2), ("lowtoo", 1), ("midtoo", 1)]
    assert (
        daemon.rows(
            "SELECT start_utc FROM detections WHERE recording NOT IN (SELECT id FROM recordings "
            "WHERE path LIKE 'card%') GROUP BY start_utc, species HAVING count(*) > 1"
        )
        == []
    )


def _seen(daemon: Daemon, name: str) -> int:
    """How many recordings a file was."""
    rows = f"SELECT count(*) FROM recordings WHERE path = '{name}' AND state <> 'started'"
    return int((daemon.rows(rows) or [(0,)])[0][0])


@pytest.mark.slow
def test_a_restart_does_nothing_twice_and_sees_what_was_changed(
    tmp_path: Path, station_yaml: StationYaml
) -> None:
    folder = tmp_path / "in"
    daemon = Daemon(station_yaml(*watching(folder)))
    for day in (1, 2):
        write_sound(folder / f"r{day}_2019060{day}_053000.wav", song())
    (folder / "bad.flac").write_bytes(b"fLaC and no more")
    names = ["r1_20190601_053000.wav", "r2_20190602_053000.wav", "bad.flac"]
    with daemon.running():
        assert daemon.comes(*names)
    before = daemon.rows("SELECT * FROM recordings ORDER BY id")
    write_sound(folder / "r1_20190601_053000.wav", song("higtoo", 15))
    whole = write_sound(tmp_path / "whole.wav", song("lowtoo", 20)).read_bytes()
    copied = folder / "copied_20190603_053000.wav"
    copied.write_bytes(whole[: len(whole) // 2])
    with daemon.running():
        assert daemon.comes(copied.name)
        assert until(
            lambda: daemon.rows(
                "SELECT 1 FROM detections WHERE species = 'higtoo' AND offset_s = 10"
            )
        )
        assert daemon.rows(f"SELECT round(sum(seconds), 1) FROM gaps {of('copied')}") == [(10.0,)]
        with copied.open("ab") as file:  # a copy that had stalled goes on
            file.write(whole[len(whole) // 2 :])
        assert until(
            lambda: daemon.rows(
                "SELECT 1 FROM recordings WHERE audio_s = 20 AND state = 'analysed'"
            )
        )
        write_sound(folder / "last_20190608_053000.wav", song())
        assert daemon.comes("last_20190608_053000.wav")
    unchanged = (
        "SELECT * FROM recordings WHERE path IN ('r2_20190602_053000.wav', 'bad.flac') ORDER BY id"
    )
    assert daemon.rows(unchanged) == [row for row in before if row[2] in names[1:]], (
        "not even begun again"
    )
    assert daemon.log.read_text().count("bad.flac: refused") == 1
    assert daemon.rows(f"SELECT species, max(offset_s) FROM detections {of('r1')} GROUP BY 1") == [
        ("higtoo", 10.0),
        ("midtoo", 5.0),
    ], "another recording under an old name: both count"
    assert daemon.rows(
        "SELECT sum(analysed_s), max(gaps) FROM effort, (SELECT count(*) AS gaps FROM gaps) "
        f"{of('copied')}"
    ) == [(20.0, 0)]
    assert daemon.rows(
        f"SELECT count(*), count(DISTINCT offset_s) FROM detections {of('copied')}"
    ) == [(7, 7)]


def of(name: str) -> str:
    """SQL: only rows of recordings whose name begins so."""
    return f"JOIN recordings r ON r.id = recording WHERE r.path LIKE '{name}%'"


@pytest.mark.slow
def test_stopped_inside_a_long_recording_it_goes_on_later(
    tmp_path: Path, station_yaml: StationYaml
) -> None:
    """Of today, so that health counts it; a reload in its middle is for the next one."""
    folder = tmp_path / "in"
    zone = noon_zone()
    lines = ("runtime: {batch: 2, threads: 1}", "windows: {hop_s: 0.25}")
    station = f"id: porch, timezone: {zone}"
    config = station_yaml(*watching(folder, *lines), station=station)
    daemon = Daemon(config)
    path = write_sound(
        folder / f"long_{datetime.now(ZoneInfo(zone)):%Y%m%d}_000000.wav", song(seconds=LONG_S)
    )
    count = "SELECT count(*) FROM detections"
    for more in (1, 100):
        begun = (daemon.rows(count) or [(0,)])[0][0]
        with daemon.running() as process:
            enough = begun + more
            assert until(lambda n=enough: (daemon.rows(count) or [(0,)])[0][0] >= n, PATIENCE_S)
            # health gets due again, and on no machine is sound used up
            process.send_signal(signal.SIGSTOP)
            time.sleep(HEALTH_S)
            process.send_signal(signal.SIGHUP)
            process.send_signal(signal.SIGCONT)
            assert until(lambda: daemon.health().get("waiting_s") == LONG_S, PATIENCE_S)
            assert daemon.health()["hearing"]
            assert not daemon.problems()
        assert daemon.finished() == {}
        assert daemon.rows("SELECT state FROM recordings") == [("started",)]
    with daemon.running():
        assert daemon.comes(path.name)
        assert until(lambda: daemon.health().get("waiting_s") == 0, PATIENCE_S)
        assert daemon.health()["analysed_today_s"] == pytest.approx(LONG_S, abs=0.1)
        assert (
            daemon.health()["detections_today"] == daemon.rows(count)[0][0] == (LONG_S - 5) * 4 + 1
        )
    undisturbed = station_yaml(*lines, name="undisturbed", station=station)
    command = [sys.executable, "-m", "edge", "replay", str(folder), "--config", str(undisturbed)]
    assert subprocess.run(command, capture_output=True, timeout=PATIENCE_S).returncode == 0
    for table in ("detections", "effort"):
        rows = f"SELECT * FROM {table} ORDER BY 1, 2"
        assert daemon.rows(rows) == Daemon(undisturbed).rows(rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["source: folder"], "folder.path: missing"),
        (["source: forest"], "source"),
        (["source: folder", "folder: {path: in}", "bundle: nowhere"], "bundle"),
        (["source: folder", "folder: {path: in}", "detect: {thresholds: {nobird: 0.5}}"], "nobird"),
        (
            [
                "source: folder",
                "folder: {path: in}",
                "mqtt: {host: localhost, password_file: none}",
            ],
            "password_file",
        ),
        (
            ["source: folder", "folder: {path: in}", "state: station.yaml"],
            "state: expected a folder, found a file",
        ),
        (["schedule: [[noon, sunset]]"], "schedule[0]"),
    ],
)
def test_wrong_settings_end_it_with_one_line(
    tmp_path: Path, bundle_folder: Path, lines: list[str], message: str
) -> None:
    config = tmp_path / "station.yaml"
    own = [] if any(line.startswith("bundle") for line in lines) else [f"bundle: {bundle_folder}"]
    config.write_text("\n".join(["station: {id: porch}", *own, *lines]) + "\n")
    command = [sys.executable, "-W", "error", "-m", "edge", "run", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == EXIT_CONFIG
    assert len(done.stderr.strip().splitlines()) == 1
    assert message in done.stderr
    assert done.stderr.startswith("error: " if message == "bundle" else f"error: {config}: ")


@pytest.mark.parametrize("left", [False, True])
def test_clips_of_recordings_wait_for_another_writer(
    tmp_path: Path, station_yaml: StationYaml, bundle_folder: Path, left: bool
) -> None:
    """Their sound waits in its file; one that is told to stop leaves it."""
    write_sound(tmp_path / "in" / "a_20190601_053000.wav", song())
    lines = watching(tmp_path / "in", "detect: {threshold: 0.05}", "clips: {of_recordings: true}")
    config = load_config(station_yaml(*lines))
    recognizer = Recognizer(read_bundle(bundle_folder), threads=1)
    ledger = Ledger(config.database, config.station.id, recognizer.bundle)
    held: list[sqlite3.Connection] = []
    tries: list[str | None] = []

    def another_writes() -> ClipTable:
        if not held:
            held.append(sqlite3.connect(config.database, isolation_level=None))
            held[0].execute("BEGIN IMMEDIATE")
        return ClipTable(config.database, patience_s=0.0)

    def alive() -> None:
        if held and held[0].in_transaction:
            tries.append(ledger.error)
            watched._held = watched._held and watched._held._replace(since_s=float("-inf"))
            if left or len(tries) > 5:
                held[0].execute("ROLLBACK")
            if left:
                raise Leave

    clips = ClipMaker(
        lambda: PatientClips(another_writes, watched.wait_for), config, recognizer.bundle.id
    )
    told = (lambda _found: None, lambda _gap, _s: None)
    watched = WatchedFolder(config, Analyst(config, recognizer), ledger, clips, *told, alive=alive)
    with pytest.raises(Leave) if left else nullcontext():
        until(lambda: watched.step() is not None, PATIENCE_S)
    watched.end()
    held[0].close()
    assert clips.failed == 0
    with closing(sqlite3.connect(config.database)) as db:
        paths = [path for (path,) in db.execute("SELECT path FROM clips")]
    assert bool(paths) is not left
    assert all((config.clips_folder / path).is_file() for path in paths)
    assert len(tries) == (1 if left else 6)
    assert tries[1:] == [f"{config.database}: database is locked"] * (len(tries) - 1)
    assert left or ledger.error is None


@pytest.mark.slow
def test_a_full_outbox_blocks_nothing_and_is_counted(
    tmp_path: Path, station_yaml: StationYaml
) -> None:
    """The broker is away for the whole folder, and then comes."""
    folder = tmp_path / "in"
    port = free_port()
    lines = watching(
        folder,
        "windows: {hop_s: 0.5}",
        f"mqtt: {{host: 127.0.0.1, port: {port}, waiting_max: 100, topic: birds}}",
    )
    daemon = Daemon(station_yaml(*lines))
    names = [f"r{n}_20190601_{n:02d}0000.wav" for n in range(4)]
    for name in names:
        write_sound(folder / name, song(seconds=40))
    with daemon.running():
        assert daemon.comes(*names)
        made = daemon.rows("SELECT count(*) FROM detections")[0][0]
        assert made == 4 * 71
        assert until(lambda: daemon.health()["mqtt"]["dropped"] == made - 100, PATIENCE_S)
        told = daemon.health()["mqtt"]
        assert (told["created"], told["waiting"], told["sent"], told["dead"]) == (made, 100, 0, 0)
        assert not told["connected"]
        assert counts(daemon.state / "station.db") == {
            "sent": 0,
            "waiting": 100,
            "dropped": made - 100,
            "dead": 0,
        }
        left = [
            row[0]
            for row in daemon.rows("SELECT id FROM outbox WHERE state = 'waiting' ORDER BY seq")
        ]
        assert left == [row[0] for row in daemon.rows("SELECT id FROM outbox ORDER BY seq")][-100:]
        broker = Broker(tmp_path, free_port())
        with broker, Listener(broker.port, TOPIC) as listener, gate(port, broker.port):
            assert until(lambda: len(listener.payloads(TOPIC)) >= 100)
            assert until(lambda: counts(daemon.state / "station.db")["sent"] == 100, PATIENCE_S)
            assert [json.loads(payload)["id"] for payload in listener.payloads(TOPIC)] == left
            assert until(lambda: daemon.health()["mqtt"]["sent"] == 100, PATIENCE_S)
            assert daemon.health()["mqtt"]["connected"]
            name = "after_20190602_000000.wav"
            write_sound(folder / f".{name}", song()).rename(folder / name)
            assert until(lambda: counts(daemon.state / "station.db")["sent"] == 111, PATIENCE_S)
            assert until(lambda: len(listener.payloads(TOPIC)) == 111, PATIENCE_S)
    assert counts(daemon.state / "station.db") == {
        "sent": 111,
        "waiting": 0,
        "dropped": made - 100,
        "dead": 0,
    }


class Slow(Recognizer):
    """A real one on a machine that is too slow for it."""

    def __init__(self, bundle_folder: Path) -> None:
        super().__init__(read_bundle(bundle_folder), threads=1)
        compute = self.engine.scores

        def scores(images: Image, members: Any = None) -> Scores:
            time.sleep(0.05)
            return compute(images, members)

        self.engine.scores = scores  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["replay", "folder"])
def test_effort_adds_up_on_a_slow_machine_too(
    tmp_path: Path, station_yaml: StationYaml, bundle_folder: Path, what: str
) -> None:
    folder = tmp_path / "in"
    lengths = recordings(folder, 4)
    header = write_sound(
        folder / "header_20190601_120000.wav", np.zeros(320_000, np.float32)
    ).read_bytes()
    # announces ten seconds and has milliseconds
    (folder / "header_20190601_120000.wav").write_bytes(header[:300])
    lengths["header_20190601_120000.wav"] = 10.0
    config = load_config(station_yaml(*watching(folder, "runtime: {batch: 4}")))
    analyst = Analyst(config, Slow(bundle_folder))
    heard: list[BatchResult] = []
    missed: list[tuple[GapRow, float]] = []

    def on_gap(gap: GapRow, seconds: float) -> None:
        missed.append((gap, seconds))

    if what == "replay":
        with Store(config.database) as store:
            replay = Replay(analyst, store, None, "replay", heard.append, on_gap)
            assert len(list(replay.run(*recordings_in(folder)))) == len(lengths) + 2
    else:
        ledger = Ledger(config.database, config.station.id, analyst.bundle)
        watched = WatchedFolder(config, analyst, ledger, None, heard.append, on_gap)
        deadline = time.monotonic() + PATIENCE_S
        ended = 0
        while ended < len(lengths) + 2 and time.monotonic() < deadline:
            ended += watched.step() is not None
        ledger.close()
        assert watched.waiting_s == 0
    assert effort_adds_up(config.database, lengths) == []
    told = {found.row.path: found.until_s for found in heard}
    assert sum(told.values()) + sum(seconds for _, seconds in missed) == pytest.approx(
        sum(lengths.values()), abs=0.2
    )
    assert {gap.reason for gap, _ in missed} == {"damaged"}
