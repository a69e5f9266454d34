"""The record: recordings, detections, effort and gaps. A detection, its message and the effort
behind it are committed in one transaction.

Knows no sound, no network and no broker; messages are only added to the outbox here (outbox.py
empties it).
"""

import json
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from edge.contract.bundle import Bundle
from edge.contract.taxonomy import Taxonomy
from edge.store.connection import now_text
from edge.store.files import Files, file_id
from edge.store.losses import LossTable
from edge.store.message_numbers import go_on
from edge.types import (
    Detection,
    Effort,
    FileState,
    GapRow,
    Message,
    RecordingRow,
    stable_id,
    utc_text,
)


class Store(Files, LossTable):
    """The record of one station, for one thread. Raises StoreError in one line when it cannot be
    used.

    with Store(path) as store:
        store.begin(recording, "porch", bundle_id, analysis)
        store.add(recording.id, bundle_id, detections, messages, effort)
        store.finish(recording.id, audio_s=60.0, windows=23, reason=None)
    """

    # True if new messages are numbered above all that subscribers have seen
    _numbers_known = False

    def add_bundle(self, bundle: Bundle, manifest: str) -> None:
        """Store the bundle in use and the names of its species."""
        with self._transaction():
            self._db.table("bundles").insert(
                {"id": bundle.id, "manifest": manifest, "first_used_utc": now_text()}, ignore=True
            )
            self._add_species(bundle.taxonomy)

    def _add_species(self, taxonomy: Taxonomy) -> None:
        names = (
            {"code": s.code, "scientific_name": s.scientific_name, "common_name": s.common_name}
            for s in taxonomy
        )
        self._db.table("species").upsert_all(names, pk="code")

    def begin(
        self,
        recording: RecordingRow,
        station: str,
        bundle_id: str,
        analysis: str,
        file: FileState | None = None,
        grown: Mapping[str, bool] = MappingProxyType({}),
        goes_on: bool = False,
    ) -> None:
        """Start or resume a recording. Rows of the same recording under other settings are deleted;
        rows of an interrupted analysis under the same settings stay, since the same ids come again.

        `file` is the state of its file. `grown`: for each other recording that this file was
        earlier, True if the file now contains it; such recordings no longer count, so that a copy
        that stalled and then continued counts once. `goes_on`: its effort stays, too.
        """
        with self._transaction():
            recording = self._on_its_line(recording)
            sql = "SELECT analysis, coalesce(start_utc, ?) FROM recordings WHERE id = ?"
            known = self._db.execute(sql, (utc_text(recording.start), recording.id)).fetchone()
            # ids depend on the start, too
            if known and known != (analysis, utc_text(recording.start)):
                self._replace(recording.id)
            if not goes_on:
                self._forget_time(recording.id)
            deployment = self._deployment(recording, station)
            self._db.table("recordings").upsert(
                _recording_columns(recording, station)
                | {"deployment": deployment, "grown_into": None}
                | {
                    "state": "started",
                    "bundle": bundle_id,
                    "analysis": analysis,
                    "finished_utc": None,
                },
                pk="id",
            )
            if file is not None:
                self._forget_refusal(file_id(station, recording.path, recording.sha256))
                self._note_file(station, recording.path, file, recording.id)
            self._supersede(
                recording.id, [*_contained(grown), *self._cut_short(recording, station, grown)]
            )

    def same_again(
        self, recording_id: str, station: str, path: str, file: FileState, grown: Mapping[str, bool]
    ) -> None:
        """Note that a file is a recording in the record; `grown` as for `begin`."""
        with self._transaction():
            self._note_file(station, path, file, recording_id)
            self._supersede(recording_id, _contained(grown))

    def withdraw(self, recording_id: str) -> None:
        """Discard the results of a recording whose file was changed while it was read."""
        with self._transaction():
            self._discard(recording_id, None)

    def _forget_time(self, recording_id: str) -> None:
        self._db.execute("DELETE FROM effort WHERE recording = ?", (recording_id,))
        self._db.execute("DELETE FROM gaps WHERE recording = ?", (recording_id,))

    def _forget_refusal(self, recording_id: str) -> None:
        """Delete the refusal of a file that can be decoded now."""
        self._db.execute(
            "DELETE FROM files WHERE recording = (SELECT id FROM recordings WHERE id = ? AND "
            "start_utc IS NULL)",
            (recording_id,),
        )
        self._db.execute(
            "DELETE FROM recordings WHERE id = ? AND start_utc IS NULL", (recording_id,)
        )

    def _supersede(self, recording_id: str, earlier: Sequence[str]) -> None:
        """Discard the results of the recordings that this one has grown out of."""
        for other in earlier:
            self._discard(other, recording_id)
            self._db.execute(
                "UPDATE recordings SET grown_into = ? WHERE grown_into = ? AND id <> ?",
                (recording_id, other, recording_id),
            )

    def _discard(self, recording_id: str, grown_into: str | None) -> None:
        self._replace(recording_id)
        self._forget_time(recording_id)
        self._db.execute(  # `analysis` is emptied, so that it is analysed again if it comes back
            "UPDATE recordings SET state = 'refused', reason = 'the file was changed', analysis = "
            "'', audio_s = NULL, windows = NULL, finished_utc = ?, grown_into = ? WHERE id = ?",
            (now_text(), grown_into, recording_id),
        )

    def _replace(self, recording_id: str) -> None:
        """Delete the earlier detections of a recording and its unsent messages. Reviews stay, and
        so do the reviewed clips."""
        of_it = "(SELECT id FROM detections WHERE recording = ?)"
        dropped = self._db.execute(
            f"DELETE FROM outbox WHERE state = 'waiting' AND id IN {of_it}", (recording_id,)
        )
        self._count("messages created", -dropped.rowcount)  # never sent, so they do not count
        self._db.execute(
            "UPDATE clips SET kept = 1 WHERE id IN (SELECT d.clip FROM detections d JOIN reviews v "
            "ON v.detection = d.id WHERE d.recording = ?)",
            (recording_id,),
        )
        self._db.execute(  # in a repaired database these columns may be empty
            "UPDATE reviews SET (recording, species, start_utc, offset_s) = (SELECT recording, "
            "species, start_utc, offset_s FROM detections WHERE id = detection) WHERE recording "
            f"IS NULL AND detection IN {of_it}",
            (recording_id,),
        )
        self._db.execute("DELETE FROM detections WHERE recording = ?", (recording_id,))

    def add(
        self,
        recording_id: str,
        bundle_id: str,
        detections: Sequence[Detection],
        messages: Sequence[Message],
        effort: Sequence[Effort],
        suppressed: int = 0,
        row: RecordingRow | None = None,
    ) -> int:
        """Commit a batch in one transaction: detections, their messages and the effort so far.

        Ids that exist already change nothing. `suppressed`: number of detections dropped for
        privacy. `row`: the live recording by whose start the times were made; if the record has
        another start by now, they move with it. Returns the number of new detections.
        """
        with self._transaction():
            if row is not None and row.run is not None:
                detections, effort = self._as_begun(row, detections, effort)
            before = self._db.conn.total_changes
            self._db.table("detections").insert_all(
                (_detection_columns(d, bundle_id) for d in detections), ignore=True
            )
            new = self._db.conn.total_changes - before
            self._add_messages(messages)
            self._add_effort(recording_id, effort)
            self._count("detections suppressed", suppressed)
        self._numbers_known = self._numbers_known or bool(messages)
        return new

    def add_gaps(self, station: str, gaps: Sequence[GapRow]) -> None:
        """Store gaps; an ongoing gap is given again, longer, under the same id."""
        with self._transaction():
            self._add_gap_rows(station, self._gaps_on_their_lines(gaps))

    def _add_messages(self, messages: Sequence[Message]) -> None:
        if messages and not self._numbers_known:
            go_on(self._db.conn, self.path)
        before = self._db.conn.total_changes
        created = now_text()
        # OR IGNORE would use up a seq, and a subscriber would believe that a message is missing
        self._db.conn.executemany(
            "INSERT INTO outbox (id, topic, payload, created_utc) SELECT ?, ?, ?, ? WHERE NOT "
            "EXISTS (SELECT 1 FROM outbox WHERE id = ?)",
            [(m.id, m.topic, m.payload, created, m.id) for m in messages],
        )
        self._count("messages created", self._db.conn.total_changes - before)

    def _add_effort(self, recording_id: str, effort: Sequence[Effort]) -> None:
        self._db.table("effort").upsert_all(
            (
                {
                    "recording": recording_id,
                    "hour_utc": utc_text(e.hour),
                    "shed": e.shed,
                    "analysed_s": e.analysed_s,
                    "utc_offset_minutes": e.utc_offset_minutes,
                }
                for e in effort
            ),
            pk=("recording", "hour_utc", "shed"),
        )

    def _deployment(self, recording: RecordingRow, station: str) -> str:
        """Id of the row for a place and a period, which is stored. A microphone that has moved ends
        the row of its last place. Recordings may come in any order, so the period of their place
        only grows."""
        place = recording.place
        began = utc_text(recording.start)
        where = (place.latitude, place.longitude) if place else (None, None)
        row_of = "station = ? AND source = ?"
        of_source = (station, recording.source)
        if recording.source == "microphone":
            last = self._db.execute(
                f"SELECT id, latitude, longitude FROM deployments WHERE {row_of} AND ended_utc IS "
                "NULL",
                of_source,
            ).fetchone()
            if last and last[1:] == where:
                return str(last[0])
            self._db.execute(
                f"UPDATE deployments SET ended_utc = ? WHERE {row_of} AND ended_utc IS NULL",
                (began, *of_source),
            )
            deployment = stable_id(*of_source, repr(where), began)
            ended = None
        else:
            deployment = stable_id(*of_source, repr(where))
            ended = began
        self._db.execute(
            "INSERT INTO deployments (id, station, source, latitude, longitude, began_utc, "
            "ended_utc) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET began_utc = "
            "min(began_utc, excluded.began_utc), ended_utc = max(ended_utc, excluded.ended_utc)",
            (deployment, *of_source, *where, began, ended),
        )
        return deployment

    def finish(
        self,
        recording_id: str,
        audio_s: float,
        windows: int,
        reason: str | None,
        note: str | None = None,
        sound: str = "",
        within: Sequence[str] = (),
    ) -> None:
        """Store the end of a recording. `reason` describes lost sound, if any, `note` is a remark
        on its sound, `sound` are the sums of its sound. Recordings whose sound is contained in this
        one, `within`, no longer count."""
        with self._transaction():
            self._supersede(recording_id, within)
            self._db.execute(
                "UPDATE recordings SET state = 'analysed', audio_s = ?, windows = ?, reason = ?, "
                "note = ?, sound = ?, finished_utc = ? WHERE id = ?",
                (audio_s, windows, reason, note, sound or None, now_text(), recording_id),
            )
            self._db.execute(
                "UPDATE deployments SET ended_utc = max(ended_utc, (SELECT "
                "strftime('%Y-%m-%dT%H:%M:%fZ', r.start_utc, (? + (SELECT coalesce(sum(seconds), "
                "0) FROM gaps WHERE recording = r.id)) || ' seconds') FROM recordings r WHERE r.id "
                "= ?)) WHERE ended_utc IS NOT NULL AND id = (SELECT deployment FROM recordings "
                "WHERE id = ?)",
                (audio_s, recording_id, recording_id),
            )

    def refuse(
        self,
        recording_id: str,
        station: str,
        path: str,
        file: FileState,
        analysis: str,
        reason: str,
        source: str = "replay",
    ) -> None:
        """Refuse a recording with a reason; it is not tried again until the file changes."""
        with self._transaction():
            named = self._db.execute(  # a name that gave its time is kept
                "SELECT path FROM recordings WHERE id = ? AND time_source IN ('name', 'date')",
                (recording_id,),
            ).fetchone()
            self._db.table("recordings").upsert(
                {
                    "id": recording_id,
                    "station": station,
                    "path": named[0] if named else path,
                    "bytes": file.bytes,
                    "mtime_ns": file.mtime_ns,
                    "source": source,
                    "state": "refused",
                    "reason": reason,
                    "analysis": analysis,
                    "finished_utc": now_text(),
                },
                pk="id",
            )
            self._note_file(station, path, file, recording_id)
            self._forget_refused(recording_id, station, path)

    def _forget_refused(self, recording_id: str, station: str, path: str) -> None:
        """Delete earlier refusals of a growing file that never was a recording (a log); the last
        one is enough."""
        earlier = (
            "SELECT id FROM recordings WHERE station = ? AND path = ? AND id <> ? AND state = "
            "'refused' AND start_utc IS NULL AND sha256 IS NULL"
        )
        same = (station, path, recording_id)
        self._db.execute(
            f"DELETE FROM files WHERE station = ? AND path = ? AND recording IN ({earlier})",
            (station, path, *same),
        )
        self._db.execute(
            f"DELETE FROM recordings WHERE id IN ({earlier}) AND id NOT IN (SELECT recording FROM "
            "files)",
            same,
        )

    def review(
        self,
        detection: str,
        reviewer: str,
        verdict: str,
        note: str,
        keep: bool,
        instead: str | None = None,
    ) -> None:
        """Store a reviewer's verdict on a detection, and the species that it is `instead`; a later
        verdict of the same reviewer replaces it. `keep` protects the clip. The review stays when
        its detection is deleted, and belongs to it again if the same detection comes back."""
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO reviews SELECT id, ?, ?, ?, ?, ?, recording, species, "
                "start_utc, offset_s FROM detections WHERE id = ?",
                (reviewer, verdict, instead, note, now_text(), detection),
            )
            if keep:
                self._db.execute(
                    "UPDATE clips SET kept = 1 WHERE id = (SELECT clip FROM detections WHERE id = "
                    "?)",
                    (detection,),
                )

    def species_named(self, text: str) -> str | None:
        """Code of the species with this code or name, in upper or lower case; None if the record
        has no such species."""
        rows = self.rows(
            "SELECT code FROM species WHERE lower(?) IN (lower(code), lower(scientific_name), "
            "lower(common_name)) ORDER BY code LIMIT 1",
            (text,),
        )
        return str(rows[0][0]) if rows else None

    def heard_in(self, bundle_id: str, recordings: Collection[str]) -> tuple[int, int]:
        """Numbers of detections and of species that this bundle found in these recordings."""
        asked = set(recordings)
        counts = [
            (count, species)
            for recording, species, count in self.rows(
                "SELECT recording, species, count(*) FROM detections WHERE bundle = ? GROUP BY "
                "recording, species",
                (bundle_id,),
            )
            if recording in asked
        ]
        return sum(count for count, _ in counts), len({species for _, species in counts})


def _contained(grown: Mapping[str, bool]) -> list[str]:
    return [recording for recording, has_grown in grown.items() if has_grown]


def _recording_columns(recording: RecordingRow, station: str) -> dict[str, Any]:
    return {
        "id": recording.id,
        "station": station,
        "path": recording.known_as,
        "bytes": recording.bytes,
        "mtime_ns": recording.mtime_ns,
        "sha256": recording.sha256,
        "start_utc": utc_text(recording.start),
        "time_source": recording.time_source,
        "zone_source": recording.zone_source,
        "utc_offset_minutes": recording.utc_offset_minutes,
        "latitude": recording.place.latitude if recording.place else None,
        "longitude": recording.place.longitude if recording.place else None,
        "source": recording.source,
        "clock_state": recording.clock_state,
        "boot": recording.boot,
        "run": recording.run,
        "boot_s": recording.boot_s,
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
        "members": json.dumps(
            [None if score is None else round(score, 5) for score in detection.members]
        ),
        "runner_ups": json.dumps([[code, round(score, 5)] for code, score in detection.runner_ups]),
        "shed": detection.shed,
        "decided_by": detection.decided_by,
        "utc_offset_minutes": detection.utc_offset_minutes,
    }
