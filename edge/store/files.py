"""Files, their states, and the recordings that they were; look-up of recordings by content. Opens
no file other than the database."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from edge.contract.errors import DamagedError, StoreError
from edge.store.attempts import Attempts
from edge.store.connection import BUSY_TIMEOUT_S, is_damage, suspected
from edge.types import FileState, RecordingRow, stable_id, utc_text


@dataclass(frozen=True)
class EarlierAnalysis:
    """A finished analysis of a recording that is still valid."""

    recording_id: str
    state: str  # analysed or refused
    reason: str | None
    audio_s: float
    windows: int


@dataclass(frozen=True)
class KnownRecording:
    """A recording in the record, with all that is needed to decide whether a file is it."""

    id: str
    path: str  # under which it was analysed
    time_source: str | None
    finished: bool
    analysis: str  # digest of bundle and settings
    whole: str | None  # id of the recording into which its file has grown
    whole_stands: bool  # `whole` is analysed, under any settings; this file cannot replace it
    part: bool  # `whole` is longer
    since: str | None = None  # its start (UTC)
    known_s: float = 0.0  # length of the part that was analysed and stored


_KNOWN = """
    SELECT r.id, r.path, r.time_source, r.state <> 'started', r.analysis, r.grown_into,
    w.state = 'analysed',
           w.bytes > r.bytes, r.sha256, r.start_utc,
           (SELECT coalesce(sum(analysed_s), 0) FROM effort WHERE recording = r.id)
    FROM recordings r LEFT JOIN recordings w ON w.id = r.grown_into
    WHERE r.station = ?"""


_FINISHED = "r.id, r.state, r.reason, coalesce(r.audio_s, 0), coalesce(r.windows, 0)"


def known_by_content(database: Path, station: str, sha256: str) -> list[KnownRecording]:
    """Recordings of a station with these bytes, the oldest first. Opens the database for this
    query, so any thread may call it. Raises StoreError."""
    try:
        uri = f"{database.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S)) as db:
            rows = db.execute(
                f"{_KNOWN} AND r.sha256 = ? ORDER BY r.rowid", (station, sha256)
            ).fetchall()
    except sqlite3.Error as error:
        if is_damage(error):
            suspected.add(database)
            raise DamagedError(f"{database}: {error}") from error
        raise StoreError(f"{database}: {error}") from error
    return [_known(row) for row in rows]


def file_id(station: str, path: str, sha256: str) -> str:
    """Id of a file that cannot be decoded and so is no recording; each such file is refused
    separately."""
    return stable_id(station, path, sha256)


class Files(Attempts):
    """Files and the recordings that they were, for the writing thread."""

    def finished(
        self, station: str, path: str, file: FileState, analysis: str
    ) -> EarlierAnalysis | None:
        """The finished analysis of this file in this state under the same bundle and settings, or
        None."""
        rows = self.rows(
            f"SELECT {_FINISHED} FROM files f JOIN recordings r ON r.id = f.recording WHERE "
            "f.station = ? AND f.path = ? AND f.bytes = ? AND f.mtime_ns = ? AND f.ctime_ns = ? "
            "AND f.sample = ? AND r.analysis = ? AND r.state <> 'started'",
            (station, path, file.bytes, file.mtime_ns, file.ctime_ns, file.sample, analysis),
        )
        return EarlierAnalysis(*rows[0]) if rows else None

    def finished_recording(self, recording_id: str) -> EarlierAnalysis | None:
        """The finished analysis of this recording, or None."""
        rows = self.rows(
            f"SELECT {_FINISHED} FROM recordings r WHERE r.id = ? AND state <> 'started'",
            (recording_id,),
        )
        return EarlierAnalysis(*rows[0]) if rows else None

    def counted_in(self, recording_id: str) -> EarlierAnalysis | None:
        """The finished analysis of the recording that contains all sound of this one, or None."""
        rows = self.rows(
            f"SELECT {_FINISHED} FROM recordings r WHERE r.state <> 'started' AND r.id = (SELECT "
            "grown_into FROM recordings WHERE id = ? AND state = 'refused')",
            (recording_id,),
        )
        return EarlierAnalysis(*rows[0]) if rows else None

    def sound_of(self, recording_id: str) -> str:
        """Sums of the recording's sound; "" if there are none."""
        rows = self.rows("SELECT coalesce(sound, '') FROM recordings WHERE id = ?", (recording_id,))
        return str(rows[0][0]) if rows else ""

    def known(self, station: str) -> dict[str, list[KnownRecording]]:
        """All recordings of a station by SHA-256, for readers without access to the database."""
        known: dict[str, list[KnownRecording]] = {}
        for row in self.rows(
            f"{_KNOWN} AND r.sha256 IS NOT NULL AND r.source <> 'microphone'", (station,)
        ):
            known.setdefault(str(row[8]), []).append(_known(row))
        return known

    def earlier(
        self, station: str, path: str, recording_id: str
    ) -> list[tuple[str, str, FileState]]:
        """Other recordings that this file may have been earlier: with the same path, a path with
        more or fewer leading folders (another root), or a name with a suffix (x.wav.filepart).
        Path, recording and file state of each."""
        name = _name(path)
        rows = self.rows(
            "SELECT path, recording, bytes, mtime_ns, ctime_ns, sample, body_end, body_sum FROM "
            "files WHERE station = ? AND (name = ? OR name > ? AND name < ?) AND recording <> ? "
            "AND body_end > 0",
            (station, name, f"{name}.", f"{name}/", recording_id),  # "/" follows "."
        )
        return [
            (other, recording, FileState(*state))
            for other, recording, *state in rows
            if same_place(path, other[: len(other) - len(_name(other)) + len(name)])
        ]

    def alike(
        self, station: str, path: str, recording_id: str
    ) -> list[tuple[str, str, bool, str, float]]:
        """Other analysed recordings of files with the same name: path, recording, True if it began
        at the same moment, sums and length of its sound."""
        rows = self.rows(
            "SELECT f.path, r.id, r.start_utc = (SELECT start_utc FROM recordings WHERE id = ?), "
            "r.sound, r.audio_s FROM files f JOIN recordings r ON r.id = f.recording WHERE "
            "f.station = ? AND f.name = ? AND r.id <> ? AND r.state = 'analysed' AND r.sound IS "
            "NOT NULL",
            (recording_id, station, _name(path), recording_id),
        )
        return [
            (str(other), str(recording), bool(same_start), str(sound), float(audio_s))
            for other, recording, same_start, sound, audio_s in rows
        ]

    def _cut_short(
        self, recording: RecordingRow, station: str, grown: Mapping[str, bool]
    ) -> list[str]:
        """Recordings that this file was earlier and that cannot be compared block by block: they
        began at the same moment, and the file or its analysis was cut short. Complete recordings
        are left out, as another recorder may have used the name."""
        earlier = self._db.execute(
            "SELECT id FROM recordings WHERE station = ? AND path = ? AND start_utc = ? AND id <> "
            "? AND (state = 'started' OR (state = 'analysed' AND reason IS NOT NULL))",
            (station, recording.path, utc_text(recording.start), recording.id),
        ).fetchall()
        return [other for (other,) in earlier if other not in grown]

    def _note_file(self, station: str, path: str, file: FileState, recording_id: str) -> None:
        """Note that this file in this state is this recording. Call it inside a transaction."""
        self._db.execute(
            "INSERT OR REPLACE INTO files (station, path, recording, name, bytes, mtime_ns, "
            "ctime_ns, sample, body_end, body_sum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (station, path, recording_id, _name(path), *astuple(file)),
        )


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def same_place(path: str, other: str) -> bool:
    """True if both paths may be the same file, seen from one root or from two roots of which one
    contains the other."""
    return f"/{path}".endswith(f"/{other}") or f"/{other}".endswith(f"/{path}")


def _known(row: tuple[Any, ...]) -> KnownRecording:
    return KnownRecording(
        row[0],
        row[1],
        row[2],
        bool(row[3]),
        row[4],
        row[5],
        bool(row[6]),
        bool(row[7]),
        row[9],
        float(row[10]),
    )
