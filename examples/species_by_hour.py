"""Detections of each species by hour of the day, and the effort.

    python examples/species_by_hour.py station.db

Counts can only be compared together with the effort: more listening gives more detections.
"""

import sqlite3
import sys
from collections import defaultdict
from pathlib import Path

EFFORT = """
    SELECT strftime('%H', hour_utc, coalesce(utc_offset_minutes, 0) || ' minutes'), sum(analysed_s)
    FROM effort GROUP BY 1"""
# docs/record.md has all tables and views
HEARD = "SELECT common_name, hour, detections FROM hourly_activity"
HOURS = [f"{hour:02}" for hour in range(24)]

database = Path(sys.argv[1]).resolve(strict=True)
with sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True) as db:
    listened = dict(db.execute(EFFORT).fetchall())
    table: dict[str, dict[str, int]] = defaultdict(dict)
    for name, hour, detections in db.execute(HEARD):
        table[name][hour] = detections

print("species," + ",".join(HOURS))
print("minutes listened," + ",".join(f"{listened.get(hour, 0) / 60:.0f}" for hour in HOURS))
for name, hours in sorted(table.items()):
    print(f"{name}," + ",".join(str(hours.get(hour, 0)) for hour in HOURS))
