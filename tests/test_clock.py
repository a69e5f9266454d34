"""The clock: times that follow the monotonic clock, steps that are found, how far the machine's own can be trusted."""

import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.clock import Clock, boot_id, clock_state, kernel_synced

WALL_S = 1_800_000_000.0  # January 2027


class Hands:
    """A wall and a monotonic clock set by hand: the real ones cannot be made to jump in a test."""

    def __init__(self) -> None:
        self.wall_s, self.monotonic_s = WALL_S, 1000.0
        self.clock = Clock(lambda: self.wall_s, lambda: self.monotonic_s)

    def go(self, seconds: float, step_s: float = 0.0) -> None:
        self.wall_s += seconds + step_s
        self.monotonic_s += seconds


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
    assert hands.clock.utc(hands.monotonic_s) == before + timedelta(seconds=10), "within a stretch nothing jumps"
    assert hands.clock.check() == pytest.approx(step_s, abs=0.002)
    assert hands.clock.check() is None
    assert hands.clock.now() == before + timedelta(seconds=10 + step_s)


def test_a_small_step_waits_for_the_next_stretch() -> None:
    hands = Hands()
    hands.go(10, 0.4)
    assert hands.clock.check() is None
    assert hands.clock.now().timestamp() == pytest.approx(WALL_S + 10, abs=0.001)
    hands.clock.reanchor()
    assert hands.clock.now().timestamp() == pytest.approx(WALL_S + 10.4, abs=0.001)


def test_small_steps_add_up_to_one() -> None:
    hands = Hands()
    found = []
    for _ in range(5):
        hands.go(60, 0.3)
        found.append(hands.clock.check())
    assert [step and round(step, 1) for step in found] == [None, None, None, 1.2, None]


def test_a_process_that_is_stopped_between_two_clocks_sees_no_step() -> None:
    pauses = iter([0.0, 0.0, 0.0, 20.0])  # three readings to anchor, then the first one of the check is interrupted
    now = [0.0]

    def wall() -> float:
        now[0] += next(pauses, 0.0)
        return WALL_S + now[0]

    assert Clock(wall, lambda: now[0]).check() is None


@given(st.lists(st.tuples(st.floats(0.01, 5), st.floats(-1e6, 1e6)), max_size=30))
def test_whatever_the_wall_clock_does_a_stretch_keeps_its_order(moves: list[tuple[float, float]]) -> None:
    """Without a check in between, times rise by exactly what went by."""
    hands = Hands()
    first, first_s = hands.clock.utc(hands.monotonic_s), hands.monotonic_s
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
        (False, None, True, "unsynced"),  # the kernel knows better: it was in time once, in this boot
        (None, None, True, "synced"),
        (None, None, False, "unsynced"),
        (False, "{wall}", False, "rtc"),
        (False, "86400", False, "unsynced"),  # a clock without battery, and a wall clock from when it was last used
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
