"""Note beside the record about time that a run has heard but could not store. The next run stores a
gap `store` for it, instead of one in which the station was off.

The file is overwritten in place, so that it can be written on a full disk; each line is a run.
Knows no database.
"""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

from edge.host.clock import utc_at
from edge.store.file_identity import beside
from edge.types import StationRun

_BYTES = 4096  # reserved while there is room: about ten runs
_RUNS_MAX = 50  # the latest ones are kept
_RUN_S_MAX = 10 * 366 * 86_400.0
_KNOWN = ("unsynced", "rtc", "synced", "fixed")  # valid values for a run


@dataclass(frozen=True)
class UnstoredTime:
    """Time of a run after its last row in the record."""

    run: StationRun
    until_s: float  # its end on the boot's clock
    why: str


class Note:
    """The note of one record. Errors of the disk are ignored, since nothing more can be done then.

    note = Note(config.database)
    note.make_room()                # while the disk has room
    note.write(UnstoredTime(...))   # replaces the entry of that run
    note.read()
    note.drop([run])
    """

    def __init__(self, database: Path) -> None:
        self.path = beside(database, ".unstored")

    def make_room(self) -> None:
        """Create the file with some space in it."""
        if not self.path.exists():
            with suppress(OSError):
                self._put([])

    def read(self) -> list[UnstoredTime]:
        """All entries, the oldest first; incomplete lines are skipped."""
        try:
            lines = self.path.read_text(encoding="utf8", errors="replace").splitlines()
        except OSError:
            return []
        return [one for one in map(_parsed, lines) if one is not None]

    def write(self, unstored: UnstoredTime) -> None:
        """Write the entry of a run."""
        others = [one for one in self.read() if one.run.id != unstored.run.id]
        with suppress(OSError):
            self._put([*others, unstored])

    def drop(self, runs: list[str]) -> None:
        """Remove the entries of these runs, whose time is in the record now."""
        entries = self.read()
        left = [one for one in entries if one.run.id not in runs]
        if len(left) < len(entries):
            with suppress(OSError):
                self._put(left)

    def _put(self, notes: list[UnstoredTime]) -> None:
        text = "".join(_line(one) for one in notes[-_RUNS_MAX:]).encode()
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        with os.fdopen(handle, "wb") as file:
            file.write(text.ljust(_BYTES - 1) + b"\n")
            file.truncate()
            file.flush()
            os.fsync(file.fileno())


def _line(one: UnstoredTime) -> str:
    run = one.run
    fields = {
        "run": run.id,
        "source": run.source,
        "boot": run.boot,
        "began_s": run.began_s,
        "offset_ms": run.offset_ms,
        "known": run.known,
        "zone": getattr(run.zone, "key", None),
        "until_s": one.until_s,
        "why": one.why,
    }
    return json.dumps(fields) + "\n"


def _parsed(line: str) -> UnstoredTime | None:
    try:
        fields = json.loads(line)
        zone = ZoneInfo(fields["zone"]) if fields["zone"] else None
        run = StationRun(
            str(fields["run"]),
            str(fields["source"]),
            str(fields["boot"]),
            float(fields["began_s"]),
            int(fields["offset_ms"]),
            fields["known"],
            zone,
        )
        one = UnstoredTime(run, float(fields["until_s"]), str(fields["why"]))
        utc_at(run.offset_ms, run.began_s)
        utc_at(run.offset_ms, one.until_s)
    except (ValueError, KeyError, TypeError, OSError, OverflowError):  # also for an unknown zone
        return None
    return one if run.known in _KNOWN and 0.0 <= one.until_s - run.began_s <= _RUN_S_MAX else None
