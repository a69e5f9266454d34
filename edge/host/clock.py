"""UTC out of a clock that nobody sets, and how far the machine's own can be trusted.

CLOCK_BOOTTIME never jumps and goes on while the machine is suspended; the wall clock does jump (NTP
after days without network, a hand). Linux slews both alike, so they part only in steps: one boot of
a machine is one line, UTC is CLOCK_BOOTTIME plus one offset, and what is found out about that
offset later holds for all of the boot. Knows no sound and no record.
"""

import ctypes
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path

from edge.types import ClockState, Known

STEP_S = 1.0  # smaller ones add up to one
SUSPEND_S = 0.5  # by so much CLOCK_BOOTTIME gets ahead of CLOCK_MONOTONIC in a suspend at least
RUN_ON_MAX = timedelta(days=366)  # a hardware clock that is further on may as well be wrong
_STATE_S = 2.0  # between two questions how the clock is kept
_SUSPENDS_MAX = 64  # that are remembered: no sound waits as long as that
_RTC_APART_MAX_S = 600.0  # two cheap quartz clocks after half a year without network
_READINGS = 3
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# adjtimex(2): nobody keeps this clock in time (any more: without news the kernel says so after
# hours)
_TIME_ERROR = 5
_TIMEX_BYTES_MAX = 512  # struct timex is 208 bytes on 64-bit machines
KNOWN: tuple[Known, ...] = ("synced", "fixed")  # by a network or a person


@dataclass(frozen=True)
class Line:
    """UTC over CLOCK_BOOTTIME, as far as it is known."""

    offset_ms: int  # UTC, in milliseconds since 1970, when CLOCK_BOOTTIME was 0
    known: Known


class Clock:
    """UTC of moments on the monotonic clock.

    clock = Clock()
    start = clock.utc(chunk.at_s)
    if clock.check() is not None:
        ...  # close the stretch: what comes now is stamped along another line

    `check` follows the wall clock by one rule: to where it is kept in time, always; to where nobody
    keeps it, only while nothing better was known in this boot. So a moment of nonsense on a clock
    that was in time is passed over. `boottime` is CLOCK_BOOTTIME; of a `monotonic` that is given it
    is that, unless said otherwise.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        boottime: Callable[[], float] | None = None,
        state: Callable[[float], ClockState] | None = None,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._boottime = boottime or (_boottime if monotonic is time.monotonic else monotonic)
        self._asked_state = state
        slept_s = self._apart_s(self._boottime)
        self._slept = [
            (float("-inf"), slept_s)
        ]  # since when CLOCK_BOOTTIME is ahead by so much, on the monotonic one
        self._looked_s = self._monotonic()
        self._shown_ms = self._wall_ms()  # where the wall clock was when it was last believed
        self._state_s = self._looked_s
        self._line = Line(self._shown_ms, self.state)

    @property
    def line(self) -> Line:
        """How UTC follows from CLOCK_BOOTTIME, as it is known just now."""
        return self._line

    def boot_s(self, at_s: float) -> float:
        """CLOCK_BOOTTIME, in seconds to the millisecond, of a moment on the monotonic clock."""
        return round(at_s + self._slept[self.segment(at_s)][1], 3)

    def segment(self, at_s: float) -> int:
        """The number of the last suspend before a moment on the monotonic clock."""
        return bisect_right(self._slept, at_s, key=lambda slept: slept[0]) - 1

    def awake(self, at_s: float, seconds: float) -> list[tuple[float, float]]:
        """A span of the monotonic clock, beginnings and seconds, cut where the machine was
        suspended."""
        cuts = [at for at, _ in self._slept if at_s < at < at_s + seconds]
        if not cuts:
            return [(at_s, seconds)]
        begins = [at_s, *cuts]
        return [
            (begin, end - begin) for begin, end in zip(begins, [*cuts, at_s + seconds], strict=True)
        ]

    def utc(self, at_s: float) -> datetime:
        """Aware UTC of a moment on the monotonic clock, to the millisecond."""
        return utc_at(self._line.offset_ms, self.boot_s(at_s))

    def at_s(self) -> float:
        """This moment on the monotonic clock."""
        return self._monotonic()

    def now(self) -> datetime:
        """Aware UTC of this moment, on the same scale as `utc`."""
        return self.utc(self._monotonic())

    @property
    def shown(self) -> datetime:
        """Aware UTC by the wall clock, whatever is known of it."""
        return _EPOCH + timedelta(seconds=self._wall())

    def suspended(self, not_before_s: float = float("-inf")) -> tuple[float, float] | None:
        """A suspend since this was asked last: after which moment of the monotonic clock, and for
        how long. What was heard up to `not_before_s` was before it."""
        since_s, self._looked_s = max(self._looked_s, not_before_s), self._monotonic()
        slept_s = self._apart_s(self._boottime)
        seconds = slept_s - self._slept[-1][1]
        if seconds < SUSPEND_S:
            return None
        self._slept = [*self._slept[-_SUSPENDS_MAX:], (since_s, slept_s)]
        return since_s, seconds

    def check(self) -> float | None:
        """Seconds by which the line has moved (positive: forward), since the wall clock was set to
        what is known as well as the line was, or better. None: it has not, or by less than a
        second."""
        now_s = self._monotonic()
        step_ms = self._wall_ms() - self._shown_ms
        stepped = abs(step_ms) >= STEP_S * 1000
        if not stepped and abs(now_s - self._state_s) < _STATE_S:
            return None
        self._state_s = now_s
        state = self.state
        known = self._line.known
        if not stepped and (
            state == known or known == "fixed"
        ):  # a person's word is later than the clock's
            return None
        if state != "synced" and known in KNOWN:
            return None
        self._shown_ms += step_ms if stepped else 0
        moved_ms = self._shown_ms - self._line.offset_ms
        self._line = Line(self._shown_ms, state)
        return moved_ms / 1000 if moved_ms else None

    def adopt(self, line: Line) -> bool:
        """The record knows better; whether that moves anything."""
        moved = line.offset_ms != self._line.offset_ms
        self._line = line
        return moved

    @property
    def state(self) -> ClockState:
        """How far the wall clock can be trusted at this moment."""
        return (self._asked_state or clock_state)(self._wall())

    def _wall_ms(self) -> int:
        """Where the wall clock says that the line is."""
        return round((self._apart_s(self._wall) - self._apart_s(self._boottime)) * 1000)

    def _apart_s(self, clock: Callable[[], float]) -> float:
        """A clock minus the monotonic clock, by the quickest of a few readings: a process that is
        stopped between two clocks would take that for a step."""
        readings = []
        for _ in range(_READINGS):
            before = self._monotonic()
            shown = clock()
            after = self._monotonic()
            readings.append((after - before, shown - (before + after) / 2))
        return min(readings)[1]


def utc_at(offset_ms: int, boot_s: float) -> datetime:
    """Aware UTC of a moment on a boot's clock."""
    return _EPOCH + timedelta(milliseconds=offset_ms + round(boot_s * 1000))


def _boottime() -> float:
    """Seconds since the machine was started, suspends counted; where there is no such clock,
    without them."""
    number = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if number is None else time.clock_gettime(number)


def kernel_synced() -> bool | None:
    """Whether something keeps the kernel's clock in time, as timesyncd, chrony, ntpd and gpsd all
    tell it; None: it may not be asked here."""
    try:
        adjtimex = ctypes.CDLL(None).adjtimex
    except AttributeError:  # not Linux
        return None
    answer: int = adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES_MAX))  # modes 0: read only
    return None if answer < 0 else answer != _TIME_ERROR


def clock_state(
    wall_s: float, root: Path = Path("/"), asked: Callable[[], bool | None] = kernel_synced
) -> ClockState:
    """How far a wall clock that shows `wall_s` can be trusted.

    synced: it is kept in time; rtc: a hardware clock agrees with it, and it is not before this
    program was installed; unsynced: neither. `root` is the file system.
    """
    synced = asked()
    if synced is None:
        synced = (root / "run/systemd/timesync/synchronized").exists()
    if synced:
        return "synced"
    return "rtc" if wall_s >= installed_s() and _rtc_agrees(wall_s, root) else "unsynced"


@cache
def installed_s() -> float:
    """When this program was installed, in seconds since 1970: no moment of its work was before."""
    return max(path.stat().st_mtime for path in Path(__file__).parents[1].rglob("*.py"))


def is_known(known: Known, now: datetime, last_known: datetime | None = None) -> bool:
    """Whether the time is known, as far as hangs on what cannot be undone.

    It is where a network or a person has set it in this boot. A hardware clock is believed as far
    as it can have run on from one that was right: from the later of when this program was installed
    and `last_known`, the last moment that the record knows of a clock that was; not from before
    that, and for a year at most.
    """
    if known in KNOWN:
        return True
    since = _EPOCH + timedelta(seconds=installed_s())
    since = max(since, last_known) if last_known else since
    return known == "rtc" and since <= now <= since + RUN_ON_MAX


def is_nonsense(known: Known, moment: datetime) -> bool:
    """Whether a time is certainly wrong: nobody keeps the clock that shows it, and it is from
    before this program was installed. A board without a hardware clock may begin in 1970."""
    return known == "unsynced" and moment < _EPOCH + timedelta(seconds=installed_s())


def known_now() -> datetime | None:
    """Aware UTC by the wall clock; None where it may be any other time."""
    wall_s = time.time()
    now = _EPOCH + timedelta(seconds=wall_s)
    return now if is_known(clock_state(wall_s), now) else None


def _rtc_agrees(wall_s: float, root: Path) -> bool:
    """Whether a hardware clock shows about the same. One without a battery begins in 1970 or 2000
    after each power cut, while systemd sets the wall clock to when it was last used: plausible, and
    wrong."""
    for file in sorted((root / "sys/class/rtc").glob("rtc*/since_epoch")):
        try:
            if abs(int(file.read_text()) - wall_s) <= _RTC_APART_MAX_S:
                return True
        except (OSError, ValueError):  # a clock that does not answer
            continue
    return False


def boot_id(root: Path = Path("/")) -> str | None:
    """Which boot of this machine it is: all that one boot stamped is wrong by the same offset, or
    right."""
    try:
        return (root / "proc/sys/kernel/random/boot_id").read_text().strip() or None
    except OSError:
        return None
