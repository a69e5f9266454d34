"""What the daemon knows of itself, gathered from its parts into one Health. Decides nothing; health.py has the rule."""

import importlib.metadata
import logging
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta

from edge.analysis import Analyst, Found
from edge.clips.maker import ClipMaker
from edge.clips.retention import Retained
from edge.clock import Clock
from edge.config import Config
from edge.contract.errors import StoreError
from edge.health import Facts, Health, Mqtt, assess, health_folder, write_health
from edge.invented import notice_of
from edge.ledger import Ledger
from edge.local_clock import LocalClock
from edge.machine import disk, rss_mb, temperature_c
from edge.publisher import Publisher
from edge.store.days import of_day
from edge.today import Counts, Today
from edge.types import ClockState, GapRow

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hearing:
    """How the source is, at this moment."""

    hearing: bool
    silent_s: float  # for so long nothing was heard that should be
    problem: str | None
    waiting_s: float  # sound that waits for an answer
    shed: int
    last_sound: datetime | None
    clock_state: ClockState
    now: datetime
    card_problem: str | None = None  # although it is heard


class Vitals:
    """Counts what happens, and says how the station is."""

    def __init__(
        self, config: Config, analyst: Analyst, probe: float, ledger: Ledger, clips: ClipMaker, clock: Clock
    ) -> None:
        self._analyst, self._probe, self._ledger, self._clips = analyst, probe, ledger, clips
        self._at_s = clock.at_s
        self._began = self._broker_seen = self.decided_at = clock.at_s()  # decided_at: the last window
        self._today = Today(LocalClock(config.zone), clock.now)
        self._until = ("", 0.0)  # the stretch of which so many seconds are counted
        self._last_detection: datetime | None = None
        self._decided: datetime | None = None
        self._level_dbfs: float | None = None
        self._written_problem: str | None = None
        self._clips_failed, self._saved_then, self._clips_problem = 0, 0, ""
        self._retained = Retained()
        self.version = importlib.metadata.version("birdstation")
        self._prime(config.station.id)

    def _prime(self, station: str) -> None:
        """Take over what the record knows of today; and of the days beside it, which it is already by the clocks of
        some recorders, or will be if this clock is set."""
        today = self._today.day
        for day in (today - timedelta(days=1), today, today + timedelta(days=1)):
            try:
                self._today.prime(day, *of_day(self._ledger.store(), station, day))
            except StoreError:
                return

    def found(self, found: Found) -> None:
        """A batch of windows was decided."""
        self.decided_at = self._at_s()
        before = max(found.begins_s, self._until[1] if self._until[0] == found.row.id else 0.0)
        self._until = (found.row.id, found.until_s)
        self._decided, self._level_dbfs = found.end, found.level_dbfs
        local = found.row.local
        self._today.add_analysed(found.row.start + timedelta(seconds=before), found.until_s - before, local)
        for detection in found.detections:
            self._today.add_detections(detection.start, local=local)
        self._today.add_suppressed(found.end, len(found.private), local)
        if found.detections:
            self._last_detection = found.detections[-1].start

    def missed(self, gap: GapRow, more_s: float) -> None:
        """Sound is missing, so many seconds more than when this gap was told last."""
        if gap.reason not in ("off", "schedule", "triggered"):
            self._today.add_lost(gap.start + timedelta(seconds=gap.seconds - more_s), more_s, gap.local)

    def tidied(self, retained: Retained) -> None:
        """What the last clean-up of clips did."""
        self._retained = retained

    def say(self, config: Config, hearing: Hearing, publisher: Publisher | None) -> Health:
        """Write health.json and health.prom, and have the broker told."""
        health = self._health(config, hearing, publisher)
        problem = write_health(health, health_folder(config))
        if problem and problem != self._written_problem:
            log.warning("%s", problem)
        self._written_problem = problem
        if publisher:
            publisher.tell_health(health.to_json())
        return health

    def _health(self, config: Config, hearing: Hearing, publisher: Publisher | None) -> Health:
        now = self._at_s()
        today = self._counts(config)
        mqtt = None
        if publisher:
            state = publisher.state()
            mqtt = Mqtt(**{field.name: getattr(state, field.name) for field in fields(Mqtt)})
            self._broker_seen = now if state.connected else self._broker_seen
        facts = Facts(
            silent_s=hearing.silent_s,
            source_problem=hearing.problem,
            store_problem=self._ledger.error,
            store_advice=self._ledger.record.advice,
            record_problem=self._ledger.record.problem,
            clips_problem=self._clips_trouble(),
            broker_away_s=now - self._broker_seen if publisher else 0.0,
            lost_hour_s=self._today.lost_hour_s,
            disk_short_mb=self._retained.short_bytes / 1e6,
            card_problem=hearing.card_problem,
            privacy_problem=self._analyst.privacy.trouble,
            networks_problem=self._analyst.recognizer.trouble,
            runtime_problem=self._analyst.recognizer.degraded,
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

    def _counts(self, config: Config) -> Counts:
        """Of a watched folder the record knows best: what is analysed again, or was a part of a file, counts once. What
        a microphone heard may still wait to be stored."""
        counts = self._today.counts
        if config.source == "folder" and self._ledger.error is None:
            with suppress(StoreError):
                analysed, lost, detections = of_day(self._ledger.store(), config.station.id, self._today.day)
                return replace(counts, analysed_s=analysed, lost_s=lost, detections=detections)
        return counts

    def _lag_s(self, hearing: Hearing) -> float | None:
        """From the end of the last decided window to now; None while nothing is heard."""
        if self._decided is None or not hearing.hearing:
            return None
        return max(0.0, (hearing.now - self._decided).total_seconds())

    def _clips_trouble(self) -> str | None:
        """What the last clip failed of, unless one was saved since."""
        if self._clips.failed > self._clips_failed:
            self._clips_failed, self._saved_then = self._clips.failed, self._clips.saved
            self._clips_problem = self._clips.last_error
        elif self._clips.saved > self._saved_then:
            self._clips_problem = ""
        return self._clips_problem or None
