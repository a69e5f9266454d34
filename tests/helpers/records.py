"""What two databases of the station must have in common, whatever happened to the programs that
wrote them."""

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

DETECTIONS = "birdstation/v1/porch/detection"
_DATABASE_LOCKED_S = 10.0

# All rows that must not depend on when and how often a program ran.
_ROWS = {
    "recordings": "SELECT id, path, start_utc, time_source, state, reason, audio_s, windows, "
    "source FROM recordings",
    "deployments": "SELECT * FROM deployments",
    "detections": "SELECT * FROM detections",
    "effort": "SELECT * FROM effort",
    "gaps": "SELECT * FROM gaps",
    "clips": "SELECT id, path, recording, start_utc, seconds, bytes, kept FROM clips",
    "outbox": "SELECT id, topic, payload, state FROM outbox",
    "counters": "SELECT name, value FROM counters WHERE name <> 'messages sent'",
}


def dump(database: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Table -> its rows, but for what tells of the day."""
    with closing(sqlite3.connect(database, timeout=_DATABASE_LOCKED_S)) as db:
        return {name: sorted(db.execute(sql).fetchall(), key=repr) for name, sql in _ROWS.items()}


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """A line per table that is not the same."""
    lines = []
    for name in expected:
        there = Counter(found[name])
        wanted = Counter(expected[name])
        gone = list((wanted - there).elements())
        new = list((there - wanted).elements())
        if gone or new:
            lines.append(
                f"{name}: {len(gone)} rows missing {gone[:1]}, {len(new)} rows too many {new[:1]}"
            )
    return lines
