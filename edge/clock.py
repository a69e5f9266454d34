"""UTC out of the monotonic clock, and how far it can be trusted.

The monotonic clock never jumps; the wall clock does (NTP after days without network, a hand). Linux slews both alike,
so they part only in steps. Knows nothing of sound; the station begins a new stretch when a step is found.
"""

import ctypes
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path

from edge.types import ClockState

STEP_S = 1.0  # smaller steps wait for the next stretch
_RTC_APART_MAX_S = 600.0  # two cheap quartz clocks after half a year without network
_READINGS = 3
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_TIME_ERROR = 5  # adjtimex(2): nobody keeps this clock in time (any more: without news the kernel says so after hours)
_TIMEX_BYTES_MAX = 512  # struct timex is 208 bytes on 64-bit machines


class Clock:
    """UTC of moments on the monotonic clock, by the wall clock as it was when last anchored.

    clock = Clock()
    start = clock.utc(chunk.at_s)
    if clock.check() is not None:
        ...  # close the stretch: what comes now is stamped by another clock
    """

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self.reanchor()

    def utc(self, at_s: float) -> datetime:
        """Aware UTC of a moment on the monotonic clock, to the millisecond."""
        return _EPOCH + timedelta(milliseconds=self._anchor_ms + round(at_s * 1000))

    def at_s(self) -> float:
        """This moment on the monotonic clock."""
        return self._monotonic()

    def now(self) -> datetime:
        """Aware UTC of this moment, on the same scale as `utc`."""
        return self.utc(self._monotonic())

    def reanchor(self) -> None:
        """Follow the wall clock, however little it has moved. Only between two stretches."""
        self._anchor_ms = round(self._apart_s() * 1000)

    def check(self) -> float | None:
        """Seconds by which the wall clock has stepped (positive: forward) since anchored; from then on it is followed.

        None: it has not, or by less than a second. After a suspend the wall clock is ahead: a step as well.
        """
        step_s = self._apart_s() - self._anchor_ms / 1000
        if abs(step_s) < STEP_S:
            return None
        self.reanchor()
        return step_s

    @property
    def state(self) -> ClockState:
        """How far the wall clock can be trusted at this moment."""
        return clock_state(self._wall())

    def _apart_s(self) -> float:
        """Wall clock minus monotonic clock, by the quickest of a few readings: a process that is stopped between two
        clocks would take that for a step."""
        readings = []
        for _ in range(_READINGS):
            before = self._monotonic()
            wall = self._wall()
            after = self._monotonic()
            readings.append((after - before, wall - (before + after) / 2))
        return min(readings)[1]


def kernel_synced() -> bool | None:
    """Whether something keeps the kernel's clock in time, as timesyncd, chrony, ntpd and gpsd all tell it; None: it
    may not be asked here."""
    try:
        adjtimex = ctypes.CDLL(None).adjtimex
    except AttributeError:  # not Linux
        return None
    answer: int = adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES_MAX))  # modes 0: read only
    return None if answer < 0 else answer != _TIME_ERROR


def clock_state(wall_s: float, root: Path = Path("/"), asked: Callable[[], bool | None] = kernel_synced) -> ClockState:
    """How far a wall clock that shows `wall_s` can be trusted.

    synced: it is kept in time; rtc: a hardware clock agrees with it, and it is not before this program was installed;
    unsynced: neither. `root` is the file system.
    """
    synced = asked()
    if synced is None:
        synced = (root / "run/systemd/timesync/synchronized").exists()
    if synced:
        return "synced"
    return "rtc" if wall_s >= _installed_s() and _rtc_agrees(wall_s, root) else "unsynced"


@cache
def _installed_s() -> float:
    """Unix time when this program was written to the disk; looked up once, as those who hear wait for no disk."""
    return max(path.stat().st_mtime for path in Path(__file__).parent.rglob("*.py"))


def _rtc_agrees(wall_s: float, root: Path) -> bool:
    """Whether a hardware clock shows about the same. One without a battery begins in 1970 or 2000 after each power
    cut, while systemd sets the wall clock to when it was last used: plausible, and wrong."""
    for file in sorted((root / "sys/class/rtc").glob("rtc*/since_epoch")):
        try:
            if abs(int(file.read_text()) - wall_s) <= _RTC_APART_MAX_S:
                return True
        except (OSError, ValueError):  # a clock that does not answer
            continue
    return False


def boot_id(root: Path = Path("/")) -> str | None:
    """Which boot of this machine it is: all that one boot stamped is wrong by the same offset, or right."""
    try:
        return (root / "proc/sys/kernel/random/boot_id").read_text().strip() or None
    except OSError:
        return None
