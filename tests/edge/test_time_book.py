"""The book of time: whatever the clocks do and in whatever order the truth becomes known, each
second is told once.

A world of its own has the truth, and machines that boot, sleep, lose power, are set right or wrong;
the station's own clock, timeline, ledger and store write down what happens in it.
"""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.analysis.stretch import BatchResult
from edge.config import Config
from edge.contract.bundle import Bundle, read_bundle
from edge.daemon.ledger import Ledger
from edge.daemon.timeline import Timeline
from edge.host.clock import Clock
from edge.store.clock import ClockTable
from edge.types import ClockState, Effort, GapReason, GapRow, RecordingRow, stable_id

TRUE_S = datetime(2027, 5, 1, 3, 50, tzinfo=timezone.utc).timestamp()
NEAR_S = 0.01  # of a sum of moments that are known to the millisecond


class World:
    """What really happens, and one station in it."""

    def __init__(self, state: Path, bundle: Bundle) -> None:
        self.config = Config(state=state)
        self._bundle = bundle
        self.true_s = TRUE_S
        self.state: ClockState = "unsynced"
        self.wall_ahead_s = self.slept_s = 0.0
        self.boots: list[float] = []  # the true time at which each one's clock was 0
        self.heard_s = self.missed_s = self.unstored_s = 0.0
        self.begun_s: float | None = None  # the first moment of which anything is told
        self._ledger: Ledger | None = None
        self.boot(0.0)

    # The machine

    def boot(self, wall_ahead_s: float) -> None:
        """The power is back; without a network its clock shows what it shows."""
        self.kill()
        self.boots.append(self.true_s - 5.0)
        self.wall_ahead_s = wall_ahead_s
        self.slept_s = 0.0
        self.state = "unsynced"

    def pass_(self, seconds: float) -> None:
        self.true_s += seconds

    def set_(self, wall_ahead_s: float) -> None:
        """By hand, or by nonsense: then nobody keeps it."""
        self.wall_ahead_s = wall_ahead_s
        self.state = "unsynced"
        self.pass_(3.0)  # before a network would say otherwise
        self.look()

    def sync(self) -> None:
        self.wall_ahead_s = 0.0
        self.state = "synced"
        self.look()

    def lose_sync(self) -> None:
        """No news for hours."""
        self.state = "unsynced"
        self.look()

    def sleep(self, seconds: float) -> None:
        self.true_s += seconds
        self.slept_s += seconds
        self.look()

    # The station

    def start(self) -> None:
        self._ledger = Ledger(self.config.database, "porch", self._bundle)
        self._ledger.record.patience_s = 0.01
        self.clock = Clock(
            lambda: self.true_s + self.wall_ahead_s,
            lambda: self.true_s - self.boots[-1] - self.slept_s,
            lambda: self.true_s - self.boots[-1],
            lambda _wall_s: self.state,
        )
        self.timeline = Timeline(
            self.config, "microphone", f"boot-{len(self.boots)}", self.clock, self._ledger
        )
        self._fresh = True

    def kill(self) -> None:
        """Nothing is finished, nothing is said."""
        if self._ledger is not None:
            self._ledger.store().close()
            self._ledger = None

    def look(self) -> None:
        """As Live does in each step."""
        if self._ledger is None:
            return
        self.timeline.moved()

    def hear(
        self, seconds: float, cut_off: bool = False, meanwhile: Callable[[], object] = lambda: None
    ) -> None:
        """A stretch, in two batches; something may happen between them."""
        if self._ledger is None:
            self.start()
        assert self._ledger is not None
        self._ledger.flush()
        self.look()
        if self.begun_s is None:
            self.begun_s = self.true_s
        at_s = self.clock.at_s()
        self._fill(at_s, seconds)
        row = RecordingRow(
            id=stable_id("porch", self.timeline.run, f"{at_s:.3f}"),
            path=f"microphone/{at_s:.3f}",
            bytes=0,
            mtime_ns=0,
            sha256="",
            start=self.clock.utc(at_s),
            time_source="clock",
            zone_source="config",
            utc_offset_minutes=0,
            place=None,
            source="microphone",
            clock_state=self.clock.state,
            boot=f"boot-{len(self.boots)}",
            run=self.timeline.run,
            boot_s=self.clock.boot_s(at_s),
        )
        self._ledger.begin(row, "analysis")
        for until_s in (seconds / 2, seconds):
            parts = row.local.hours(row.start, until_s)
            effort = [
                Effort(part.since, part.seconds, 0, part.utc_offset_minutes) for part in parts
            ]
            self._ledger.found(BatchResult(row, [], [], effort, until_s, 1, [], 0, None))
            meanwhile()
            meanwhile = lambda: None  # noqa: E731
        self.pass_(seconds)
        if not cut_off:
            self._ledger.finish(row, seconds, 2)
        self.heard_s += seconds

    def hear_in_vain(self, seconds: float, fresh: bool) -> None:
        """While another writer has the record; then somebody stops the station."""
        if fresh:
            self.kill()
        with closing(sqlite3.connect(self.config.database, isolation_level=None)) as editor:
            editor.execute("BEGIN IMMEDIATE")
            self.hear(seconds)
            assert self._ledger is not None
            self._ledger.close()
        self._ledger = None
        self.heard_s -= seconds
        self.unstored_s += seconds

    def miss(self, seconds: float) -> None:
        if self._ledger is None:
            self.start()
        assert self._ledger is not None
        self.look()
        if self.begun_s is None:
            self.begun_s = self.true_s
        at_s = self.clock.at_s()
        self._fill(at_s, seconds)
        for so_far_s in (seconds / 3, seconds):  # it goes on, and is told again
            self._gap(self.clock.boot_s(at_s), so_far_s, "unplugged")
        self.pass_(seconds)
        self.missed_s += seconds

    def _fill(self, at_s: float, seconds: float) -> None:
        hole = self.timeline.hole(at_s, seconds)
        if hole:
            begin_s, missing_s, self.detail = hole
            self._gap(begin_s, missing_s, "off")

    def _gap(self, boot_s: float, seconds: float, reason: GapReason) -> None:
        assert self._ledger is not None
        self._ledger.gap(
            GapRow(
                id=stable_id(self.timeline.run, f"{boot_s:.3f}", reason),
                source="microphone",
                start=self.clock.now(),
                seconds=seconds,
                reason=reason,
                clock_state=self.clock.state,
                boot=f"boot-{len(self.boots)}",
                run=self.timeline.run,
                boot_s=boot_s,
            )
        )

    # A person, at any time, beside a station that runs or not

    def fix(self, number: int) -> None:
        """Says the truth of a boot of which anything is told."""
        boot = number % len(self.boots)
        with ClockTable(self.config.database) as table:
            lines = table.rows(
                "SELECT offset_ms FROM boots WHERE boot = ? LIMIT 1", (f"boot-{boot + 1}",)
            )
            if lines:
                table.fix(f"boot-{boot + 1}", round(self.boots[boot] * 1000 - lines[0][0]) / 1000)
        if self._ledger is not None:
            self._ledger._asked_at = float("-inf")  # seconds have passed
            self._ledger.flush()

    # The books

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.config.database)) as db:
            return db.execute(sql).fetchall()

    def told(self) -> list[tuple[float, float, str]]:
        """All that is told: from, to, in seconds since 1970, and what of it."""
        found = self.rows(
            "SELECT start_utc, coalesce((SELECT sum(analysed_s) FROM effort WHERE recording = "
            "r.id), 0), 'heard' FROM recordings r UNION ALL SELECT start_utc, seconds, reason FROM "
            "gaps ORDER BY 1"
        )
        return [(unix(start), unix(start) + seconds, what) for start, seconds, what in found]

    def check(self) -> None:
        """No second twice, none without a word, no hour with more than there are in it."""
        told = self.told()
        for (_, ends, what), (begins, _, next_what) in pairwise(told):
            assert begins == pytest.approx(ends, abs=NEAR_S), (what, next_what, told)
        spent = {
            what: sum(end - begin for begin, end, which in told if which == what)
            for _, _, what in told
        }
        assert spent.get("heard", 0.0) == pytest.approx(self.heard_s, abs=NEAR_S)
        assert sum(s for what, s in spent.items() if what != "heard") >= self.missed_s - NEAR_S
        hours = self.rows("SELECT hour_utc, sum(analysed_s) FROM effort GROUP BY hour_utc")
        assert all(seconds <= 3600 + NEAR_S for _, seconds in hours), hours


def unix(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc).timestamp()


@pytest.fixture(scope="module")
def bundle(bundle_folder: Path) -> Bundle:
    return read_bundle(bundle_folder)


SECONDS = st.integers(2, 9000).map(lambda n: n / 2)
WRONG_S = st.sampled_from([-1.8e9, -86_400.0 * 9, -7200.0, -3.0, 0.0, 3.0, 5000.0, 86_400.0 * 400])
DEEDS = st.one_of(
    st.tuples(st.just("hear"), SECONDS, st.booleans()),
    st.tuples(st.just("hear_in_vain"), SECONDS, st.booleans()),
    st.tuples(st.just("miss"), SECONDS),
    st.tuples(st.just("sleep"), SECONDS),
    st.tuples(st.just("set_"), WRONG_S),
    st.tuples(st.just("sync")),
    st.tuples(st.just("lose_sync")),
    st.tuples(st.just("kill"), SECONDS),
    st.tuples(st.just("boot"), SECONDS, WRONG_S),
    st.tuples(st.just("fix"), st.integers(0, 9)),
)


def do(world: World, deed: tuple[Any, ...]) -> None:
    match deed:
        case ("boot", off_s, ahead_s):
            world.kill()
            world.pass_(off_s)
            world.boot(ahead_s)
        case ("kill", off_s):
            world.kill()
            world.pass_(off_s)
        case ("sleep", seconds) if world._ledger is None:
            world.pass_(seconds)
        case (name, *rest):
            getattr(world, name)(*rest)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(deeds=st.lists(DEEDS, min_size=3, max_size=14), order=st.randoms())
def test_whatever_happens_each_second_is_told_once(
    bundle: Bundle,
    tmp_path_factory: pytest.TempPathFactory,
    deeds: list[tuple[Any, ...]],
    order: Any,
) -> None:
    world = World(tmp_path_factory.mktemp("world"), bundle)
    world.hear(60)
    for deed in deeds:
        do(world, deed)
        if world._ledger is None or deed[0] in ("hear", "miss"):
            world.check()
    world.hear(60)
    world.check()
    boots = list(range(len(world.boots)))
    order.shuffle(boots)
    for boot in boots:  # the truth, in any order
        world.fix(boot)
        world.check()
    told = world.told()
    assert (
        sum(end - begin for begin, end, what in told if what == "store")
        >= world.unstored_s - NEAR_S
    )
    assert told[0][0] == pytest.approx(world.begun_s, abs=NEAR_S)
    assert told[-1][1] == pytest.approx(world.true_s, abs=NEAR_S)
    assert sum(end - begin for begin, end, _ in told) == pytest.approx(
        world.true_s - (world.begun_s or 0), abs=NEAR_S
    )
    world.kill()


@pytest.mark.parametrize("known", [True, False])
def test_a_row_that_ends_too_late_moves_no_boot(
    bundle: Bundle, tmp_path: Path, known: bool
) -> None:
    """A run in the same boot is on the line of the run before it, whatever that has told of the
    future."""
    world = World(tmp_path, bundle)
    if known:
        world.sync()
    world.hear(60)
    world._gap(world.clock.boot_s(world.clock.at_s()), 240.0, "overload")
    world.pass_(20)
    world.kill()
    world.hear(60)
    assert world.clock.now().timestamp() == pytest.approx(world.true_s, abs=NEAR_S)
    assert world.rows("SELECT DISTINCT offset_ms FROM boots") == [(round(world.boots[0] * 1000),)]
    starts = [start for start, _, what in world.told() if what == "heard"]
    assert starts == [
        pytest.approx(world.true_s - 140, abs=NEAR_S),
        pytest.approx(world.true_s - 60, abs=NEAR_S),
    ]
    world.pass_(7200)
    world.boot(0.0)
    world.hear(60)
    assert world.told()[-1][0] == pytest.approx(world.true_s - 60, abs=NEAR_S)
    world.kill()
