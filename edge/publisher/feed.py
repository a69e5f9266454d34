"""Order in which messages of the outbox are sent, and storage of the broker's answers. Used in the
publisher's thread. Knows no broker.

If the disk fails, answers are kept in memory and stored later; until then nothing more is sent.
"""

import logging
import time
from collections.abc import Callable, Mapping

from edge.contract.errors import StoreError
from edge.types import Outbox, QueuedMessage

_HOUSE_S = 2.0  # interval at which the bound is applied and the counts are read
_STORE_AGAIN_S = 1.0
_REFUSED_AGAIN_S_MAX = 300.0
# connections in a row without any acknowledgement, after which the oldest message is suspected
_BARREN_MAX = 3
_log = logging.getLogger(__name__)


class Feed:
    """The outbox, oldest first.

    for message in feed.next(room): ...  # send it
    feed.answered(seq, refusal="")
    feed.disconnected()                   # unanswered messages are sent again
    """

    def __init__(
        self, open_outbox: Callable[[], Outbox], waiting_max: int, attempts_max: int
    ) -> None:
        self.store_error = ""
        self.counts: Mapping[str, int] = {
            "created": 0,
            "sent": 0,
            "waiting": 0,
            "dropped": 0,
            "dead": 0,
        }
        self.in_flight: set[int] = set()
        # number of the present look, and of the last one that found nothing to send
        self.looks = 0
        self.looked_empty = -1
        self._open_outbox = open_outbox
        self._waiting_max = waiting_max
        self._attempts_max = attempts_max
        self._outbox: Outbox | None = None
        self._store_again_at = self._house_at = 0.0
        self._answers: dict[int, str] = {}  # not stored yet
        self._cursor = 0  # all messages up to this number were sent, or are tried again later
        # time of the next attempt at refused messages; 0: none was refused
        self._refused_again_at = 0.0
        self._rounds = 0  # attempts at refused messages
        self._barren = 0  # connections in a row without an answer
        self._suspect = 0  # number of the message that may end connections; 0: none
        self._answered_here = False  # over the present connection

    def next(self, room: int) -> list[QueuedMessage]:
        """Store answers, apply the bound now and then, and return at most `room` messages to
        send."""
        now = time.monotonic()
        self.looks += 1
        if now < self._store_again_at:
            return []
        try:
            outbox = self._opened(now)
            self._settle(outbox)
            if now > self._house_at:
                self._keep_house(outbox)
                self._house_at = now + _HOUSE_S
            messages = self._oldest(outbox, room) if room > 0 else []
        except StoreError as error:
            self._fails(error)
            return []
        self.store_error = ""
        return messages

    def _opened(self, now: float) -> Outbox:
        """The outbox. If another file has its name now (a restored copy), that one, from its
        beginning."""
        if self._outbox is not None and now > self._house_at and not self._outbox.is_named_file():
            self.close()
            self._cursor = self._suspect = 0
            _log.warning("outbox: another file has its name now; continuing with that one")
        if self._outbox is None:
            self._outbox = self._open_outbox()
        return self._outbox

    def _oldest(self, outbox: Outbox, room: int) -> list[QueuedMessage]:
        """The next messages in order. Refused ones come again when their time has come and nothing
        else is in flight."""
        due = time.monotonic() >= self._refused_again_at
        if due and not self.in_flight:
            self._cursor = self._suspect
            self._refused_again_at = 0.0
        elif due and self._refused_again_at:
            return []
        if self._barren >= _BARREN_MAX - 1:
            room = 1 - len(self.in_flight)
        messages = outbox.waiting(self._cursor, max(room, 0))
        if messages:
            self._cursor = messages[-1].seq
            self.in_flight.update(message.seq for message in messages)
        elif not self.in_flight and self._suspect:
            self._suspect = 0  # nothing waits behind it: try it again
        elif not self.in_flight and due:
            self.looked_empty = self.looks
            self._rounds = 0
        return messages

    @property
    def at_rest(self) -> bool:
        """True if nothing is in flight and the last look found nothing to send, or failed."""
        return not self.in_flight and (self.looked_empty == self.looks or bool(self.store_error))

    def answered(self, seq: int, refusal: str) -> None:
        """Note that the broker accepted the message (`refusal` empty) or refused it."""
        self.in_flight.discard(seq)
        self._answers[seq] = refusal
        if not refusal and self._suspect and seq != self._suspect:
            self._answers.setdefault(self._suspect, "the connection ended whenever it was sent")
        self._barren = 0
        self._suspect = 0
        self._answered_here = True

    def disconnected(self, blame: bool = True) -> None:
        """Handle the end of a connection: unanswered messages will be sent again, the oldest first.
        If several connections in a row end with the same message under way, the next one starts
        behind it; if another message gets through there, the skipped one counts as refused.
        `blame`: the oldest unanswered message of the connection, including retained ones, is from
        the outbox."""
        if blame and self.in_flight and not self._answered_here:
            self._barren += 1
            if self._barren >= _BARREN_MAX:
                self._suspect = min(self.in_flight)
        self._cursor = self._suspect
        self._answered_here = False
        self.in_flight.clear()

    def _settle(self, outbox: Outbox) -> None:
        outbox.mark_sent([seq for seq, refusal in self._answers.items() if not refusal])
        self._answers = {seq: refusal for seq, refusal in self._answers.items() if refusal}
        for seq, refusal in sorted(self._answers.items()):
            dead = outbox.refused(seq, refusal, self._attempts_max)
            del self._answers[seq]
            if not self._refused_again_at:
                self._refused_again_at = time.monotonic() + min(
                    _REFUSED_AGAIN_S_MAX, 4.0**self._rounds
                )
                self._rounds += 1
            if dead:
                _log.warning(
                    "message %d is set aside after %d refusals: %s",
                    seq,
                    self._attempts_max,
                    refusal,
                )

    def _keep_house(self, outbox: Outbox) -> None:
        dropped = outbox.bound(self._waiting_max, max(self.in_flight, default=0))
        if dropped:
            _log.warning(
                "more than %d messages are waiting: the oldest %d are dropped",
                self._waiting_max,
                dropped,
            )
        self.counts = outbox.counts()

    def _fails(self, error: StoreError) -> None:
        """Handle a full, read-only or damaged disk: close the outbox and reopen it soon."""
        if not self.store_error:
            _log.warning("outbox: %s", error)
        self.store_error = str(error)
        self._store_again_at = time.monotonic() + _STORE_AGAIN_S
        self.close()

    def close(self) -> None:
        """Close the outbox."""
        if self._outbox is not None:
            outbox = self._outbox
            self._outbox = None
            outbox.__exit__(None, None, None)
