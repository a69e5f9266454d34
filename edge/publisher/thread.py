"""The thread that sends the outbox to an MQTT broker: at least once, in order, marked as sent when
the broker acknowledges.

While a broker is unreachable, messages wait in the database; no call here waits for it. Knows no
sound and no species.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from edge.config import MqttSettings
from edge.contract.errors import ConfigError
from edge.disclosure import Disclosure
from edge.publisher.credentials import password, tls_context
from edge.publisher.feed import Feed
from edge.publisher.link import BROKE, Link
from edge.publisher.presence import OFFLINE, Presence
from edge.publisher.retained import RetainedMessages
from edge.publisher.session import POLL_S, SILENT, Session
from edge.types import Outbox

_DELAY_S_MAX = 60.0
_PATIENT_DELAY_S = 300.0
_PROVEN_S = 30.0  # a connection that answered so long, or accepted a message, was a good one
_JOIN_S = 2.8
_DRAIN_PATIENCE_S = 5.0
_BRIEF_MAX = 3
_CONTESTED = (
    "; connections keep breaking soon after they are accepted: is there a second station with the "
    "same station.id?"
)
_DEAF_S = 3600.0  # for which a flooded topic is not listened to
_jitter = random.Random()  # our own, so that a late thread does not disturb the shared state
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublisherState:
    """Counts of messages, a few seconds old at most; created = sent + waiting + dropped + dead."""

    connected: bool
    waiting: int
    dropped: int
    dead: int
    sent: int
    created: int
    last_error: str


class Publisher:
    """Sends an outbox, which it opens in its own thread, and keeps the station's presence up to
    date if it has one.

    publisher = Publisher(lambda: OutboxTable(database), settings, "birdstation-porch", presence)
    with publisher:
        ...                              # other threads commit messages
        publisher.tell_health(payload)
        publisher.take(presence)         # when the settings have changed
        everything_sent = publisher.drain(timeout_s=30)
    """

    def __init__(
        self,
        open_outbox: Callable[[], Outbox],
        settings: MqttSettings,
        client_id: str,
        presence: Presence | None = None,
        disclosure: Disclosure | None = None,
    ) -> None:
        """`client_id` must be unique at the broker. `disclosure` has the rules for places; None:
        those of `presence`, or the strictest ones without a presence. Raises ConfigError for
        password or certificates."""
        password(settings)
        if settings.tls:
            tls_context(settings.tls)
        self._settings = settings
        self._client_id = client_id
        self._presence: Presence | None = None
        self._disclosure = disclosure or Disclosure()
        self._feed = Feed(open_outbox, settings.waiting_max, settings.attempts_max)
        self._retained = RetainedMessages()
        self._protocols = ("5", "3.1.1") if settings.protocol == "auto" else (settings.protocol,)
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        self._connected = threading.Event()
        self._failures = 0  # connections in a row that failed
        self._patience = False  # wait long before the next one
        self._since = 0.0  # when the present connection was accepted
        self._brief = 0  # connections in a row that broke soon
        self._deaf_until = 0.0
        self._well_at = time.monotonic()
        self._trouble = ""  # of the connection, until one works
        if presence:
            self.take(presence)
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def __enter__(self) -> "Publisher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the thread, which publishes "offline" if it is connected; takes three seconds at
        most, whatever the broker does."""
        self._stopping.set()
        self._thread.join(_JOIN_S)

    @property
    def connected(self) -> bool:
        """True if a broker has accepted this station and acknowledges its messages."""
        return self._connected.is_set()

    @property
    def away_s(self) -> float:
        """Time for which nothing was acknowledged although there was something to send, over any
        number of connections."""
        return time.monotonic() - self._well_at

    @property
    def ended(self) -> bool:
        """True if its thread has ended unasked, so that nothing is sent any more."""
        return not self._thread.is_alive() and not self._stopping.is_set()

    @property
    def last_error(self) -> str:
        """Error of the connection or of retained topics; empty if there is none."""
        return self._trouble or self._retained.trouble

    def state(self) -> PublisherState:
        """State for the health report; never waits."""
        error = self._feed.store_error or self.last_error
        return PublisherState(connected=self.connected, last_error=error, **self._feed.counts)

    def take(self, presence: Presence) -> None:
        """Publish this presence from now on, and follow its rules for places, also in waiting
        messages; earlier retained messages are renewed or deleted."""
        before = self._presence
        self._presence = presence
        self._disclosure = presence.disclosure
        for topic, payload in presence.fixed.items():
            if before is None or before.fixed.get(topic) != payload:
                self._retained.tell(topic, payload)
        if presence.disclosure.hides:
            self._retained.forget(presence.last_topics.values())
        if before and before.disclosure != presence.disclosure:
            self._retained.again()

    def tell_health(self, payload: str) -> None:
        """Send a health report, retained, as soon as there is a connection; a newer one replaces
        it."""
        if self._presence:
            self._retained.tell(self._presence.health_topic, payload)

    def drain(self, timeout_s: float) -> bool:
        """Wait until the broker has acknowledged everything; False if it has not in time, or cannot
        be reached."""
        looks = self._feed.looks  # the present look may have begun before the last commit
        now = time.monotonic()
        deadline = now + timeout_s
        patience = now + min(timeout_s, _DRAIN_PATIENCE_S)
        while self._feed.looked_empty <= looks:
            self._hurry.set()
            now = time.monotonic()
            if (
                now > deadline
                or (now > patience and not self.connected)
                or not self._thread.is_alive()
            ):
                return False
            time.sleep(0.02)
        return True

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._guarded(self._one_connection)
                self._guarded(self._wait)
        finally:
            self._connected.clear()
            self._feed.close()

    def _guarded(self, step: Callable[[], None]) -> None:
        """Run a step; any error is reported and costs only this attempt."""
        try:
            step()
        except Exception as error:
            words = " ".join(f"{type(error).__name__}: {error}".split())
            self._fail(words, patience=False)
            _log.debug("MQTT: %s", words, exc_info=True)
            self._stopping.wait(1.0)

    def _one_connection(self) -> None:
        link = self._connect()
        if link is not None:
            self._serve(link)

    def _connect(self) -> Link | None:
        """An accepted connection, or None. With `auto`, MQTT 3.1.1 is tried after a broker that
        refuses MQTT 5 or just closes the connection."""
        will = (self._presence.status_topic, OFFLINE) if self._presence else None
        for protocol in self._protocols:
            try:
                link = Link(self._settings, self._client_id, protocol, will)
            except ConfigError as error:  # the files were correct at the start
                self._fail(str(error), patience=True)
                return None
            link.open()
            while not (link.accepted or link.ended or self._stopping.is_set()):
                link.turn(POLL_S)
                self._feed.next(0)
            if link.accepted and not link.ended:
                return link
            link.close()
            if self._stopping.is_set():
                return None
            self._fail(link.ended, link.patience)
            if not link.other_protocol:
                return None
        return None

    def _serve(self, link: Link) -> None:
        """Use a connection from its acceptance to its end."""
        _log.info("MQTT broker %s:%d: connected", self._settings.host, self._settings.port)
        session = Session(
            link, self._feed, self._retained, lambda: self._presence, lambda: self._disclosure
        )
        since = self._since = time.monotonic()
        try:
            session.greet(listen=since >= self._deaf_until)
            while not (link.ended or session.silent or session.too_loud or self._stopping.is_set()):
                session.turn(self._hurry.is_set())
                self._hurry.clear()
                self._note(session, link)
            why = SILENT if session.silent else link.ended or "too many messages on a topic"
        finally:
            self._connected.clear()
            session.end(goodbye=self._stopping.is_set())
        self._feed.next(0)  # the last acknowledgements
        if session.good or (session.well_at or 0.0) - since > _PROVEN_S:
            self._failures = 0
        if self._stopping.is_set():
            return
        if (session.too_loud or link.too_much) and self._presence and self._presence.birth_topic:
            self._deaf_until = time.monotonic() + _DEAF_S
            self._retained.complain(
                self._presence.birth_topic, "too many messages there; ignored for an hour"
            )
        broke = link.ended.startswith(BROKE) and time.monotonic() - since < _PROVEN_S
        self._brief = self._brief + 1 if broke else 0
        self._fail(f"{why}{_CONTESTED if self._contested else ''}", link.patience)

    @property
    def _contested(self) -> bool:
        """True if another client with the same id may be taking over the connection; some brokers
        do not say so."""
        return self._brief >= _BRIEF_MAX

    def _note(self, session: Session, link: Link) -> None:
        """Update the public state of the connection."""
        if session.answers:
            self._connected.set()
        else:
            self._connected.clear()
        if session.well_at is not None and session.well_at > self._well_at:
            self._well_at = session.well_at
            if self._contested and time.monotonic() - self._since < _PROVEN_S:
                return
            self._trouble = (
                "" if link.protocol == self._protocols[0] else "the broker supports only MQTT 3.1.1"
            )

    def _wait(self) -> None:
        """Wait before the next attempt: longer each time up to a limit, and at random, so that
        stations do not act in step."""
        delay_s = (
            _PATIENT_DELAY_S
            if self._patience
            else min(_DELAY_S_MAX, 2.0 ** min(self._failures - 1, 10))
        )
        until = time.monotonic() + delay_s * _jitter.uniform(0.5, 1.0)
        while time.monotonic() < until and not self._stopping.wait(POLL_S):
            self._feed.next(0)
            if self._hurry.is_set() and not self._patience:
                break
        self._hurry.clear()

    def _fail(self, reason: str, patience: bool) -> None:
        self._failures += 1
        self._patience = patience
        if patience:
            reason += f"; next attempt within {_PATIENT_DELAY_S / 60:.0f} minutes"
        if reason != self._trouble:
            self._trouble = reason
            _log.warning("MQTT broker %s:%d: %s", self._settings.host, self._settings.port, reason)
