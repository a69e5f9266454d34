"""Facts about the running daemon, gathered from its parts into one Health. Decides nothing;
health.py has the rules."""

import importlib.metadata
import logging
import threading
from dataclasses import fields, replace
from datetime import date, datetime, timedelta

from edge.analysis.stretch import Analyst, BatchResult
from edge.clips.maker import ClipMaker
from edge.clips.retention import RetentionSummary
from edge.config import Config
from edge.contract.local_clock import LocalClock
from edge.daemon.day_counts import DayCounts, Today
from edge.daemon.health import Facts, Health, Mqtt, assess, health_folder, write_health
from edge.daemon.ledger import Ledger
from edge.daemon.source import Hearing
from edge.demo.invented import notice_of
from edge.host.clock import Clock
from edge.host.machine import disk, rss_mb, temperature_c
from edge.publisher import Publisher
from edge.store.days import of_day
from edge.store.record import Store
from edge.types import GapRow

log = logging.getLogger(__name__)


class Vitals:
    """Counts events and makes health reports. Several threads call it; its lock is held only while
    counting."""

    def __init__(
        self,
        config: Config,
        analyst: Analyst,
        probe: float,
        ledger: Ledger,
        clips: ClipMaker,
        clock: Clock,
    ) -> None:
        self._analyst = analyst
        self._probe = probe
        self._ledger = ledger
        self._clips = clips
        self._at_s = clock.at_s
        self._began = clock.at_s()
        self.decided_at = self._began  # time of the last decided window, on the monotonic clock
        self._station = config.station.id
        self._lock = threading.Lock()  # for today's counts
        self._today = Today(LocalClock(config.zone), clock.now)
        self._moves = 0  # clock steps so far
        self._recorded: tuple[date, DayCounts] | None = None  # counts of a day from the record
        self._until = ("", 0.0)  # id of the last stretch, and the seconds of it that are counted
        self._last_detection: datetime | None = None
        self._decided: datetime | None = None
        self._level_dbfs: float | None = None
        self._written_problem: str | None = None
        self._clips_failed = 0
        self._saved_then = 0
        self._clips_problem = ""
        self._given_up_s = 0.0
        self._retained = RetentionSummary()
        self.version = importlib.metadata.version("birdstation")

    def prime(self, store: Store) -> None:
        """Read the counts of today from the record, and of the days before and after, which are
        today by the clocks of some recorders, or may become today when this clock is set. Call it
        when everything counted is stored, or nothing is counted yet. Raises StoreError."""
        today = self._today.day
        days = [today + timedelta(days=more) for more in (-1, 0, 1)]
        known = {day: _recorded_of(store, self._station, day) for day in days}
        with self._lock:
            self._today.prime(known)

    def moved(self, seconds: float) -> None:
        """Handle a clock step, which moves all timestamps of this boot. Called by the hearing
        thread when everything it has counted is in the write queue; the counts are read again after
        that."""
        by = timedelta(seconds=seconds)
        with self._lock:
            self._moves += 1
            move = self._moves
            self._today.moved(seconds)
        self._last_detection = self._last_detection and self._last_detection + by
        self._decided = self._decided and self._decided + by

        def recount(store: Store) -> None:
            if move == self._moves:  # otherwise the clock was set again meanwhile
                self.prime(store)

        self._ledger.then(recount)

    def recount(self, store: Store) -> None:
        """Read today's counts of a watched folder from the record, where recordings that are
        analysed again, or were parts of others, count once. Raises StoreError."""
        day = self._today.day
        self._recorded = day, _recorded_of(store, self._station, day)

    def found(self, found: BatchResult) -> None:
        """Count the results of a batch of windows."""
        self.decided_at = self._at_s()
        before = max(found.begins_s, self._until[1] if self._until[0] == found.row.id else 0.0)
        self._until = (found.row.id, found.until_s)
        self._decided = found.end
        self._level_dbfs = found.level_dbfs
        local = found.row.local
        with self._lock:
            self._today.add_analysed(
                found.row.start + timedelta(seconds=before), found.until_s - before, local
            )
            for detection in found.detections:
                self._today.add_detections(detection.start, local=local)
            self._today.add_suppressed(found.end, len(found.private), local)
        if found.detections:
            self._last_detection = found.detections[-1].start

    def missed(self, gap: GapRow, more_s: float) -> None:
        """Count lost sound: the gap has grown by `more_s` seconds since it was reported last."""
        if gap.reason not in ("off", "schedule", "triggered"):
            with self._lock:
                self._today.add_lost(
                    gap.start + timedelta(seconds=gap.seconds - more_s), more_s, gap.local
                )

    def tidied(self, retained: RetentionSummary) -> None:
        """Keep the result of the last clean-up of clips."""
        self._retained = retained

    def say(self, config: Config, hearing: Hearing, publisher: Publisher | None) -> Health:
        """Make a health report and pass it to the publisher; `write` writes the files."""
        health = self._health(config, hearing, publisher)
        if publisher:
            publisher.tell_health(health.to_json())
        return health

    def write(self, config: Config, health: Health) -> None:
        """Write health.json and health.prom."""
        problem = write_health(health, health_folder(config))
        if problem and problem != self._written_problem:
            log.warning("%s", problem)
        self._written_problem = problem

    def _health(self, config: Config, hearing: Hearing, publisher: Publisher | None) -> Health:
        now = self._at_s()
        today, lost_hour_s = self._counts(config)
        mqtt = None
        if publisher:
            state = publisher.state()
            mqtt = Mqtt(**{field.name: getattr(state, field.name) for field in fields(Mqtt)})
        facts = Facts(
            silent_s=hearing.silent_s,
            time_known=hearing.time_known,
            source_problem=hearing.problem,
            store_problem=self._ledger.error,
            store_advice=self._ledger.record.advice,
            record_problem=self._ledger.problem,
            clips_problem=self._clips_trouble(),
            broker_away_s=publisher.away_s if publisher else 0.0,
            publisher_ended=publisher.ended if publisher else False,
            lost_hour_s=lost_hour_s,
            disk_short_mb=self._retained.short_bytes / 1e6,
            card_problem=hearing.card_problem,
            privacy_problem=self._analyst.privacy.trouble,
            networks_problem=self._analyst.recognizer.trouble,
            runtime_problem=self._analyst.recognizer.degraded,
            prior_problem=self._analyst.priors.problem,
        )
        space = disk(config.state)
        health = Health(
            station=config.station.id,
            time_utc=hearing.now,
            source=config.source,
            hearing=hearing.hearing,
            level_dbfs=self._level_dbfs,
            lag_s=self._lag_s(hearing) if config.source == "microphone" else None,
            waiting_s=hearing.waiting_s,
            shed=hearing.shed,
            lost_today_s=today.lost_s,
            analysed_today_s=today.analysed_s,
            detections_today=today.detections,
            last_sound_utc=hearing.last_sound,
            last_detection_utc=self._last_detection,
            clock_state=hearing.clock_state,
            disk_free_mb=space.free_mb if space else None,
            disk_hours_left=self._retained.hours_left,
            temperature_c=temperature_c(),
            mqtt=mqtt,
            runtime=self._analyst.recognizer.engine.name,
            members=self._analyst.recognizer.members,
            bag_share=self._analyst.recognizer.bag_share,
            bundle=self._analyst.bundle.id[:16],
            licence=self._analyst.bundle.licence,
            notice=notice_of(self._analyst.bundle.manifest.taxonomy_digest),
            probe=self._probe,
            suppressed_today=today.suppressed,
            uptime_s=now - self._began,
            rss_mb=rss_mb(),
            version=self.version,
        )
        return assess(health, facts)

    def _counts(self, config: Config) -> tuple[DayCounts, float]:
        """Counts of today, and the seconds lost in the last hour. Those of a microphone include
        results that still wait to be stored."""
        with self._lock:
            counts = self._today.counts
            lost_hour_s = self._today.lost_hour_s
            day = self._today.day
        recorded = self._recorded
        if config.source == "folder" and recorded is not None and recorded[0] == day:
            counts = replace(recorded[1], suppressed=counts.suppressed)
        return counts, lost_hour_s

    def _lag_s(self, hearing: Hearing) -> float | None:
        """Seconds from the end of the last decided window to now; None while nothing is heard."""
        if self._decided is None or not hearing.hearing:
            return None
        return max(0.0, (hearing.now - self._decided).total_seconds())

    def _clips_trouble(self) -> str | None:
        """The error of the last clip that failed, unless one was saved since."""
        if self._ledger.given_up_s > self._given_up_s:
            self._given_up_s = self._ledger.given_up_s
            self._saved_then = self._clips.saved
            self._clips_problem = (
                f"{self._given_up_s:.0f} s of sound could not wait for the database any longer"
            )
        if self._clips.failed > self._clips_failed:
            self._clips_failed = self._clips.failed
            self._saved_then = self._clips.saved
            self._clips_problem = self._clips.last_error
        elif self._clips.saved > self._saved_then:
            self._clips_problem = ""
        return self._clips_problem or None


def _recorded_of(store: Store, station: str, day: date) -> DayCounts:
    analysed_s, lost_s, detections = of_day(store, station, day)
    return DayCounts(lost_s, analysed_s, detections)
