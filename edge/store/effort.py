"""Recounting of effort into hours when a stretch is moved in time. Runs inside the caller's
transaction."""

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

from sqlite_utils import Database

from edge.contract.local_clock import LocalClock
from edge.types import Effort, utc_text

_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


def moment_of(text: str) -> datetime:
    """Aware UTC from the text of a row."""
    return datetime.strptime(text, _TIME).replace(tzinfo=timezone.utc)


def recount_effort(db: Database, recording: str, start_utc: str, local: LocalClock) -> None:
    """Recount the effort of unbroken sound from its start into the hours of a local clock."""
    parts = db.execute(
        "SELECT shed, analysed_s FROM effort WHERE recording = ? ORDER BY rowid", (recording,)
    ).fetchall()
    db.execute("DELETE FROM effort WHERE recording = ?", (recording,))
    at = moment_of(start_utc)
    for shed, analysed_s in parts:
        for part in local.hours(at, analysed_s):
            db.execute(
                "INSERT INTO effort (recording, hour_utc, shed, analysed_s, utc_offset_minutes) "
                "VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET analysed_s = analysed_s + "
                "excluded.analysed_s",
                (recording, utc_text(part.since), shed, part.seconds, part.utc_offset_minutes),
            )
        at += timedelta(seconds=analysed_s)


def laid_anew(effort: Sequence[Effort], start: datetime, local: LocalClock) -> list[Effort]:
    """Effort of unbroken sound, in order, recounted into hours as if it began at `start`."""
    seconds: dict[tuple[datetime, int, int], float] = {}
    for spent in effort:
        for part in local.hours(start, spent.analysed_s):
            key = part.since, spent.shed, part.utc_offset_minutes
            seconds[key] = seconds.get(key, 0.0) + part.seconds
        start += timedelta(seconds=spent.analysed_s)
    return [
        Effort(hour, spent_s, shed, minutes) for (hour, shed, minutes), spent_s in seconds.items()
    ]
