"""Today's counts when the clock is set under a station that listens: they are what the record has
of the new day."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pytest

from edge.analysis.recognizer import Recognizer
from edge.analysis.stretch import Analyst
from edge.clips.maker import ClipMaker
from edge.config import Config, load_config
from edge.contract.bundle import read_bundle
from edge.daemon.health import Health
from edge.daemon.ledger import Ledger
from edge.daemon.live_microphone import Live
from edge.daemon.vitals import Vitals
from edge.host.clock import boot_id
from edge.store.clips import ClipTable
from edge.store.clock import ClockTable
from edge.store.days import of_day
from tests.conftest import hiss, note
from tests.edge.test_clock_set import Machine, unix
from tests.edge.test_live import NOON, play, rows

StationYaml = Callable[..., Path]
DAY_S = 86_400.0


@pytest.fixture(scope="module")
def recognizer(bundle_folder: Path) -> Recognizer:
    return Recognizer(read_bundle(bundle_folder))


class Listening:
    """The daemon's parts that count, with a clock that says what the test wants."""

    def __init__(
        self, config: Config, machine: Machine, recognizer: Recognizer, own_thread: bool
    ) -> None:
        self.config, self.machine, self.clock = config, machine, machine.clock()
        analyst = Analyst(config, recognizer)
        clips = ClipMaker(
            lambda: ClipTable(config.database, durable=True), config, recognizer.bundle.id
        )
        self.ledger = Ledger(
            config.database,
            config.station.id,
            recognizer.bundle,
            on_open=lambda store: self.vitals.prime(store),
        )
        self.vitals = Vitals(config, analyst, 0.0, self.ledger, clips, self.clock)
        if own_thread:
            self.ledger.start()
        self.live = Live(
            config,
            analyst,
            self.ledger,
            self.vitals.found,
            self.vitals.missed,
            self.clock,
            machine,  # type: ignore[arg-type]
        )
        self.live.on_moved = self.vitals.moved

    def hear(self, name: str, seconds: int) -> None:
        self.machine.sound(np.concatenate([note(name, 5), hiss(seconds - 5)]))
        self.machine.gap(3.0, "unplugged")
        play(self.live, self.machine)

    def set_to(self, wall_s: float) -> None:
        self.machine.wall_apart = wall_s - self.machine.at_s
        self.look()

    def look(self) -> None:
        self.live.step()
        self.live.step()
        assert self.ledger.settled(20)

    def health(self) -> Health:
        return self.vitals.say(self.config, self.live.hearing(), None)

    def check(self, seconds: float, lost_s: float) -> None:
        """Health says what the record has of today, and what was heard lately was heard lately."""
        self.live._end_stretch()
        assert self.ledger.settled(20)
        health = self.health()
        today: date = datetime.fromisoformat(health.time_utc.isoformat()).date()
        with ClockTable(self.config.database) as record:
            analysed, lost, detections = of_day(record, self.config.station.id, today)
        assert (health.analysed_today_s, health.lost_today_s) == (
            pytest.approx(analysed),
            pytest.approx(lost),
        )
        assert health.detections_today == detections
        assert (analysed, lost) == (
            pytest.approx(seconds, abs=0.01),
            pytest.approx(lost_s, abs=0.01),
        )
        ((last,),) = rows(self.config, "SELECT max(start_utc) FROM detections")
        assert health.last_detection_utc is not None
        assert health.last_detection_utc.timestamp() == pytest.approx(unix(last), abs=0.01)
        assert health.last_sound_utc is not None
        assert -60 < (health.last_sound_utc - health.time_utc).total_seconds() <= 0
        assert health.lag_s is None or health.lag_s < 60


@contextmanager
def listening(
    config: Config, machine: Machine, recognizer: Recognizer, own_thread: bool = False
) -> Iterator[Listening]:
    station = Listening(config, machine, recognizer, own_thread)
    with closing(station.ledger):
        yield station
        station.live.end(5)


@pytest.mark.parametrize("own_thread", [False, True])
@pytest.mark.parametrize("begins_s", [300.0, NOON - 9 * DAY_S, NOON + 3 * DAY_S, NOON - 7200.0])
def test_what_was_heard_today_is_counted_today_wherever_the_clock_was_before(
    station_yaml: StationYaml, recognizer: Recognizer, begins_s: float, own_thread: bool
) -> None:
    config = load_config(station_yaml())
    machine = Machine(begins_s)
    with listening(config, machine, recognizer, own_thread) as station:
        station.hear("midtoo", 20)
        station.check(20, 3)
        station.set_to(NOON)
        station.check(20, 3)
        station.hear("lowtoo", 30)
        station.check(50, 6)


def test_a_board_that_begins_in_1970_with_a_record_counts_the_day_on_which_it_is(
    station_yaml: StationYaml, recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another boot heard on the day that it turns out to be counts, too; and once, if it is
    set twice."""
    config = load_config(station_yaml())
    monkeypatch.setattr("edge.daemon.live_microphone.boot_id", lambda: "before")
    with listening(config, Machine(NOON, "synced"), recognizer) as station:
        station.hear("midtoo", 20)
    monkeypatch.setattr("edge.daemon.live_microphone.boot_id", lambda: "after")
    machine = Machine(300.0)
    with listening(config, machine, recognizer, own_thread=True) as station:
        station.hear("lowtoo", 30)
        for wall_s in (NOON + 40 * DAY_S, NOON + 3600):
            station.machine.wall_apart = wall_s - machine.at_s
            station.live.step()
        station.look()
        station.check(50, 6)
        station.hear("lowtoo", 10)
        station.check(60, 9)


def test_a_person_who_puts_the_day_right_beside_it_is_followed(
    station_yaml: StationYaml, recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.daemon.ledger._ASK_S", 0.0)
    config = load_config(station_yaml())
    machine = Machine(NOON)
    with listening(config, machine, recognizer) as station:
        station.hear("midtoo", 20)
        with ClockTable(config.database) as table:
            table.fix(boot_id() or "", -DAY_S)
        station.hear("lowtoo", 10)
        station.look()
        station.check(30, 6)
        assert station.health().time_utc.timestamp() == pytest.approx(NOON - DAY_S + 36, abs=1)
