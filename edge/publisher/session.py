"""One accepted connection: the order of what is sent over it, and the handling of answers.

Everything has QoS 1 and counts together: there are never more unanswered messages than the broker
allows. Retained topics and the outbox take turns. Used in the publisher's thread.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

from edge.contract.errors import PublishError
from edge.disclosure import Disclosure
from edge.messages import FreshSpan, NumberedMessage, stamp
from edge.publisher.feed import Feed
from edge.publisher.link import Link
from edge.publisher.presence import OFFLINE, ONLINE, Presence
from edge.publisher.retained import RetainedMessages

POLL_S = 0.2  # each look costs a third of a millisecond, all day
# when a backlog is sent faster, a slow subscriber loses messages at the broker
_RATE_HZ_MAX = 500.0
# of a message: float precision of the seconds since a machine's start
_ROUNDING = 1e-3
_PACE_S = 0.02
# longest wait for the answer to the oldest message before a connection is given up
_ANSWER_S_MAX = 60.0
_GOODBYE_S = 1.0
_LAST_S = 1.0  # shortest time between updates of the last topics while a backlog is sent
_RENEW_S = 10.0  # shortest time between renewals of the discovery, on requests of Home Assistant
_HEARD_MAX = 100  # messages on its topic over one connection; a few a day are normal
SILENT = "the broker acknowledges nothing"


@dataclass(frozen=True)
class _Sent:
    """A message without an answer yet."""

    at: float
    topic: str
    # seq and message of the outbox; None: a retained message
    message: tuple[int, NumberedMessage] | None
    proven: bool = False  # sent alone, after another message was acknowledged


class Session:
    """Sending and receiving over one connection.

    session = Session(link, feed, retained, lambda: presence, disclosure_of)
    while not (link.ended or session.silent): session.turn(hurry=False)
    session.end(goodbye=True)
    """

    def __init__(
        self,
        link: Link,
        feed: Feed,
        retained: RetainedMessages,
        presence: Callable[[], Presence | None],
        disclosure: Callable[[], Disclosure],
    ) -> None:
        """`presence` and `disclosure` are called whenever something is sent."""
        self.good = False  # the broker has accepted a message of the outbox
        # time of the last answer, or when there was nothing to send
        self.well_at: float | None = None
        self.too_loud = False
        self._link = link
        self._feed = feed
        self._retained = retained
        self._presence = presence
        self._disclosure = disclosure
        self._begun_at = time.monotonic()
        self._sent: dict[int, _Sent] = {}  # by message number, oldest first
        self._paced_at = 0.0
        self._looked = self._answered = False
        self._retained_last = False  # the last message sent was a retained one
        self._alone = False  # a message that must be alone is under way
        self._last_at = self._renewed_at = float("-inf")
        self._renew = False
        self._heard = 0

    @property
    def answers(self) -> bool:
        """True if the broker has acknowledged something and is not silent, or if nothing is
        unanswered."""
        if not self._sent:
            return self._looked
        return self._answered and not self.silent

    @property
    def silent(self) -> bool:
        """True if the oldest message has waited too long for its answer."""
        oldest = next(iter(self._sent.values()), None)
        return oldest is not None and time.monotonic() - oldest.at > _ANSWER_S_MAX

    def greet(self, listen: bool) -> None:
        """Send all retained messages, as the broker may have lost them. `listen`: also subscribe to
        Home Assistant's announcements."""
        presence = self._presence()
        if presence is None:
            return
        self._retained.tell(presence.status_topic, ONLINE)
        self._retained.again()
        if listen and presence.birth_topic:
            try:
                self._link.listen(presence.birth_topic)
                self._retained.answered(presence.birth_topic, "")
            except PublishError as error:
                self._retained.complain(presence.birth_topic, str(error))

    def turn(self, hurry: bool) -> None:
        """Send what may be sent, and read answers; `hurry`: a caller is waiting for the next
        look."""
        more = self._send()
        self._looked = True
        self._link.turn(_PACE_S if more or hurry else POLL_S)
        self._hear()
        if not self._sent and self._feed.at_rest and self._retained.plain() is None:
            self.well_at = time.monotonic()

    def end(self, goodbye: bool) -> None:
        """Close the connection; unanswered messages are sent again over the next one."""
        said = goodbye and not self._link.ended and self._say_offline()
        oldest = next(iter(self._sent.values()), None)
        if oldest and not goodbye and oldest.message is None:
            self._retained.broke(oldest.topic, oldest.proven)
        for sent in self._sent.values():
            if sent.message is None:
                self._retained.again([sent.topic])
        self._link.close(goodbye=said or self._presence() is None)
        self._feed.disconnected(blame=oldest is not None and oldest.message is not None)
        self._sent.clear()

    # Sending

    def _room(self) -> int:
        return self._link.room - len(self._sent)

    def _send(self) -> bool:
        """Send as much as there is room for; True if more may follow soon."""
        self._renew_discovery()
        suspect = self._retained.suspect()
        if self._alone or (suspect and self._answered and self._sent):
            self._feed.next(0)
            return False
        if suspect and self._answered:
            self._say(suspect, alone=True)
            return False
        outbox_first = self._room() == 1 and self._retained_last
        more = self._send_waiting() if outbox_first else False
        self._send_retained()
        more = more if outbox_first else self._send_waiting()
        # nothing else is left that could show that the broker answers
        if suspect and not self._sent and self._feed.at_rest:
            self._say(suspect, alone=True)
        return more

    def _send_retained(self) -> None:
        presence = self._presence()
        if presence is None:
            return
        last = set(presence.last_topics.values())
        held = (
            last if self._feed.in_flight and time.monotonic() - self._last_at < _LAST_S else set()
        )
        least = 1 if self._link.room > 1 else 0  # room left for the outbox
        while self._room() > least and (topic := self._retained.plain(held)):
            if topic in last:
                self._last_at = time.monotonic()
            self._say(topic)

    def _say(self, topic: str, alone: bool = False) -> None:
        """Send a retained message."""
        presence = self._presence()
        payload = self._retained.take(topic)
        expires = presence is not None and topic == presence.health_topic
        expiry_s = presence.health_expiry_s if presence and expires else None
        try:
            number = self._link.send(
                topic, self._disclosure().payload(payload), retain=True, expiry_s=expiry_s
            )
        except PublishError as error:
            self._retained.answered(topic, str(error))
            return
        self._sent[number] = _Sent(time.monotonic(), topic, None, alone and self._answered)
        self._retained_last = True
        self._alone = alone

    def _send_waiting(self) -> bool:
        """Send messages of the outbox that may be sent now; True if more may follow soon."""
        now = time.monotonic()
        self._paced_at = max(self._paced_at, now - self._link.room / _RATE_HZ_MAX)
        # rounded up, since the clock of a long-running machine has few digits
        paced = int((now - self._paced_at) * _RATE_HZ_MAX + _ROUNDING)
        room = min(self._room(), paced)
        fresh = FreshSpan.of(datetime.now(timezone.utc), now - self._begun_at)
        messages = self._feed.next(room)
        for message in messages:
            self._paced_at += 1 / _RATE_HZ_MAX
            stamped = stamp(message, fresh)
            try:
                number = self._link.send(message.topic, self._disclosure().payload(stamped.payload))
            except PublishError as error:
                self._feed.answered(message.seq, str(error))
                continue
            self._sent[number] = _Sent(time.monotonic(), message.topic, (message.seq, stamped))
            self._retained_last = False
        return bool(messages) or room <= 0

    def _renew_discovery(self) -> None:
        presence = self._presence()
        now = time.monotonic()
        if (
            self._renew
            and presence
            and presence.discovery_topic
            and now - self._renewed_at >= _RENEW_S
        ):
            self._renew = False
            self._renewed_at = now
            self._retained.again([presence.discovery_topic])

    # Hearing

    def _hear(self) -> None:
        """Handle answers of the broker and announcements of Home Assistant."""
        answers = self._link.answers
        self._link.answers = []
        for number, refusal in answers:
            sent = self._sent.pop(number, None)
            if sent is None:
                continue
            self._answered = True
            if sent.message is None:
                self._alone = False
                self._retained.answered(sent.topic, refusal)
                continue
            self.well_at = time.monotonic()
            self._feed.answered(sent.message[0], refusal)
            if not refusal:
                self.good = True
                self._note_last(*sent.message)
        heard = self._link.heard
        self._link.heard = []
        self._heard += len(heard)
        self._renew = self._renew or any(payload == ONLINE for _, payload in heard)
        self.too_loud = self._heard > _HEARD_MAX

    def _note_last(self, seq: int, stamped: NumberedMessage) -> None:
        presence = self._presence()
        topic = presence.last_topics.get(stamped.source or "") if presence else None
        if topic:
            self._retained.tell(topic, stamped.payload, seq)

    def _say_offline(self) -> bool:
        """Publish "offline", since after a clean disconnect the broker publishes no will. True if
        the broker has acknowledged it; otherwise the will must do it."""
        presence = self._presence()
        if presence is None:
            return True
        deadline = time.monotonic() + _GOODBYE_S
        number = 0
        while not self._link.ended and time.monotonic() < deadline:
            if not number and self._room() > 0:
                number = self._link.send(presence.status_topic, OFFLINE, retain=True)
                self._sent[number] = _Sent(time.monotonic(), presence.status_topic, None)
            self._link.turn(_PACE_S)
            self._hear()
            if number and number not in self._sent:
                return True
        return False
