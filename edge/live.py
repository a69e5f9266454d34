"""The microphone, hour by hour: chunks become stretches, what is missing becomes gaps, every second is in one of both.

Decides on the overload ladder, the schedule, and what a clock that was set means. Knows no health and no service.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone

from edge.analysis import FEW_MEMBERS, NO_OVERLAP, Analyst, Found, Stretch
from edge.capture.microphone import Microphone
from edge.capture.schedule import Schedule
from edge.clips.maker import ClipMaker
from edge.clock import Clock, boot_id
from edge.config import Config, MicrophoneSettings
from edge.contract.audio import RATE_HZ
from edge.contract.errors import ConfigError, StoreError
from edge.ledger import Ledger
from edge.local_clock import LocalClock
from edge.types import Chunk, Gap, GapRow, Place, RecordingRow, stable_id, utc_text

SOURCE = "microphone"
_WAIT_S = 0.5  # for sound, before other things are looked after
_NOTE_S = 60.0  # a gap that goes on is written down so often
_CALM_S = 30.0  # without much waiting, before a step of the ladder is taken back
_SHED = {0: "nothing", NO_OVERLAP: "overlap", FEW_MEMBERS: "overlap and networks"}
_ASK_S = 5.0  # between two questions to the schedule

log = logging.getLogger(__name__)


def station_place(config: Config) -> Place | None:
    """Where the station is, if the settings say so."""
    latitude, longitude = config.station.latitude, config.station.longitude
    return None if latitude is None or longitude is None else Place(latitude, longitude)


def _moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)


def schedule_of(config: Config) -> Schedule:
    """When to listen. Raises ConfigError."""
    try:
        return Schedule.parse(config.schedule, station_place(config), config.zone)
    except ValueError as error:
        raise ConfigError(f"{error}") from error


class Live:
    """Listens step by step, so that one loop can look after everything.

    live = Live(config, analyst, ledger, clips, on_found)
    while listening:
        live.step()
    live.end(patience_s=5)
    """

    def __init__(
        self,
        config: Config,
        analyst: Analyst,
        ledger: Ledger,
        clips: ClipMaker | None,
        on_found: Callable[[Found], None],
        on_gap: Callable[[GapRow, float], None],
        clock: Clock,
        open_microphone: Callable[[MicrophoneSettings], Microphone] = Microphone,
    ) -> None:
        self._config, self._analyst, self._ledger, self._clips = config, analyst, ledger, clips
        self._on_found, self._on_gap = on_found, on_gap
        self.clock, self._open_microphone = clock, open_microphone
        self._boot = boot_id() or "unknown"
        self._schedule = schedule_of(config)
        self._microphone: Microphone | None = None
        self._stretch: Stretch | None = None
        self._shed, self._shed_since = 0, 0.0
        self._resting: float | None = None  # since when the schedule is closed, on the monotonic clock
        self._unstored: Gap | None = None  # what cannot even wait any more
        self._noted_at = 0.0
        self._told = ("", 0.0)  # the gap that was told last, and how long it was then
        self._open, self._asked_at = True, float("-inf")  # what the schedule said, and when it was asked
        self.awake_at = self.clock.at_s()  # when sound began to come after silence
        self.last_sound: datetime | None = None
        self._heard_until_s = 0.0  # on the monotonic clock
        self._began, self._absence_noted = self.clock.now(), False
        self._note_absence()

    @property
    def shed(self) -> int:
        """The step of the overload ladder."""
        return self._shed

    @property
    def waiting_s(self) -> float:
        """Seconds of sound that wait for an answer."""
        return self._microphone.waiting_s if self._microphone else 0.0

    @property
    def silence(self) -> Gap | None:
        """The gap that goes on just now, if any."""
        if self._resting is not None:
            return Gap(self._resting, self.clock.at_s() - self._resting, "schedule")
        return self._unstored or (self._microphone.silent if self._microphone else None)

    @property
    def microphone(self) -> Microphone | None:
        """The open microphone; None while the schedule is closed."""
        return self._microphone

    def take(self, config: Config) -> None:
        """Use these settings from now on. Raises ConfigError or BundleError; then nothing is taken."""
        schedule = schedule_of(config)
        self._analyst.take(config)
        self._schedule, self._asked_at = schedule, float("-inf")
        self._end_stretch()
        self._config = config

    def step(self) -> None:
        """Hear, analyse and write down what came; waits half a second at most if nothing did."""
        if self.clock.at_s() - self._asked_at > _ASK_S:
            self._open, self._asked_at = self._schedule.open_at(self.clock.now()), self.clock.at_s()
        if not self._open:
            self._rest()
            return
        self._wake()
        assert self._microphone is not None
        heard = self._microphone.read(_WAIT_S)
        self._climb(self._microphone.waiting_s)
        if isinstance(heard, Chunk):
            self._hear(heard)
        elif isinstance(heard, Gap):
            self._miss(heard)
        self._note_silence()
        self._check_clock()
        if not self._absence_noted:
            self._note_absence()

    def end(self, patience_s: float) -> None:
        """Stop listening: analyse what waits as long as there is patience, none on a machine that is too slow anyway,
        and close the books."""
        deadline = self.clock.at_s() + (0 if self._shed else patience_s)
        while self._microphone and self._microphone.waiting_s > 0 and self.clock.at_s() < deadline:
            heard = self._microphone.read(0.0)
            if isinstance(heard, Chunk):
                self._hear(heard)
            elif isinstance(heard, Gap):
                self._miss(heard)
            else:
                break
        self._close_microphone(hurry=self.clock.at_s() >= deadline)

    # Sound

    def _hear(self, chunk: Chunk) -> None:
        if self._ledger.full:
            self._lose(chunk)
            return
        if self._unstored:
            self._write_gap(self._unstored)
            self._unstored = None
        start = self.clock.utc(chunk.at_s)
        if self._stretch and start.replace(minute=0, second=0, microsecond=0) > self._stretch.row.start:
            self._end_stretch()
            if self._microphone:
                self._microphone.reanchor()
            self.clock.reanchor()
            start = self.clock.utc(chunk.at_s)
        if self._stretch is None:
            self._begin_stretch(chunk, start)
        assert self._stretch is not None
        self.last_sound, self._heard_until_s = start, chunk.at_s + len(chunk.samples) / RATE_HZ
        self._stretch.push(chunk.samples)
        if self._clips:
            self._clips.hear(chunk.samples)
        self._say(self._stretch)

    def _begin_stretch(self, chunk: Chunk, start: datetime) -> None:
        row = RecordingRow(
            id=stable_id(self._config.station.id, SOURCE, self._boot, f"{chunk.at_s:.3f}"),
            path=f"{SOURCE}/{utc_text(start)}",
            bytes=0,
            mtime_ns=0,
            sha256="",
            start=start,
            time_source="clock",
            zone_source="config" if self._config.zone else "assumed_utc",
            utc_offset_minutes=LocalClock(self._config.zone).offset_minutes(start),
            place=station_place(self._config),
            source=SOURCE,
            clock_state=self.clock.state,
            boot=self._boot,
            zone=self._config.zone,
        )
        self._stretch, self.awake_at = Stretch(self._analyst, row), self.clock.at_s()
        self._stretch.shed = self._shed
        self._ledger.begin(row, self._analyst.digest())
        if self._clips:
            self._clips.begin(row)

    def _end_stretch(self, hurry: bool = False) -> float:
        """In a hurry no window is spent on its last sound; returns how many seconds that are."""
        stretch, self._stretch = self._stretch, None
        if stretch is None:
            return 0.0
        if hurry:
            stretch.give_up()
        else:
            stretch.close()
        self._say(stretch)
        self._ledger.finish(stretch.row, stretch.decided_s, stretch.windows)
        if self._clips:
            self._clips.end()
        return stretch.heard_s - stretch.decided_s

    def _say(self, stretch: Stretch) -> None:
        for found in stretch.found():
            self._ledger.found(found)
            if self._clips:
                self._clips.decided(found.until_s, found.detections, found.private)
            self._on_found(found)

    # What is missing

    def _miss(self, gap: Gap) -> None:
        """A window over a rest takes as long as any. While there is too little time it would cost more sound than it
        hears, and leave but rests; so the rest is lost with what follows it."""
        rest_s = self._end_stretch(hurry=gap.reason == "overload")
        self._write_gap(replace(gap, at_s=gap.at_s - rest_s, seconds=gap.seconds + rest_s))

    def _lose(self, chunk: Chunk) -> None:
        """Nothing can be stored and no more can wait."""
        self._end_stretch()
        seconds = len(chunk.samples) / RATE_HZ
        begun = self._unstored or Gap(chunk.at_s, 0.0, "store", self._ledger.error or "")
        self._unstored = replace(begun, seconds=chunk.at_s + seconds - begun.at_s)

    def _write_gap(self, gap: Gap) -> None:
        start = self.clock.utc(gap.at_s)
        row = GapRow(
            id=stable_id(self._config.station.id, SOURCE, self._boot, f"{gap.at_s:.3f}", gap.reason),
            source=SOURCE,
            start=start,
            seconds=gap.seconds,
            reason=gap.reason,
            detail=gap.detail,
            clock_state=self.clock.state,
            boot=self._boot,
            zone=self._config.zone,
        )
        self._ledger.gap(row)
        told_s = self._told[1] if self._told[0] == row.id else 0.0
        self._told = (row.id, row.seconds)
        self._on_gap(row, row.seconds - told_s)

    def _note_silence(self) -> None:
        """A gap that goes on is written down now and then: the power may fail before it ends."""
        now, silence = self.clock.at_s(), self.silence
        if silence is None or now - self._noted_at < _NOTE_S or self._ledger.full:
            return
        self._noted_at = now
        if self._stretch:
            self._end_stretch()
        self._write_gap(silence)

    def _note_absence(self) -> None:
        """From what the record knows last until this began the station was off; where a repair has lost rows, nobody
        knows."""
        try:
            last = self._ledger.store().last_known(self._config.station.id)
        except StoreError:
            return  # asked again until it can be had
        self._absence_noted = True
        since = _moment(last) if last else self._began
        if self._began > since:
            lost = self._ledger.record.lost_rows
            row = GapRow(
                id=stable_id(self._config.station.id, SOURCE, "off", utc_text(since)),
                source=SOURCE,
                start=since,
                seconds=(self._began - since) / timedelta(seconds=1),
                reason="store" if lost else "off",
                detail="the record was damaged: what it said of this time is lost" if lost else "",
                clock_state=self.clock.state,
                boot=self._boot,
                zone=self._config.zone,
            )
            self._ledger.gap(row)

    # Schedule, overload, clock

    def _rest(self) -> None:
        if self._resting is None:
            self._close_microphone()
            self._resting = self.clock.at_s()
            log.info("not listening until %s", self._schedule.changes_after(self.clock.now()))
        time.sleep(_WAIT_S)
        self._note_silence()
        self._check_clock()

    def _wake(self) -> None:
        if self._resting is not None:
            self._write_gap(Gap(self._resting, self.clock.at_s() - self._resting, "schedule"))
            self._resting = None
        if self._microphone is None:
            self._microphone = self._open_microphone(self._config.microphone)

    def _close_microphone(self, hurry: bool = False) -> None:
        if self._microphone is None:
            self._end_stretch()
            return
        rest = self._microphone.close()
        self._microphone = None
        unanswered_s = self._end_stretch(hurry)
        if unanswered_s:
            begun_s = self._heard_until_s - unanswered_s
            self._write_gap(Gap(begun_s, unanswered_s, "overload", "not analysed before the end"))
        if rest:
            self._write_gap(rest)

    def _climb(self, waiting_s: float) -> None:
        """The overload ladder, by how much sound waits of what may wait: from a quarter on no overlap, from a half on
        one member of each kind. Down again step by step, once little has waited for a while."""
        full, now = self._config.microphone.buffer_s, self.clock.at_s()
        step = FEW_MEMBERS if waiting_s > full / 2 else NO_OVERLAP if waiting_s > full / 4 else 0
        if step > self._shed or (step < self._shed and waiting_s < full / 20 and now - self._shed_since > _CALM_S):
            step = max(step, self._shed - 1)
            log.warning("%.0f s of sound wait: left out is %s, was %s", waiting_s, _SHED[step], _SHED[self._shed])
            self._shed, self._shed_since = step, now
            if self._stretch:
                self._stretch.shed = step

    def _check_clock(self) -> None:
        step_s = self.clock.check()
        if step_s is None:
            return
        self._end_stretch()
        at = self.clock.now()
        log.warning(
            "the wall clock was set by %+.1f s; rows stamped before can be corrected: birdstation clock fix", step_s
        )
        self._ledger.clock_step(self._boot, at, step_s)
