"""Times and places in the notations of people and recorders: digits, an offset, degrees. Knows no
file and no zone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

OFFSET_HOURS_MAX = 14

Degrees = tuple[float, float]  # north and east, WGS84


@dataclass(frozen=True)
class Stamp:
    """A time as it was written: without tzinfo if the writer did not name a zone."""

    time: datetime
    date_only: bool = False
    is_instant: bool = False  # from Unix seconds: the recorder's zone is unknown


def stamp(date: str, clock: str, offset: str = "", fraction: str = "") -> Stamp | None:
    """The time made of `20240512`, `034500` or "", `Z` or `+0130` or "", and the digits after the
    second; None if they are no valid time."""
    try:
        day = datetime(int(date[:4]), int(date[4:6]), int(date[6:8]))
        if not clock:
            return Stamp(day, date_only=True)
        micros = int(fraction[:6].ljust(6, "0")) if fraction else 0
        time = day.replace(
            hour=int(clock[:2]), minute=int(clock[2:4]), second=int(clock[4:6]), microsecond=micros
        )
        return Stamp(time.replace(tzinfo=_zone(offset)) if offset else time)
    except ValueError:
        return None


def _zone(text: str) -> timezone:
    """The zone of `Z`, `+1`, `+0130` or `+01:30`. Raises ValueError beyond 14 hours or 59
    minutes."""
    if text in ("Z", "z"):
        return timezone.utc
    digits = text[1:].replace(":", "")
    hours, minutes = (int(digits[:-2]), int(digits[-2:])) if len(digits) > 2 else (int(digits), 0)
    if hours > OFFSET_HOURS_MAX or minutes > 59:
        raise ValueError(text)
    ahead = timedelta(hours=hours, minutes=minutes)
    return timezone(-ahead if text[0] == "-" else ahead)


def iso_time(text: str) -> Stamp | None:
    """The time in `2024-05-12T03:45:00.5+02:00`; seconds, their fraction and the offset are
    optional."""
    match = _ISO.fullmatch(text.strip())
    if match is None:
        return None
    date, hour, minute, second, fraction, offset = match.groups()
    return stamp(
        date.replace("-", ""), f"{hour}{minute}{second or '00'}", offset or "", fraction or ""
    )


def place(text: str) -> Degrees | None:
    """The place in `47.61 -122.33`, also with a comma, or with only a sign between the numbers."""
    match = _DEGREES.fullmatch(text.strip())
    return checked_place(float(match.group(1)), float(match.group(2))) if match else None


def checked_place(latitude: float, longitude: float) -> Degrees | None:
    """The place; None beyond the poles or the date line, and at 0, 0, which means a receiver
    without a fix."""
    if not (abs(latitude) <= 90 and abs(longitude) <= 180) or latitude == longitude == 0:
        return None
    return latitude, longitude


_NUMBER = r"\d{1,3}(?:\.\d{1,12})?"
_DEGREES = re.compile(rf"([-+]?{_NUMBER})(?:\s*,\s*|\s+|(?=[-+]))([-+]?{_NUMBER})", re.ASCII)
_ISO = re.compile(
    r"(\d{4}-\d\d-\d\d)[T "
    r"](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,12}))?)?\s*(Z|z|[-+]\d\d(?::?\d\d)?)?",
    re.ASCII,
)
