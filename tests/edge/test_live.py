"""The microphone's hours as the record keeps them: every second analysed or missing with a reason,
whatever happens.

The microphone is a script of chunks and gaps with Microphone's interface, on a clock of its own:
what matters here is what becomes of them, at hours that no test could wait for. The real one is
tests/edge/test_microphone.py's.
"""

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.analysis.recognizer import Recognizer
from edge.analysis.stretch import Analyst
from edge.config import Config, load_config
from edge.contract.audio import RATE_HZ
from edge.contract.bundle import read_bundle
from edge.contract.errors import ConfigError
from edge.daemon.ledger import Ledger
from edge.daemon.live_microphone import Live
from edge.host.clock import Clock
from edge.types import Chunk, Gap, GapReason, GapRow
from tests.conftest import hiss, note

StationYaml = Callable[..., Path]
NOON = 1_559_390_400.0  # 2019-06-01T12:00:00Z
WINDOW_S = 5.0


class Scene:
    """A world of its own: its clocks, and a microphone that gives what the script says."""

    def __init__(self, wall_s: float = NOON) -> None:
        self.at_s = 1000.0
        self.wall_apart = wall_s - 1000.0
        self.script: deque[Chunk | Gap] = deque()
        self.waiting_s = 0.0
        self.silent = None
        self.trouble = None
        self.closed = 0
        self.lost: list[tuple[str, float]] = []
        self.end_s = self.at_s

    def clock(self) -> Clock:
        return Clock(
            lambda: self.at_s + self.wall_apart, lambda: self.at_s, state=lambda _: "synced"
        )

    def sound(self, samples: Any, piece_s: float = 0.5) -> None:
        """Append sound, in pieces as the microphone has them."""
        size = round(piece_s * RATE_HZ)
        for start in range(0, len(samples), size):
            piece = samples[start : start + size]
            self.script.append(Chunk(self.end_s, piece))
            self.end_s += len(piece) / RATE_HZ

    def gap(self, seconds: float, reason: GapReason) -> None:
        self.script.append(Gap(self.end_s, seconds, reason, "in the script"))
        self.end_s += seconds

    # what Live asks of a microphone

    def __call__(self, _settings: object) -> "Scene":
        return self

    def read(self, _timeout_s: float) -> Chunk | Gap | None:
        if not self.script:
            return None
        piece = self.script.popleft()
        self.at_s = piece.at_s + (
            piece.seconds if isinstance(piece, Gap) else len(piece.samples) / RATE_HZ
        )
        return piece

    def reanchor(self) -> float:
        return 0.0

    def close(self) -> Gap | None:
        self.closed += 1
        return None


@contextmanager
def listening(
    config: Config, scene: Scene, recognizer: Recognizer, ledger: Ledger | None = None
) -> Iterator[Live]:
    """Its ledger stores in the test's own thread, unless the test brings one, and closes it."""
    own = ledger or Ledger(config.database, config.station.id, recognizer.bundle)

    def missed(row: GapRow, more_s: float) -> None:
        scene.lost.append((row.reason, more_s))

    with nullcontext() if ledger else closing(own):
        live = Live(
            config,
            Analyst(config, recognizer),
            own,
            lambda _found: None,
            missed,
            scene.clock(),
            scene,  # type: ignore[arg-type]
        )
        yield live
        live.end(5)


def play(live: Live, scene: Scene) -> None:
    while scene.script:
        live.step()


@pytest.fixture(scope="module")
def recognizer(bundle_folder: Path) -> Recognizer:
    return Recognizer(read_bundle(bundle_folder))


def rows(config: Config, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(config.database)) as db, db:
        found = db.execute(sql).fetchall()
    db.close()
    return found


def accounted(config: Config) -> tuple[float, float]:
    analysed = rows(config, "SELECT coalesce(sum(analysed_s), 0) FROM effort")[0][0]
    missing = rows(config, "SELECT coalesce(sum(seconds), 0) FROM gaps WHERE reason <> 'off'")[0][0]
    return float(analysed), float(missing)


def test_an_hour_ends_and_another_begins_without_a_gap(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    config = load_config(station_yaml())
    scene = Scene(NOON - 20)
    scene.sound(np.concatenate([hiss(10), note("lowtoo", 5), hiss(30), note("higtoo", 5), hiss(3)]))
    with listening(config, scene, recognizer) as live:
        play(live, scene)
    stretches = rows(
        config, "SELECT start_utc, audio_s, state, source FROM recordings ORDER BY start_utc"
    )
    assert [(start, state, source) for start, _, state, source in stretches] == [
        ("2019-06-01T11:59:40.000Z", "analysed", "microphone"),
        ("2019-06-01T12:00:00.000Z", "analysed", "microphone"),
    ]
    assert [s for _, s, *_ in stretches] == pytest.approx([20, 33])
    assert accounted(config) == pytest.approx((53, 0), abs=0.001)
    hours = rows(
        config, "SELECT hour_utc, sum(analysed_s) FROM effort GROUP BY hour_utc ORDER BY hour_utc"
    )
    assert hours == [("2019-06-01T11:00:00.000Z", 20.0), ("2019-06-01T12:00:00.000Z", 33.0)]
    heard = rows(config, "SELECT DISTINCT species, start_utc FROM detections ORDER BY start_utc")
    assert ("lowtoo", "2019-06-01T11:59:50.000Z") in heard
    assert ("higtoo", "2019-06-01T12:00:25.000Z") in heard
    assert rows(config, "SELECT count(*), min(ended_utc) FROM deployments") == [(1, None)]


def test_in_an_overload_no_window_is_spent_on_a_rest(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    config = load_config(station_yaml())
    scene = Scene()
    for seconds in (7.25, 0.5, 9):
        scene.sound(hiss(seconds))
        scene.gap(3.0, "overload")
    with listening(config, scene, recognizer) as live:
        play(live, scene)
    stretches = rows(config, "SELECT audio_s, windows, state FROM recordings ORDER BY start_utc")
    assert stretches == [(5.0, 1, "analysed"), (0.0, 0, "analysed"), (7.5, 2, "analysed")]
    gaps = rows(
        config, "SELECT start_utc, seconds FROM gaps WHERE reason = 'overload' ORDER BY start_utc"
    )
    assert gaps == [
        ("2019-06-01T12:00:05.000Z", 5.25),
        ("2019-06-01T12:00:10.250Z", 3.5),
        ("2019-06-01T12:00:21.250Z", 4.5),
    ]
    assert accounted(config) == (12.5, 13.25)


def test_a_shard_between_two_gaps_is_no_sound(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    """Of a card that fails at each block; a whole window of it would be the same tenth of a second
    fifty times."""
    config = load_config(station_yaml())
    scene = Scene()
    for _ in range(3):
        scene.sound(note("midtoo", 0.1))
        scene.gap(0.2, "overflow")
    scene.sound(hiss(6))
    with listening(config, scene, recognizer) as live:
        play(live, scene)
    assert rows(config, "SELECT count(*) FROM detections") == [(0,)]
    assert accounted(config) == pytest.approx((6, 0.9), abs=0.001)


def test_gaps_are_rows_with_their_reason(station_yaml: StationYaml, recognizer: Recognizer) -> None:
    config = load_config(station_yaml())
    scene = Scene()
    scene.sound(hiss(12))
    scene.gap(30.0, "unplugged")
    scene.sound(hiss(8))
    scene.gap(0.4, "overflow")
    scene.sound(hiss(3))
    with listening(config, scene, recognizer) as live:
        play(live, scene)
    assert rows(
        config, "SELECT start_utc, end_utc, seconds, reason, detail FROM gaps ORDER BY start_utc"
    ) == [
        (
            "2019-06-01T12:00:12.000Z",
            "2019-06-01T12:00:42.000Z",
            30.0,
            "unplugged",
            "in the script",
        ),
        ("2019-06-01T12:00:50.000Z", "2019-06-01T12:00:50.400Z", 0.4, "overflow", "in the script"),
    ]
    assert accounted(config) == pytest.approx((23, 30.4), abs=0.001)
    assert scene.lost == [("unplugged", 30.0), ("overflow", 0.4)]


def test_an_outage_that_goes_on_is_one_growing_row(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    config = load_config(station_yaml())
    scene = Scene()
    scene.sound(hiss(6))
    with listening(config, scene, recognizer) as live:
        play(live, scene)
        for minutes in (2, 4, 6):
            scene.silent = Gap(scene.end_s, 60.0 * minutes, "no device", "none there")  # type: ignore[assignment]
            scene.at_s = scene.end_s + 60.0 * minutes
            live.step()
            assert rows(config, "SELECT seconds, reason FROM gaps") == [
                (60.0 * minutes, "no device")
            ]
        scene.silent = None
        scene.gap(400.0, "no device")
        scene.sound(hiss(5))
        play(live, scene)
    assert rows(config, "SELECT seconds, reason FROM gaps") == [(400.0, "no device")]
    assert sum(more for _, more in scene.lost) == pytest.approx(400)


def test_a_clock_that_is_set_neither_doubles_nor_reorders(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    config = load_config(station_yaml())
    scene = Scene()
    with listening(config, scene, recognizer) as live:
        for step_s in (0.0, -7200.0, 86_400.0):
            scene.wall_apart += step_s
            live.step()
            scene.sound(np.concatenate([note("midtoo", 5), hiss(7)]))
            play(live, scene)
    stamped = rows(config, "SELECT start_utc FROM recordings ORDER BY rowid")
    assert [start for (start,) in stamped] == [  # one boot is one line, by the last word
        "2019-06-02T10:00:00.000Z",
        "2019-06-02T10:00:12.000Z",
        "2019-06-02T10:00:24.000Z",
    ]
    assert accounted(config) == pytest.approx((36, 0), abs=0.001)
    windows = rows(
        config, "SELECT count(*), count(DISTINCT id), count(DISTINCT recording) FROM detections"
    )[0]
    assert windows[0] == windows[1] >= 6
    assert windows[2] == 3
    assert [
        s for _, s in rows(config, "SELECT boot, seconds FROM clock ORDER BY rowid")
    ] == pytest.approx([-7200.0, 86_400.0])


def test_the_time_off_is_a_gap(station_yaml: StationYaml, recognizer: Recognizer) -> None:
    config = load_config(station_yaml())
    for wall_s in (NOON, NOON + 3600):
        scene = Scene(wall_s)
        scene.sound(hiss(10))
        with listening(config, scene, recognizer) as live:
            play(live, scene)
    assert rows(config, "SELECT start_utc, seconds, reason FROM gaps") == [
        ("2019-06-01T12:00:10.000Z", 3590.0, "off")
    ]


def test_outside_the_schedule_the_card_is_closed(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    config = load_config(station_yaml('schedule: [["12:01", "12:02"]]'))
    scene = Scene(NOON + 110)
    scene.sound(hiss(10))
    with listening(config, scene, recognizer) as live:
        play(live, scene)
        scene.at_s += 10
        live.step()  # 12:02:10
        assert (live.card, scene.closed, live.silence and live.silence.reason) == (
            None,
            1,
            "schedule",
        )
        scene.at_s += 86_400 - 70
        live.step()  # the next day, 12:01:00
        assert live.silence is None
        scene.end_s = scene.at_s
        scene.sound(hiss(5))
        play(live, scene)
    # this card says nothing of its end
    gaps = rows(config, "SELECT seconds, reason FROM gaps ORDER BY start_utc")
    assert gaps == [(10.0, "off"), (pytest.approx(86_400 - 70, abs=1), "schedule")]
    assert accounted(config)[0] == pytest.approx(15)


def test_a_schedule_that_cannot_be_kept_is_a_setting_to_mend(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    config = load_config(station_yaml("schedule: [[sunrise, sunset]]"))
    with pytest.raises(ConfigError, match=r"schedule\[0\]"), listening(config, Scene(), recognizer):
        pass


def test_the_ladder_up_and_down_is_in_the_rows(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    """60 s may wait: from 15 on no overlap, from 30 on one member of a kind, and back step by
    step."""
    config = load_config(station_yaml())
    scene = Scene()
    with listening(config, scene, recognizer) as live:
        for waiting_s, shed in ((0, 0), (16, 1), (31, 2), (20, 2), (1, 0)):
            scene.waiting_s = waiting_s
            scene.sound(note("lowtoo", 40))
            play(live, scene)
            assert live.hearing().shed == shed, waiting_s
    analysed = dict(rows(config, "SELECT shed, sum(analysed_s) FROM effort GROUP BY shed"))
    assert sum(analysed.values()) == pytest.approx(200)
    assert analysed == {
        0: pytest.approx(50, abs=11),
        1: pytest.approx(70, abs=11),
        2: pytest.approx(80, abs=11),
    }
    counts = dict(
        rows(config, "SELECT shed, count(*) FROM detections WHERE species = 'lowtoo' GROUP BY shed")
    )
    per_s = {shed: counts[shed] / seconds for shed, seconds in analysed.items()}
    assert per_s[1] == pytest.approx(per_s[0] / 2, rel=0.2), "without overlap half as many windows"
    assert per_s[2] == pytest.approx(per_s[1], rel=0.2)
    offsets = [
        s for (s,) in rows(config, "SELECT DISTINCT offset_s FROM detections ORDER BY offset_s")
    ]
    assert max(np.diff(offsets)) <= WINDOW_S, "no sound is unheard"


def test_what_cannot_be_stored_waits_and_is_stored_in_order(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    """A folder in the way of the database stands for a disk that cannot be written; it is gone
    later."""
    config = load_config(station_yaml())
    scene = Scene()
    config.database.mkdir()
    with listening(config, scene, recognizer) as live:
        scene.sound(np.concatenate([note("midtoo", 5), hiss(15)]))
        play(live, scene)
        assert live._ledger.error is not None
        assert live._ledger.waiting > 3
        config.database.rmdir()
        scene.sound(hiss(5))
        live._ledger.flush(now=True)
        play(live, scene)
        assert live._ledger.error is None
        assert live._ledger.waiting == 0
    assert accounted(config) == pytest.approx((25, 0), abs=0.001)
    assert rows(config, "SELECT count(*) FROM detections")[0][0] >= 2


def test_what_cannot_even_wait_is_one_gap(
    station_yaml: StationYaml, recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.daemon.ledger.WAITING_MAX", 8)
    config = load_config(station_yaml())
    scene = Scene()
    config.database.mkdir()
    with listening(config, scene, recognizer) as live:
        scene.sound(hiss(60))
        play(live, scene)
        assert live._ledger.full
        assert live.silence is not None
        assert live.silence.reason == "store"
        config.database.rmdir()
        live._ledger.flush(now=True)
        scene.sound(hiss(10))
        play(live, scene)
    analysed, missing = accounted(config)
    assert analysed + missing == pytest.approx(70, abs=0.01)
    assert rows(config, "SELECT count(*), min(reason) FROM gaps") == [(1, "store")]
    assert missing > 30


PIECES = st.lists(
    st.one_of(
        st.tuples(st.just("sound"), st.floats(0.05, 9.0), st.floats(0.02, 2.0)),
        st.tuples(
            st.sampled_from(["unplugged", "overload", "constant"]),
            st.floats(0.001, 40.0),
            st.just(0.0),
        ),
        st.tuples(st.just("step"), st.floats(-4000, 4000), st.just(0.0)),
        st.tuples(st.just("waiting"), st.sampled_from([0.0, 16.0, 40.0]), st.just(0.0)),
    ),
    max_size=12,
)


@pytest.mark.slow
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(pieces=PIECES, wall_s=st.floats(NOON - 30, NOON))
def test_every_second_is_in_one_of_both(
    pieces: list[tuple[Any, float, float]],
    wall_s: float,
    recognizer: Recognizer,
    station_yaml: StationYaml,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    config = load_config(station_yaml(f"state: {tmp_path_factory.mktemp('state')}"))
    scene = Scene(wall_s)
    with listening(config, scene, recognizer) as live:
        for kind, size, piece_s in pieces:
            if kind == "sound":
                scene.sound(hiss(size), piece_s)
            elif kind == "step":
                scene.wall_apart += size
                live.step()
            elif kind == "waiting":
                scene.waiting_s = size
            else:
                scene.gap(size, kind)
            play(live, scene)
    analysed, missing = accounted(config)
    assert analysed + missing == pytest.approx(scene.end_s - 1000.0, abs=0.01)
    assert rows(config, "SELECT count(*) FROM recordings WHERE state = 'started'") == [(0,)]
    ids = rows(config, "SELECT count(*), count(DISTINCT id) FROM gaps")[0]
    assert ids[0] == ids[1]


def test_a_machine_that_is_too_slow_stops_at_once(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    """What it could not answer is missing, and no network is asked any more."""
    config = load_config(station_yaml())
    scene = Scene()
    with listening(config, scene, recognizer) as live:
        scene.waiting_s = 40.0
        scene.sound(note("lowtoo", 23))
        play(live, scene)
        analysed = accounted(config)[0]
        scene.sound(hiss(30))
    assert len(scene.script) == 60, "nothing more was read"
    assert accounted(config)[0] == analysed < 23
    assert rows(config, "SELECT round(seconds, 3), reason FROM gaps") == [
        (round(23 - analysed, 3), "overload")
    ]


def test_a_bundle_that_goes_with_its_disk_is_not_wanted_again(
    station_yaml: StationYaml, own_bundle: Path
) -> None:
    """The database could not be opened at first; when it can, the bundle's folder is away."""
    config = load_config(station_yaml(bundle=own_bundle))
    recognizer = Recognizer(read_bundle(own_bundle))
    scene = Scene()
    config.database.mkdir()
    with listening(config, scene, recognizer) as live:
        scene.sound(hiss(10))
        play(live, scene)
        own_bundle.rename(own_bundle.with_name("away"))
        config.database.rmdir()
        live._ledger.flush(now=True)
        assert live._ledger.error is None
    assert accounted(config) == pytest.approx((10, 0), abs=0.001)
