"""What of the outbox is sent next, and what became of it. Lives in the publisher's thread; knows no
broker.

The disk may fail at any moment: what was answered is kept and written down later, and nothing more
is sent before.
"""

import logging
import time
from collections.abc import Callable, Mapping

from edge.contract.errors import StoreError
from edge.types import Outbox, QueuedMessage

_HOUSE_S = 2.0  # how often the bound is applied and the counts are read
_STORE_AGAIN_S = 1.0
_REFUSED_AGAIN_S_MAX = 300.0
# connections without one acknowledgement, after which the oldest message is suspected
_BARREN_MAX = 3
_log = logging.getLogger(__name__)


class Feed:
    """The outbox, oldest first.

    for message in feed.next(room): ...  # send it
    feed.answered(seq, refusal="")
    feed.disconnected()                   # what was not answered is sent again
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
        # number of the present look, and of the last that found nothing left
        self.looks = 0
        self.looked_empty = -1
        self._open_outbox = open_outbox
        self._waiting_max = waiting_max
        self._attempts_max = attempts_max
        self._outbox: Outbox | None = None
        self._store_again_at = self._house_at = 0.0
        self._answers: dict[int, str] = {}  # not yet written down
        self._cursor = 0  # everything up to here was sent, or is tried again later
        # 0: nothing was refused
        self._refused_again_at = 0.0
        self._rounds = 0
        self._barren = 0
        self._suspect = 0
        self._answered_here = False

    def next(self, room: int) -> list[QueuedMessage]:
        """Write down what was answered, keep house, and give at most `room` messages to send."""
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
        """The outbox; if another file has taken its name (a copy was put back), that one, from its
        beginning."""
        if self._outbox is not None and now > self._house_at and not self._outbox.is_named_file():
            self.close()
            self._cursor = self._suspect = 0
            _log.warning("outbox: another file has its name now; going on with that one")
        if self._outbox is None:
            self._outbox = self._open_outbox()
        return self._outbox

    def _oldest(self, outbox: Outbox, room: int) -> list[QueuedMessage]:
        """The next in order. What was refused comes again when its time has come and nothing else
        is in flight."""
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
            self._suspect = 0  # nothing waits behind it: back to it
        elif not self.in_flight and due:
            self.looked_empty = self.looks
            self._rounds = 0
        return messages

    @property
    def at_rest(self) -> bool:
        """The last look found nothing to send, or could not look."""
        return not self.in_flight and (self.looked_empty == self.looks or bool(self.store_error))

    def answered(self, seq: int, refusal: str) -> None:
        """The broker took the message (`refusal` empty) or said no to it."""
        self.in_flight.discard(seq)
        self._answers[seq] = refusal
        if not refusal and self._suspect and seq != self._suspect:
            self._answers.setdefault(self._suspect, "the connection ended whenever it was sent")
        self._barren = 0
        self._suspect = 0
        self._answered_here = True

    def disconnected(self, blame: bool = True) -> None:
        """The connection is gone: what is not answered will be sent again, the oldest first. If
        connection after connection ends with the same message under way, the next begins behind it;
        when another one gets through there, it was this message's fault. `blame`: of all that was
        under way, what is not of the outbox too, the oldest is one of these."""
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
                    "message %d is set aside, it was refused %d times: %s",
                    seq,
                    self._attempts_max,
                    refusal,
                )

    def _keep_house(self, outbox: Outbox) -> None:
        dropped = outbox.bound(self._waiting_max, max(self.in_flight, default=0))
        if dropped:
            _log.warning(
                "more than %d messages wait: the oldest %d are dropped", self._waiting_max, dropped
            )
        self.counts = outbox.counts()

    def _fails(self, error: StoreError) -> None:
        """A full, read-only or damaged disk: the file is opened anew in a moment."""
        if not self.store_error:
            _log.warning("outbox: %s", error)
        self.store_error = str(error)
        self._store_again_at = time.monotonic() + _STORE_AGAIN_S
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        if self._outbox is not None:
            outbox = self._outbox
            self._outbox = None
            outbox.__exit__(None, None, None)
