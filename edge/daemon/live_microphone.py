"""The microphone as a source: chunks become stretches of at most an hour, missing sound becomes
gaps, and every second is in one of the two.

Follows the schedule and handles clock steps. Touches no disk: results go to the ledger, which
stores them when it can. Knows no health and no service.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from edge.analysis.stretch import AnalysisSetup, Analyst, BatchResult, Stretch
from edge.capture.microphone import Microphone
from edge.capture.schedule import Schedule
from edge.config import Config, MicrophoneSettings
from edge.contract.audio import RATE_HZ
from edge.contract.errors import ConfigError
from edge.contract.local_clock import LocalClock
from edge.daemon.gaps import GapWriter
from edge.daemon.ledger import Ledger
from edge.daemon.load_level import LoadShedder
from edge.daemon.source import OUTAGE_S_MAX, STUCK_S_MAX, Hearing
from edge.daemon.timeline import Timeline
from edge.host.clock import KNOWN, Clock, boot_id, is_nonsense
from edge.types import Chunk, Gap, GapRow, Place, RecordingRow, stable_id, utc_text

SOURCE = "microphone"
_WAIT_S = 0.5  # longest wait for sound in one step
_ASK_S = 5.0  # interval at which the schedule is asked
_SHARD_S = 0.5  # one block; shorter stretches come from a failing card, between two gaps

log = logging.getLogger(__name__)


def station_place(config: Config) -> Place | None:
    """Place of the station; None if it is not set."""
    latitude = config.station.latitude
    longitude = config.station.longitude
    return None if latitude is None or longitude is None else Place(latitude, longitude)


def schedule_of(config: Config) -> Schedule:
    """The configured listening schedule. Raises ConfigError."""
    try:
        return Schedule.parse(config.schedule, station_place(config), config.zone)
    except ValueError as error:
        raise ConfigError(f"{error}") from error


@dataclass(frozen=True)
class _Settings:
    """Settings of a reload, checked completely."""

    prepared: AnalysisSetup
    schedule: Schedule


class Live:
    """Listens step by step, in one thread; edge.daemon.source.Source.

    live = Live(config, analyst, ledger, on_found, on_gap, clock)
    while listening:
        live.step()
    live.end(patience_s=5)
    """

    def __init__(
        self,
        config: Config,
        analyst: Analyst,
        ledger: Ledger,
        on_found: Callable[[BatchResult], None],
        on_gap: Callable[[GapRow, float], None],
        clock: Clock,
        open_microphone: Callable[[MicrophoneSettings], Microphone] = Microphone,
    ) -> None:
        self._config = config
        self._analyst = analyst
        self._ledger = ledger
        self._on_found = on_found
        # called with the seconds by which the clock was set
        self.on_moved: Callable[[float], object] = lambda _: None
        self.clock = clock
        self._open_microphone = open_microphone
        self._boot = boot_id() or "unknown"
        self._schedule = schedule_of(config)
        self._coming: _Settings | None = None  # settings to be used from the next step on
        self._microphone: Microphone | None = None
        self._stretch: Stretch | None = None
        self._keeps_sound = False  # of the present stretch, for clips
        self._priors_made = analyst.priors.made
        self._load = LoadShedder(config.microphone.buffer_s)
        self._timeline = Timeline(config, SOURCE, self._boot, clock, ledger)
        self._gaps = GapWriter(config, SOURCE, self._boot, clock, self._timeline, ledger, on_gap)
        self._until = clock.now()  # when the present stretch must end
        self._segment = 0  # the clock's segment, between two suspends, in which it began
        # since when the schedule is closed, on the monotonic clock
        self._resting: float | None = None
        self._unstored: Gap | None = None  # sound lost because the write queue is full
        self._open = True  # the schedule's last answer
        self._asked_at = float("-inf")
        # start of sound after silence, and the last step, on the monotonic clock
        self._awake_at = self._beat_at = clock.at_s()
        self._last_sound: datetime | None = None
        self._heard_until_s = 0.0  # on the monotonic clock

    # Called from other threads

    @property
    def card(self) -> str | None:
        """Name of the open sound card; None if none is open."""
        microphone = self._microphone
        return microphone.card if microphone else None

    @property
    def silence(self) -> Gap | None:
        """The ongoing gap, if any."""
        resting = self._resting
        microphone = self._microphone
        if resting is not None:
            return Gap(resting, self.clock.at_s() - resting, "schedule")
        return self._unstored or (microphone.silent if microphone else None)

    def hearing(self) -> Hearing:
        """Present state of the microphone."""
        silence = self.silence
        microphone = self._microphone
        silent_s = silence.seconds if silence and silence.reason != "schedule" else 0.0
        return Hearing(
            hearing=silence is None,
            silent_s=silent_s,
            problem=f"{silence.reason}: {silence.detail}".rstrip(": ")
            if silence and silent_s
            else None,
            waiting_s=microphone.waiting_s if microphone else 0.0,
            shed=self._load.shed,
            last_sound=self._last_sound,
            clock_state=self.clock.state,
            now=self.clock.now(),
            card_problem=microphone.trouble if microphone else None,
            time_known=self.clock.line.known in KNOWN,
        )

    def gets_on(self, decided_at: float) -> bool:
        """True while the source works: arriving sound is being decided on, a card is not missing
        for too long, and steps continue. Results that cannot be stored are no failure, since a
        restart would lose those that wait."""
        silence = self.silence
        now = self.clock.at_s()
        if silence is None:
            return now - max(decided_at, self._awake_at) < STUCK_S_MAX
        if silence.reason in ("schedule", "store"):
            return now - self._beat_at < STUCK_S_MAX
        return silence.seconds < OUTAGE_S_MAX

    def take(self, config: Config) -> None:
        """Use these settings from the next step on. Raises ConfigError or BundleError; then nothing
        changes."""
        self._coming = _Settings(self._analyst.prepared(config), schedule_of(config))

    # Listening

    def step(self) -> None:
        """Read sound, analyse it and hand over the results; waits half a second at most for
        sound."""
        self._beat_at = self.clock.at_s()
        self._take_over()
        moved_s = self._timeline.moved()
        if moved_s:
            self._move(moved_s)
        if self._beat_at - self._asked_at > _ASK_S:
            self._open = self._is_open()
            self._asked_at = self._beat_at
        if not self._open:
            self._rest()
            return
        self._wake()
        assert self._microphone is not None
        piece = self._microphone.read(_WAIT_S)
        self._weigh(self._microphone.waiting_s)
        if isinstance(piece, Chunk):
            self._hear(piece)
        elif isinstance(piece, Gap):
            self._miss(piece)
        self._note_silence()

    def end(self, patience_s: float) -> None:
        """Stop listening. Waiting sound is analysed for `patience_s` at most, or not at all on an
        overloaded machine; then the stretch and its gaps are closed."""
        deadline = self.clock.at_s() + (0 if self._load.shed else patience_s)
        while self._microphone and self._microphone.waiting_s > 0 and self.clock.at_s() < deadline:
            piece = self._microphone.read(0.0)
            if isinstance(piece, Chunk):
                self._hear(piece)
            elif isinstance(piece, Gap):
                self._miss(piece)
            else:
                break
        if self._unstored:
            self._gaps.write(self._unstored)
        self._close_microphone(hurry=self.clock.at_s() >= deadline)

    def _take_over(self) -> None:
        coming = self._coming
        self._coming = None
        if coming is None:
            return
        self._end_stretch()
        self._analyst.use(coming.prepared)
        self._schedule = coming.schedule
        self._asked_at = float("-inf")
        self._config = coming.prepared.config
        self._ledger.take(self._config)

    # Sound

    def _hear(self, chunk: Chunk) -> None:
        if self._ledger.full:
            self._lose(chunk)
            return
        if self._unstored:
            self._gaps.write(self._unstored)
            self._unstored = None
        start = self.clock.utc(chunk.at_s)
        if self._stretch and self.clock.segment(chunk.at_s) != self._segment:
            self._end_stretch()
        # samples that still belong to the stretch
        left = max(0, round((self._until - start).total_seconds() * RATE_HZ))
        if self._stretch and left < len(chunk.samples):
            if left:
                self._hear(replace(chunk, samples=chunk.samples[:left]))
            self._end_stretch()
            if self._microphone:
                self._microphone.reanchor()
            chunk = Chunk(chunk.at_s + left / RATE_HZ, chunk.samples[left:])
            start = self.clock.utc(chunk.at_s)
        # a prior has become available: use it from here on
        if self._analyst.priors.made != self._priors_made:
            self._end_stretch()
        self._gaps.fill(chunk.at_s, len(chunk.samples) / RATE_HZ)
        if self._stretch is None:
            self._begin_stretch(chunk, start)
        assert self._stretch is not None
        self._last_sound = start
        self._heard_until_s = chunk.at_s + len(chunk.samples) / RATE_HZ
        self._stretch.push(chunk.samples)
        if self._keeps_sound:
            self._ledger.hear(chunk.samples)
        self._hand_over(self._stretch)

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
            run=self._timeline.run,
            boot_s=self.clock.boot_s(chunk.at_s),
        )
        self._until = row.local.until(start)
        self._segment = self.clock.segment(chunk.at_s)
        self._priors_made = self._analyst.priors.made
        self._stretch = Stretch(self._analyst, row)
        self._awake_at = self.clock.at_s()
        self._stretch.shed = self._load.shed
        self._keeps_sound = self._config.clips.wanted(SOURCE)
        self._ledger.begin(row, self._analyst.digest())

    def _end_stretch(self, hurry: bool = False) -> float:
        """End the present stretch. In a hurry its last sound is not analysed; returns the seconds
        left out."""
        stretch = self._stretch
        self._stretch = None
        if stretch is None:
            return 0.0
        if hurry:
            stretch.give_up()
        else:
            stretch.close()
        self._hand_over(stretch)
        self._ledger.finish(stretch.row, stretch.decided_s, stretch.windows)
        return stretch.heard_s - stretch.decided_s

    def _hand_over(self, stretch: Stretch) -> None:
        for found in stretch.found():
            self._ledger.found(found)
            self._on_found(found)

    # Missing sound

    def _miss(self, gap: Gap) -> None:
        """End the stretch and write the gap. Under overload the unanalysed rest of the stretch
        becomes part of the gap: its window would take longer to analyse than the sound it covers,
        and only more rests would follow. So does a very short stretch between two gaps: mirrored to
        a full window it would not be a real sound."""
        shard = self._stretch is not None and self._stretch.heard_s < _SHARD_S
        rest_s = self._end_stretch(hurry=shard or gap.reason == "overload")
        self._gaps.write(replace(gap, at_s=gap.at_s - rest_s, seconds=gap.seconds + rest_s))

    def _lose(self, chunk: Chunk) -> None:
        """Count the chunk as lost: nothing can be stored and the queue is full."""
        self._end_stretch()
        seconds = len(chunk.samples) / RATE_HZ
        begun = self._unstored or Gap(chunk.at_s, 0.0, "store", self._ledger.error or "")
        self._unstored = replace(begun, seconds=chunk.at_s + seconds - begun.at_s)

    def _note_silence(self) -> None:
        """Write an ongoing gap now and then."""
        silence = self.silence
        if silence is not None and self._gaps.is_due():
            self._end_stretch()
            self._gaps.write(silence)

    # Schedule, overload, clock

    def _is_open(self) -> bool:
        """True if the station should listen now. With a clock that is certainly wrong it always
        listens: sound with a wrong date can be corrected, sound not heard is lost."""
        now = self.clock.now()
        return is_nonsense(self.clock.line.known, now) or self._schedule.open_at(now)

    def _rest(self) -> None:
        if self._resting is None:
            self._close_microphone()
            self._resting = self.clock.at_s()
            log.info("not listening until %s", self._schedule.changes_after(self.clock.now()))
        time.sleep(_WAIT_S)
        self._note_silence()

    def _wake(self) -> None:
        if self._resting is not None:
            self._gaps.write(Gap(self._resting, self.clock.at_s() - self._resting, "schedule"))
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
            self._gaps.write(Gap(begun_s, unanswered_s, "overload", "not analysed before the end"))
        if rest:
            self._gaps.write(rest)

    def _move(self, seconds: float) -> None:
        """Handle a clock step: end the stretch and correct the time of the last sound."""
        self._end_stretch()
        if self._last_sound is not None:
            self._last_sound += timedelta(seconds=seconds)
        self.on_moved(seconds)

    def _weigh(self, waiting_s: float) -> None:
        self._load.weigh(waiting_s, self.clock.at_s())
        if self._stretch:
            self._stretch.shed = self._load.shed
