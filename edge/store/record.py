"""Recordings, detections, effort and gaps. A detection, its message and the effort behind it commit
in one transaction.

Knows no sound, no network and no broker; messages are only laid into the outbox here (outbox.py
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
from edge.store.numbers import go_on
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

    # whether this file's numbers of messages go on above all that were given
    _numbers_known = False

    def add_bundle(self, bundle: Bundle, manifest: str) -> None:
        """Note the bundle in use and the names of its species."""
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
        """Start or resume a recording. Rows of the same recording under other settings are replaced
        by the new ones; rows of the same analysis, cut off earlier, stay: their ids come again.

        `file` is the state of its file. `grown`: of other recordings that this file was, whether it
        has grown out of them; these count no more, a copy that stalled and went on is heard once.
        `goes_on`: its effort stays, too."""
        with self._transaction():
            recording = self._on_its_line(recording)
            sql = "SELECT analysis, coalesce(start_utc, ?) FROM recordings WHERE id = ?"
            known = self._db.execute(sql, (utc_text(recording.start), recording.id)).fetchone()
            # ids hang on the start, too
            if known and known != (
                analysis,
                utc_text(recording.start),
            ):
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
                recording.id, [*_true(grown), *self._cut_short(recording, station, grown)]
            )

    def same_again(
        self, recording_id: str, station: str, path: str, file: FileState, grown: Mapping[str, bool]
    ) -> None:
        """A file is a recording that the record has; `grown` as for `begin`."""
        with self._transaction():
            self._note_file(station, path, file, recording_id)
            self._supersede(recording_id, _true(grown))

    def withdraw(self, recording_id: str) -> None:
        """What was found in a recording counts no more: its file was changed while it was read."""
        with self._transaction():
            self._gone(recording_id, None)

    def _forget_time(self, recording_id: str) -> None:
        self._db.execute("DELETE FROM effort WHERE recording = ?", (recording_id,))
        self._db.execute("DELETE FROM gaps WHERE recording = ?", (recording_id,))

    def _forget_refusal(self, recording_id: str) -> None:
        """A file that was refused before it could begin can be decoded now."""
        self._db.execute(
            "DELETE FROM files WHERE recording = (SELECT id FROM recordings WHERE id = ? AND "
            "start_utc IS NULL)",
            (recording_id,),
        )
        self._db.execute(
            "DELETE FROM recordings WHERE id = ? AND start_utc IS NULL", (recording_id,)
        )

    def _supersede(self, recording_id: str, earlier: Sequence[str]) -> None:
        """What a recording has grown out of counts no more."""
        for other in earlier:
            self._gone(other, recording_id)
            self._db.execute(
                "UPDATE recordings SET grown_into = ? WHERE grown_into = ? AND id <> ?",
                (recording_id, other, recording_id),
            )

    def _gone(self, recording_id: str, grown_into: str | None) -> None:
        self._replace(recording_id)
        self._forget_time(recording_id)
        self._db.execute(  # without `analysis`: should it come back alone, it is analysed again
            "UPDATE recordings SET state = 'refused', reason = 'the file was changed', analysis = "
            "'',"
            " audio_s = NULL, windows = NULL, finished_utc = ?, grown_into = ? WHERE id = ?",
            (now_text(), grown_into, recording_id),
        )

    def _replace(self, recording_id: str) -> None:
        """Forget what was found in a recording before, and its messages that nobody has seen. What
        a person said of it stays, and so do the clips that this was said of."""
        of_it = "(SELECT id FROM detections WHERE recording = ?)"
        dropped = self._db.execute(
            f"DELETE FROM outbox WHERE state = 'waiting' AND id IN {of_it}", (recording_id,)
        )
        self._count("messages created", -dropped.rowcount)  # as if never made: nobody has seen them
        self._db.execute(
            "UPDATE clips SET kept = 1 WHERE id IN"
            " (SELECT d.clip FROM detections d JOIN reviews v ON v.detection = d.id WHERE "
            "d.recording = ?)",
            (recording_id,),
        )
        self._db.execute(  # of a salvaged database these may be missing
            "UPDATE reviews SET (recording, species, start_utc, offset_s) ="
            " (SELECT recording, species, start_utc, offset_s FROM detections WHERE id = detection)"
            f" WHERE recording IS NULL AND detection IN {of_it}",
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
        """Commit a batch: detections, their messages and the effort so far, in one transaction.

        Ids that are there already change nothing. `suppressed`: detections that privacy forbade.
        `row`: by whose start the times are; where the record has another, of live sound, they go
        with it. Returns how many detections are new.
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
        """Sound that a live source missed; a gap that goes on is given again, longer, under its
        id."""
        with self._transaction():
            self._add_gap_rows(station, self._gaps_on_their_lines(gaps))

    def _add_messages(self, messages: Sequence[Message]) -> None:
        if messages and not self._numbers_known:
            go_on(self._db.conn, self.path)
        before = self._db.conn.total_changes
        created = now_text()
        # OR IGNORE would use up a seq, and a subscriber would miss a message that never was
        self._db.conn.executemany(
            "INSERT INTO outbox (id, topic, payload, created_utc)"
            " SELECT ?, ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM outbox WHERE id = ?)",
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
        """The row of a place and a period. A microphone that has moved ends the row of its last
        place; recordings may come in any order, so the period of a place they were made at only
        grows."""
        place = recording.place
        began = utc_text(recording.start)
        where = (place.latitude, place.longitude) if place else (None, None)
        row_of = "station = ? AND source = ?"
        of_source = (station, recording.source)
        if recording.source == "microphone":
            last = self._db.execute(
                f"SELECT id, latitude, longitude FROM deployments WHERE {row_of} AND ended_utc IS "
                f"NULL",
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
            "ended_utc)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
            " began_utc = min(began_utc, excluded.began_utc), ended_utc = max(ended_utc, "
            "excluded.ended_utc)",
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
        """The recording is analysed to its end; `reason` says what of it was lost, if anything,
        `note` what else is to be known of its sound, `sound` are its sums. What has no other sound,
        `within` this one, counts no more."""
        with self._transaction():
            self._supersede(recording_id, within)
            self._db.execute(
                "UPDATE recordings SET state = 'analysed', audio_s = ?, windows = ?, reason = ?, "
                "note = ?,"
                " sound = ?, finished_utc = ? WHERE id = ?",
                (audio_s, windows, reason, note, sound or None, now_text(), recording_id),
            )
            self._db.execute(
                "UPDATE deployments SET ended_utc ="
                " max(ended_utc, (SELECT strftime('%Y-%m-%dT%H:%M:%fZ', r.start_utc, (? + (SELECT"
                " coalesce(sum(seconds), 0) FROM gaps WHERE recording = r.id)) || ' seconds') FROM "
                "recordings r"
                " WHERE r.id = ?)) WHERE ended_utc IS NOT NULL"
                " AND id = (SELECT deployment FROM recordings WHERE id = ?)",
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
        """Set a recording aside with its reason; it is not tried again until the file changes."""
        with self._transaction():
            told = self._db.execute(  # the name that told its time stays, whatever name was read
                "SELECT path FROM recordings WHERE id = ? AND time_source IN ('name', 'date')",
                (recording_id,),
            ).fetchone()
            self._db.table("recordings").upsert(
                {
                    "id": recording_id,
                    "station": station,
                    "path": told[0] if told else path,
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
        """Of a file that never was a recording and grows (a log), the last word is enough."""
        earlier = (
            "SELECT id FROM recordings WHERE station = ? AND path = ? AND id <> ? AND state = "
            "'refused'"
            " AND start_utc IS NULL AND sha256 IS NULL"
        )
        same = (station, path, recording_id)
        self._db.execute(
            f"DELETE FROM files WHERE station = ? AND path = ? AND recording IN ({earlier})",
            (station, path, *same),
        )
        self._db.execute(
            f"DELETE FROM recordings WHERE id IN ({earlier}) AND id NOT IN (SELECT recording FROM "
            f"files)",
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
        """A person's word on a detection, and what it is `instead`; a later one of the same person
        replaces it. `keep` protects the clip. The word stays when its detection goes, and is with
        it again when that comes again."""
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO reviews"
                " SELECT id, ?, ?, ?, ?, ?, recording, species, start_utc, offset_s FROM "
                "detections WHERE id = ?",
                (reviewer, verdict, instead, note, now_text(), detection),
            )
            if keep:
                self._db.execute(
                    "UPDATE clips SET kept = 1 WHERE id = (SELECT clip FROM detections WHERE id = "
                    "?)",
                    (detection,),
                )

    def species_named(self, text: str) -> str | None:
        """The code of the species whose code or name this is, whatever its case; None if the record
        has no such."""
        found = self.rows(
            "SELECT code FROM species WHERE lower(?) IN (lower(code), lower(scientific_name), "
            "lower(common_name))"
            " ORDER BY code LIMIT 1",
            (text,),
        )
        return str(found[0][0]) if found else None

    def heard_in(self, bundle_id: str, recordings: Collection[str]) -> tuple[int, int]:
        """How many detections of how many species these recordings hold."""
        wanted = set(recordings)
        heard = [
            (count, species)
            for recording, species, count in self.rows(
                "SELECT recording, species, count(*) FROM detections WHERE bundle = ? GROUP BY "
                "recording, species",
                (bundle_id,),
            )
            if recording in wanted
        ]
        return sum(count for count, _ in heard), len({species for _, species in heard})


def _true(grown: Mapping[str, bool]) -> list[str]:
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
