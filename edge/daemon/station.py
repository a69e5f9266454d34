"""The daemon: its threads, and the one that looks after them, which touches no disk, no database
and no network.

Wires the parts; decides when to say that all is well (health, watchdog), when to reload and when to
stop. What the world does (no card, full disk, no broker) never ends it; a wrong setting or bundle
does, with exit 78.
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
from edge.clips.maker import ClipMaker, Clips
from edge.clips.patient import PatientClips
from edge.clips.reserve import Reserve
from edge.config import Config, named
from edge.contract.bundle import Bundle, read_bundle
from edge.contract.errors import BirdstationError, BundleError, ConfigError
from edge.daemon.alone import alone
from edge.daemon.health import Health
from edge.daemon.house import House
from edge.daemon.ledger import Ledger
from edge.daemon.lines import written_beside
from edge.daemon.live import Live, station_place
from edge.daemon.reload import keep, read_again, read_at_start
from edge.daemon.source import Source
from edge.daemon.teller import Teller
from edge.daemon.threads import Errand, Leave, Worker
from edge.daemon.vitals import Vitals
from edge.daemon.watched import WatchedFolder
from edge.daemon.writer import LOCK_PATIENCE_S
from edge.disclosure import Disclosure
from edge.host.clock import Clock
from edge.host.notify import Notifier
from edge.prior.tables import AwaitedPriors, BackgroundPriors
from edge.publisher import Publisher, station_presence
from edge.replay.tried import note_stop
from edge.store.clips import ClipTable
from edge.store.outbox import OutboxTable
from edge.store.record import Store

# What an end may take, 10 s in all: for what was heard and not yet analysed, and its last window;
# for what was found and not yet stored; for the broker to take what was found last (what it does
# not take waits for the next start), and three seconds of goodbye.
STOP_S_MAX = 4.0
WINDOW_S_MAX = 0.5
STORE_S_MAX = 1.0
DRAIN_S_MAX = 1.0
RELOADED = (
    "detect",
    "schedule",
    "clips",
    "retention",
    "privacy",
    "sensitive",
    "health",
)  # sections of station.yaml
_STEP_S = 0.5
_RETENTION_S = 300.0
_LOADING_S = 600.0  # a large bundle on a slow card
_KEPT_S_MAX = 1.0  # for a prior that was kept; one that is to be made comes later
_LAST_WORD_S = 0.3  # for the last health
_ERRAND_S_MAX = 0.1  # for an errand that has nothing to do, to see it

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """What a station at work consists of."""

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
    """Who does what beside the station's own: hearing, and errands when they are asked for."""

    hearing: Worker
    say: Errand  # health, to whoever asks
    write: Errand  # health, to its files
    tidy: Errand
    take: Errand  # settings

    def start(self) -> None:
        """All of them."""
        for thread in self.all:
            thread.start()

    @property
    def all(self) -> tuple[Worker | Errand, ...]:
        """In the order in which they are started."""
        return (self.hearing, self.say, self.write, self.tidy, self.take)


class Station:
    """One station at work.

    station = Station(Path("station.yaml"))
    station.run()      # until `stop`, which a signal handler may call
    """

    def __init__(
        self, path: Path | None, notifier: Notifier | None = None, clock: Clock | None = None
    ) -> None:
        self.path, self._settings = path, read_at_start(path)
        self.config = self._settings.config
        self._notifier = notifier or Notifier()
        self._started = datetime.now(timezone.utc)
        self._clock = clock or Clock()
        # Plain values: a handler that runs while the main thread holds an event's lock would wait
        # for itself.
        self._stop_asked = self._reload_asked = False
        self._parts: Parts | None = None
        self._health: Health | None = None  # the latest
        self.stuck: list[str] = []  # threads that had not ended when `run` did
        self._said_at = self._tidied_at = self._fed_at = float("-inf")

    def stop(self, *_: object) -> None:
        """End `run` soon."""
        self._stop_asked = True

    def reload(self, *_: object) -> None:
        """Read the settings anew, soon."""
        self._reload_asked = True

    @property
    def parts(self) -> Parts:
        """What it consists of, once it runs."""
        assert self._parts is not None, "it does not run"
        return self._parts

    def run(self) -> None:
        """Listen until stopped. Raises ConfigError or BundleError before the first sound;
        BirdstationError when a thread met what nobody foresaw."""
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
        # a clip may wait longer than the settings it began under
        told = lambda: Disclosure.of(self.config)  # noqa: E731
        clips = ClipMaker(lambda: self._patient_clips(ledger), config, recognizer.bundle.id, told)
        of_it = (recognizer.bundle, clips if live else None)
        ledger = Ledger(config.database, config.station.id, *of_it, opened, opened_again)
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
        """Another writer is waited for, by whoever saves them."""
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
        """A microphone, whose ledger has a thread of its own."""
        ledger.start()
        live = Live(self.config, analyst, ledger, self._found, vitals.missed, self._clock)
        live.on_moved = vitals.moved
        return live

    def _watched(
        self, analyst: Analyst, ledger: Ledger, clips: ClipMaker, vitals: Vitals
    ) -> Source:
        """A folder, whose recordings wait while they cannot be stored: its ledger is of its
        thread."""
        told = (self._found, vitals.missed, self._clock, self._leave_if_asked, vitals.recount)
        watched = WatchedFolder(self.config, analyst, ledger, clips, *told)
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
        """After every batch of windows."""
        self.parts.vitals.found(found)
        self.parts.teller.found(found)

    def _leave_if_asked(self) -> None:
        """Between two pieces of a recording, which may be hours long."""
        if self._stop_asked:
            raise Leave

    # In the station's own thread

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
        """While the source gets on; whatever waits for a disk, a database or a broker waits
        elsewhere."""
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
        """What ended a thread, if one has ended."""
        for name, error in [
            *((one.name, one.failed) for one in threads.all),
            ("writer", parts.ledger.broke),
        ]:
            if isinstance(error, BirdstationError):
                return error
            if error is not None:
                what = (
                    f"{name}: an error that nobody foresaw: {error!r}; its traceback is in the log"
                )
                return BirdstationError(" ".join(what.split()))
        return None

    def _end(self, parts: Parts, threads: Threads) -> None:
        """Within 10 s, whatever stands still: all of it has daemon threads."""
        self._stop_asked = True
        self._notifier.stopping()
        until = time.monotonic() + STOP_S_MAX + WINDOW_S_MAX
        threads.hearing.leave()
        if not threads.hearing.join(until - time.monotonic()):
            self._leave_behind(parts)
        spared_s = until - time.monotonic()  # a slow disk may have what hearing did not take
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
            log.warning("ended without %s: a disk or a lock holds them", ", ".join(self.stuck))
        parts.teller.end(self.config)

    def _leave_behind(self, parts: Parts) -> None:
        """The thread that hears does not end: what of its sound waits is lost, or is read again at
        the next start."""
        text = "hearing did not end within %.1f s; %.0f s of sound wait"
        log.error(text, STOP_S_MAX + WINDOW_S_MAX, parts.source.hearing().waiting_s)
        note = Worker("note", self._note_stop)
        note.start()
        note.leave()
        note.join(_ERRAND_S_MAX)

    def _note_stop(self) -> None:
        with suppress(OSError):
            note_stop(self.config.database)
        raise Leave

    # Errands, each in a thread of its own

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
        """SIGHUP: take over what can be; say what wants a restart. A wrong file changes nothing."""
        self._notifier.reloading()
        try:
            reload = read_again(self.path, self._settings)
            wanted = reload.settings.config
            config = replace(self.config, **{name: getattr(wanted, name) for name in RELOADED})
            parts.source.take(config)
        except (ConfigError, BundleError) as error:  # the latter: the speech detector's own network
            log.error("settings not taken over: %s", error)
        except (
            Exception
        ) as error:  # whatever a strange network raises: nobody starts a station again for that
            log.exception("settings not taken over: %s", " ".join(f"{error!r}".split()))
        else:
            others = [
                f.name for f in fields(Config) if getattr(wanted, f.name) != getattr(config, f.name)
            ]
            if reload.changed:
                log.info("settings that change: %s", ", ".join(reload.changed))
            if reload.gone:
                log.warning("settings that are not there any more: %s", ", ".join(reload.gone))
            log.info(
                "settings read again%s",
                f"; these want a restart: {', '.join(others)}" if others else "",
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
    """A microphone goes on without; recordings wait, since their rows depend on it."""
    folder = config.state / "priors"
    if config.source == "folder":
        return AwaitedPriors(bundle, folder)
    priors = BackgroundPriors(bundle, folder)
    place = station_place(config)
    if place is not None and config.detect.prior != "off" and priors.table(place) is None:
        priors.wait(place, _KEPT_S_MAX)
    return priors


def run_station(path: Path | None) -> None:
    """The daemon with these settings (None: the defaults), until SIGTERM or SIGINT; SIGHUP reads
    them again. Raises ConfigError, BundleError, or BirdstationError for what nobody foresaw; else
    the process ends here."""
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
        for late in (
            signal.SIGTERM,
            signal.SIGINT,
            signal.SIGHUP,
        ):  # Python would let them end it with their status
            signal.signal(late, signal.SIG_IGN)
    _leave(exit_code, in_order=not (station.stuck or lines.held))


def _leave(exit_code: int, in_order: bool) -> None:
    """All is closed. To take its objects apart costs Python seconds on a busy machine, and where a
    thread is held it would let go of what that still uses; `in_order`: what others want done at the
    end is done."""
    if in_order:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    os._exit(exit_code)
