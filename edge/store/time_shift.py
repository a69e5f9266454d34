"""Moving of rows in time, together with everything that depends on them. Runs inside the caller's
transaction; ids stay."""

from datetime import datetime, timedelta

from sqlite_utils import Database

from edge.contract.local_clock import LocalClock
from edge.store.effort import moment_of, recount_effort
from edge.types import stable_id, utc_text

MovedRows = dict[str, int]  # number of rows by kind


def none_moved() -> MovedRows:
    """Counts of zero, to begin with."""
    return {"stretches": 0, "gaps": 0, "detections": 0, "clips": 0}


def later(text: str, by: timedelta) -> str:
    """The time of a row moved later by `by`."""
    return utc_text(moment_of(text) + by)


def move_stretch(
    db: Database, stretch: str, start: datetime, local: LocalClock, moved: MovedRows
) -> None:
    """Move a stretch to another start, with its detections, clips, reviews and effort; `local` is
    the local clock at the new time."""
    (before,) = db.execute("SELECT start_utc FROM recordings WHERE id = ?", (stretch,)).fetchone()
    by = start - moment_of(before)
    db.execute(
        "UPDATE recordings SET start_utc = ?, utc_offset_minutes = ?, clock_fix_s = clock_fix_s + "
        "? WHERE id = ?",
        (utc_text(start), local.offset_minutes(start), by.total_seconds(), stretch),
    )
    moved["stretches"] += 1
    moved["detections"] += _move(db, "detections", ("start_utc", "end_utc"), stretch, by)
    _look_up_offsets(db, stretch, local)
    moved["clips"] += _move(db, "clips", ("start_utc", "created_utc"), stretch, by)
    _move(db, "reviews", ("start_utc",), stretch, by)
    recount_effort(db, stretch, utc_text(start), local)


def _move(db: Database, table: str, columns: tuple[str, ...], stretch: str, by: timedelta) -> int:
    rows = db.execute(
        f"SELECT rowid, {', '.join(columns)} FROM {table} WHERE recording = ?", (stretch,)
    ).fetchall()
    assigned = ", ".join(f"{column} = ?" for column in columns)
    for row in rows:
        db.execute(
            f"UPDATE {table} SET {assigned} WHERE rowid = ?",
            (*(later(text, by) for text in row[1:]), row[0]),
        )
    return len(rows)


def _look_up_offsets(db: Database, stretch: str, local: LocalClock) -> None:
    rows = db.execute(
        "SELECT id, start_utc FROM detections WHERE recording = ?", (stretch,)
    ).fetchall()
    for detection, start in rows:
        db.execute(
            "UPDATE detections SET utc_offset_minutes = ? WHERE id = ?",
            (local.offset_minutes(moment_of(start)), detection),
        )


def move_gap(db: Database, gap: str, start: datetime, local: LocalClock, moved: MovedRows) -> None:
    """Move a gap to another start; it is split where the UTC offset changes, as all gaps are."""
    before, gap_s, fixed, boot_s = db.execute(
        "SELECT start_utc, seconds, clock_fix_s, boot_s FROM gaps WHERE id = ?", (gap,)
    ).fetchone()
    fixed += (start - moment_of(before)).total_seconds()
    moved["gaps"] += 1
    for number, span in enumerate(local.spans(start, gap_s)):
        begin = utc_text(span.start)
        end = utc_text(span.start + timedelta(seconds=span.seconds))
        begin_s = None if boot_s is None else boot_s + (span.start - start).total_seconds()
        new = (begin, end, span.seconds, span.utc_offset_minutes, fixed, begin_s)
        if number == 0:
            db.execute(
                "UPDATE gaps SET start_utc = ?, end_utc = ?, seconds = ?, utc_offset_minutes = ?, "
                "clock_fix_s = ?, boot_s = ? WHERE id = ?",
                (*new, gap),
            )
            continue
        db.execute(
            "INSERT INTO gaps (start_utc, end_utc, seconds, utc_offset_minutes, clock_fix_s, "
            "boot_s, id, station, source, recording, reason, detail, clock_state, boot, run) "
            "SELECT ?, ?, ?, ?, ?, ?, ?, station, source, recording, reason, detail, clock_state, "
            "boot, run FROM gaps WHERE id = ?",
            (*new, stable_id(gap, begin, f"{fixed}"), gap),
        )
