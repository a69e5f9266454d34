"""Boots and the states of their clocks in the record, and correction of rows that a wrong clock
stamped."""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

from edge.contract.errors import UsageError
from edge.contract.local_clock import LocalClock
from edge.host.clock import KNOWN, Clock, boot_id, is_known, utc_at
from edge.store.boots import BootTable
from edge.store.connection import now_text
from edge.store.effort import moment_of
from edge.store.time_shift import MovedRows, move_gap, move_stretch, none_moved
from edge.types import ClockState, StationRun, utc_text


@dataclass(frozen=True)
class Boot:
    """Sound that the microphone heard in one boot of the machine under one clock state. For a boot
    without sound, the times are the start of the station."""

    boot: str
    clock_state: str
    first_utc: str
    last_utc: str
    stretches: int
    detections: int
    fixed_s: float  # seconds by which these rows were moved already
    # how the boot's clock is known by now; rows of old versions have only their clock state
    known: str
    steps: tuple[float, ...]  # seconds by which the wall clock was set during this boot


@dataclass(frozen=True)
class Time:
    """The present time, as far as it is known."""

    now: datetime  # aware UTC
    known: bool  # False: it may be wrong


def present_time(database: Path, clock: Clock) -> Time:
    """The present time by the knowledge of record and machine. Raises StoreError."""
    with ClockTable(database) as table:
        return table.time(boot_id(), clock.boot_s(clock.at_s()), clock.shown, clock.state)


_SHIFT_S_MAX = 100 * 365.25 * 86_400.0
_BOOT = (
    "boot",
    "clock_state",
    "first_utc",
    "last_utc",
    "stretches",
    "detections",
    "fixed_s",
    "known",
)


class ClockTable(BootTable):
    """Clock states and corrections of the record's times."""

    def time(self, boot: str | None, boot_s: float, shown: datetime, state: ClockState) -> Time:
        """The present time, for decisions that cannot be undone. `shown` is the wall clock,
        `boot_s` the boot's clock at this moment, `state` the state of the wall clock."""
        line = self.line_of_boot(boot, boot_s) if boot else None
        if line is None or (state == "synced" and line.known != "fixed"):
            return Time(shown, is_known(state, shown, self.last_right(boot)))
        now = utc_at(line.offset_ms, boot_s)
        known = line.known if line.known in KNOWN else state
        return Time(now, is_known(known, now, self.last_right(boot)))

    def boots(self) -> list[Boot]:
        """Boots in the record, in the order in which they were recorded."""
        steps: dict[str, list[float]] = {}
        for boot, seconds in self.rows(
            "SELECT boot, seconds FROM clock WHERE kind = 'step' ORDER BY rowid"
        ):
            steps.setdefault(boot, []).append(seconds)
        rows = self.rows(
            "SELECT r.boot, r.clock_state, min(r.start_utc), max(r.start_utc), count(*), (SELECT "
            "count(*) FROM detections d JOIN recordings x ON x.id = d.recording  WHERE x.boot = "
            "r.boot AND x.clock_state = r.clock_state), max(r.clock_fix_s), coalesce((SELECT known "
            "FROM boots b WHERE b.boot = r.boot ORDER BY number DESC LIMIT 1), r.clock_state) FROM "
            "recordings r WHERE r.boot IS NOT NULL GROUP BY r.boot, r.clock_state ORDER BY "
            "min(r.rowid)"
        )
        rows += [
            (
                boot,
                known,
                utc_text(utc_at(offset_ms, began_s)),
                utc_text(utc_at(offset_ms, began_s)),
                0,
                0,
                0.0,
                known,
            )
            for boot, known, offset_ms, began_s in self.rows(
                "SELECT boot, known, offset_ms, began_s FROM boots b WHERE number = (SELECT "
                "max(number) FROM boots WHERE boot = b.boot) AND boot NOT IN (SELECT boot FROM "
                "recordings WHERE boot IS NOT NULL) ORDER BY number"
            )
        ]
        return [
            Boot(**dict(zip(_BOOT, row, strict=True)), steps=tuple(steps.get(str(row[0]), ())))
            for row in rows
        ]

    def note_boot(self, station: str, boot: str, clock: Clock) -> None:
        """Store a line for `boot` if it is the present one and no station has run in it."""
        if boot == boot_id() and not self.rows("SELECT 1 FROM boots WHERE boot = ?", (boot,)):
            line = clock.line
            now_s = clock.boot_s(clock.at_s())
            self.begin_run(
                station,
                StationRun(str(uuid.uuid4()), "none", boot, now_s, line.offset_ms, line.known),
            )

    def fix(
        self, boot: str, seconds: float, clock_state: str | None = None, zone: tzinfo | None = None
    ) -> MovedRows:
        """Move the times of all rows that a boot's clock stamped; returns the numbers of moved
        rows. All runs of the boot move together, also a stretch that is being heard now, and the
        line then counts as set by a person. With `clock_state`, nothing moves unless the line is
        known in that way: a correction by a network since then stays. Rows of earlier versions,
        which have no run, move if they have that state, except gaps `off`.

        Ids stay; `clock_fix_s` is the total shift of a row. UTC offsets become those of the
        station's `zone` at the new time; without a zone they stay. Messages that a broker has
        already do not change.

        Raises UsageError if the record has no such rows, or for more than a century.
        """
        if not abs(seconds) <= _SHIFT_S_MAX:
            raise UsageError(f"--seconds: expected a number within 100 years, found {seconds:g}")
        with self._transaction():
            self._check_boot(boot, clock_state)
            moved = self._fix_old(boot, timedelta(seconds=seconds), clock_state, zone)
            runs = self.rows(
                "SELECT station, run, source, began_s, offset_ms FROM boots WHERE boot = ? AND (? "
                "IS NULL OR known = ?)",
                (boot, clock_state, clock_state),
            )
            told: list[str] = []
            for station, run, source, began_s, offset_ms in runs:
                if run not in told:
                    offset_ms += round(seconds * 1000)
                    told += self._tell(
                        station, StationRun(run, source, boot, began_s, offset_ms, "fixed")
                    )
            for station in dict.fromkeys(station for station, *_ in runs):
                for what, count in self._settle(station, zone).items():
                    moved[what] += count
            self._db.execute(
                "INSERT INTO clock VALUES (?, ?, ?, 'fix')", (boot, now_text(), seconds)
            )
        return moved

    def _check_boot(self, boot: str, clock_state: str | None) -> None:
        which = "boot = ?"
        key = [boot]
        if clock_state is not None:
            which = "boot = ? AND clock_state = ?"
            key = [boot, clock_state]
        if self.rows(
            "SELECT 1 FROM boots WHERE boot = ? AND ? IN (known, '')", (boot, clock_state or "")
        ):
            return
        for table in ("recordings", "gaps"):
            if self.rows(f"SELECT 1 FROM {table} WHERE {which} LIMIT 1", key):
                return
        known = ", ".join(dict.fromkeys(b.boot for b in self.boots()))
        if not known:
            raise UsageError("--boot: this record has no rows stamped by this machine's clock")
        raise UsageError(f"--boot: expected one whose clock stamped rows ({known}), found {boot!r}")

    def _fix_old(
        self, boot: str, by: timedelta, clock_state: str | None, zone: tzinfo | None
    ) -> MovedRows:
        """Move rows of earlier versions, which have no run."""
        moved = none_moved()
        which = "boot = ? AND run IS NULL AND (? IS NULL OR clock_state = ?)"
        key = (boot, clock_state, clock_state)
        minutes = "coalesce(utc_offset_minutes, 0)"
        for row, start, offset in self.rows(
            f"SELECT id, start_utc, {minutes} FROM recordings WHERE {which}", key
        ):
            move_stretch(self._db, row, moment_of(start) + by, LocalClock(zone, offset), moved)
        gaps = self.rows(
            f"SELECT id, start_utc, {minutes} FROM gaps WHERE {which} AND reason <> 'off'", key
        )
        for row, start, offset in gaps:
            move_gap(self._db, row, moment_of(start) + by, LocalClock(zone, offset), moved)
        return moved
