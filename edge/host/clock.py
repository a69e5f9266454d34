"""UTC from a clock that never jumps, and how far the machine's own clock can be trusted.

CLOCK_BOOTTIME never jumps and continues while the machine is suspended; the wall clock does jump
(NTP after days without network, or by hand). Linux slews both alike, so that their difference
changes only in steps: within one boot of a machine UTC is CLOCK_BOOTTIME plus one offset, and what
is learnt about that offset later applies to the whole boot. Knows no sound and no record.
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

STEP_S = 1.0  # smaller steps add up until they reach it
SUSPEND_S = 0.5  # smallest gain of CLOCK_BOOTTIME on CLOCK_MONOTONIC that is a suspend
RUN_ON_MAX = timedelta(days=366)  # a hardware clock that is further ahead may be wrong
_STATE_S = 2.0  # between queries of the clock's state
_SUSPENDS_MAX = 64  # remembered: no sound waits longer
_RTC_APART_MAX_S = 600.0  # difference of cheap quartz clocks after half a year without network
_READINGS = 3
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# adjtimex(2): the clock is not synchronised, or no longer (reported after hours without updates).
_TIME_ERROR = 5
_TIMEX_BYTES_MAX = 512  # struct timex is 208 bytes on 64-bit machines
KNOWN: tuple[Known, ...] = ("synced", "fixed")  # set by a network or a person


@dataclass(frozen=True)
class Line:
    """UTC as a function of CLOCK_BOOTTIME, as far as it is known."""

    offset_ms: int  # UTC, in milliseconds since 1970, when CLOCK_BOOTTIME was 0
    known: Known


class Clock:
    """UTC of moments on the monotonic clock.

        clock = Clock()
        start = clock.utc(chunk.at_s)
        if clock.check() is not None:
            ...  # close the stretch: later sound is stamped by another line

    `check` follows the wall clock by one rule: always to a clock that is synchronised; to one that
    is not, only while nothing better was known in this boot. A moment of nonsense on a clock that
    was synchronised is therefore ignored. `boottime` is CLOCK_BOOTTIME by default, or `monotonic`
    if that is given.
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
        # moments of the monotonic clock, and how far CLOCK_BOOTTIME is ahead of it from then on
        self._slept = [(float("-inf"), slept_s)]
        self._looked_s = self._monotonic()
        self._shown_ms = self._wall_ms()  # the wall clock's offset when it was last trusted
        self._state_s = self._looked_s
        self._line = Line(self._shown_ms, self.state)

    @property
    def line(self) -> Line:
        """UTC as a function of CLOCK_BOOTTIME, as known at present."""
        return self._line

    def boot_s(self, at_s: float) -> float:
        """CLOCK_BOOTTIME, in seconds to the millisecond, of a moment on the monotonic clock."""
        return round(at_s + self._slept[self.segment(at_s)][1], 3)

    def segment(self, at_s: float) -> int:
        """The number of the last suspend before a moment on the monotonic clock."""
        return bisect_right(self._slept, at_s, key=lambda slept: slept[0]) - 1

    def awake(self, at_s: float, seconds: float) -> list[tuple[float, float]]:
        """A span of the monotonic clock, as starts and seconds, divided where the machine was
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
        """The present on the monotonic clock."""
        return self._monotonic()

    def now(self) -> datetime:
        """Aware UTC of the present, on the same scale as `utc`."""
        return self.utc(self._monotonic())

    @property
    def shown(self) -> datetime:
        """Aware UTC by the wall clock, however little it can be trusted."""
        return _EPOCH + timedelta(seconds=self._wall())

    def suspended(self, not_before_s: float = float("-inf")) -> tuple[float, float] | None:
        """A suspend since the last call: the moment of the monotonic clock after which it was, and
        its duration.

        Sound up to `not_before_s` was recorded before it.
        """
        since_s = max(self._looked_s, not_before_s)
        self._looked_s = self._monotonic()
        slept_s = self._apart_s(self._boottime)
        seconds = slept_s - self._slept[-1][1]
        if seconds < SUSPEND_S:
            return None
        self._slept = [*self._slept[-_SUSPENDS_MAX:], (since_s, slept_s)]
        return since_s, seconds

    def check(self) -> float | None:
        """Seconds by which the line has moved (positive: forward), because the wall clock was set
        from a source at least as good as before; None if it has not moved, or by less than a
        second."""
        now_s = self._monotonic()
        step_ms = self._wall_ms() - self._shown_ms
        stepped = abs(step_ms) >= STEP_S * 1000
        if not stepped and abs(now_s - self._state_s) < _STATE_S:
            return None
        self._state_s = now_s
        state = self.state
        known = self._line.known
        # a person's correction overrides the clock's state
        if not stepped and (state == known or known == "fixed"):
            return None
        if state != "synced" and known in KNOWN:
            return None
        self._shown_ms += step_ms if stepped else 0
        moved_ms = self._shown_ms - self._line.offset_ms
        self._line = Line(self._shown_ms, state)
        return moved_ms / 1000 if moved_ms else None

    def adopt(self, line: Line) -> bool:
        """Take over a better line from the record; True if it moves anything."""
        moved = line.offset_ms != self._line.offset_ms
        self._line = line
        return moved

    @property
    def state(self) -> ClockState:
        """Trustworthiness of the wall clock at present."""
        return (self._asked_state or clock_state)(self._wall())

    def _wall_ms(self) -> int:
        """Offset of UTC against CLOCK_BOOTTIME according to the wall clock, in ms."""
        return round((self._apart_s(self._wall) - self._apart_s(self._boottime)) * 1000)

    def _apart_s(self, clock: Callable[[], float]) -> float:
        """A clock minus the monotonic clock, by the quickest of a few readings.

        If the process is stopped between reading two clocks, the difference would look like a step.
        """
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
    """Seconds since the machine was started, with suspends; without them on systems that lack this
    clock."""
    number = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if number is None else time.clock_gettime(number)


def kernel_synced() -> bool | None:
    """True if something keeps the kernel's clock synchronised, as timesyncd, chrony, ntpd and gpsd
    all report it.

    None: it cannot be asked here.
    """
    try:
        adjtimex = ctypes.CDLL(None).adjtimex
    except AttributeError:  # not Linux
        return None
    answer: int = adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES_MAX))  # modes 0: read only
    return None if answer < 0 else answer != _TIME_ERROR


def clock_state(
    wall_s: float, root: Path = Path("/"), asked: Callable[[], bool | None] = kernel_synced
) -> ClockState:
    """Trustworthiness of a wall clock that shows `wall_s`.

    synced: it is kept synchronised; rtc: a hardware clock agrees with it, and it is not before this
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
    """Time at which this program was installed, in seconds since 1970: no moment of its work was
    before."""
    return max(path.stat().st_mtime for path in Path(__file__).parents[1].rglob("*.py"))


def is_known(known: Known, now: datetime, last_known: datetime | None = None) -> bool:
    """True if the time is known well enough for what cannot be undone.

    That is so if a network or a person has set it in this boot. A hardware clock is trusted as a
    continuation of one that was right: from the later of this program's installation and
    `last_known`, the last moment in the record of a clock that was known; not before that, and for
    a year at most.
    """
    if known in KNOWN:
        return True
    since = _EPOCH + timedelta(seconds=installed_s())
    since = max(since, last_known) if last_known else since
    return known == "rtc" and since <= now <= since + RUN_ON_MAX


def is_nonsense(known: Known, moment: datetime) -> bool:
    """True if a time is certainly wrong: the clock is not synchronised, and the time is before this
    program was installed.

    A board without a hardware clock may begin in 1970.
    """
    return known == "unsynced" and moment < _EPOCH + timedelta(seconds=installed_s())


def known_now() -> datetime | None:
    """Aware UTC by the wall clock; None if that may be wrong."""
    wall_s = time.time()
    now = _EPOCH + timedelta(seconds=wall_s)
    return now if is_known(clock_state(wall_s), now) else None


def _rtc_agrees(wall_s: float, root: Path) -> bool:
    """True if a hardware clock shows about the same time.

    One without a battery begins in 1970 or 2000 after each power cut, while systemd sets the wall
    clock to its last use: plausible, and wrong.
    """
    for file in sorted((root / "sys/class/rtc").glob("rtc*/since_epoch")):
        try:
            if abs(int(file.read_text()) - wall_s) <= _RTC_APART_MAX_S:
                return True
        except (OSError, ValueError):  # a clock that does not answer
            continue
    return False


def boot_id(root: Path = Path("/")) -> str | None:
    """Identity of this machine's boot: all times stamped in one boot are wrong by the same offset,
    or right."""
    try:
        return (root / "proc/sys/kernel/random/boot_id").read_text().strip() or None
    except OSError:
        return None
