"""Gaps for rows that a repair could not read: sound that was heard but has no row any more.

Runs during the repair, before the new file is put in place. Knows no damage.
"""

from dataclasses import dataclass

from edge.host.clock import utc_at
from edge.store.boots import LOST, BootTable
from edge.types import ClockState, GapRow, stable_id

_LOST_S_MIN = 0.05  # rows meet to within milliseconds
_TOLD = """
    SELECT boot_s, boot_s + coalesce((SELECT sum(analysed_s) FROM effort
    WHERE recording = recordings.id), 0),
        boot_s + coalesce(audio_s, 0), coalesce(utc_offset_minutes, 0)
    FROM recordings WHERE run = :run AND boot_s IS NOT NULL
    UNION ALL SELECT boot_s, boot_s + seconds, boot_s + seconds, coalesce(utc_offset_minutes, 0)
    FROM gaps WHERE run = :run AND boot_s IS NOT NULL ORDER BY 1"""


@dataclass(frozen=True)
class _Run:
    """A run of the microphone."""

    station: str
    id: str
    boot: str
    began_s: float
    offset_ms: int
    clock_state: ClockState


class LossTable(BootTable):
    """The record while it is repaired."""

    def tell_losses(self) -> None:
        """Store gaps `store` for the time of runs without rows. Recordings that lost effort are
        marked to be analysed again when their files are met."""
        with self._transaction():
            self._db.execute(
                "DELETE FROM effort WHERE recording NOT IN (SELECT id FROM recordings)"
            )
            for run in self._runs():
                self._add_gap_rows(run.station, self._lost_gaps(run))
            self._db.execute(
                "UPDATE recordings SET analysis = '' WHERE source <> 'microphone' AND state = "
                "'analysed' AND audio_s > (SELECT coalesce(sum(analysed_s), 0) FROM effort WHERE "
                "recording = recordings.id) + ?",
                (_LOST_S_MIN,),
            )

    def _runs(self) -> list[_Run]:
        sql = (
            "SELECT station, run, boot, began_s, offset_ms, known FROM boots WHERE source = "
            "'microphone'"
        )
        return [
            _Run(station, run, boot, began_s, offset_ms, "synced" if known == "fixed" else known)
            for station, run, boot, began_s, offset_ms, known in self.rows(sql)
        ]

    def _lost_gaps(self, run: _Run) -> list[GapRow]:
        told_s = run.began_s
        lost = []
        minutes = 0
        until_s = told_s
        for begin_s, end_s, heard_s, minutes in self._db.execute(_TOLD, {"run": run.id}).fetchall():
            if begin_s - told_s >= _LOST_S_MIN:
                lost.append(self._gap(run, told_s, begin_s, minutes))
            told_s = max(told_s, end_s)
            until_s = max(until_s, heard_s)
        if until_s - told_s >= _LOST_S_MIN:
            lost.append(self._gap(run, told_s, until_s, minutes))
        return lost

    def _gap(self, run: _Run, since_s: float, until_s: float, minutes: int) -> GapRow:
        return GapRow(
            id=stable_id(run.id, "lost", f"{since_s:.3f}"),
            source="microphone",
            start=utc_at(run.offset_ms, since_s),
            seconds=until_s - since_s,
            reason="store",
            detail=LOST,
            utc_offset_minutes=minutes,
            clock_state=run.clock_state,
            boot=run.boot,
            run=run.id,
            boot_s=since_s,
        )
