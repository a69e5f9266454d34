"""The thread that empties the outbox to an MQTT broker: at least once, in order, marked sent on the
broker's ack.

A broker that is away costs waiting rows, nothing else: no call here waits for it. Knows no sound
and no species.
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
_PROVEN_S = 30.0  # a connection that answered so long, or took a message, was a good one
_JOIN_S = 2.8
_DRAIN_PATIENCE_S = 5.0
_BRIEF_MAX = 3
_CONTESTED = "; so do all, soon after they are accepted: a second station with the same station.id?"
_DEAF_S = 3600.0  # so long nobody listens to a topic on which too much was said
_jitter = random.Random()  # our own: a thread that ends late moves nobody else's state
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublisherState:
    """How the messages are doing; created = sent + waiting + dropped + dead. A few seconds old at
    most."""

    connected: bool
    waiting: int
    dropped: int
    dead: int
    sent: int
    created: int
    last_error: str


class Publisher:
    """Empties an outbox, which it opens in a thread of its own, and keeps the station's presence if
    it has one.

    with Publisher(lambda: OutboxTable(database), settings, "birdstation-porch", presence) as
    publisher:
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
        """`client_id`: no two connections may share one. `disclosure`: what of places may leave;
        None: what `presence` says, as little as can be without one. Raises ConfigError: password or
        certificates."""
        password(settings)
        if settings.tls:
            tls_context(settings.tls)
        self._settings = settings
        self._client_id = client_id
        self._presence: Presence | None = None
        self._disclosure = disclosure or Disclosure()
        self._feed, self._retained = (
            Feed(open_outbox, settings.waiting_max, settings.attempts_max),
            RetainedMessages(),
        )
        self._protocols = ("5", "3.1.1") if settings.protocol == "auto" else (settings.protocol,)
        self._stopping, self._hurry, self._connected = (
            threading.Event(),
            threading.Event(),
            threading.Event(),
        )
        # connections in a row that did no good; no hurry with the next
        self._failures = 0
        self._patience = False
        # when the present one was accepted; those in a row that soon broke
        self._since = 0.0
        self._brief = 0
        self._deaf_until, self._well_at = 0.0, time.monotonic()
        self._trouble = ""  # of the connection, until one is known to be good
        if presence:
            self.take(presence)
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def __enter__(self) -> "Publisher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Says offline if there is somebody to say it to; three seconds at most, whatever the
        broker does."""
        self._stopping.set()
        self._thread.join(_JOIN_S)

    @property
    def connected(self) -> bool:
        """Whether a broker has accepted this station, is still there and acknowledges what it is
        sent."""
        return self._connected.is_set()

    @property
    def away_s(self) -> float:
        """For so long nothing was acknowledged although there was something, over however many
        connections."""
        return time.monotonic() - self._well_at

    @property
    def ended(self) -> bool:
        """Its thread is gone, although nobody asked for it: nothing is sent any more."""
        return not self._thread.is_alive() and not self._stopping.is_set()

    @property
    def last_error(self) -> str:
        """What is wrong with the way to the broker, or with what it is to keep; empty: nothing."""
        return self._trouble or self._retained.trouble

    def state(self) -> PublisherState:
        """For the health report; never waits."""
        error = self._feed.store_error or self.last_error
        return PublisherState(connected=self.connected, last_error=error, **self._feed.counts)

    def take(self, presence: Presence) -> None:
        """Say this of the station from now on, and tell no more of its place than it allows: also
        in what waits, and what is retained of before is renewed or taken away."""
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
        """Have this sent, retained, as soon as there is a connection; a newer one takes its
        place."""
        if self._presence:
            self._retained.tell(self._presence.health_topic, payload)

    def drain(self, timeout_s: float) -> bool:
        """Wait until the broker has acknowledged everything; False if it has not in time or cannot
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
        """Whatever goes wrong costs this try, and is said; the next one follows."""
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
        """An accepted connection, or None. `auto`: a broker that refuses MQTT 5, or just closes, is
        asked for 3.1.1."""
        will = (self._presence.status_topic, OFFLINE) if self._presence else None
        for protocol in self._protocols:
            try:
                link = Link(self._settings, self._client_id, protocol, will)
            except ConfigError as error:  # the files were right when we started
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
        """One connection, from its acceptance to its end."""
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
            why = SILENT if session.silent else link.ended or "too much is said on a topic"
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
                self._presence.birth_topic, "too much is said there; not listened to for an hour"
            )
        broke = link.ended.startswith(BROKE) and time.monotonic() - since < _PROVEN_S
        self._brief = self._brief + 1 if broke else 0
        self._fail(f"{why}{_CONTESTED if self._contested else ''}", link.patience)

    @property
    def _contested(self) -> bool:
        """Whether somebody else may be taking the connection, as two clients of one id do: some
        brokers do not say."""
        return self._brief >= _BRIEF_MAX

    def _note(self, session: Session, link: Link) -> None:
        """How the connection does, for those who ask."""
        if session.answers:
            self._connected.set()
        else:
            self._connected.clear()
        if session.well_at is not None and session.well_at > self._well_at:
            self._well_at = session.well_at
            if self._contested and time.monotonic() - self._since < _PROVEN_S:
                return
            self._trouble = (
                "" if link.protocol == self._protocols[0] else "the broker speaks MQTT 3.1.1 only"
            )

    def _wait(self) -> None:
        """Until the next try: longer each time, never for ever, not in step with other stations."""
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
        self._failures = self._failures + 1
        self._patience = patience
        if patience:
            reason += f"; next try within {_PATIENT_DELAY_S / 60:.0f} minutes"
        if reason != self._trouble:
            self._trouble = reason
            _log.warning("MQTT broker %s:%d: %s", self._settings.host, self._settings.port, reason)
