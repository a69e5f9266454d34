"""Attempts: recordings that are being read, and those at which the program died. Opens no file
other than the database."""

from collections.abc import Sequence
from dataclasses import dataclass

from edge.store.connection import Connection, now_text
from edge.types import FileState


@dataclass(frozen=True)
class AttemptCount:
    """Number of failed attempts at a file in its present state."""

    deaths: int  # times that the program ended unasked while reading it
    stops: int  # times that it was interrupted by a stop or a power cut


# A file is the same if its content is, or, while that is not known yet, its modification time.
_SAME = (
    "bytes = excluded.bytes AND iif('' IN (sample, excluded.sample), mtime_ns = excluded.mtime_ns, "
    "sample = excluded.sample)"
)
_ATTEMPT = f"""
    INSERT INTO attempts (station, path, bytes, mtime_ns, sample, began_utc, boot, process)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (station, path) DO UPDATE SET
    deaths = iif({_SAME}, deaths, 0), stops = iif({_SAME}, stops, 0), bytes = excluded.bytes,
    mtime_ns = excluded.mtime_ns, sample = iif(excluded.sample = '', sample, excluded.sample),
    began_utc = excluded.began_utc, boot = excluded.boot, process = excluded.process"""


class Attempts(Connection):
    """Recordings that were begun and have not ended yet. Each is noted before the first byte of its
    sound is decoded."""

    def attempt(
        self, station: str, path: str, file: FileState, boot: str | None, process: str
    ) -> None:
        """Note that this process begins to read a file. If the file has changed, its counts begin
        anew."""
        with self._transaction():
            self._db.execute(
                _ATTEMPT,
                (station, path, file.bytes, file.mtime_ns, file.sample, now_text(), boot, process),
            )

    def look(
        self, station: str, files: Sequence[tuple[str, int, int]], boot: str | None, process: str
    ) -> None:
        """Note that this process is about to read the headers of files: path, size and modification
        time of each."""
        with self._transaction():
            self._db.conn.executemany(
                _ATTEMPT, [(station, *file, "", now_text(), boot, process) for file in files]
            )

    def looked(self, station: str, process: str) -> None:
        """Note that this process has read the headers and survived."""
        mine = (station, process)
        with self._transaction():
            self._db.execute(
                "DELETE FROM attempts WHERE station = ? AND process = ? AND deaths + stops = 0",
                mine,
            )
            self._db.execute(
                "UPDATE attempts SET process = NULL WHERE station = ? AND process = ?", mine
            )

    def attempt_ended(self, station: str, path: str) -> None:
        """Forget the attempt: the recording ended, or could not be read this time, without fault of
        the program."""
        with self._transaction():
            self._db.execute("DELETE FROM attempts WHERE station = ? AND path = ?", (station, path))

    def attempts_stopped(self, station: str, process: str) -> None:
        """Count a stop for everything that this process was reading."""
        with self._transaction():
            self._db.execute(
                "UPDATE attempts SET process = NULL, stops = stops + 1 WHERE station = ? AND "
                "process = ?",
                (station, process),
            )

    def reading(self, station: str) -> list[tuple[str | None, str]]:
        """Boot and process of all readers, including those that have ended meanwhile."""
        return [
            (boot, str(process))
            for boot, process in self.rows(
                "SELECT DISTINCT boot, process FROM attempts WHERE station = ? AND process IS NOT "
                "NULL",
                (station,),
            )
        ]

    def process_gone(self, station: str, boot: str | None, process: str, died: bool) -> None:
        """Count a death for the recordings of a process that is gone, or a stop if it did not die
        but its machine was switched off."""
        count = "deaths" if died else "stops"
        with self._transaction():
            self._db.execute(
                f"UPDATE attempts SET process = NULL, {count} = {count} + 1 WHERE station = ? AND "
                "boot IS ? AND process = ?",
                (station, boot, process),
            )

    def tried(self, station: str) -> dict[str, AttemptCount]:
        """Files with failed attempts, by path."""
        return {
            str(path): AttemptCount(deaths, stops)
            for path, deaths, stops in self.rows(
                "SELECT path, deaths, stops FROM attempts WHERE station = ? AND deaths + stops > 0",
                (station,),
            )
        }

    def begun_in_vain(self, station: str) -> dict[str, str]:
        """Unfinished files that nobody reads now, by path, with the time when they were begun
        (UTC), "" if unknown. Files of replays are left out, as they are in other folders."""
        attempts = self.rows(
            "SELECT path, began_utc FROM attempts a WHERE station = ? AND process IS NULL AND NOT "
            "EXISTS (SELECT 1 FROM recordings r WHERE r.station = a.station AND r.path = a.path "
            "AND r.source = 'replay')",
            (station,),
        )
        started = self.rows(
            "SELECT path FROM recordings WHERE station = ? AND source = 'folder' AND state = "
            "'started' AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.station = "
            "recordings.station AND a.path = recordings.path)",
            (station,),
        )
        return {str(path): "" for (path,) in started} | {
            str(path): str(began) for path, began in attempts
        }

    def file_gone(self, station: str, path: str) -> None:
        """End the recording of a file that no longer exists with what was analysed of it. If the
        file comes back, it is analysed again."""
        with self._transaction():
            self._db.execute(
                "DELETE FROM attempts WHERE station = ? AND path = ? AND process IS NULL",
                (station, path),
            )
            self._db.execute(
                "UPDATE recordings SET state = 'analysed', reason = 'the file was deleted before "
                "its end', analysis = '', finished_utc = ?, audio_s = (SELECT "
                "coalesce(sum(analysed_s), 0) FROM effort WHERE recording = recordings.id) WHERE "
                "station = ? AND path = ? AND source = 'folder' AND state = 'started'",
                (now_text(), station, path),
            )

    def deaths(self, station: str, path: str, file: FileState) -> int:
        """Number of times that the program died while reading this file in its present state."""
        rows = self.rows(
            "SELECT deaths FROM attempts WHERE station = ? AND path = ? AND bytes = ? AND "
            "iif(sample = '', mtime_ns = ?, sample = ?)",
            (station, path, file.bytes, file.mtime_ns, file.sample),
        )
        return int(rows[0][0]) if rows else 0

    def begun(self, station: str, path: str, file: FileState) -> str | None:
        """Id of the unfinished recording of this file in its present state, if any."""
        rows = self.rows(
            "SELECT r.id FROM files f JOIN recordings r ON r.id = f.recording WHERE f.station = ? "
            "AND f.path = ? AND f.bytes = ? AND f.sample = ? AND r.state = 'started'",
            (station, path, file.bytes, file.sample),
        )
        return str(rows[0][0]) if rows else None
