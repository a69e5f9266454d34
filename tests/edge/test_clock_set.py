"""The clock is put right, late or by hand, while the station listens; and what hangs on whether the
time is known."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from edge.analysis.recognizer import Recognizer
from edge.analysis.stretch import Analyst
from edge.capture.start_time import start_of
from edge.clips.maker import ClipMaker
from edge.config import Config, load_config
from edge.contract.bundle import read_bundle
from edge.daemon.ledger import Ledger
from edge.daemon.live_microphone import Live
from edge.daemon.timeline import Timeline
from edge.host.clock import Clock, boot_id, installed_s
from edge.messages import FreshSpan, stamp
from edge.store.boot_placement import BootSpan, placed
from edge.store.clips import ClipTable
from edge.store.clock import ClockTable, present_time
from edge.store.outbox import OutboxTable
from edge.types import ClockState, Gap, StationRun
from tests import HANGS_S
from tests.conftest import hiss, note
from tests.edge.test_live import NOON, Scene, play, rows
from tests.helpers.clip_station import PROJECT

StationYaml = Callable[..., Path]
NEAR_S = 0.01


class Machine(Scene):
    """A scene whose clock may be kept by a network, and which may be suspended."""

    def __init__(self, wall_s: float = NOON, state: ClockState = "unsynced") -> None:
        super().__init__(wall_s)
        self.state: ClockState = state
        self.slept_s = 0.0

    def clock(self) -> Clock:
        return Clock(
            lambda: self.at_s + self.wall_apart,
            lambda: self.at_s,
            lambda: self.at_s + self.slept_s,
            lambda _: self.state,
        )


@pytest.fixture(scope="module")
def recognizer(bundle_folder: Path) -> Recognizer:
    return Recognizer(read_bundle(bundle_folder))


@contextmanager
def station(
    config: Config, machine: Machine, recognizer: Recognizer, clips: bool = False
) -> Iterator[Live]:
    maker = ClipMaker(
        lambda: ClipTable(config.database, durable=True), config, recognizer.bundle.id
    )
    ledger = Ledger(config.database, config.station.id, recognizer.bundle, maker if clips else None)
    with closing(maker), closing(ledger):
        analyst = Analyst(config, recognizer)
        live = Live(
            config,
            analyst,
            ledger,
            lambda _found: None,
            lambda _row, _more_s: None,
            machine.clock(),
            machine,  # type: ignore[arg-type]
        )
        yield live
        live.end(5)


def told(config: Config) -> list[tuple[str, float, str]]:
    """Start, seconds and what: all that is in the books."""
    return rows(
        config,
        "SELECT start_utc, (SELECT round(sum(analysed_s), 3) FROM effort WHERE recording = r.id), "
        "'heard' FROM recordings r UNION ALL SELECT start_utc, round(seconds, 3), reason FROM gaps "
        "ORDER BY 1",
    )


def edge_command(*args: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "edge", *map(str, args)]
    return subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, timeout=HANGS_S)


def unix(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc).timestamp()


def test_a_board_without_a_hardware_clock_is_off_for_as_long_as_it_was(
    station_yaml: StationYaml, recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hours without power; the clock goes on where it stopped, and a network sets it after half
    a minute."""
    path = station_yaml()
    config = load_config(path)
    for boot, wall_s in (("boot-1", NOON), ("boot-2", NOON + 20)):
        monkeypatch.setattr("edge.daemon.live_microphone.boot_id", lambda boot=boot: boot)
        machine = Machine(wall_s, "synced" if boot == "boot-1" else "unsynced")
        with station(config, machine, recognizer) as live:
            machine.sound(np.concatenate([hiss(12), note("midtoo", 8)]))
            play(live, machine)
            if boot == "boot-2":
                assert told(config)[-1][0] == "2019-06-01T12:00:20.000Z", (
                    "no second twice meanwhile"
                )
                machine.wall_apart = machine.wall_apart + 7200
                machine.state = "synced"
                machine.sound(hiss(10))
                play(live, machine)
    books = [
        ("2019-06-01T12:00:00.000Z", 20.0, "heard"),
        ("2019-06-01T12:00:20.000Z", 7200.0, "off"),
        ("2019-06-01T14:00:20.000Z", 20.0, "heard"),
        ("2019-06-01T14:00:40.000Z", 10.0, "heard"),
    ]
    assert told(config) == books
    apart = "round((julianday(d.start_utc) - julianday(r.start_utc)) * 86400 - d.offset_s, 2)"
    of = "FROM detections d JOIN recordings r ON r.id = d.recording"
    assert rows(config, f"SELECT DISTINCT {apart} {of}") == [(0.0,)]
    assert rows(config, "SELECT began_utc, ended_utc FROM deployments") == [(books[0][0], None)]
    done = edge_command(
        "clock",
        "fix",
        "--boot",
        "boot-2",
        "--seconds",
        7200,
        "--state",
        "unsynced",
        "--config",
        path,
    )
    assert done.returncode == 0, done.stderr
    assert "none of its times are unsynced any more" in done.stdout
    assert told(config) == books, "what a network has put right is not put right again"
    shown = json.loads(edge_command("clock", "show", "--json", "--config", path).stdout)
    assert [(boot["boot"], boot["clock_state"], boot["known"]) for boot in shown] == [
        ("boot-1", "synced", "synced"),
        ("boot-2", "unsynced", "synced"),
        ("boot-2", "synced", "synced"),
    ]


def test_a_person_says_afterwards_what_a_board_without_network_could_not_know(
    station_yaml: StationYaml, recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 1970 the record goes on where it ended; said in any order, the truth is the same."""
    config = load_config(station_yaml())
    for boot, wall_s in (("a", NOON), ("b", 300.0), ("c", 300.0)):
        monkeypatch.setattr("edge.daemon.live_microphone.boot_id", lambda boot=boot: boot)
        machine = Machine(wall_s, "synced" if boot == "a" else "unsynced")
        machine.sound(hiss(10))
        with station(config, machine, recognizer) as live:
            play(live, machine)
    assert told(config) == [
        ("2019-06-01T12:00:00.000Z", 10.0, "heard"),
        ("2019-06-01T12:00:10.000Z", 10.0, "heard"),
        ("2019-06-01T12:00:20.000Z", 10.0, "heard"),
    ]
    with ClockTable(config.database) as table:
        table.fix("c", 5000.0)
        table.fix("b", 1000.0)
    assert told(config) == [
        ("2019-06-01T12:00:00.000Z", 10.0, "heard"),
        ("2019-06-01T12:00:10.000Z", 1000.0, "off"),
        ("2019-06-01T12:16:50.000Z", 10.0, "heard"),
        ("2019-06-01T12:17:00.000Z", 4000.0, "off"),
        ("2019-06-01T13:23:40.000Z", 10.0, "heard"),
    ]


@pytest.mark.parametrize("who", ["network", "person"])
def test_what_waits_for_a_broker_is_sent_with_the_times_that_are_known_by_then(
    station_yaml: StationYaml, recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """Network and broker come together; before, nobody knew the time, and summer time began in
    between."""
    monkeypatch.setattr("edge.daemon.live_microphone.boot_id", lambda: "boot-1")
    config = load_config(
        station_yaml("mqtt: {host: h}", station="id: porch, timezone: Europe/Berlin")
    )
    machine = Machine(300.0)
    with station(config, machine, recognizer) as live:
        machine.sound(np.concatenate([hiss(12), note("midtoo", 8), hiss(8)]))
        play(live, machine)
        if who == "network":
            machine.wall_apart = machine.wall_apart + NOON - 300
            machine.state = "synced"
            machine.sound(np.concatenate([hiss(8), note("lowtoo", 8)]))
            play(live, machine)
    if who == "person":
        with ClockTable(config.database) as table:
            table.fix("boot-1", NOON - 300, zone=config.zone)
    with OutboxTable(config.database) as outbox:
        sent = [
            json.loads(stamp(message, FreshSpan("", "")).payload)
            for message in outbox.waiting(0, 100)
        ]
    known = rows(
        config, "SELECT start_utc, end_utc, utc_offset_minutes FROM detections ORDER BY start_utc"
    )
    assert [(one["start"], one["end"], one["utc_offset_minutes"]) for one in sent] == known
    assert {(one["start"][:10], one["utc_offset_minutes"]) for one in sent} == {("2019-06-01", 120)}


def test_in_1970_it_rests_by_no_schedule_and_season_says_nothing(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    """What is not heard, or decided by another season, cannot be put right later; once the clock is
    set, both hold."""
    lines = ('schedule: [["13:00", "14:00"]]', "detect: {threshold: 0.01}")
    config = load_config(station_yaml(*lines, station="id: porch, latitude: 52.1, longitude: 13.6"))
    machine = Machine(300.0)
    machine.sound(note("midtoo", 10))
    with station(config, machine, recognizer) as live:
        play(live, machine)
        assert live.silence is None
        machine.wall_apart = machine.wall_apart + NOON + 3600 - 300
        machine.state = "synced"
        machine.sound(note("midtoo", 10))
        play(live, machine)
        machine.at_s += 3600
        live.step()
        assert live.silence is not None
        assert live.silence.reason == "schedule"
    seasons = "SELECT r.clock_state, min(prior IS NULL), max(prior IS NULL) FROM detections d"
    seasons += " JOIN recordings r ON r.id = d.recording GROUP BY 1 ORDER BY 1"
    assert rows(config, seasons) == [("synced", 0, 0), ("unsynced", 1, 1)]
    assert rows(config, "SELECT count(*) FROM recordings WHERE start_utc < '2019'") == [(0,)]


@pytest.mark.parametrize("learns", [True, False])
def test_a_fix_under_a_station_that_listens_moves_stretches_whole(
    station_yaml: StationYaml, recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch, learns: bool
) -> None:
    """Whether it learns of it at once or only after the stretch: what it stores then goes where the
    stretch is."""
    monkeypatch.setattr("edge.daemon.ledger._ASK_S", 0.0 if learns else 1e9)
    config = load_config(station_yaml("clips: {before_s: 0, after_s: 0, seconds_max: 15}"))
    machine = Machine(NOON - 20)
    with station(config, machine, recognizer, clips=True) as live:
        machine.sound(np.concatenate([note("midtoo", 10), hiss(20)]))
        play(live, machine)
        before = live.clock.now()
        with ClockTable(config.database) as table:
            moved = table.fix(boot_id() or "", 7200.0)
        assert moved["stretches"] >= 1
        machine.sound(np.concatenate([note("lowtoo", 10), hiss(20)]))
        play(live, machine)
        assert (live.clock.now() - before).total_seconds() == pytest.approx(
            30 + 7200 * learns, abs=NEAR_S
        )
        assert live.hearing().time_known == learns
    assert sum(seconds for _, seconds, _ in told(config)) == pytest.approx(60, abs=NEAR_S)
    ends = unix("2019-06-01T13:59:40.000Z")
    for start, seconds, what in told(config):
        assert (unix(start), what) == (pytest.approx(ends, abs=NEAR_S), "heard")
        ends = unix(start) + seconds
    hours = dict(
        rows(config, "SELECT hour_utc, round(sum(analysed_s), 1) FROM effort GROUP BY hour_utc")
    )
    assert hours == {"2019-06-01T13:00:00.000Z": 20.0, "2019-06-01T14:00:00.000Z": 40.0}
    apart = (
        "SELECT DISTINCT round((julianday(d.start_utc) - julianday(r.start_utc)) * 86400 - "
        "d.offset_s, 2)"
    )
    assert rows(config, f"{apart} FROM detections d JOIN recordings r ON r.id = d.recording") == [
        (0.0,)
    ]
    clips = rows(
        config,
        "SELECT c.start_utc, min(d.start_utc) FROM clips c JOIN detections d ON d.clip = c.id "
        "GROUP BY c.id",
    )
    assert len(clips) >= 2
    assert all(
        unix(clip) == pytest.approx(unix(detection), abs=NEAR_S) for clip, detection in clips
    )


def test_a_suspend_is_a_gap_with_its_reason(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    config = load_config(station_yaml())
    machine = Machine()
    with station(config, machine, recognizer) as live:
        machine.sound(hiss(10))
        play(live, machine)
        machine.slept_s += 3600
        machine.wall_apart += 3600
        machine.sound(hiss(10))
        machine.gap(30, "unplugged")
        play(live, machine)
        machine.silent = Gap(machine.end_s, 40, "no device")  # type: ignore[assignment]
        machine.at_s += 15
        live.step()
        machine.slept_s += 600
        machine.wall_apart += 600
        machine.at_s += 25
        live.step()
        machine.silent = None
        machine.gap(40, "no device")
        machine.sound(hiss(10))
        play(live, machine)
    gaps = rows(
        config, "SELECT start_utc, round(seconds, 3), reason, detail FROM gaps ORDER BY start_utc"
    )
    assert [(seconds, reason) for _, seconds, reason, _ in gaps][:2] == [
        (3600.0, "off"),
        (30.0, "unplugged"),
    ]
    assert [detail for _, seconds, _, detail in gaps if seconds in (600.0, 3600.0)] == [
        "suspended",
        "suspended",
    ]
    ends = NOON
    for start, seconds, _ in told(config):
        assert unix(start) == pytest.approx(ends, abs=NEAR_S)
        ends += seconds
    assert ends == pytest.approx(NOON + 10 + 3600 + 10 + 30 + 40 + 600 + 10, abs=NEAR_S)


@pytest.mark.parametrize(
    ("zone", "change"),
    [
        ("Australia/Adelaide", "2026-10-03T16:30:00"),
        ("Australia/Lord_Howe", "2026-10-03T15:30:00"),
        ("America/St_Johns", "2027-03-14T05:30:00"),
        ("Europe/Berlin", "2027-03-28T01:00:00"),
        ("Asia/Kathmandu", "1985-12-31T18:30:00"),  # from half past to a quarter to
    ],
)
def test_a_stretch_ends_where_the_clock_at_the_place_is_changed(
    station_yaml: StationYaml, recognizer: Recognizer, zone: str, change: str
) -> None:
    changes = datetime.fromisoformat(change).replace(tzinfo=timezone.utc)
    lines = ("detect: {threshold: 0.02}", "mqtt: {host: 127.0.0.1, port: 9}")
    config = load_config(station_yaml(*lines, station=f"id: porch, timezone: {zone}"))
    machine = Machine(changes.timestamp() - 15.2)  # no piece of sound begins there
    machine.sound(np.concatenate([note("midtoo", 16), note("lowtoo", 14)]))
    with station(config, machine, recognizer) as live:
        play(live, machine)
    starts = rows(config, "SELECT start_utc, utc_offset_minutes FROM recordings ORDER BY start_utc")
    assert [round(unix(start) - changes.timestamp(), 3) for start, _ in starts] == [-15.2, 0.0]
    messages = [json.loads(payload) for (payload,) in rows(config, "SELECT payload FROM outbox")]
    stored = rows(config, "SELECT start_utc, utc_offset_minutes FROM detections")
    assert len(messages) == len(stored) > 4
    for start, minutes in [
        *stored,
        *((m["start"], m["utc_offset_minutes"]) for m in messages),
        *starts,
    ]:
        moment = datetime.fromtimestamp(unix(start), ZoneInfo(zone))
        assert minutes == (moment.utcoffset() or timedelta()) / timedelta(minutes=1), start
    assert sum(seconds for _, seconds, _ in told(config)) == pytest.approx(30, abs=NEAR_S)


def test_whether_the_time_is_known_is_one_word(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    """Of the daemon's clock and of a command's beside it, in this boot and after what the record
    knows of others."""
    config = load_config(station_yaml())
    now_s = installed_s() + 30 * 86_400
    unsynced = Machine(now_s)
    ledger = Ledger(config.database, "porch", recognizer.bundle)
    with closing(ledger):
        assert not present_time(config.database, unsynced.clock()).known
        Timeline(config, "folder", boot_id() or "", unsynced.clock(), ledger)
        assert not present_time(config.database, unsynced.clock()).known
        with ClockTable(config.database) as table:
            table.fix(boot_id() or "", -86_400.0)  # a person, who sees that it is a day ahead
        known = present_time(config.database, unsynced.clock())
        assert known.known
        assert known.now.timestamp() == pytest.approx(now_s - 86_400, abs=NEAR_S)
        for state, wall_s, believed in (
            ("synced", now_s, True),
            ("rtc", now_s, True),
            ("unsynced", now_s, True),
        ):
            machine = Machine(wall_s, state)  # type: ignore[arg-type]
            assert present_time(config.database, machine.clock()).known is believed


@pytest.mark.parametrize(
    ("state", "days", "believed"),
    [
        ("unsynced", 40, False),
        ("rtc", 40, True),
        ("rtc", 800, False),
        ("rtc", 5, False),
        ("synced", 800, True),
    ],
)
def test_a_hardware_clock_is_believed_as_far_as_it_can_have_run_on(
    station_yaml: StationYaml, recognizer: Recognizer, state: ClockState, days: int, believed: bool
) -> None:
    """Another boot was synced ten days after the installation; a forest without network keeps its
    retention."""
    config = load_config(station_yaml())
    began_ms = round((installed_s() + 10 * 86_400) * 1000)
    with closing(Ledger(config.database, "porch", recognizer.bundle)) as ledger:
        ledger.begin_run(StationRun("r", "microphone", "another boot", 0.0, began_ms, "synced"))
    machine = Machine(installed_s() + days * 86_400, state)
    assert present_time(config.database, machine.clock()).known is believed


def test_a_recorders_time_is_not_thrown_away_for_this_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that began in 1970, or stands, says nothing against a time that is written down."""
    path = tmp_path / f"S4A03895_{datetime.now(timezone.utc).year + 2}0522_063000.wav"
    path.write_bytes(b"RIFF")
    monkeypatch.setattr("edge.capture.start_time.known_now", lambda: datetime.now(timezone.utc))
    assert start_of(path, zone=None).source == "mtime"
    monkeypatch.setattr("edge.capture.start_time.known_now", lambda: None)
    assert start_of(path, zone=None).source == "name"
    never = path.rename(tmp_path / "S4A03895_99990522_063000.wav")
    assert start_of(never, zone=None).source == "mtime", "no machine hears that"


def test_a_person_is_told_if_there_is_no_room_for_what_was_said(
    station_yaml: StationYaml, recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = station_yaml()
    config = load_config(path)
    for boot, wall_s in (("a", NOON), ("b", 300.0)):
        monkeypatch.setattr("edge.daemon.live_microphone.boot_id", lambda boot=boot: boot)
        machine = Machine(wall_s, "synced" if boot == "a" else "unsynced")
        machine.sound(hiss(10))
        with station(config, machine, recognizer) as live:
            play(live, machine)
    done = edge_command("clock", "fix", "--boot", "b", "--seconds", 60, "--config", path)
    assert "no more room" not in done.stdout
    done = edge_command("clock", "fix", "--boot", "b", "--seconds=-3600", "--config", path)
    assert done.returncode == 0, done.stderr
    assert "boot b: only by -60 s" in done.stdout
    assert [start for start, *_ in told(config)] == [
        "2019-06-01T12:00:00.000Z",
        "2019-06-01T12:00:10.000Z",
    ]


DAY = 86_400_000


@pytest.mark.parametrize(
    ("what", "spans", "found"),
    [
        (
            "1970 begins where the record ends",
            [("synced", 9 * DAY), ("unsynced", 0)],
            [9 * DAY, 9 * DAY + 100],
        ),
        (
            "years ahead, before what is known",
            [("unsynced", 900 * DAY), ("synced", 9 * DAY)],
            [9 * DAY - 100, 9 * DAY],
        ),
        (
            "where it says, if there is room",
            [("synced", 1), ("rtc", DAY), ("synced", 2 * DAY)],
            [1, DAY, 2 * DAY],
        ),
        ("of two networks the later", [("synced", 5 * DAY), ("synced", DAY)], [DAY - 100, DAY]),
        (
            "a person between networks",
            [("synced", 0), ("fixed", 50), ("synced", DAY)],
            [0, 100, DAY],
        ),
        ("a hardware clock before none", [("unsynced", 7 * DAY), ("rtc", DAY)], [DAY - 100, DAY]),
    ],
)
def test_where_boots_lie(what: str, spans: list[tuple[str, int]], found: list[int]) -> None:
    assert placed([BootSpan(0, 100, told, known) for known, told in spans]) == found, what  # type: ignore[arg-type]
