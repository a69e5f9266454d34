"""The microphone, hour by hour: chunks become stretches, what is missing becomes gaps, every second
is in one of both.

Decides on the schedule, and what a clock that was set means. Touches no disk: what is found goes to
the ledger, which stores it in its own time. Knows no health and no service.
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
from edge.daemon.load import LoadShedder
from edge.daemon.source import OUTAGE_S_MAX, STUCK_S_MAX, Hearing
from edge.daemon.timeline import Timeline
from edge.host.clock import KNOWN, Clock, boot_id, is_nonsense
from edge.types import Chunk, Gap, GapRow, Place, RecordingRow, stable_id, utc_text

SOURCE = "microphone"
_WAIT_S = 0.5  # for sound, before other things are looked after
_ASK_S = 5.0  # between two questions to the schedule
_SHARD_S = 0.5  # a block; what is shorter lies between two gaps of a card that fails

log = logging.getLogger(__name__)


def station_place(config: Config) -> Place | None:
    """Where the station is, if the settings say so."""
    latitude = config.station.latitude
    longitude = config.station.longitude
    return None if latitude is None or longitude is None else Place(latitude, longitude)


def schedule_of(config: Config) -> Schedule:
    """When to listen. Raises ConfigError."""
    try:
        return Schedule.parse(config.schedule, station_place(config), config.zone)
    except ValueError as error:
        raise ConfigError(f"{error}") from error


@dataclass(frozen=True)
class _Settings:
    """What a reload brings, all of it tried."""

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
        self.on_moved: Callable[[float], object] = lambda _: (
            None
        )  # told by how many seconds the clock was set
        self.clock = clock
        self._open_microphone = open_microphone
        self._boot = boot_id() or "unknown"
        self._schedule = schedule_of(config)
        self._coming: _Settings | None = None  # settings that are taken over before the next piece
        self._microphone: Microphone | None = None
        self._stretch: Stretch | None = None
        self._keeps_sound = False  # of the stretch, for clips
        self._priors_made = analyst.priors.made
        self._load = LoadShedder(config.microphone.buffer_s)
        self._timeline = Timeline(config, SOURCE, self._boot, clock, ledger)
        self._gaps = GapWriter(config, SOURCE, self._boot, clock, self._timeline, ledger, on_gap)
        # where the stretch is to end; after which suspend it began
        self._until = clock.now()
        self._segment = 0
        self._resting: float | None = (
            None  # since when the schedule is closed, on the monotonic clock
        )
        self._unstored: Gap | None = None  # what cannot even wait any more
        self._open, self._asked_at = (
            True,
            float("-inf"),
        )  # what the schedule said, and when it was asked
        self._awake_at = self._beat_at = (
            clock.at_s()
        )  # when sound began to come after silence; the last step
        self._last_sound: datetime | None = None
        self._heard_until_s = 0.0  # on the monotonic clock

    # What others ask, from their threads

    @property
    def card(self) -> str | None:
        """The sound card that is open."""
        microphone = self._microphone
        return microphone.card if microphone else None

    @property
    def silence(self) -> Gap | None:
        """The gap that goes on just now, if any."""
        resting = self._resting
        microphone = self._microphone
        if resting is not None:
            return Gap(resting, self.clock.at_s() - resting, "schedule")
        return self._unstored or (microphone.silent if microphone else None)

    def hearing(self) -> Hearing:
        """How it is."""
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
        """A card may be away for a while; sound that comes is decided on; and there is always a
        next step. What cannot be stored is no reason to be ended with what waits."""
        silence = self.silence
        now = self.clock.at_s()
        if silence is None:
            return now - max(decided_at, self._awake_at) < STUCK_S_MAX
        if silence.reason in ("schedule", "store"):
            return now - self._beat_at < STUCK_S_MAX
        return silence.seconds < OUTAGE_S_MAX

    def take(self, config: Config) -> None:
        """Use these settings from the next piece on. Raises ConfigError or BundleError; then
        nothing is taken."""
        self._coming = _Settings(self._analyst.prepared(config), schedule_of(config))

    # Listening

    def step(self) -> None:
        """Hear, analyse and hand over what came; waits half a second at most if nothing did."""
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
        heard = self._microphone.read(_WAIT_S)
        self._weigh(self._microphone.waiting_s)
        if isinstance(heard, Chunk):
            self._hear(heard)
        elif isinstance(heard, Gap):
            self._miss(heard)
        self._note_silence()

    def end(self, patience_s: float) -> None:
        """Stop listening: analyse what waits as long as there is patience, none on a machine that
        is too slow anyway, and close the books."""
        deadline = self.clock.at_s() + (0 if self._load.shed else patience_s)
        while self._microphone and self._microphone.waiting_s > 0 and self.clock.at_s() < deadline:
            heard = self._microphone.read(0.0)
            if isinstance(heard, Chunk):
                self._hear(heard)
            elif isinstance(heard, Gap):
                self._miss(heard)
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
        self._schedule, self._asked_at = coming.schedule, float("-inf")
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
        left = max(
            0, round((self._until - start).total_seconds() * RATE_HZ)
        )  # samples that are still of it
        if self._stretch and left < len(chunk.samples):
            if left:
                self._hear(replace(chunk, samples=chunk.samples[:left]))
            self._end_stretch()
            if self._microphone:
                self._microphone.reanchor()
            chunk = Chunk(chunk.at_s + left / RATE_HZ, chunk.samples[left:])
            start = self.clock.utc(chunk.at_s)
        if (
            self._analyst.priors.made != self._priors_made
        ):  # a prior has come: from here on it is used
            self._end_stretch()
        self._gaps.fill(chunk.at_s, len(chunk.samples) / RATE_HZ)
        if self._stretch is None:
            self._begin_stretch(chunk, start)
        assert self._stretch is not None
        self._last_sound, self._heard_until_s = start, chunk.at_s + len(chunk.samples) / RATE_HZ
        self._stretch.push(chunk.samples)
        if self._keeps_sound:
            self._ledger.hear(chunk.samples)
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
            run=self._timeline.run,
            boot_s=self.clock.boot_s(chunk.at_s),
        )
        self._until, self._segment = row.local.until(start), self.clock.segment(chunk.at_s)
        self._priors_made = self._analyst.priors.made
        self._stretch, self._awake_at = Stretch(self._analyst, row), self.clock.at_s()
        self._stretch.shed = self._load.shed
        self._keeps_sound = self._config.clips.wanted(SOURCE)
        self._ledger.begin(row, self._analyst.digest())

    def _end_stretch(self, hurry: bool = False) -> float:
        """In a hurry no window is spent on its last sound; returns how many seconds that are."""
        stretch = self._stretch
        self._stretch = None
        if stretch is None:
            return 0.0
        if hurry:
            stretch.give_up()
        else:
            stretch.close()
        self._say(stretch)
        self._ledger.finish(stretch.row, stretch.decided_s, stretch.windows)
        return stretch.heard_s - stretch.decided_s

    def _say(self, stretch: Stretch) -> None:
        for found in stretch.found():
            self._ledger.found(found)
            self._on_found(found)

    # What is missing

    def _miss(self, gap: Gap) -> None:
        """A window over a rest takes as long as any. While there is too little time it would cost
        more sound than it hears, and leave but rests; so the rest is lost with what follows it. So
        is a shard between two gaps: mirrored to a whole window it is no sound that anything
        made."""
        shard = self._stretch is not None and self._stretch.heard_s < _SHARD_S
        rest_s = self._end_stretch(hurry=shard or gap.reason == "overload")
        self._gaps.write(replace(gap, at_s=gap.at_s - rest_s, seconds=gap.seconds + rest_s))

    def _lose(self, chunk: Chunk) -> None:
        """Nothing can be stored and no more can wait."""
        self._end_stretch()
        seconds = len(chunk.samples) / RATE_HZ
        begun = self._unstored or Gap(chunk.at_s, 0.0, "store", self._ledger.error or "")
        self._unstored = replace(begun, seconds=chunk.at_s + seconds - begun.at_s)

    def _note_silence(self) -> None:
        """A gap that goes on is written down now and then."""
        silence = self.silence
        if silence is not None and self._gaps.is_due():
            self._end_stretch()
            self._gaps.write(silence)

    # Schedule, overload, clock

    def _is_open(self) -> bool:
        """By a clock that is certainly wrong no rest is kept: what is not heard is lost, and what
        is, only misdated."""
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
        """The clock was set, and what was heard before goes along."""
        self._end_stretch()
        if self._last_sound is not None:
            self._last_sound += timedelta(seconds=seconds)
        self.on_moved(seconds)

    def _weigh(self, waiting_s: float) -> None:
        self._load.weigh(waiting_s, self.clock.at_s())
        if self._stretch:
            self._stretch.shed = self._load.shed
