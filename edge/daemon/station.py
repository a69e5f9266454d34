"""The daemon: its threads, and the main thread that looks after them and touches no disk, no
database and no network.

Connects the parts; decides when to report health, feed the watchdog, reload and stop. External
failures (no card, full disk, no broker) never stop it; wrong settings or a wrong bundle do, with
exit code 78.
"""

import atexit
import logging
import os
import signal
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields, replace
from datetime import datetime, timezone
from pathlib import Path

from edge.analysis.recognizer import Recognizer, best_recognizer
from edge.analysis.stretch import Analyst, BatchResult
from edge.clips.disk_reserve import Reserve
from edge.clips.maker import ClipMaker, Clips
from edge.clips.waiting_table import PatientClips
from edge.config import Config, named
from edge.contract.bundle import Bundle, read_bundle
from edge.contract.errors import BirdstationError, BundleError, ConfigError
from edge.daemon.clip_cleanup import House
from edge.daemon.health import Health
from edge.daemon.ledger import Ledger
from edge.daemon.live_microphone import Live, station_place
from edge.daemon.log_thread import written_beside
from edge.daemon.progress_log import Teller
from edge.daemon.reload import keep, read_again, read_at_start
from edge.daemon.single_instance import alone
from edge.daemon.source import Source
from edge.daemon.threads import Errand, Leave, Worker
from edge.daemon.vitals import Vitals
from edge.daemon.watched_folder import WatchedFolder
from edge.daemon.writer import LOCK_PATIENCE_S
from edge.disclosure import Disclosure
from edge.host.clock import Clock
from edge.host.notify import Notifier
from edge.prior.table_cache import AwaitedPriors, BackgroundPriors
from edge.publisher import Publisher, station_presence
from edge.replay.attempt_log import note_stop
from edge.store.clips import ClipTable
from edge.store.outbox import OutboxTable
from edge.store.record import Store

# A stop may take 10 s in all: to analyse sound that was heard, and its last window; to store
# results; for the broker to accept the last messages (others wait for the next start); and three
# seconds to close everything.
STOP_S_MAX = 4.0
WINDOW_S_MAX = 0.5
STORE_S_MAX = 1.0
DRAIN_S_MAX = 1.0
# sections of station.yaml that a reload applies
RELOADED = ("detect", "schedule", "clips", "retention", "privacy", "sensitive", "health")
_STEP_S = 0.5
_RETENTION_S = 300.0
_LOADING_S = 600.0  # a large bundle on a slow card
_KEPT_S_MAX = 1.0  # to load a stored prior; a new one is computed in the background
_LAST_WORD_S = 0.3  # for the last health report
_ERRAND_S_MAX = 0.1  # for an idle errand to notice that it must end

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """Parts of a running station."""

    analyst: Analyst
    ledger: Ledger
    clips: ClipMaker
    teller: Teller
    vitals: Vitals
    house: House
    source: Source
    publisher: Publisher | None


@dataclass(frozen=True)
class Threads:
    """Threads of the station besides the main thread: one that hears, and errands done on
    request."""

    hearing: Worker
    say: Errand  # health to the broker and the service manager
    write: Errand  # health to its files
    tidy: Errand  # clips
    take: Errand  # settings

    def start(self) -> None:
        """Start all threads."""
        for thread in self.all:
            thread.start()

    @property
    def all(self) -> tuple[Worker | Errand, ...]:
        """All threads in the order in which they are started."""
        return (self.hearing, self.say, self.write, self.tidy, self.take)


class Station:
    """One running station.

    station = Station(Path("station.yaml"))
    station.run()      # until `stop`, which a signal handler may call
    """

    def __init__(
        self, path: Path | None, notifier: Notifier | None = None, clock: Clock | None = None
    ) -> None:
        self.path = path
        self._settings = read_at_start(path)
        self.config = self._settings.config
        self._notifier = notifier or Notifier()
        self._started = datetime.now(timezone.utc)
        self._clock = clock or Clock()
        # plain values: a signal handler would deadlock on an event whose lock the main thread holds
        self._stop_asked = self._reload_asked = False
        self._parts: Parts | None = None
        self._health: Health | None = None  # the latest
        self.stuck: list[str] = []  # names of threads still running after `run`
        self._said_at = self._tidied_at = self._fed_at = float("-inf")

    def stop(self, *_: object) -> None:
        """End `run` soon."""
        self._stop_asked = True

    def reload(self, *_: object) -> None:
        """Read the settings again, soon."""
        self._reload_asked = True

    @property
    def parts(self) -> Parts:
        """Parts of the station, once it runs."""
        assert self._parts is not None, "the station is not running"
        return self._parts

    def run(self) -> None:
        """Listen until stopped. Raises ConfigError or BundleError before the first sound, and
        BirdstationError after an unexpected error in a thread."""
        self._notifier.status("loading the bundle")
        self._notifier.extend_timeout(_LOADING_S)
        with ExitStack() as stack:
            with named(self.path):
                parts = self._parts = self._open(stack)
            keep(self._settings)
            threads = self._threads(parts)
            threads.start()
            self._notifier.ready(f"{self.config.source}: listening")
            parts.teller.begin(self.config)
            failed = None
            while not (self._stop_asked or failed):
                time.sleep(_STEP_S)
                self._look_after(parts, threads)
                failed = self._failed(parts, threads)
            self._end(parts, threads)
        if failed is not None:
            raise failed

    # The start

    def _open(self, stack: ExitStack) -> Parts:
        config = self.config
        stack.enter_context(alone(config.state))
        bundle = read_bundle(config.bundle_folder, config.station.language)
        recognizer = best_recognizer(bundle, config.runtime, config.engines_folder, config.members)
        probe = recognizer.check_probe()
        reserve = Reserve(config.state)
        reserve.give_up_if_full()
        analyst = Analyst(config, recognizer, _priors(config, recognizer.bundle))

        def opened(store: Store) -> None:
            house.reconcile()
            vitals.prime(store)

        def opened_again() -> None:
            house.reconcile()

        live = config.source == "microphone"

        def disclosure() -> Disclosure:
            # the settings may change while a clip waits to be written
            return Disclosure.of(self.config)

        clips = ClipMaker(
            lambda: self._patient_clips(ledger), config, recognizer.bundle.id, disclosure
        )
        ledger = Ledger(
            config.database,
            config.station.id,
            recognizer.bundle,
            clips if live else None,
            opened,
            opened_again,
        )
        vitals = Vitals(config, analyst, probe, ledger, clips, self._clock)
        house = House(lambda: self.config, reserve, self._clock, vitals.tidied)
        teller = Teller(recognizer.bundle, by_hand=not self._notifier.is_there)
        publisher = self._publisher(stack, recognizer, vitals)
        source = (
            self._live(analyst, ledger, vitals)
            if live
            else self._watched(analyst, ledger, clips, vitals)
        )
        return Parts(analyst, ledger, clips, teller, vitals, house, source, publisher)

    def _patient_clips(self, ledger: Ledger) -> Clips:
        """A table of clips that waits while another writer holds the database."""
        source = self.parts.source
        if isinstance(source, WatchedFolder):
            return PatientClips(self._clip_table, source.wait_for)
        return ledger.patient(self._clip_table)

    def _clip_table(self) -> ClipTable:
        return ClipTable(self.config.database, durable=True, patience_s=LOCK_PATIENCE_S)

    def _publisher(
        self, stack: ExitStack, recognizer: Recognizer, vitals: Vitals
    ) -> Publisher | None:
        config = self.config
        if not config.mqtt:
            return None
        presence = station_presence(config, recognizer.bundle, vitals.version, self._started)
        client_id = f"birdstation-{config.station.id}"
        publisher = Publisher(
            lambda: OutboxTable(config.database), config.mqtt, client_id, presence
        )
        return stack.enter_context(publisher)

    def _live(self, analyst: Analyst, ledger: Ledger, vitals: Vitals) -> Source:
        """The microphone, with a ledger in a separate thread."""
        ledger.start()
        live = Live(self.config, analyst, ledger, self._found, vitals.missed, self._clock)
        live.on_moved = vitals.moved
        return live

    def _watched(
        self, analyst: Analyst, ledger: Ledger, clips: ClipMaker, vitals: Vitals
    ) -> Source:
        """The watched folder. Its ledger runs in the same thread, since recordings can wait while
        nothing can be stored."""
        watched = WatchedFolder(
            self.config,
            analyst,
            ledger,
            clips,
            self._found,
            vitals.missed,
            self._clock,
            self._leave_if_asked,
            vitals.recount,
        )
        if isinstance(analyst.priors, AwaitedPriors):
            analyst.priors.alive = watched.alive
        return watched

    def _threads(self, parts: Parts) -> Threads:
        threads = Threads(
            hearing=Worker(
                "hearing", lambda: self._step(parts), lambda: parts.source.end(STOP_S_MAX)
            ),
            say=Errand("health", lambda: self._say(parts, threads)),
            write=Errand("health files", lambda: self._write(parts)),
            tidy=Errand("house", parts.house.tidy),
            take=Errand("settings", lambda: self._take(parts)),
        )
        return threads

    # In the thread that hears

    def _step(self, parts: Parts) -> None:
        parts.teller.recording(parts.source.step())
        parts.teller.sound(parts.source.card, parts.source.silence)

    def _found(self, found: BatchResult) -> None:
        """Count and log the results of a batch of windows."""
        self.parts.vitals.found(found)
        self.parts.teller.found(found)

    def _leave_if_asked(self) -> None:
        """Raise Leave if a stop was requested; called between two pieces of a recording, which may
        be hours long."""
        if self._stop_asked:
            raise Leave

    # In the main thread

    def _look_after(self, parts: Parts, threads: Threads) -> None:
        now = self._clock.at_s()
        self._feed_watchdog(parts)
        if now - self._said_at >= self.config.health.interval_s:
            self._said_at = now
            threads.say.ask()
        if now - self._tidied_at >= _RETENTION_S:
            self._tidied_at = now
            threads.tidy.ask()
        if self._reload_asked:
            self._reload_asked = False
            threads.take.ask()

    def _feed_watchdog(self, parts: Parts) -> None:
        """Feed the watchdog while the source works. Waits for disks, databases and brokers happen
        in other threads."""
        now = time.monotonic()
        every_s = self._notifier.watchdog_s
        if (
            every_s is not None
            and now - self._fed_at >= every_s / 4
            and parts.source.gets_on(parts.vitals.decided_at)
        ):
            self._fed_at = now
            self._notifier.watchdog()

    def _failed(self, parts: Parts, threads: Threads) -> BirdstationError | None:
        """The error that ended a thread, if one has ended."""
        for name, error in [
            *((one.name, one.failed) for one in threads.all),
            ("writer", parts.ledger.broke),
        ]:
            if isinstance(error, BirdstationError):
                return error
            if error is not None:
                text = f"{name}: unexpected error: {error!r}; its traceback is in the log"
                return BirdstationError(" ".join(text.split()))
        return None

    def _end(self, parts: Parts, threads: Threads) -> None:
        """End all threads within 10 s, even if some are blocked: all are daemon threads."""
        self._stop_asked = True
        self._notifier.stopping()
        until = time.monotonic() + STOP_S_MAX + WINDOW_S_MAX
        threads.hearing.leave()
        if not threads.hearing.join(until - time.monotonic()):
            self._leave_behind(parts)
        spared_s = until - time.monotonic()  # time that hearing did not use goes to a slow disk
        parts.ledger.close(STORE_S_MAX + max(0.0, spared_s))
        if parts.publisher and time.monotonic() < until:
            parts.publisher.drain(DRAIN_S_MAX)
        threads.say.ask()
        until = time.monotonic() + _LAST_WORD_S
        if threads.say.wait(_LAST_WORD_S):
            threads.write.wait(until - time.monotonic())
        for errand in (threads.say, threads.write, threads.tidy, threads.take):
            errand.leave()
        self.stuck = [thread.name for thread in threads.all if not thread.join(_ERRAND_S_MAX)]
        self.stuck += [] if parts.ledger.closed else ["writer"]
        if self.stuck:
            log.warning(
                "ended without waiting for %s: blocked by a disk or a lock", ", ".join(self.stuck)
            )
        parts.teller.end(self.config)

    def _leave_behind(self, parts: Parts) -> None:
        """Leave the hearing thread behind, which does not end: its waiting sound is lost, or read
        again at the next start."""
        text = "hearing did not end within %.1f s; %.0f s of sound were still waiting"
        log.error(text, STOP_S_MAX + WINDOW_S_MAX, parts.source.hearing().waiting_s)
        note = Worker("note", self._note_stop)
        note.start()
        note.leave()
        note.join(_ERRAND_S_MAX)

    def _note_stop(self) -> None:
        with suppress(OSError):
            note_stop(self.config.database)
        raise Leave

    # Errands, each in its own thread

    def _say(self, parts: Parts, threads: Threads) -> None:
        self._health = health = parts.vitals.say(
            self.config, parts.source.hearing(), parts.publisher
        )
        threads.write.ask()
        self._notifier.status(
            f"{health.state}: {health.problems[0] if health.problems else 'listening'}"
        )

    def _write(self, parts: Parts) -> None:
        if self._health is not None:
            parts.vitals.write(self.config, self._health)

    def _take(self, parts: Parts) -> None:
        """Apply the settings that can be changed while running; log those that need a restart. A
        wrong file changes nothing."""
        self._notifier.reloading()
        try:
            reload = read_again(self.path, self._settings)
            new = reload.settings.config
            config = replace(self.config, **{name: getattr(new, name) for name in RELOADED})
            parts.source.take(config)
        except (ConfigError, BundleError) as error:  # the latter: the built-in speech network
            log.error("settings not applied: %s", error)
        except Exception as error:  # a strange network may raise anything, and must not end us
            log.exception("settings not applied: %s", " ".join(f"{error!r}".split()))
        else:
            others = [
                f.name for f in fields(Config) if getattr(new, f.name) != getattr(config, f.name)
            ]
            if reload.changed:
                log.info("changed settings: %s", ", ".join(reload.changed))
            if reload.gone:
                log.warning("settings removed from the file: %s", ", ".join(reload.gone))
            log.info(
                "settings reloaded%s",
                f"; these need a restart: {', '.join(others)}" if others else "",
            )
            self.config = config
            self._settings = reload.settings
            keep(self._settings)
            if parts.publisher:
                presence = station_presence(
                    config, parts.analyst.bundle, parts.vitals.version, self._started
                )
                parts.publisher.take(presence)
        self._notifier.ready(f"{self.config.source}: listening")


def _priors(config: Config, bundle: Bundle) -> BackgroundPriors | AwaitedPriors:
    """Priors for the configured source: a microphone listens while they are computed; recordings
    wait for them, since their rows depend on them."""
    folder = config.state / "priors"
    if config.source == "folder":
        return AwaitedPriors(bundle, folder)
    priors = BackgroundPriors(bundle, folder)
    place = station_place(config)
    if place is not None and config.detect.prior != "off" and priors.table(place) is None:
        priors.wait(place, _KEPT_S_MAX)
    return priors


def run_station(path: Path | None) -> None:
    """Run the daemon with these settings (None: the defaults) until SIGTERM or SIGINT; SIGHUP
    reloads them. Raises ConfigError, BundleError, or BirdstationError after an unexpected error;
    otherwise the process ends here."""
    station = Station(path)
    signal.signal(signal.SIGTERM, station.stop)
    signal.signal(signal.SIGINT, station.stop)
    signal.signal(signal.SIGHUP, station.reload)
    exit_code = 0
    try:
        with written_beside(logging.getLogger()) as lines:
            station.run()
    except BirdstationError as error:
        if not (station.stuck or lines.held):
            raise
        if not lines.held:
            log.error("%s", error)
        exit_code = error.exit_code
    finally:
        # otherwise Python would let these signals end the process with their exit status
        for late in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(late, signal.SIG_IGN)
    _leave(exit_code, in_order=not (station.stuck or lines.held))


def _leave(exit_code: int, in_order: bool) -> None:
    """End the process when everything is closed. A normal exit of Python takes seconds on a busy
    machine to free objects, and would free some that a blocked thread still uses. `in_order`: exit
    functions are run and output is flushed."""
    if in_order:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    os._exit(exit_code)
