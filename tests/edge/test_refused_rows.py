"""A record in which somebody has deleted rows, or which refuses some, takes all others: nothing
waits for them."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.analysis.recognizer import Recognizer
from edge.config import Config, load_config
from edge.contract.bundle import read_bundle
from edge.daemon.ledger import Ledger
from edge.daemon.live_microphone import Live
from tests.conftest import hiss, note
from tests.edge.test_live import Scene, accounted, listening, play, rows
from tests.edge.test_passing_errors import Desk, song

StationYaml = Callable[..., Path]


@pytest.fixture(scope="module")
def recognizer(bundle_folder: Path) -> Recognizer:
    return Recognizer(read_bundle(bundle_folder))


@pytest.fixture
def config(station_yaml: StationYaml) -> Config:
    return load_config(station_yaml("mqtt: {host: 127.0.0.1, waiting_max: 100}"))


class Hearing:
    """A microphone whose ledger stores at once."""

    def __init__(self, live: Live, ledger: Ledger, scene: Scene) -> None:
        self._live = live
        self.ledger = ledger
        self.scene = scene

    def hear(self, *names: str) -> None:
        """Ten seconds for each."""
        for name in names:
            self.scene.sound(np.concatenate([note(name, 5), hiss(5)]))
            play(self._live, self.scene)

    def miss(self, seconds: float) -> None:
        """The stretch ends."""
        self.scene.gap(seconds, "unplugged")
        play(self._live, self.scene)


@contextmanager
def hearing(config: Config, recognizer: Recognizer) -> Iterator[Hearing]:
    ledger = Ledger(config.database, config.station.id, recognizer.bundle)
    with closing(ledger):
        scene = Scene()
        with listening(config, scene, recognizer, ledger) as live:
            yield Hearing(live, ledger, scene)
        assert ledger.error is None
        assert ledger.waiting == 0


def by_hand(config: Config, *statements: str) -> None:
    """As `sqlite3 station.db` does it, which looks after no references."""
    with closing(sqlite3.connect(config.database)) as db, db:
        for statement in statements:
            db.execute(statement)


def whole(config: Config) -> None:
    """Everything has what it refers to, and nothing is open."""
    assert rows(config, "PRAGMA foreign_key_check") == []
    assert rows(config, "SELECT count(*) FROM recordings WHERE state = 'started'") == [(0,)]
    assert rows(
        config, "SELECT count(*) FROM recordings r WHERE run NOT IN (SELECT run FROM boots)"
    ) == [(0,)]


TABLES = ("recordings", "bundles", "species", "deployments", "boots")
OF_IT = ("DELETE FROM effort", "DELETE FROM detections", "DELETE FROM recordings")


@pytest.mark.parametrize(
    "deleted", [*((f"DELETE FROM {table}",) for table in TABLES), OF_IT], ids=str
)
@pytest.mark.parametrize("last", [False, True])
def test_a_row_that_others_refer_to_is_entered_anew(
    config: Config,
    recognizer: Recognizer,
    deleted: tuple[str, ...],
    last: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where nothing but its end follows."""
    monkeypatch.setattr("edge.daemon.ledger._ASK_S", 0.0)
    with hearing(config, recognizer) as run:
        run.hear("lowtoo", "midtoo")
        by_hand(config, *deleted)
        run.hear(*([] if last else ["higtoo", "lowtoo"]))
        run.miss(3.0)
        assert run.ledger.waiting == 0
        assert run.ledger.problem is None
        run.hear("midtoo")
    whole(config)
    (recorded,) = {analysed for analysed, _ in [accounted(config)]}
    assert recorded == pytest.approx(30.0 if last else 50.0) or (deleted == OF_IT and last)
    assert accounted(config)[1] == 3.0


def refuse(table: str, when: str = "1") -> str:
    """A rule of somebody's own."""
    return (
        f"CREATE TRIGGER no_{table} BEFORE INSERT ON {table} WHEN {when} BEGIN SELECT raise(ABORT, "
        "'not here'); END"
    )


def test_what_is_refused_is_a_gap_and_the_rest_is_stored(
    config: Config, recognizer: Recognizer
) -> None:
    """Once, and the books add up: what comes later counts from the stretch's beginning."""
    with hearing(config, recognizer) as run:
        run.hear("lowtoo")
        by_hand(config, refuse("detections", "new.species = 'midtoo'"))
        run.hear("midtoo", "higtoo", "lowtoo")
        run.miss(3.0)
        said = str(run.ledger.problem)
        run.hear("higtoo")
    assert "it refused" in said
    assert "not here" in said
    whole(config)
    assert {code for (code,) in rows(config, "SELECT species FROM detections")} == {
        "lowtoo",
        "higtoo",
    }
    analysed, missing = accounted(config)
    assert analysed + missing == pytest.approx(53.0)
    (refused,) = rows(config, "SELECT sum(seconds), min(detail) FROM gaps WHERE reason = 'store'")
    assert 0 < refused[0] == pytest.approx(missing - 3.0)
    assert "not here" in refused[1]
    assert rows(config, "SELECT min(analysed_s) >= 0 FROM effort") == [(1,)]
    assert rows(
        config, "SELECT count(*) FROM outbox WHERE id NOT IN (SELECT id FROM detections)"
    ) == [(0,)]


@pytest.mark.parametrize("table", ["gaps", "recordings", "outbox", "clock", "boots"])
def test_no_rule_of_a_table_holds_up_the_others(
    config: Config, recognizer: Recognizer, table: str
) -> None:
    with hearing(config, recognizer) as run:
        run.hear("lowtoo")
        by_hand(config, refuse(table))
        run.miss(3.0)
        run.hear("midtoo")
        run.scene.wall_apart += 100.0
        run.hear("higtoo")
        by_hand(config, f"DROP TRIGGER no_{table}")
        run.hear("lowtoo")
        assert run.ledger.waiting == 0
        assert (run.ledger.problem is None) == (table == "boots"), (
            "of its line nothing is entered any more"
        )
    whole(config)
    analysed, missing = accounted(config)
    assert analysed + missing == pytest.approx(40.0 if table == "gaps" else 43.0)


def test_what_is_too_large_for_the_database_is_refused(
    config: Config, recognizer: Recognizer
) -> None:
    with hearing(config, recognizer) as run:
        run.hear("lowtoo")
        run.ledger.store().raw.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 300)
        run.hear("midtoo")
        run.ledger.store().raw.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1_000_000)
        run.hear("higtoo")
        assert "too big" in str(run.ledger.problem)
    whole(config)
    assert sum(accounted(config)) == pytest.approx(30.0)


def test_a_recording_that_is_refused_by_a_table_lets_the_next_pass(
    tmp_path: Path, station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    """And is tried again, when the rule is gone."""
    folder = tmp_path / "in"
    watched = load_config(
        station_yaml("source: folder", f"folder: {{path: {folder}, settle_s: 0}}")
    )
    first = "first_20190601_040000.wav"
    second = "second_20190601_050000.wav"
    song(folder / first, 6)
    song(folder / second, 6)
    desk = Desk(watched, recognizer)
    by_hand_of: Any = desk.ledger.store().raw
    by_hand_of.execute(refuse("recordings", f"new.path = '{first}'"))

    def ended() -> list[str]:
        return [
            path
            for (path,) in rows(
                watched, "SELECT path FROM recordings WHERE state = 'analysed' ORDER BY path"
            )
        ]

    assert desk.until(lambda: ended() == [second])
    assert "not here" in str(desk.watched.problem)
    assert desk.ledger.error is None
    by_hand_of.execute("DROP TRIGGER no_recordings")
    desk.watched._later.clear()
    assert desk.until(lambda: ended() == [first, second])
    assert desk.watched.problem is None
    desk.watched.end()
