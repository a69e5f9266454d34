"""Timeline of the record: runs of the station, each a span on the clock of one boot, and their
place in UTC.

The table `boots` has a row for each run. Rows of live sound carry their time on the boot's clock
(`boot_s`), from which their UTC follows by the boot's offset. When that offset turns out wrong, all
rows of the boot move together, also those of a running station. Knows no clock itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, tzinfo
from itertools import pairwise

from edge.contract.local_clock import LocalClock
from edge.host.clock import KNOWN, Line, is_known, utc_at
from edge.store.boot_placement import BootSpan, ms, placed
from edge.store.connection import Connection, now_text
from edge.store.effort import laid_anew, moment_of
from edge.store.time_shift import MovedRows, move_gap, move_stretch, none_moved
from edge.types import (
    ClockState,
    Detection,
    Effort,
    GapRow,
    Known,
    RecordingRow,
    StationRun,
    stable_id,
    utc_text,
)

LOST = "the record was damaged: what it said of this time is lost"
_SHORT_S = 0.001
# a generous bound for how far a card's crystal may run ahead of the boot's clock in an hour
_CARD_AHEAD_MS = 2_000
_NO_BOOT = "unknown"  # on a machine without boot ids


@dataclass(frozen=True)
class _RunSpan:
    """A run in the record."""

    run: str
    source: str
    boot: str
    begin_ms: int  # begin of its first row, or of the run, on the boot's clock
    end_ms: int  # end of its last row
    told_ms: int  # the offset that its clock gave
    offset_ms: int  # the offset in use
    known: Known
    lost_before: int  # 1: rows of the time before it were lost


class BootTable(Connection):
    """Runs, boots and the lines from their clocks to UTC."""

    def begin_run(self, station: str, run: StationRun, lost: bool = False) -> None:
        """Store a run that begins, or that a newly opened file may not have. The clock of a boot
        that is in the record already changes nothing, unless it is known better now. `lost`: rows
        of the time before were lost."""
        with self._transaction():
            if not self._has(run):
                self._add_run(station, run, lost)
                self._tell(station, run)
            self._settle(station, run.zone)

    def follow(self, station: str, run: StationRun) -> None:
        """Store a new or better known clock offset of a run's boot and move all rows of this boot
        accordingly, unless the record has a better known one."""
        with self._transaction():
            if not self._has(run):
                self._add_run(station, run, lost=False)
            self._tell(station, run)
            self._settle(station, run.zone)

    def _has(self, run: StationRun) -> bool:
        return bool(self.rows("SELECT 1 FROM boots WHERE run = ?", (run.id,)))

    def _add_run(self, station: str, run: StationRun, lost: bool) -> None:
        line = (run.offset_ms, run.offset_ms, run.known)
        self._db.execute(
            "INSERT INTO boots (run, station, source, boot, began_s, told_ms, offset_ms, known, "
            "lost_before, noted_utc) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (run.id, station, run.source, run.boot, run.began_s, *line, lost, now_text()),
        )

    def book_unstored(self, station: str, run: StationRun, until_s: float, why: str) -> None:
        """Store a gap `store` for the time of an earlier run from its last row to `until_s`, which
        was heard but could not be stored. Does nothing if it was stored after all, or noted
        already."""
        with self._transaction():
            line = self.line(run.id)
            known = line or self.line_of_boot(run.boot)
            # a network or a person may have corrected the clock since
            if known is not None and known.known in KNOWN:
                run = replace(run, offset_ms=known.offset_ms, known=known.known)
            if line is None:
                self._add_run(station, run, lost=False)
            if known is None or known.known not in KNOWN:
                self._tell(station, run)
            self._settle(station, run.zone)
            one = next(one for one in self._run_spans(station) if one.run == run.id)
            begin_s = one.end_ms / 1000
            if until_s - begin_s < _SHORT_S:
                return
            gap = GapRow(
                id=stable_id(run.id, "store", f"{begin_s:.3f}"),
                source=run.source,
                start=utc_at(one.offset_ms, begin_s),
                seconds=until_s - begin_s,
                reason="store",
                detail=why,
                clock_state=_state_of(one.known),
                boot=run.boot,
                zone=run.zone,
                run=run.id,
                boot_s=begin_s,
            )
            self._add_gap_rows(station, gap.at_one_offset())
            self._settle(station, run.zone)

    def line(self, run: str) -> Line | None:
        """The line from a run's boot clock to UTC, as known now; None if the run is not in the
        record."""
        rows = self.rows("SELECT offset_ms, known FROM boots WHERE run = ?", (run,))
        return Line(int(rows[0][0]), rows[0][1]) if rows else None

    def line_of_boot(self, boot: str, boot_s: float = float("inf")) -> Line | None:
        """The line of a boot at a time on its clock, by default the last; None if the record has no
        run in it."""
        rows = self.rows(
            "SELECT offset_ms, known FROM boots WHERE boot = ? AND began_s <= ? ORDER BY number "
            "DESC LIMIT 1",
            (boot, boot_s),
        )
        return Line(int(rows[0][0]), rows[0][1]) if rows else None

    def last_right(self, boot: str | None = None) -> datetime | None:
        """The latest time in the record that was given by a correct clock, in boots other than this
        one."""
        old = self.rows(
            "SELECT max(start_utc) FROM recordings WHERE run IS NULL AND clock_state IN ('synced', "
            "'rtc')"
        )[0][0]
        last = None if old is None else moment_of(old)
        for one in self._run_spans(None):
            began = utc_at(one.offset_ms, one.begin_ms / 1000)
            if one.boot != boot and is_known(one.known, began, last):
                last = utc_at(one.offset_ms, one.end_ms / 1000)
        return last

    def add_clock_step(self, boot: str, at: datetime, seconds: float) -> None:
        """Store that the wall clock was set by so many seconds; `at` is the new time."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO clock VALUES (?, ?, ?, 'step')", (boot, utc_text(at), seconds)
            )

    def end_cut_off(self, station: str, but: str = "") -> None:
        """End unfinished live stretches, left by a power cut or a kill, with what was analysed;
        `but` is the id of the present one."""
        with self._transaction():
            self._db.execute(
                "UPDATE recordings SET state = 'analysed', reason = 'cut off', finished_utc = ?, "
                "audio_s = (SELECT coalesce(sum(analysed_s), 0) FROM effort WHERE recording = "
                "recordings.id) WHERE station = ? AND source = 'microphone' AND state = 'started' "
                "AND id <> ?",
                (now_text(), station, but),
            )

    # Inside a transaction

    def _utc(self, run: str | None, boot_s: float | None, told: datetime) -> datetime:
        """UTC of a row of a run by the record's line; `told` if the record does not have the
        run."""
        if run is None or boot_s is None:
            return told
        line = self.line(run)
        return told if line is None else utc_at(line.offset_ms, boot_s)

    def _on_its_line(self, recording: RecordingRow) -> RecordingRow:
        start = self._utc(recording.run, recording.boot_s, recording.start)
        if start == recording.start:
            return recording
        return replace(
            recording, start=start, utc_offset_minutes=recording.local.offset_minutes(start)
        )

    def _as_begun(
        self, row: RecordingRow, detections: Sequence[Detection], effort: Sequence[Effort]
    ) -> tuple[Sequence[Detection], Sequence[Effort]]:
        """Detections and effort moved to where the record has the start of their stretch, which may
        have moved since they were made."""
        rows = self.rows("SELECT start_utc FROM recordings WHERE id = ?", (row.id,))
        start = moment_of(rows[0][0]) if rows else row.start
        by = start - row.start
        if not by:
            return detections, effort
        moved = [
            replace(
                detection,
                start=detection.start + by,
                end=detection.end + by,
                utc_offset_minutes=row.local.offset_minutes(detection.start + by),
            )
            for detection in detections
        ]
        return moved, laid_anew(effort, start, row.local)

    def _gaps_on_their_lines(self, gaps: Sequence[GapRow]) -> list[GapRow]:
        """Gaps placed by the record's lines and split at changes of the UTC offset. Earlier pieces
        of a gap that is given again are deleted."""
        pieces: list[GapRow] = []
        for gap in gaps:
            if gap.run is not None and gap.boot_s is not None:
                self._db.execute(
                    "DELETE FROM gaps WHERE run = ? AND reason = ? AND boot_s >= ? AND boot_s < ?",
                    (gap.run, gap.reason, gap.boot_s, gap.boot_s + max(gap.seconds, _SHORT_S)),
                )
            pieces += replace(gap, start=self._utc(gap.run, gap.boot_s, gap.start)).at_one_offset()
        return pieces

    def _tell(self, station: str, run: StationRun) -> list[str]:
        """Set the clock offset of a run's boot for all runs of this boot, unless a better known one
        is stored; among equals the latest counts. Returns these runs."""
        kept = self._run_spans(station)
        group = same_boot(kept, run.id)
        line = Line(run.offset_ms, run.known)
        best = next((one for one in reversed(group) if one.known in KNOWN), None)
        if best is not None and line.known not in KNOWN:
            line = Line(best.told_ms, best.known)
        for one in group:
            self._db.execute(
                "UPDATE boots SET told_ms = ?, known = ? WHERE run = ?",
                (line.offset_ms, line.known, one.run),
            )
        return [one.run for one in group]

    def _run_spans(self, station: str | None) -> list[_RunSpan]:
        """All runs in chronological order."""
        of = "" if station is None else " WHERE b.station = ?"
        rows = self.rows(
            "SELECT b.run, b.source, b.boot, b.began_s, min(p.begin_s), max(p.end_s), b.told_ms, "
            f"b.offset_ms, b.known, b.lost_before FROM boots b LEFT JOIN ({_PARTS}) p ON p.run = "
            f"b.run{of} GROUP BY b.number ORDER BY b.number",
            () if station is None else (station,),
        )
        runs = []
        for run, source, boot, began_s, begin_s, end_s, *line in rows:
            begin_s = began_s if begin_s is None else begin_s
            end_s = began_s if end_s is None else max(began_s, end_s)
            runs.append(_RunSpan(run, source, boot, ms(begin_s), ms(end_s), *line))
        for number, (one, after) in enumerate(pairwise(runs)):
            # a run ends when the next one begins, even if its last row ends later
            if _is_same_boot(one, after):
                runs[number] = replace(
                    one, end_ms=min(one.end_ms, max(one.begin_ms, after.begin_ms))
                )
        return runs

    def _settle(self, station: str, zone: tzinfo | None) -> MovedRows:
        """Move all runs to their best known place in UTC, and store the gaps `off` between them
        again. Returns the numbers of moved rows."""
        kept = self._run_spans(station)
        groups: list[list[_RunSpan]] = []
        for one in kept:
            if groups and _is_same_boot(groups[-1][-1], one):
                groups[-1].append(one)
            else:
                groups.append([one])
        spans = [
            BootSpan(g[0].begin_ms, max(r.end_ms for r in g), g[-1].told_ms, g[-1].known)
            for g in groups
        ]
        moved = none_moved()
        now: list[_RunSpan] = []
        for group, offset_ms in zip(groups, placed(spans), strict=True):
            for one in group:
                if one.offset_ms != offset_ms:
                    self._move_run(one.run, offset_ms, zone, moved)
                now.append(replace(one, offset_ms=offset_ms))
        if moved["stretches"]:
            self._move_deployments(station)
        if now:
            self._store_absences(station, [one for one in now if one.source == "microphone"], zone)
        return moved

    def _move_run(self, run: str, offset_ms: int, zone: tzinfo | None, moved: MovedRows) -> None:
        self._db.execute("UPDATE boots SET offset_ms = ? WHERE run = ?", (offset_ms, run))
        for table in ("recordings", "gaps"):
            rows = self._db.execute(
                f"SELECT id, boot_s, coalesce(utc_offset_minutes, 0) FROM {table} WHERE run = ? "
                "AND boot_s IS NOT NULL",
                (run,),
            ).fetchall()
            for row, boot_s, minutes in rows:
                start = utc_at(offset_ms, boot_s)
                local = LocalClock(zone, minutes)
                if table == "recordings":
                    move_stretch(self._db, row, start, local, moved)
                else:
                    move_gap(self._db, row, start, local, moved)

    def _move_deployments(self, station: str) -> None:
        """Update the periods of the microphone's deployments: each lasts from its first stretch to
        the first stretch of the next."""
        of_it = "station = ? AND source = 'microphone'"
        self._db.execute(
            "UPDATE deployments SET began_utc = coalesce((SELECT min(start_utc) FROM recordings "
            f"WHERE deployment = deployments.id), began_utc) WHERE {of_it}",
            (station,),
        )
        self._db.execute(
            "UPDATE deployments SET ended_utc = (SELECT n.began_utc FROM deployments n WHERE "
            "n.station = deployments.station AND n.source = 'microphone' AND n.rowid > "
            f"deployments.rowid ORDER BY n.rowid LIMIT 1) WHERE ended_utc IS NOT NULL AND {of_it}",
            (station,),
        )

    def _store_absences(self, station: str, runs: list[_RunSpan], zone: tzinfo | None) -> None:
        """Store the gaps `off` between runs. They belong to the later run and have no `boot_s`."""
        self._db.execute(
            "DELETE FROM gaps WHERE station = ? AND run IS NOT NULL AND boot_s IS NULL", (station,)
        )
        until = self._before_all_runs(station)
        for one in runs:
            began = utc_at(one.offset_ms, one.begin_ms / 1000)
            if until is not None and (began - until).total_seconds() >= _SHORT_S:
                self._add_absence(station, one, until, began, zone)
            until = utc_at(one.offset_ms, one.end_ms / 1000)

    def _before_all_runs(self, station: str) -> datetime | None:
        """End of the microphone's rows from versions without runs; None if there are none."""
        last = self.rows(
            "SELECT max(t) FROM (SELECT max(strftime('%Y-%m-%dT%H:%M:%fZ', start_utc, audio_s || ' "
            "seconds')) AS t FROM recordings WHERE station = ? AND source = 'microphone' AND run "
            "IS NULL UNION ALL SELECT max(end_utc) FROM gaps WHERE station = ? AND source = "
            "'microphone' AND run IS NULL)",
            (station, station),
        )[0][0]
        return None if last is None else moment_of(last)

    def _add_absence(
        self, station: str, run: _RunSpan, since: datetime, until: datetime, zone: tzinfo | None
    ) -> None:
        gap = GapRow(
            id=stable_id(run.run, "off"),
            source=run.source,
            start=since,
            seconds=(until - since) / timedelta(seconds=1),
            reason="store" if run.lost_before else "off",
            detail=LOST if run.lost_before else "",
            clock_state=_state_of(run.known),
            boot=run.boot,
            zone=zone,
            run=run.run,
        )
        self._add_gap_rows(station, gap.at_one_offset())

    def _add_gap_rows(self, station: str, gaps: Sequence[GapRow]) -> None:
        self._db.table("gaps").upsert_all((_gap_columns(gap, station) for gap in gaps), pk="id")


def _state_of(known: Known) -> ClockState:
    """Clock state of rows for a clock that is known in this way."""
    return "unsynced" if known == "unsynced" else "rtc" if known == "rtc" else "synced"


def _is_same_boot(before: _RunSpan, after: _RunSpan) -> bool:
    """True if `after` is a later run of the same boot as `before`. With boot ids it is enough that
    it began later, even if rows of the earlier run extend beyond its begin."""
    if after.boot != before.boot:
        return False
    later = after.begin_ms > before.begin_ms and after.boot != _NO_BOOT
    return later or after.begin_ms >= before.end_ms - _CARD_AHEAD_MS


def same_boot(kept: Sequence[_RunSpan], run: str) -> list[_RunSpan]:
    """A run together with its neighbours on the same boot's clock."""
    first = last = [one.run for one in kept].index(run)
    while first > 0 and _is_same_boot(kept[first - 1], kept[first]):
        first -= 1
    while last + 1 < len(kept) and _is_same_boot(kept[last], kept[last + 1]):
        last += 1
    return list(kept[first : last + 1])


_PARTS = """
    SELECT run, boot_s AS begin_s, boot_s + coalesce(audio_s,
        (SELECT sum(analysed_s) FROM effort WHERE recording = recordings.id), 0) AS end_s
    FROM recordings WHERE run IS NOT NULL
    UNION ALL SELECT run, boot_s, boot_s + seconds FROM gaps WHERE run IS NOT NULL
    AND boot_s IS NOT NULL"""


def _gap_columns(gap: GapRow, station: str) -> dict[str, object]:
    return {
        "id": gap.id,
        "station": station,
        "source": gap.source,
        "recording": gap.recording_id,
        "start_utc": utc_text(gap.start),
        "end_utc": utc_text(gap.start + timedelta(seconds=gap.seconds)),
        "seconds": gap.seconds,
        "reason": gap.reason,
        "detail": gap.detail,
        "utc_offset_minutes": gap.utc_offset_minutes,
        "clock_state": gap.clock_state,
        "boot": gap.boot,
        "run": gap.run,
        "boot_s": gap.boot_s,
    }
