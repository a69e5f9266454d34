"""Totals of one local day in the record, the same as its views give."""

from datetime import date, datetime, timedelta, timezone

from edge.contract.local_clock import LocalClock
from edge.store.connection import Connection
from edge.store.effort import moment_of
from edge.store.schema import at_the_place
from edge.types import utc_text


def of_day(record: Connection, station: str, day: date) -> tuple[float, float, int]:
    """Seconds analysed, seconds lost and number of detections of a local day."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=timezone.utc)
    # bounds of the day in any time zone
    low = utc_text(midnight - timedelta(days=1))
    high = utc_text(midnight + timedelta(days=2))
    span = (station, low, high, day.isoformat())
    analysed = record.rows(
        "SELECT coalesce(sum(e.analysed_s), 0) FROM effort e JOIN recordings r ON r.id = "
        "e.recording WHERE r.station = ? AND e.hour_utc >= ? AND e.hour_utc < ? AND "
        f"{at_the_place('date', 'e.hour_utc', 'e')} = ?",
        span,
    )
    detections = record.rows(
        "SELECT count(*) FROM detections d JOIN recordings r ON r.id = d.recording WHERE "
        "r.station = ? AND d.start_utc >= ? AND d.start_utc < ? AND "
        f"{at_the_place('date', 'd.start_utc', 'd')} = ?",
        span,
    )
    gaps = record.rows(
        "SELECT start_utc, seconds, utc_offset_minutes FROM gaps WHERE station = ? AND end_utc > ? "
        "AND start_utc < ? AND reason NOT IN ('off', 'schedule', 'triggered')",
        span[:3],
    )
    parts = (
        LocalClock(None, minutes).days(moment_of(start), seconds)
        for start, seconds, minutes in gaps
    )
    lost = sum((part.seconds for of_gap in parts for part in of_gap if part.day == day), 0.0)
    return float(analysed[0][0]), lost, int(detections[0][0])
