"""The thread that empties the outbox to an MQTT broker: at least once, in order, marked sent on the broker's ack.

A broker that is away costs waiting rows, nothing else: no call here waits for it. Knows no sound and no species.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from edge.config import MqttSettings
from edge.contract.errors import ConfigError, PublishError
from edge.publisher.credentials import password, tls_context
from edge.publisher.feed import Feed
from edge.publisher.link import Link
from edge.publisher.messages import QUEUED_S, Stamped, stamp
from edge.publisher.presence import OFFLINE, ONLINE, Presence
from edge.types import Outbox, utc_text

_POLL_S = 0.2  # each look costs a third of a millisecond, all day
_RATE_HZ_MAX = 500.0  # a subscriber that is slower than a backlog loses what exceeds its queue at the broker
_PACE_S = 0.02
_DELAY_S_MAX, _PATIENT_DELAY_S = 60.0, 300.0
_PROVEN_S = 30.0  # a connection that lasted so long, or took a message, was a good one
_ANSWER_S_MAX = 60.0  # without any answer to what is in flight the connection is given up
_GOODBYE_S, _JOIN_S = 1.0, 2.8
_DRAIN_PATIENCE_S = 5.0
_LAST_S = 1.0  # last topics are renewed so often at most while a backlog is sent
_jitter = random.Random()  # our own: a thread that ends late moves nobody else's state
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublisherState:
    """How the messages are doing; created = sent + waiting + dropped + dead. A few seconds old at most."""

    connected: bool
    waiting: int
    dropped: int
    dead: int
    sent: int
    created: int
    last_error: str


class Publisher:
    """Empties an outbox, which it opens in a thread of its own, and keeps the station's presence if it has one.

    with Publisher(lambda: OutboxTable(database), settings, "birdstation-porch", presence) as publisher:
        ...                              # other threads commit messages
        publisher.tell_health(payload)
        everything_sent = publisher.drain(timeout_s=30)
    """

    def __init__(
        self,
        open_outbox: Callable[[], Outbox],
        settings: MqttSettings,
        client_id: str,
        presence: Presence | None = None,
    ) -> None:
        """`client_id`: no two connections may share one. Raises ConfigError: password or certificates."""
        password(settings)
        if settings.tls:
            tls_context(settings.tls)
        self._settings, self._client_id, self._presence = settings, client_id, presence
        self._feed = Feed(open_outbox, settings.waiting_max, settings.attempts_max)
        self._protocols = ("5", "3.1.1") if settings.protocol == "auto" else (settings.protocol,)
        self._stopping, self._hurry, self._connected = threading.Event(), threading.Event(), threading.Event()
        self._failures, self._patience = 0, False  # connections in a row that did no good; no hurry with the next
        self._late_before, self._answered_at, self._good = "", 0.0, False  # of the present connection
        self.last_error = ""
        self._lock = threading.Lock()
        self._retained: dict[str, str] = dict(presence.fixed) if presence else {}  # topic -> payload
        self._due: dict[str, None] = {}  # topics of these whose payload is to be sent, in order
        self._last_seq: dict[str, int] = {}
        self._last_at = self._paced_at = 0.0
        self._sent: dict[int, tuple[int, Stamped] | str] = {}  # message number -> seq and message, or retained topic
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def __enter__(self) -> "Publisher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Says offline if there is somebody to say it to; three seconds at most, whatever the broker does."""
        self._stopping.set()
        self._thread.join(_JOIN_S)

    @property
    def connected(self) -> bool:
        """Whether a broker has accepted this station and is still there."""
        return self._connected.is_set()

    def state(self) -> PublisherState:
        """For the health report; never waits."""
        error = self._feed.store_error or self.last_error
        return PublisherState(connected=self.connected, last_error=error, **self._feed.counts)

    def tell_health(self, payload: str) -> None:
        """Have this sent, retained, as soon as there is a connection; a newer one takes its place."""
        if self._presence:
            self._tell(self._presence.health_topic, payload)

    def drain(self, timeout_s: float) -> bool:
        """Wait until the broker has acknowledged everything; False if it has not in time or cannot be reached."""
        looks = self._feed.looks  # the present look may have begun before the last commit
        self._hurry.set()
        now = time.monotonic()
        deadline, patience = now + timeout_s, now + min(timeout_s, _DRAIN_PATIENCE_S)
        while self._feed.looked_empty <= looks:
            now = time.monotonic()
            if now > deadline or (now > patience and not self.connected) or not self._thread.is_alive():
                return False
            time.sleep(0.02)
        return True

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                link = self._connect()
                if link is not None:
                    self._serve(link)
                self._wait()
        finally:
            self._connected.clear()
            self._feed.close()

    def _connect(self) -> Link | None:
        """An accepted connection, or None. `auto`: a broker that refuses MQTT 5, or just closes, is asked for 3.1.1."""
        will = (self._presence.status_topic, OFFLINE) if self._presence else None
        for protocol in self._protocols:
            try:
                link = Link(self._settings, self._client_id, protocol, will)
            except ConfigError as error:  # the files were right when we started
                self._fail(str(error), patience=True)
                return None
            link.open()
            while not (link.accepted or link.ended or self._stopping.is_set()):
                link.turn(_POLL_S)
                self._feed.next(0)
            if link.accepted and not link.ended:
                self.last_error = "" if protocol == self._protocols[0] else "the broker speaks MQTT 3.1.1 only"
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
        since, self._late_before = time.monotonic(), utc_text(datetime.now(timezone.utc))
        self._answered_at, self._good = since, False
        self._connected.set()
        _log.info("MQTT broker %s:%d: connected", self._settings.host, self._settings.port)
        self._greet(link)
        while not (link.ended or self._stopping.is_set()):
            self._send_retained(link)
            sent = self._send_waiting(link)
            link.turn(_PACE_S if sent else _POLL_S)
            self._hear(link)
            if self._sent and time.monotonic() - self._answered_at > _ANSWER_S_MAX:
                break
        if self._stopping.is_set() and not link.ended:
            self._say_offline(link)
        why = link.ended or "the broker acknowledges nothing"
        self._connected.clear()
        link.close()
        self._sent.clear()
        self._feed.disconnected()
        self._feed.next(0)  # the last acknowledgements
        if self._good or time.monotonic() - since > _PROVEN_S:
            self._failures = 0
        if not self._stopping.is_set():
            self._fail(why, link.patience)

    def _greet(self, link: Link) -> None:
        """Say everything that is retained: the broker may have forgotten it."""
        if self._presence is None:
            return
        self._tell(self._presence.status_topic, ONLINE)
        with self._lock:
            self._due = dict.fromkeys(self._retained)
        if self._presence.birth_topic:
            link.listen(self._presence.birth_topic)

    def _tell(self, topic: str, payload: str) -> None:
        with self._lock:
            self._retained[topic] = payload
            self._due[topic] = None

    def _send_retained(self, link: Link) -> None:
        presence = self._presence
        if presence is None:
            return
        held = set()
        if self._feed.in_flight and time.monotonic() - self._last_at < _LAST_S:
            held = set(presence.last_topics.values())
        with self._lock:
            due = [(topic, self._retained[topic]) for topic in self._due if topic not in held]
            self._due = {topic: None for topic in self._due if topic in held}
        for topic, payload in due:
            if topic in presence.last_topics.values():
                self._last_at = time.monotonic()
            expiry_s = presence.health_expiry_s if topic == presence.health_topic else None
            try:
                self._note_sent(link.send(topic, payload, retain=True, expiry_s=expiry_s), topic)
            except PublishError as error:
                self._complain(f"{topic}: {error}")

    def _send_waiting(self, link: Link) -> bool:
        """Send what may be sent now; whether more may follow soon."""
        now = time.monotonic()
        self._paced_at = max(self._paced_at, now - link.room / _RATE_HZ_MAX)
        room = min(link.room - len(self._sent), int((now - self._paced_at) * _RATE_HZ_MAX))
        late = utc_text(datetime.now(timezone.utc) - timedelta(seconds=QUEUED_S))
        messages = self._feed.next(room)
        for message in messages:
            self._paced_at += 1 / _RATE_HZ_MAX
            stamped = stamp(message, max(late, self._late_before))
            try:
                self._note_sent(link.send(message.topic, stamped.payload), (message.seq, stamped))
            except PublishError as error:
                self._feed.answered(message.seq, str(error))
        return bool(messages) or room <= 0

    def _note_sent(self, number: int, what: tuple[int, Stamped] | str) -> None:
        if not self._sent:
            self._answered_at = time.monotonic()
        self._sent[number] = what

    def _hear(self, link: Link) -> None:
        """What the broker answered, and what Home Assistant said."""
        answers, link.answers = link.answers, []
        for number, refusal in answers:
            self._answered_at, sent = time.monotonic(), self._sent.pop(number, None)
            if isinstance(sent, tuple):
                self._feed.answered(sent[0], refusal)
                if not refusal:
                    self._good = True
                    self._note_last(*sent)
            elif sent and refusal:
                self._complain(f"{sent}: {refusal}")
        heard, link.heard = link.heard, []
        if self._presence and self._presence.discovery_topic and (self._presence.birth_topic, ONLINE) in heard:
            with self._lock:
                self._due[self._presence.discovery_topic] = None

    def _note_last(self, seq: int, stamped: Stamped) -> None:
        topic = self._presence.last_topics.get(stamped.source or "") if self._presence else None
        if topic and seq > self._last_seq.get(topic, 0):
            self._last_seq[topic] = seq
            self._tell(topic, stamped.payload)

    def _say_offline(self, link: Link) -> None:
        """The last will would not come after a clean goodbye."""
        if self._presence is None:
            return
        number = link.send(self._presence.status_topic, OFFLINE, retain=True)
        self._sent[number] = self._presence.status_topic
        deadline = time.monotonic() + _GOODBYE_S
        while number in self._sent and not link.ended and time.monotonic() < deadline:
            link.turn(_POLL_S)
            self._hear(link)

    def _wait(self) -> None:
        """Until the next try: longer each time, never for ever, not in step with other stations."""
        delay_s = _PATIENT_DELAY_S if self._patience else min(_DELAY_S_MAX, 2.0 ** min(self._failures - 1, 10))
        until = time.monotonic() + delay_s * _jitter.uniform(0.5, 1.0)
        while time.monotonic() < until and not self._stopping.wait(_POLL_S):
            self._feed.next(0)
            if self._hurry.is_set() and not self._patience:
                break
        self._hurry.clear()

    def _fail(self, reason: str, patience: bool) -> None:
        self._failures, self._patience = self._failures + 1, patience
        if patience:
            reason += f"; next try within {_PATIENT_DELAY_S / 60:.0f} minutes"
        self._complain(reason)

    def _complain(self, reason: str) -> None:
        if reason != self.last_error:
            self.last_error = reason
            _log.warning("MQTT broker %s:%d: %s", self._settings.host, self._settings.port, reason)
