"""The daemon: one loop that hears, analyses and writes down, and between that looks after everything else.

Wires the parts; decides when to say that all is well (health, watchdog), when to reload and when to stop. What the
world does (no card, full disk, no broker) never ends it; a wrong setting or bundle does, with exit 78.
"""

import fcntl
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields, replace
from datetime import datetime, timezone
from pathlib import Path

from edge.analysis import Analyst, Found
from edge.clips.maker import ClipMaker
from edge.clips.reconcile import reconcile
from edge.clips.reserve import Reserve
from edge.clips.retention import Retention
from edge.clock import Clock
from edge.config import Config, read_settings
from edge.contract.bundle import read_bundle
from edge.contract.errors import BundleError, ConfigError, StoreError
from edge.ledger import Ledger
from edge.live import Live
from edge.notify import Notifier
from edge.publisher import Publisher, station_presence
from edge.recognizer import best_recognizer
from edge.reload import read_again
from edge.store.clips import ClipTable
from edge.store.outbox import OutboxTable
from edge.teller import Teller
from edge.vitals import Hearing, Vitals
from edge.watched import Watched

STOP_S_MAX = 5.0  # for what was heard and not yet analysed, when asked to stop
DRAIN_S_MAX = 1.0  # then for the broker to take what was found last; what it does not take waits for the next start
RELOADED = ("detect", "schedule", "clips", "retention", "privacy", "sensitive", "health")  # sections of station.yaml
_RETENTION_S = 300.0
_LOADING_S = 600.0  # a large bundle and its prior on a slow card
_OUTAGE_S_MAX = 900.0  # a card that is away for longer may come back for a new process: the watchdog gets its turn
_STUCK_S_MAX = 60.0  # sound comes, and no window is decided

log = logging.getLogger(__name__)


class Stopped(Exception):
    """Asked to stop in the middle of a long recording."""


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Nobody else listens into this state folder. Raises ConfigError if somebody does; a folder that cannot be written
    to is no reason not to start."""
    with ExitStack() as stack:
        try:
            state.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((state / "station.lock").open("w"))
        except OSError as error:
            log.warning("%s: %s", state, error.strerror or error)
        else:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigError(
                    f"state: {state}: already in use by another station; stop that one or choose another folder"
                ) from None
        yield


class Station:
    """One station at work.

    station = Station(Path("station.yaml"))
    station.run()      # until `stop`, which a signal handler may call
    """

    def __init__(self, path: Path | None, notifier: Notifier | None = None, clock: Clock | None = None) -> None:
        self.path, self._settings = path, read_settings(path)
        self.config = self._settings.config
        self._notifier = notifier or Notifier()
        self._stop, self._reload = threading.Event(), threading.Event()
        self._publisher: Publisher | None = None
        self._said_at, self._tidied_at, self._fed_at = float("-inf"), float("-inf"), float("-inf")
        self._clock = clock or Clock()

    def stop(self, *_: object) -> None:
        """End `run` soon."""
        self._stop.set()

    def reload(self, *_: object) -> None:
        """Read the settings anew, soon."""
        self._reload.set()

    def run(self) -> None:
        """Listen until stopped. Raises ConfigError or BundleError before the first sound."""
        self._notifier.status("loading the bundle")
        self._notifier.extend_timeout(_LOADING_S)
        with ExitStack() as stack:
            self._source = source = self._open(stack)
            self._notifier.ready(f"{self.config.source}: listening")
            self._teller.begin(self.config)
            with suppress(Stopped):
                while not self._stop.is_set():
                    self._step(source)
                    self._look_after(source, between=True)
            self._notifier.stopping()
            if isinstance(source, Live):
                source.end(STOP_S_MAX)
            if self._publisher:
                self._publisher.drain(DRAIN_S_MAX)
            self._say(source)
            self._teller.end(self.config)

    def _step(self, source: "Live | Watched") -> None:
        if isinstance(source, Watched):
            self._teller.recording(source.step())
            return
        source.step()
        self._teller.sound(source.microphone.card if source.microphone else None, source.silence)

    def _open(self, stack: ExitStack) -> "Live | Watched":
        config = self.config
        bundle = read_bundle(config.bundle_folder, config.station.language)
        recognizer = best_recognizer(bundle, config.runtime, config.engines_folder, config.members)
        probe = recognizer.check_probe()
        self._analyst = Analyst(config, recognizer)
        self._reserve = Reserve(config.state)
        self._reserve.give_up_if_full()
        stack.enter_context(_alone(config.state))
        self._ledger = Ledger(config.database, config.station.id, recognizer.bundle)
        stack.callback(self._ledger.close)
        maker = ClipMaker(lambda: ClipTable(config.database, durable=True), config, recognizer.bundle.id)
        self._clips = stack.enter_context(maker)
        self._teller = Teller(recognizer.bundle, by_hand=not self._notifier.is_there)
        self._vitals = Vitals(config, self._analyst, probe, self._ledger, self._clips, self._clock)
        self._reconcile()
        if config.mqtt:
            presence = station_presence(config, recognizer.bundle, self._vitals.version, datetime.now(timezone.utc))
            client_id = f"birdstation-{config.station.id}"
            publisher = Publisher(lambda: OutboxTable(config.database), config.mqtt, client_id, presence)
            self._publisher = stack.enter_context(publisher)
        vitals = self._vitals
        if config.source == "folder":
            return Watched(config, self._analyst, self._ledger, self._clips, self._found, vitals.missed)
        return Live(config, self._analyst, self._ledger, self._clips, self._heard, vitals.missed, self._clock)

    def _heard(self, found: Found) -> None:
        """After every batch of what the microphone heard."""
        self._vitals.found(found)
        self._teller.found(found)

    def _found(self, found: Found) -> None:
        """After every batch of a recording, which may be hours long."""
        self._heard(found)
        self._look_after(self._source, between=False)
        if self._stop.is_set():
            raise Stopped

    # What goes on beside hearing

    def _look_after(self, source: "Live | Watched", between: bool) -> None:
        """`between`: not in the middle of a recording, whose rows are made under one set of settings."""
        now = self._clock.at_s()
        if isinstance(source, Watched):
            self._clock.check()  # its rows carry their recorders' times
        self._ledger.flush()
        self._feed_watchdog(source)
        if now - self._said_at >= self.config.health.interval_s:
            self._said_at = now
            self._say(source)
        if now - self._tidied_at >= _RETENTION_S:
            self._tidied_at = now
            self._tidy()
        if self._reload.is_set() and between:
            self._reload.clear()
            self._take(source)

    def _feed_watchdog(self, source: "Live | Watched") -> None:
        """Only while sound comes, or is known to be missing not for too long; while what comes is analysed; and while
        what is found is stored, or can still wait."""
        now, every_s = self._clock.at_s(), self._notifier.watchdog_s
        if every_s is None or now - self._fed_at < every_s / 4:
            return
        healthy = not self._ledger.full
        if isinstance(source, Live):
            silence = source.silence
            if silence and silence.reason != "schedule":
                healthy = healthy and silence.seconds < _OUTAGE_S_MAX
            elif silence is None:
                healthy = healthy and now - max(self._vitals.decided_at, source.awake_at) < _STUCK_S_MAX
        if healthy:
            self._fed_at = now
            self._notifier.watchdog()

    def _say(self, source: "Live | Watched") -> None:
        health = self._vitals.say(self.config, self._hearing(source), self._publisher)
        self._notifier.status(f"{health.state}: {health.problems[0] if health.problems else 'listening'}")

    def _hearing(self, source: "Live | Watched") -> Hearing:
        now, state = self._clock.now(), self._clock.state
        if isinstance(source, Live):
            silence = source.silence
            silent_s = silence.seconds if silence and silence.reason != "schedule" else 0.0
            why = f"{silence.reason}: {silence.detail}".rstrip(": ") if silence and silent_s else None
            card = source.microphone.trouble if source.microphone else None
            shown = silence is None, silent_s, why, source.waiting_s, source.shed, source.last_sound
            return Hearing(*shown, state, now, card)
        away_s = source.away_s
        return Hearing(not away_s, away_s, source.problem, source.waiting_s, 0, source.last_sound, state, now)

    def _tidy(self) -> None:
        """Retention; what the record or the disk says against it is said in health by whoever meets it next."""
        try:
            self._reserve.give_up_if_full()
            with ClipTable(self.config.database, durable=True) as table:
                retention = Retention(table, self.config.clips_folder, self._reserve, self.config.retention)
                done = retention.tidy(self._clock.now(), clock_is_set=self._clock.state != "unsynced")
        except StoreError as error:
            log.warning("retention: %s", error)
            return
        self._vitals.tidied(done)
        if done.more:
            self._tidied_at = float("-inf")
        if done.removed:
            log.info("retention: %s", ", ".join(f"{count} clips went ({why})" for why, count in done.removed.items()))

    def _reconcile(self) -> None:
        try:
            with ClipTable(self.config.database, durable=True) as table:
                found = reconcile(table, self.config.clips_folder)
        except StoreError:  # the ledger says what is wrong
            return
        if found.away:
            log.warning("clips: none of many is there; is their disk mounted? Nothing was cleaned")
        elif found.rows_cleaned or found.files_removed or found.unknown:
            log.warning(
                "clips: %d rows without a file cleaned, %d files without a row removed, %d whole ones left alone",
                found.rows_cleaned,
                found.files_removed,
                found.unknown,
            )

    def _take(self, source: "Live | Watched") -> None:
        """SIGHUP: take over what can be; say what wants a restart. A wrong file changes nothing."""
        self._notifier.reloading()
        try:
            reload = read_again(self.path, self._settings)
            wanted = reload.settings.config
            config = replace(self.config, **{name: getattr(wanted, name) for name in RELOADED})
            source.take(config)
        except (ConfigError, BundleError) as error:  # the latter: privacy.detector
            log.error("settings not taken over: %s", error)
        else:
            others = [f.name for f in fields(Config) if getattr(wanted, f.name) != getattr(config, f.name)]
            if reload.changed:
                log.info("settings that change: %s", ", ".join(reload.changed))
            if reload.gone:
                log.warning("settings that are not there any more: %s", ", ".join(reload.gone))
            log.info("settings read again%s", f"; these want a restart: {', '.join(others)}" if others else "")
            self.config = self._clips.config = config
            self._settings = reload.settings
        self._notifier.ready(f"{self.config.source}: listening")


def run_station(path: Path | None) -> None:
    """The daemon with these settings (None: the defaults), until SIGTERM or SIGINT; SIGHUP reads them again. Raises
    ConfigError or BundleError."""
    station = Station(path)
    signal.signal(signal.SIGTERM, station.stop)
    signal.signal(signal.SIGINT, station.stop)
    signal.signal(signal.SIGHUP, station.reload)
    station.run()
