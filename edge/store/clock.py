"""Which clock stamped what, and how rows of a boot whose clock was wrong get the right time. Knows no clock itself."""

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from edge.contract.errors import UsageError
from edge.store.connection import Connection, now_text
from edge.types import effort_by_hour, utc_text

_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


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


_BOOT = ("boot", "clock_state", "first_utc", "last_utc", "stretches", "detections", "fixed_s")


def _moved(text: str, by: timedelta) -> str:
    return utc_text(datetime.strptime(text, _TIME).replace(tzinfo=timezone.utc) + by)


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

    def fix(self, boot: str, seconds: float, clock_state: str | None = None) -> dict[str, int]:
        """Move the times of everything that a boot's clock stamped, under one state of it or all; returns how many rows
        of what. Ids stay, `clock_fix_s` says by how much a row was moved in all. Messages that a broker has already do
        not change.

        Raises UsageError if the record knows no such rows.
        """
        by = timedelta(seconds=seconds)
        which, key = "boot = ?", [boot]
        if clock_state is not None:
            which, key = "boot = ? AND clock_state = ?", [boot, clock_state]
        stretches = self.rows(f"SELECT id, start_utc FROM recordings WHERE {which}", key)
        gaps = self.rows(f"SELECT id, start_utc, end_utc FROM gaps WHERE {which} AND reason <> 'off'", key)
        if not stretches and not gaps:
            known = ", ".join(dict.fromkeys(b.boot for b in self.boots())) or "none"
            raise UsageError(f"--boot: found {boot!r}; nothing in the record was stamped by it; there is: {known}")
        moved = {"stretches": len(stretches), "gaps": len(gaps), "detections": 0, "clips": 0}
        with self._transaction():
            for stretch, start in stretches:
                self._db.execute(
                    "UPDATE recordings SET start_utc = ?, clock_fix_s = clock_fix_s + ? WHERE id = ?",
                    (_moved(start, by), seconds, stretch),
                )
                moved["detections"] += self._move("detections", ("start_utc", "end_utc"), stretch, by)
                moved["clips"] += self._move("clips", ("start_utc",), stretch, by)
                self._move_effort(stretch, _moved(start, by))
            for gap, start, end in gaps:
                self._db.execute(
                    "UPDATE gaps SET start_utc = ?, end_utc = ?, clock_fix_s = clock_fix_s + ? WHERE id = ?",
                    (_moved(start, by), _moved(end, by), seconds, gap),
                )
            self._db.execute("INSERT INTO clock VALUES (?, ?, ?, 'fix')", (boot, now_text(), seconds))
        return moved

    def _move(self, table: str, columns: tuple[str, ...], stretch: str, by: timedelta) -> int:
        rows = self._db.execute(
            f"SELECT id, {', '.join(columns)} FROM {table} WHERE recording = ?", (stretch,)
        ).fetchall()
        for row in rows:
            new = [_moved(text, by) for text in row[1:]]
            self._db.execute(
                f"UPDATE {table} SET {', '.join(f'{c} = ?' for c in columns)} WHERE id = ?", (*new, row[0])
            )
        return len(rows)

    def _move_effort(self, stretch: str, start: str) -> None:
        """Effort of a stretch, counted from its new start into the hours in which it then lies."""
        parts = self._db.execute(
            "SELECT shed, analysed_s FROM effort WHERE recording = ? ORDER BY hour_utc, shed", (stretch,)
        ).fetchall()
        self._db.execute("DELETE FROM effort WHERE recording = ?", (stretch,))
        at = datetime.strptime(start, _TIME).replace(tzinfo=timezone.utc)
        for shed, analysed_s in parts:
            for hour, seconds in effort_by_hour(at, analysed_s):
                self._db.execute(
                    "INSERT INTO effort VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                    " analysed_s = analysed_s + excluded.analysed_s",
                    (stretch, utc_text(hour), shed, seconds),
                )
            at += timedelta(seconds=analysed_s)
