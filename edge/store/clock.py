"""Which clock stamped what, and how rows of a boot whose clock was wrong get the right time. Knows no clock itself."""

from dataclasses import dataclass
from datetime import timedelta, tzinfo

from edge.contract.errors import UsageError
from edge.local_clock import LocalClock
from edge.store.connection import Connection, now_text
from edge.store.effort import moment_of, recount_effort
from edge.types import stable_id, utc_text


@dataclass(frozen=True)
class Boot:
    """What the microphone heard in one boot of the machine under one state of its clock."""

    boot: str
    clock_state: str
    first_utc: str
    last_utc: str
    stretches: int
    detections: int
    fixed_s: float  # by how much these rows were moved already
    steps: tuple[float, ...]  # seconds by which the wall clock was set during this boot


_SHIFT_S_MAX = 100 * 365.25 * 86_400.0
_BOOT = ("boot", "clock_state", "first_utc", "last_utc", "stretches", "detections", "fixed_s")


def _moved(text: str, by: timedelta) -> str:
    return utc_text(moment_of(text) + by)


class ClockTable(Connection):
    """The record's times."""

    def boots(self) -> list[Boot]:
        """Boots that the record knows, in the order in which they were recorded."""
        steps: dict[str, list[float]] = {}
        for boot, seconds in self.rows("SELECT boot, seconds FROM clock WHERE kind = 'step' ORDER BY rowid"):
            steps.setdefault(boot, []).append(seconds)
        found = self.rows(
            "SELECT r.boot, r.clock_state, min(r.start_utc), max(r.start_utc), count(*),"
            " (SELECT count(*) FROM detections d JOIN recordings x ON x.id = d.recording"
            "  WHERE x.boot = r.boot AND x.clock_state = r.clock_state), max(r.clock_fix_s)"
            " FROM recordings r WHERE r.boot IS NOT NULL GROUP BY r.boot, r.clock_state ORDER BY min(r.rowid)"
        )
        return [Boot(**dict(zip(_BOOT, row, strict=True)), steps=tuple(steps.get(str(row[0]), ()))) for row in found]

    def fix(
        self, boot: str, seconds: float, clock_state: str | None = None, zone: tzinfo | None = None
    ) -> dict[str, int]:
        """Move the times of everything that a boot's clock stamped, under one state of it or all; returns how many rows
        of what. Ids stay, `clock_fix_s` says by how much a row was moved in all. Offsets are those of the station's
        `zone` then; without one they stay. Messages that a broker has already do not change.

        Raises UsageError if the record knows no such rows, or for more than a century.
        """
        if not abs(seconds) <= _SHIFT_S_MAX:
            raise UsageError(f"--seconds: expected a number within 100 years, found {seconds:g}")
        by = timedelta(seconds=seconds)
        which, key = "boot = ?", [boot]
        if clock_state is not None:
            which, key = "boot = ? AND clock_state = ?", [boot, clock_state]
        stretches = self.rows(
            f"SELECT id, start_utc, coalesce(utc_offset_minutes, 0) FROM recordings WHERE {which}", key
        )
        gaps = self.rows(
            f"SELECT id, start_utc, seconds, utc_offset_minutes FROM gaps WHERE {which} AND reason <> 'off'", key
        )
        if not stretches and not gaps:
            known = ", ".join(dict.fromkeys(b.boot for b in self.boots()))
            if not known:
                raise UsageError("--boot: this record has no rows that were stamped by this machine's clock")
            raise UsageError(f"--boot: expected one whose clock stamped rows ({known}), found {boot!r}")
        moved = {"stretches": len(stretches), "gaps": len(gaps), "detections": 0, "clips": 0}
        with self._transaction():
            for stretch, start, minutes in stretches:
                local, start = LocalClock(zone, minutes), _moved(start, by)
                self._db.execute(
                    "UPDATE recordings SET start_utc = ?, utc_offset_minutes = ?, clock_fix_s = clock_fix_s + ?"
                    " WHERE id = ?",
                    (start, local.offset_minutes(moment_of(start)), seconds, stretch),
                )
                moved["detections"] += self._move("detections", ("start_utc", "end_utc"), stretch, by)
                self._look_up_offsets(stretch, local)
                moved["clips"] += self._move("clips", ("start_utc",), stretch, by)
                self._move("reviews", ("start_utc",), stretch, by)
                recount_effort(self._db, stretch, start, local)
            for gap, start, gap_s, minutes in gaps:
                self._move_gap(gap, _moved(start, by), gap_s, LocalClock(zone, minutes), seconds)
            self._db.execute("INSERT INTO clock VALUES (?, ?, ?, 'fix')", (boot, now_text(), seconds))
        return moved

    def _move(self, table: str, columns: tuple[str, ...], stretch: str, by: timedelta) -> int:
        rows = self._db.execute(
            f"SELECT rowid, {', '.join(columns)} FROM {table} WHERE recording = ?", (stretch,)
        ).fetchall()
        for row in rows:
            new = [_moved(text, by) for text in row[1:]]
            self._db.execute(
                f"UPDATE {table} SET {', '.join(f'{c} = ?' for c in columns)} WHERE rowid = ?", (*new, row[0])
            )
        return len(rows)

    def _look_up_offsets(self, stretch: str, local: LocalClock) -> None:
        rows = self._db.execute("SELECT id, start_utc FROM detections WHERE recording = ?", (stretch,)).fetchall()
        for detection, start in rows:
            self._db.execute(
                "UPDATE detections SET utc_offset_minutes = ? WHERE id = ?",
                (local.offset_minutes(moment_of(start)), detection),
            )

    def _move_gap(self, gap: str, start: str, gap_s: float, local: LocalClock, seconds: float) -> None:
        """To its new start; cut where the clock at the place is changed, as all gaps are."""
        for number, span in enumerate(local.spans(moment_of(start), gap_s)):
            begin, end = utc_text(span.start), utc_text(span.start + timedelta(seconds=span.seconds))
            if number == 0:
                self._db.execute(
                    "UPDATE gaps SET start_utc = ?, end_utc = ?, seconds = ?, utc_offset_minutes = ?,"
                    " clock_fix_s = clock_fix_s + ? WHERE id = ?",
                    (begin, end, span.seconds, span.utc_offset_minutes, seconds, gap),
                )
                continue
            fixed = self._db.execute("SELECT clock_fix_s FROM gaps WHERE id = ?", (gap,)).fetchone()[0]
            self._db.execute(
                "INSERT INTO gaps (id, station, source, recording, start_utc, end_utc, seconds, reason, detail,"
                " utc_offset_minutes, clock_state, boot, clock_fix_s) SELECT ?, station, source, recording, ?, ?, ?,"
                " reason, detail, ?, clock_state, boot, clock_fix_s FROM gaps WHERE id = ?",
                (stable_id(gap, begin, f"{fixed}"), begin, end, span.seconds, span.utc_offset_minutes, gap),
            )
