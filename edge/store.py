"""The record: one SQLite file (WAL). A detection, its message and the effort behind it commit in one transaction.

Knows no sound, no network and no broker; the publisher reads the outbox through the same class.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sqlite_utils import Database, Migrations

from edge.contract.bundle import Bundle
from edge.contract.errors import StoreError
from edge.contract.taxonomy import Taxonomy
from edge.types import Detection, Effort, Message, RecordingRow, utc_text

_BUSY_TIMEOUT_S = 30.0

migrations = Migrations("birdstation")


@migrations()
def first_schema(db: Database) -> None:
    """Recordings, detections, effort, outbox and what they refer to. Times are RFC 3339 UTC, durations seconds."""
    db.table("bundles").create({"id": str, "manifest": str, "first_used_utc": str}, pk="id", strict=True)
    db.table("species").create({"code": str, "scientific_name": str, "common_name": str}, pk="code", strict=True)
    db.execute("""
        CREATE TABLE recordings (
            id TEXT PRIMARY KEY, station TEXT NOT NULL, path TEXT NOT NULL, bytes INTEGER NOT NULL,
            mtime_ns INTEGER NOT NULL, sha256 TEXT, start_utc TEXT, time_source TEXT, zone_source TEXT,
            utc_offset_minutes INTEGER, latitude REAL, longitude REAL,
            state TEXT NOT NULL CHECK (state IN ('started', 'analysed', 'refused')), reason TEXT,
            bundle TEXT REFERENCES bundles(id), analysis TEXT NOT NULL, audio_s REAL, windows INTEGER,
            finished_utc TEXT) STRICT""")
    db.execute("CREATE INDEX recordings_path ON recordings (station, path)")
    db.execute("""
        CREATE TABLE detections (
            id TEXT PRIMARY KEY, recording TEXT NOT NULL REFERENCES recordings(id),
            bundle TEXT NOT NULL REFERENCES bundles(id), species TEXT NOT NULL REFERENCES species(code),
            start_utc TEXT NOT NULL, end_utc TEXT NOT NULL, offset_s REAL NOT NULL,
            score REAL NOT NULL, acoustic REAL NOT NULL, prior REAL, threshold REAL NOT NULL, rule TEXT NOT NULL,
            member_low REAL NOT NULL, member_high REAL NOT NULL, level_dbfs REAL) STRICT""")
    db.execute("CREATE INDEX detections_time ON detections (start_utc, species)")
    db.execute("CREATE INDEX detections_recording ON detections (recording)")
    db.execute("""
        CREATE TABLE effort (
            recording TEXT NOT NULL REFERENCES recordings(id), hour_utc TEXT NOT NULL, heard_s REAL NOT NULL,
            analysed_s REAL NOT NULL, lost_s REAL NOT NULL, reason TEXT NOT NULL,
            PRIMARY KEY (recording, hour_utc, reason)) STRICT""")
    db.execute("""
        CREATE TABLE outbox (
            seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, topic TEXT NOT NULL, payload TEXT NOT NULL,
            created_utc TEXT NOT NULL, sent_utc TEXT) STRICT""")
    db.execute("CREATE INDEX outbox_waiting ON outbox (seq) WHERE sent_utc IS NULL")
    db.execute("""
        CREATE VIEW heard AS
        SELECT d.start_utc, s.common_name, s.scientific_name, d.species, round(d.score, 3) AS score,
               r.path, d.offset_s, d.id
        FROM detections d JOIN species s ON s.code = d.species JOIN recordings r ON r.id = d.recording""")


def _now() -> str:
    return utc_text(datetime.now(timezone.utc))


@dataclass(frozen=True)
class Finished:
    """An earlier analysis of a recording that still stands."""

    recording_id: str
    state: str  # analysed or refused
    reason: str | None
    audio_s: float
    windows: int


class Store:
    """The database of one station, for one thread. Raises StoreError in one line when it cannot be used.

    with Store(path) as store:
        store.begin(recording, "porch", bundle_id, analysis)
        store.add(recording.id, bundle_id, detections, messages, effort)
        store.finish(recording.id, audio_s=60.0, windows=23, reason=None)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = Database(sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S))
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA foreign_keys = ON")
        with self._transaction():
            migrations.apply(self._db)

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self.path}: {error}") from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing. The write lock is taken at once: a transaction that read first could not wait for another
        writer, SQLite would refuse it ("database is locked")."""
        with self._errors():
            self._db.conn.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.conn.commit()
            except BaseException:  # whatever it was, Ctrl-C and a commit on a full disk too: nothing stays half open
                self._db.conn.rollback()
                raise

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Read with plain SQL."""
        with self._errors():
            return list(self._db.execute(sql, parameters).fetchall())

    def add_bundle(self, bundle: Bundle, manifest: str) -> None:
        """Note the bundle in use and the names of its species."""
        with self._transaction():
            self._db.table("bundles").insert(
                {"id": bundle.id, "manifest": manifest, "first_used_utc": _now()}, ignore=True
            )
            self._add_species(bundle.taxonomy)

    def _add_species(self, taxonomy: Taxonomy) -> None:
        names = ({"code": s.code, "scientific_name": s.scientific_name, "common_name": s.common_name} for s in taxonomy)
        self._db.table("species").upsert_all(names, pk="code")

    def finished(self, station: str, path: str, size: int, mtime_ns: int, analysis: str) -> Finished | None:
        """An earlier end of this very file under the same bundle and settings, or None."""
        found = self.rows(
            "SELECT id, state, reason, coalesce(audio_s, 0), coalesce(windows, 0) FROM recordings"
            " WHERE station = ? AND path = ? AND bytes = ? AND mtime_ns = ? AND analysis = ? AND state <> 'started'",
            (station, path, size, mtime_ns, analysis),
        )
        return Finished(*found[0]) if found else None

    def begin(self, recording: RecordingRow, station: str, bundle_id: str, analysis: str) -> None:
        """Start or resume a recording. Rows of the same recording under other settings are replaced by the new ones;
        rows of the same analysis, cut off earlier, stay: their ids come again."""
        with self._transaction():
            known = self._db.execute("SELECT analysis FROM recordings WHERE id = ?", (recording.id,)).fetchone()
            if known and known[0] != analysis:
                self._db.execute(
                    "DELETE FROM outbox WHERE sent_utc IS NULL AND id IN"
                    " (SELECT id FROM detections WHERE recording = ?)",
                    (recording.id,),
                )
                self._db.execute("DELETE FROM detections WHERE recording = ?", (recording.id,))
            self._db.execute("DELETE FROM effort WHERE recording = ?", (recording.id,))
            self._db.table("recordings").upsert(
                _recording_columns(recording, station)
                | {"state": "started", "bundle": bundle_id, "analysis": analysis, "finished_utc": None},
                pk="id",
            )

    def add(
        self,
        recording_id: str,
        bundle_id: str,
        detections: Sequence[Detection],
        messages: Sequence[Message],
        effort: Sequence[Effort],
    ) -> int:
        """Commit a batch: detections, their messages and the effort so far, in one transaction.

        Ids that are there already change nothing. Returns how many detections are new.
        """
        with self._transaction():
            before = self._db.conn.total_changes
            self._db.table("detections").insert_all((_detection_columns(d, bundle_id) for d in detections), ignore=True)
            new = self._db.conn.total_changes - before
            created = _now()
            self._db.table("outbox").insert_all(
                ({"id": m.id, "topic": m.topic, "payload": m.payload, "created_utc": created} for m in messages),
                ignore=True,
            )
            self._db.table("effort").upsert_all(
                (
                    {
                        "recording": recording_id,
                        "hour_utc": utc_text(e.hour),
                        "heard_s": e.heard_s,
                        "analysed_s": e.analysed_s,
                        "lost_s": e.lost_s,
                        "reason": e.reason,
                    }
                    for e in effort
                ),
                pk=("recording", "hour_utc", "reason"),
            )
        return new

    def finish(self, recording_id: str, audio_s: float, windows: int, reason: str | None) -> None:
        """The recording is analysed to its end; `reason` says what of it was lost, if anything."""
        with self._transaction():
            self._db.execute(
                "UPDATE recordings SET state = 'analysed', audio_s = ?, windows = ?, reason = ?, finished_utc = ?"
                " WHERE id = ?",
                (audio_s, windows, reason, _now(), recording_id),
            )

    def refuse(
        self, recording_id: str, station: str, path: str, size: int, mtime_ns: int, analysis: str, reason: str
    ) -> None:
        """Set a recording aside with its reason; it is not tried again until the file changes."""
        with self._transaction():
            self._db.table("recordings").upsert(
                {
                    "id": recording_id,
                    "station": station,
                    "path": path,
                    "bytes": size,
                    "mtime_ns": mtime_ns,
                    "state": "refused",
                    "reason": reason,
                    "analysis": analysis,
                    "finished_utc": _now(),
                },
                pk="id",
            )

    def heard_in(self, station: str, bundle_id: str, paths: Sequence[str]) -> tuple[int, int]:
        """How many detections of how many species these recordings hold."""
        wanted = set(paths)
        heard = [
            (count, species)
            for path, species, count in self.rows(
                "SELECT r.path, d.species, count(*) FROM detections d JOIN recordings r ON r.id = d.recording"
                " WHERE r.station = ? AND d.bundle = ? GROUP BY r.path, d.species",
                (station, bundle_id),
            )
            if path in wanted
        ]
        return sum(count for count, _ in heard), len({species for _, species in heard})

    def waiting(self, after: int, limit: int) -> list[tuple[int, str, str]]:
        """Messages not yet acknowledged, `(seq, topic, payload)`, oldest first, with seq above `after`."""
        return [
            (int(seq), str(topic), str(payload))
            for seq, topic, payload in self.rows(
                "SELECT seq, topic, payload FROM outbox WHERE sent_utc IS NULL AND seq > ? ORDER BY seq LIMIT ?",
                (after, limit),
            )
        ]

    def waiting_count(self) -> int:
        return int(self.rows("SELECT count(*) FROM outbox WHERE sent_utc IS NULL")[0][0])

    def mark_sent(self, seqs: Sequence[int]) -> None:
        """The broker has acknowledged these messages."""
        if not seqs:
            return
        with self._transaction():
            now = _now()
            self._db.conn.executemany("UPDATE outbox SET sent_utc = ? WHERE seq = ?", [(now, seq) for seq in seqs])


def _recording_columns(recording: RecordingRow, station: str) -> dict[str, Any]:
    return {
        "id": recording.id,
        "station": station,
        "path": recording.path,
        "bytes": recording.bytes,
        "mtime_ns": recording.mtime_ns,
        "sha256": recording.sha256,
        "start_utc": utc_text(recording.start),
        "time_source": recording.time_source,
        "zone_source": recording.zone_source,
        "utc_offset_minutes": recording.utc_offset_minutes,
        "latitude": recording.place.latitude if recording.place else None,
        "longitude": recording.place.longitude if recording.place else None,
    }


def _detection_columns(detection: Detection, bundle_id: str) -> dict[str, Any]:
    return {
        "id": detection.id,
        "recording": detection.recording_id,
        "bundle": bundle_id,
        "species": detection.species,
        "start_utc": utc_text(detection.start),
        "end_utc": utc_text(detection.end),
        "offset_s": detection.offset_s,
        "score": detection.score,
        "acoustic": detection.acoustic,
        "prior": detection.prior,
        "threshold": detection.threshold,
        "rule": detection.rule,
        "member_low": detection.member_low,
        "member_high": detection.member_high,
        "level_dbfs": detection.level_dbfs,
    }
