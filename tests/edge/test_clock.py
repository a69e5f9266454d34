"""The clock: times that follow the monotonic clock, steps that are found, how far the machine's own
can be trusted."""

import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.host.clock import (
    RUN_ON_MAX,
    Clock,
    Line,
    boot_id,
    clock_state,
    installed_s,
    is_known,
    kernel_synced,
)
from edge.types import ClockState, Known

WALL_S = 1_800_000_000.0  # January 2027


class Hands:
    """A wall and a monotonic clock set by hand: the real ones cannot be made to jump in a test."""

    def __init__(self) -> None:
        self.wall_s = WALL_S
        self.monotonic_s = 1000.0
        self.slept_s = 0.0
        self.state: ClockState = "unsynced"
        self.clock = Clock(
            lambda: self.wall_s,
            lambda: self.monotonic_s,
            lambda: self.monotonic_s + self.slept_s,
            lambda _wall_s: self.state,
        )

    def go(self, seconds: float, step_s: float = 0.0) -> None:
        self.wall_s += seconds + step_s
        self.monotonic_s += seconds

    def sleep(self, seconds: float) -> None:
        self.wall_s += seconds
        self.slept_s += seconds


def test_real_clocks_agree_with_the_wall() -> None:
    clock = Clock()
    assert abs((clock.now() - datetime.now(timezone.utc)).total_seconds()) < 0.5
    assert clock.check() is None
    assert clock.utc(time.monotonic()).microsecond % 1000 == 0


@pytest.mark.parametrize("step_s", [3600.0, -3600.0, 1.5, -1.5, 3e8])
def test_a_step_is_found_once_and_then_followed(step_s: float) -> None:
    hands = Hands()
    hands.go(100)
    before = hands.clock.utc(hands.monotonic_s)
    hands.go(10, step_s)
    assert hands.clock.utc(hands.monotonic_s) == before + timedelta(seconds=10), (
        "within a stretch nothing jumps"
    )
    assert hands.clock.check() == pytest.approx(step_s, abs=0.002)
    assert hands.clock.check() is None
    assert hands.clock.now() == before + timedelta(seconds=10 + step_s)


def test_a_small_step_waits_for_more_of_them() -> None:
    hands = Hands()
    hands.go(10, 0.4)
    assert hands.clock.check() is None
    assert hands.clock.now().timestamp() == pytest.approx(WALL_S + 10, abs=0.001)
    hands.go(10, 0.7)
    assert hands.clock.check() == pytest.approx(1.1, abs=0.002)
    assert hands.clock.now().timestamp() == pytest.approx(WALL_S + 21.1, abs=0.001)


def test_small_steps_add_up_to_one() -> None:
    hands = Hands()
    found = []
    for _ in range(5):
        hands.go(60, 0.3)
        found.append(hands.clock.check())
    assert [step and round(step, 1) for step in found] == [None, None, None, 1.2, None]


def test_a_process_that_is_stopped_between_two_clocks_sees_no_step() -> None:
    # three readings to anchor, then the first one of the check is interrupted
    pauses = iter([0.0, 0.0, 0.0, 20.0])
    now = [0.0]

    def wall() -> float:
        now[0] += next(pauses, 0.0)
        return WALL_S + now[0]

    assert Clock(wall, lambda: now[0]).check() is None


@given(st.lists(st.tuples(st.floats(0.01, 5), st.floats(-1e6, 1e6)), max_size=30))
def test_whatever_the_wall_clock_does_a_stretch_keeps_its_order(
    moves: list[tuple[float, float]],
) -> None:
    """Without a check in between, times rise by exactly what went by."""
    hands = Hands()
    first = hands.clock.utc(hands.monotonic_s)
    first_s = hands.monotonic_s
    for seconds, step_s in moves:
        hands.go(seconds, step_s)
        gone = (hands.clock.utc(hands.monotonic_s) - first).total_seconds()
        assert gone == pytest.approx(hands.monotonic_s - first_s, abs=0.0011)


def machine(root: Path, rtc: str | None = None, timesyncd: bool = False) -> Path:
    """A file system with what a machine knows of its clock."""
    if rtc is not None:
        (root / "sys/class/rtc/rtc0").mkdir(parents=True)
        (root / "sys/class/rtc/rtc0/since_epoch").write_text(f"{rtc}\n")
    if timesyncd:
        (root / "run/systemd/timesync").mkdir(parents=True)
        (root / "run/systemd/timesync/synchronized").touch()
    return root


@pytest.mark.parametrize(
    ("kernel", "rtc", "timesyncd", "state"),
    [
        (True, None, False, "synced"),
        (
            False,
            None,
            True,
            "unsynced",
        ),  # the kernel knows better: it was in time once, in this boot
        (None, None, True, "synced"),
        (None, None, False, "unsynced"),
        (False, "{wall}", False, "rtc"),
        (
            False,
            "86400",
            False,
            "unsynced",
        ),  # a clock without battery, and a wall clock from when it was last used
        (False, "what?", False, "unsynced"),
    ],
)
def test_how_far_the_clock_can_be_trusted(
    tmp_path: Path, kernel: bool | None, rtc: str | None, timesyncd: bool, state: str
) -> None:
    wall_s = time.time() + 3600
    root = machine(tmp_path, rtc and rtc.format(wall=round(wall_s) - 20), timesyncd)
    assert clock_state(wall_s, root, lambda: kernel) == state


def test_a_hardware_clock_from_before_the_installation_is_wrong(tmp_path: Path) -> None:
    wall_s = datetime(2019, 6, 1, tzinfo=timezone.utc).timestamp()
    assert clock_state(wall_s, machine(tmp_path, str(round(wall_s))), lambda: False) == "unsynced"


def test_this_machine_has_a_state_and_a_boot() -> None:
    assert Clock().state in ("synced", "rtc", "unsynced")
    assert kernel_synced() in (True, False, None)
    assert boot_id() == boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_no_boot_where_the_system_tells_none(tmp_path: Path) -> None:
    assert boot_id(tmp_path) is None


def test_a_suspend_is_no_step_and_is_found_once() -> None:
    hands = Hands()
    hands.go(100)
    before = hands.clock.utc(1050)
    assert hands.clock.suspended() is None
    hands.go(3)
    hands.sleep(3600)
    hands.go(5)
    assert hands.clock.check() is None
    assert hands.clock.suspended(not_before_s=1102) == (1102, pytest.approx(3600))
    assert hands.clock.suspended() is None
    assert hands.clock.utc(1050) == before
    assert hands.clock.utc(1105).timestamp() == pytest.approx(WALL_S + 105 + 3600, abs=0.002)
    assert [round(s) for _, s in hands.clock.awake(1100, 10)] == [2, 8], "a gap over it is two"
    assert hands.clock.awake(1103, 10) == [(1103, 10)]


def test_a_moment_of_nonsense_on_a_clock_in_time_is_passed_over() -> None:
    """Who sets a clock that a network keeps makes the kernel say that nobody keeps it."""
    hands = Hands()
    hands.state = "synced"
    hands.go(10)
    assert hands.clock.check() is None
    assert hands.clock.line.known == "synced"
    for step_s in (4e8, -9e8, 5e8):
        hands.state = "unsynced"
        hands.go(10, step_s)
        assert hands.clock.check() is None
        assert hands.clock.now().timestamp() == pytest.approx(
            WALL_S + hands.monotonic_s - 1000, abs=0.002
        )
    hands.state = "synced"
    hands.go(10, 7)
    assert hands.clock.check() == pytest.approx(7, abs=0.002), "what the network says is followed"


def test_a_clock_that_turns_out_to_be_in_time_is_known_without_a_step() -> None:
    hands = Hands()
    line = hands.clock.line
    hands.state = "synced"
    hands.go(10)
    assert hands.clock.check() is None
    assert hands.clock.line == Line(line.offset_ms, "synced")
    hands.state = "unsynced"  # without news for hours
    hands.go(10)
    assert hands.clock.check() is None
    assert hands.clock.line.known == "synced", "it was in time in this boot"


def test_a_persons_word_holds_until_the_network_says_otherwise() -> None:
    hands = Hands()
    hands.state = "synced"
    hands.go(10)
    hands.clock.check()
    fixed = Line(hands.clock.line.offset_ms + 7_200_000, "fixed")
    assert hands.clock.adopt(fixed)
    hands.go(10)
    assert hands.clock.check() is None
    assert hands.clock.line == fixed
    hands.go(10, 3600)
    assert hands.clock.check() == pytest.approx(-3600, abs=0.002)


@pytest.mark.parametrize(
    ("known", "days", "last_days", "believed"),
    [
        ("synced", -9999, None, True),
        ("fixed", -9999, None, True),
        ("unsynced", 1, 0, False),
        ("rtc", 1, None, True),  # it ran on since the installation
        ("rtc", -1, None, False),
        (
            "rtc",
            400,
            None,
            False,
        ),  # a year ahead: somebody has set it wrongly, or the station was away
        ("rtc", 400, 300, True),  # but it was there, and knew the time
        ("rtc", 200, 300, False),  # it stood, or was set back
    ],
)
def test_when_the_time_is_known(
    known: Known, days: int, last_days: int | None, believed: bool
) -> None:
    installed = datetime.fromtimestamp(installed_s(), timezone.utc)
    last = None if last_days is None else installed + timedelta(days=last_days)
    assert is_known(known, installed + timedelta(days=days), last) is believed
    assert timedelta(days=365) < RUN_ON_MAX < timedelta(days=400)
