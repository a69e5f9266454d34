#!/usr/bin/env bash
# astral 3.2: on one day of the year sunrise() finds no sunrise, although the sun rises.
#
# It is the day on which sunrise, getting earlier, crosses 00:00 UTC, as it does in Asia (in the Americas sunset does).
# sunrise() computes a time for the date, and if that falls on another local date, for the date beside it; when both
# miss, it raises ValueError, the same as in a polar night. A schedule that takes the error for "the sun stays down"
# skips a day.
#
# Seen with Python 3.11 on Debian 12, 2024: at 27.7 N 85.3 E in Asia/Kathmandu one day of 366 (10 April) without
# sunrise, "Unable to find a sunrise time on the date specified", where the day before has it at 05:45 and the day after
# at 05:43; at 10 N 84 W in UTC one day (26 June) without sunset. time_of_transit() of the same module leaves it out,
# too: asked for 9 April it gives the sunrise of the 9th, for 10 April that of the 11th.
#
# Ends with 0 if it is still so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check astral==3.2 tzdata==2025.2
"$folder/venv/bin/python" - <<'PY'
from datetime import date, timedelta
from zoneinfo import ZoneInfo

from astral import Observer, SunDirection
from astral.sun import SUN_APPARENT_RADIUS, sunrise, sunset, time_of_transit


def days_without(find, observer, zone):
    """Days of 2024 on which `find` raises ValueError."""
    found = []
    for number in range(366):
        day = date(2024, 1, 1) + timedelta(days=number)
        try:
            find(observer, day, tzinfo=zone)
        except ValueError as error:
            found.append((day.isoformat(), str(error)))
    return found


kathmandu, costa_rica = Observer(27.7, 85.3), Observer(10.0, -84.0)
risen = days_without(sunrise, kathmandu, ZoneInfo("Asia/Kathmandu"))
gone = days_without(sunset, costa_rica, ZoneInfo("UTC"))
print("Kathmandu, no sunrise:", risen)
print("Costa Rica, UTC, no sunset:", gone)
local = []
for day in (date(2024, 4, 9), date(2024, 4, 10), date(2024, 4, 11)):
    at = time_of_transit(kathmandu, day, 90 + SUN_APPARENT_RADIUS, SunDirection.RISING)
    local.append(at.astimezone(ZoneInfo("Asia/Kathmandu")))
    print("time_of_transit", day, local[-1].strftime("%m-%d %H:%M"))
assert len(risen) == 1 and len(gone) == 1, "it is no longer so"
assert [at.day for at in local] == [9, 11, 12], "time_of_transit is no longer so"
PY
