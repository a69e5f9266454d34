"""Tables and views of the record, as migrations: a database of any earlier version is upgraded
without loss.

Times are RFC 3339 UTC with milliseconds, durations are seconds. Everything can be read with plain
SQL. Knows no class of the station.
"""

import errno
import os

from sqlite_utils import Database, Migrations

from edge.contract.local_clock import LocalClock
from edge.store.effort import recount_effort

migrations = Migrations("birdstation")


@migrations()
def first_schema(db: Database) -> None:
    """Create recordings, detections, effort, outbox and the tables that they refer to."""
    db.table("bundles").create(
        {"id": str, "manifest": str, "first_used_utc": str}, pk="id", strict=True
    )
    db.table("species").create(
        {"code": str, "scientific_name": str, "common_name": str}, pk="code", strict=True
    )
    db.execute("""
        CREATE TABLE recordings (
            id TEXT PRIMARY KEY, station TEXT NOT NULL, path TEXT NOT NULL, bytes INTEGER NOT NULL,
            mtime_ns INTEGER NOT NULL, sha256 TEXT, start_utc TEXT, time_source TEXT,
            zone_source TEXT,
            utc_offset_minutes INTEGER, latitude REAL, longitude REAL,
            state TEXT NOT NULL CHECK (state IN ('started', 'analysed', 'refused')), reason TEXT,
            bundle TEXT REFERENCES bundles(id), analysis TEXT NOT NULL, audio_s REAL,
            windows INTEGER,
            finished_utc TEXT) STRICT""")
    db.execute("CREATE INDEX recordings_path ON recordings (station, path)")
    db.execute("""
        CREATE TABLE detections (
            id TEXT PRIMARY KEY, recording TEXT NOT NULL REFERENCES recordings(id),
            bundle TEXT NOT NULL REFERENCES bundles(id), species TEXT NOT NULL
            REFERENCES species(code),
            start_utc TEXT NOT NULL, end_utc TEXT NOT NULL, offset_s REAL NOT NULL,
            score REAL NOT NULL, acoustic REAL NOT NULL, prior REAL, threshold REAL NOT NULL,
            rule TEXT NOT NULL,
            member_low REAL NOT NULL, member_high REAL NOT NULL, level_dbfs REAL) STRICT""")
    db.execute("CREATE INDEX detections_time ON detections (start_utc, species)")
    db.execute("CREATE INDEX detections_recording ON detections (recording)")
    db.execute("""
        CREATE TABLE effort (
            recording TEXT NOT NULL REFERENCES recordings(id), hour_utc TEXT NOT NULL,
            heard_s REAL NOT NULL,
            analysed_s REAL NOT NULL, lost_s REAL NOT NULL, reason TEXT NOT NULL,
            PRIMARY KEY (recording, hour_utc, reason)) STRICT""")
    db.execute("""
        CREATE TABLE outbox (
            seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, topic TEXT NOT NULL,
            payload TEXT NOT NULL,
            created_utc TEXT NOT NULL, sent_utc TEXT) STRICT""")
    db.execute("CREATE INDEX outbox_waiting ON outbox (seq) WHERE sent_utc IS NULL")
    db.execute("""
        CREATE VIEW heard AS
        SELECT d.start_utc, s.common_name, s.scientific_name, d.species, round(d.score, 3) AS score,
               r.path, d.offset_s, d.id
        FROM detections d JOIN species s ON s.code = d.species JOIN recordings r
        ON r.id = d.recording""")


@migrations()
def station_schema(db: Database) -> None:
    """Add tables for a station that listens by itself: places and periods, gaps, clips, reviews,
    clocks, counters."""
    db.execute("""
        CREATE TABLE deployments (
            id TEXT PRIMARY KEY, station TEXT NOT NULL, latitude REAL, longitude REAL,
            source TEXT NOT NULL,
            began_utc TEXT NOT NULL, ended_utc TEXT) STRICT""")
    for column in (
        "deployment TEXT REFERENCES deployments(id)",
        "source TEXT NOT NULL DEFAULT 'replay'",
        "clock_state TEXT NOT NULL DEFAULT 'recorder'",
        "boot TEXT",
        "clock_fix_s REAL NOT NULL DEFAULT 0",
    ):
        db.execute(f"ALTER TABLE recordings ADD COLUMN {column}")
    db.execute("""
        CREATE TABLE clips (
            id TEXT PRIMARY KEY, path TEXT NOT NULL UNIQUE, recording TEXT NOT NULL
            REFERENCES recordings(id),
            start_utc TEXT NOT NULL, seconds REAL NOT NULL, bytes INTEGER NOT NULL,
            created_utc TEXT NOT NULL,
            kept INTEGER NOT NULL DEFAULT 0 CHECK (kept IN (0, 1))) STRICT""")
    db.execute("CREATE INDEX clips_age ON clips (start_utc)")
    for column in (
        "members TEXT",  # JSON: score of each member, in the bundle's order
        "runner_ups TEXT",  # JSON: [[species, score], …]
        "shed INTEGER NOT NULL DEFAULT 0",
        "clip TEXT REFERENCES clips(id)",
    ):
        db.execute(f"ALTER TABLE detections ADD COLUMN {column}")
    db.execute("CREATE INDEX detections_clip ON detections (clip) WHERE clip IS NOT NULL")
    _effort_and_gaps(db)
    db.execute("""
        CREATE TABLE reviews (
            detection TEXT NOT NULL REFERENCES detections(id), reviewer TEXT NOT NULL,
            verdict TEXT NOT NULL CHECK (verdict IN ('correct', 'wrong', 'unsure')),
            note TEXT NOT NULL,
            reviewed_utc TEXT NOT NULL, PRIMARY KEY (detection, reviewer)) STRICT""")
    db.execute("""
        CREATE TABLE clock (
            boot TEXT NOT NULL, noted_utc TEXT NOT NULL, seconds REAL NOT NULL,
            kind TEXT NOT NULL CHECK (kind IN ('step', 'fix'))) STRICT""")
    db.execute("CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT")
    _outbox_states(db)


def _effort_and_gaps(db: Database) -> None:
    """Reduce effort to analysed sound and its load level; missing sound becomes a gap with a begin
    and an end."""
    db.execute("""
        CREATE TABLE gaps (
            id TEXT PRIMARY KEY, station TEXT NOT NULL, source TEXT NOT NULL, recording TEXT
            REFERENCES recordings(id),
            start_utc TEXT NOT NULL, end_utc TEXT NOT NULL, seconds REAL NOT NULL,
            reason TEXT NOT NULL,
            detail TEXT NOT NULL, utc_offset_minutes INTEGER NOT NULL, clock_state TEXT NOT NULL,
            boot TEXT,
            clock_fix_s REAL NOT NULL DEFAULT 0) STRICT""")
    db.execute("CREATE INDEX gaps_time ON gaps (start_utc)")
    db.execute("CREATE INDEX gaps_recording ON gaps (recording) WHERE recording IS NOT NULL")
    db.execute("""
        INSERT INTO gaps (id, station, source, recording, start_utc, end_utc, seconds, reason,
        detail,
                          utc_offset_minutes, clock_state)
        SELECT lower(hex(randomblob(16))), r.station, 'replay', r.id, e.hour_utc,
               strftime('%Y-%m-%dT%H:%M:%fZ', e.hour_utc, '+' || e.lost_s || ' seconds'), e.lost_s,
               'damaged', e.reason,
               coalesce(r.utc_offset_minutes, 0), 'recorder'
        FROM effort e JOIN recordings r ON r.id = e.recording WHERE e.lost_s > 0""")
    db.execute("ALTER TABLE effort RENAME TO effort_before")
    db.execute("""
        CREATE TABLE effort (
            recording TEXT NOT NULL REFERENCES recordings(id), hour_utc TEXT NOT NULL,
            shed INTEGER NOT NULL,
            analysed_s REAL NOT NULL, PRIMARY KEY (recording, hour_utc, shed)) STRICT""")
    db.execute("""
        INSERT INTO effort SELECT recording, hour_utc, 0, sum(analysed_s) FROM effort_before
        WHERE analysed_s > 0 GROUP BY recording, hour_utc""")
    db.execute("DROP TABLE effort_before")


def _outbox_states(db: Database) -> None:
    """Add states of messages: waiting, sent, set aside (dead), or dropped because too many waited.
    Counters outlive the rows."""
    db.execute("""
        ALTER TABLE outbox ADD COLUMN state TEXT NOT NULL DEFAULT 'waiting'
        CHECK (state IN ('waiting', 'sent', 'dead', 'dropped'))""")
    db.execute("ALTER TABLE outbox ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE outbox ADD COLUMN reason TEXT")
    db.execute("UPDATE outbox SET state = 'sent' WHERE sent_utc IS NOT NULL")
    db.execute("DROP INDEX outbox_waiting")
    db.execute("CREATE INDEX outbox_waiting ON outbox (seq) WHERE state = 'waiting'")
    db.execute("INSERT INTO counters SELECT 'messages created', count(*) FROM outbox")
    db.execute(
        "INSERT INTO counters SELECT 'messages sent', count(*) FROM outbox WHERE state = 'sent'"
    )


@migrations()
def decided_by(db: Database) -> None:
    """Add the deciding networks of a window, bag or student; from here on `members` has null for a
    network that was not asked."""
    db.execute(
        "ALTER TABLE detections ADD COLUMN decided_by TEXT NOT NULL DEFAULT 'bag' CHECK "
        "(decided_by IN ('bag', 'student'))"
    )


@migrations()
def local_time(db: Database) -> None:
    """Use the local clock at each moment for days and hours, not that at the recording's start. In
    effort, `hour_utc` becomes the begin of a local hour (or of a change of the clock within it), so
    that zones with offsets of 30 and 45 minutes have their own hours. Rows of earlier versions have
    no UTC offset and use the recording's."""
    for table in ("detections", "effort"):
        db.execute(f"ALTER TABLE {table} ADD COLUMN utc_offset_minutes INTEGER")
    db.execute("CREATE INDEX effort_time ON effort (hour_utc)")
    others = db.execute(
        "SELECT id, start_utc, utc_offset_minutes FROM recordings WHERE utc_offset_minutes % 60 <> "
        "0 AND start_utc IS NOT NULL"
    ).fetchall()
    for recording, start, minutes in others:
        recount_effort(db, recording, start, LocalClock(None, minutes))
    for view in ("species_by_day", "hourly_activity", "effort_by_day"):
        db.execute(f"DROP VIEW IF EXISTS {view}")
    _views(db)


def at_the_place(function: str, moment: str, row: str) -> str:
    """SQL for a local date or time. `row` has its own UTC offset; for old rows the one of the
    recording `r` is used."""
    return (
        f"{function}({moment}, coalesce({row}.utc_offset_minutes, r.utc_offset_minutes, 0) || ' "
        "minutes')"
    )


def _views(db: Database) -> None:
    """Create the views for users. Days and hours are local. Recordings with only a date
    (`time_source` 'date') have no hour."""
    day = at_the_place("date", "d.start_utc", "d")
    clock = at_the_place("time", "d.start_utc", "d")
    joined = (
        "detections d JOIN recordings r ON r.id = d.recording JOIN species s ON s.code = d.species"
    )
    db.execute(f"""
        CREATE VIEW species_by_day AS
        SELECT {day} AS day, d.species, s.common_name, s.scientific_name, count(*) AS detections,
               round(max(d.score), 3) AS best, min(iif(r.time_source IS 'date', NULL, {clock}))
               AS first,
               max(iif(r.time_source IS 'date', NULL, {clock})) AS last
        FROM {joined} GROUP BY day, d.species""")
    db.execute(f"""
        CREATE VIEW hourly_activity AS
        SELECT d.species, s.common_name, substr({clock}, 1, 2) AS hour, count(*) AS detections,
               count(DISTINCT {day}) AS days
        FROM {joined} WHERE r.time_source IS NOT 'date' GROUP BY d.species, hour""")
    db.execute("""
        CREATE VIEW gaps_by_day AS
        WITH RECURSIVE parts (day, id, station, source, recording, reason, seconds, start, stop)
        AS (
            SELECT date(start_utc, utc_offset_minutes || ' minutes'), id, station, source,
            recording, reason, seconds,
                   julianday(start_utc, utc_offset_minutes || ' minutes'),
                   julianday(end_utc, utc_offset_minutes || ' minutes')
            FROM gaps
            UNION ALL
            SELECT date(day, '+1 day'), id, station, source, recording, reason, seconds, start, stop
            FROM parts WHERE julianday(day, '+1 day') < stop)
        SELECT day, station, source, recording, reason, id AS gap,
               iif(julianday(day) <= start AND stop <= julianday(day, '+1 day'), seconds,
                   86400 * (min(stop, julianday(day, '+1 day')) - max(start, julianday(day))))
                   AS seconds
        FROM parts""")
    db.execute(f"""
        CREATE VIEW effort_by_day AS
        SELECT day, source, round(sum(analysed_s), 1) AS analysed_s, round(sum(reduced_s), 1)
        AS reduced_s,
               round(sum(lost_s), 1) AS lost_s, round(sum(off_s), 1) AS off_s
        FROM (
            SELECT {at_the_place("date", "e.hour_utc", "e")} AS day, r.source, e.analysed_s,
                   iif(e.shed > 0, e.analysed_s, 0) AS reduced_s, 0 AS lost_s, 0 AS off_s
            FROM effort e JOIN recordings r ON r.id = e.recording
            UNION ALL
            SELECT day, source, 0, 0, iif(reason IN ('off', 'schedule', 'triggered'), 0, seconds),
                   iif(reason IN ('off', 'schedule', 'triggered'), seconds, 0)
            FROM gaps_by_day)
        GROUP BY day, source""")


@migrations()
def recording_identity(db: Database) -> None:
    """Add files and the recordings that they were, and recordings that have grown into others;
    reviews outlive their detections."""
    # id of the recording that contains this one
    db.execute("ALTER TABLE recordings ADD COLUMN grown_into TEXT")
    # a remark on its sound, without loss, such as channels that cancel each other
    db.execute("ALTER TABLE recordings ADD COLUMN note TEXT")
    db.execute("CREATE INDEX recordings_content ON recordings (sha256) WHERE sha256 IS NOT NULL")
    db.execute("""
        CREATE TABLE files (
            station TEXT NOT NULL, path TEXT NOT NULL, name TEXT NOT NULL,
            recording TEXT NOT NULL REFERENCES recordings(id), bytes INTEGER NOT NULL,
            mtime_ns INTEGER NOT NULL,
            ctime_ns INTEGER NOT NULL, sample TEXT NOT NULL, body_end INTEGER NOT NULL,
            body_sum INTEGER NOT NULL,
            PRIMARY KEY (station, path, recording, bytes)) STRICT""")
    db.execute("CREATE INDEX files_name ON files (station, name)")  # the last part of the path
    db.execute("ALTER TABLE reviews RENAME TO reviews_before")
    db.execute("""
        CREATE TABLE reviews (
            detection TEXT NOT NULL, reviewer TEXT NOT NULL,
            verdict TEXT NOT NULL CHECK (verdict IN ('correct', 'wrong', 'unsure')), instead TEXT,
            note TEXT NOT NULL,
            reviewed_utc TEXT NOT NULL, recording TEXT, species TEXT, start_utc TEXT, offset_s REAL,
            PRIMARY KEY (detection, reviewer)) STRICT""")
    db.execute("CREATE INDEX reviews_recording ON reviews (recording)")
    db.execute("""
        INSERT INTO reviews
        SELECT v.detection, v.reviewer, v.verdict, NULL, v.note, v.reviewed_utc, d.recording,
        d.species, d.start_utc,
               d.offset_s
        FROM reviews_before v LEFT JOIN detections d ON d.id = v.detection""")
    db.execute("DROP TABLE reviews_before")
    # clips without a row whose files must be removed
    db.execute("CREATE TABLE clips_going (path TEXT PRIMARY KEY) STRICT")
    db.execute("""
        UPDATE clips SET kept = 1
        WHERE id IN (SELECT d.clip FROM detections d JOIN reviews v ON v.detection = d.id)""")
    db.execute("""
        CREATE VIEW reviews_kept AS
        SELECT v.detection, v.reviewer, v.verdict, v.instead, v.note, v.reviewed_utc, v.recording,
        r.path, v.species,
               v.start_utc, v.offset_s, v.detection IN (SELECT id FROM detections) AS is_there,
               coalesce((SELECT id FROM detections WHERE id = v.detection), (
                   SELECT iif(min(abs(n.offset_s - v.offset_s)) < 5, n.id, NULL) FROM detections n
                   WHERE n.recording IN (v.recording, r.grown_into) AND n.species = v.species))
                   AS stands_now
        FROM reviews v LEFT JOIN recordings r ON r.id = v.recording""")


@migrations()
def recording_sound(db: Database) -> None:
    """Add sums of a recording's sound, which identify it with other tags or in another container;
    NULL if it was analysed by an earlier version."""
    db.execute("ALTER TABLE recordings ADD COLUMN sound TEXT")


@migrations()
def clips_by_rank(db: Database) -> None:
    """Add indexes with which a clean-up finds the best detections of a species and the oldest clips
    without reading all rows."""
    db.execute(
        "CREATE INDEX detections_best ON detections (species, score DESC, clip) WHERE clip IS NOT "
        "NULL"
    )
    db.execute("CREATE INDEX clips_since ON clips (max(start_utc, created_utc), id)")
    db.execute("CREATE INDEX clips_created ON clips (created_utc, bytes)")


@migrations()
def recording_attempts(db: Database) -> None:
    """Add recordings that are being read, with their failed attempts. Recordings that earlier
    versions refused or cut short because of an error of this machine are analysed once more."""
    db.execute("""
        CREATE TABLE attempts (
            station TEXT NOT NULL, path TEXT NOT NULL, bytes INTEGER NOT NULL,
            mtime_ns INTEGER NOT NULL,
            sample TEXT NOT NULL, began_utc TEXT NOT NULL, boot TEXT, process TEXT,
            deaths INTEGER NOT NULL DEFAULT 0, stops INTEGER NOT NULL DEFAULT 0,
            PRIMARY KEY (station, path)) STRICT""")
    words = {os.strerror(number).rstrip(".") for number in errno.errorcode} | {"System error"}
    marks = ", ".join("?" for _ in words)
    db.execute(
        f"""
        UPDATE recordings SET analysis = '' WHERE source <> 'microphone' AND (
            state = 'refused' AND (
                reason LIKE 'cannot be opened: %'
                OR (reason LIKE 'damaged or of an unknown codec: %'
                OR reason LIKE 'not audio, or damaged: %')
                    AND substr(reason, instr(reason, ': ') + 2) IN ({marks}))
            OR state = 'analysed' AND reason LIKE 'damaged (%): %'
                AND substr(reason, 10, instr(reason, '): ') - 10) IN ({marks}))""",
        [*words, *words],
    )


@migrations()
def book_of_time(db: Database) -> None:
    """Add runs of the station, each on the clock of one boot with its offset to UTC, and the time
    on that clock for live sound and gaps. Rows of earlier versions have none and stay as they
    are."""
    db.execute("""
        CREATE TABLE boots (
            number INTEGER PRIMARY KEY, run TEXT NOT NULL UNIQUE, station TEXT NOT NULL,
            source TEXT NOT NULL,
            boot TEXT NOT NULL, began_s REAL NOT NULL, told_ms INTEGER NOT NULL,
            offset_ms INTEGER NOT NULL,
            known TEXT NOT NULL CHECK (known IN ('unsynced', 'rtc', 'synced', 'fixed')),
            lost_before INTEGER NOT NULL CHECK (lost_before IN (0, 1)),
            noted_utc TEXT NOT NULL) STRICT""")
    for table in ("recordings", "gaps"):
        db.execute(f"ALTER TABLE {table} ADD COLUMN run TEXT")
        db.execute(f"ALTER TABLE {table} ADD COLUMN boot_s REAL")
        db.execute(f"CREATE INDEX {table}_run ON {table} (run, boot_s) WHERE run IS NOT NULL")
