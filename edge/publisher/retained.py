"""What a station keeps retained on the broker, and which of it is to be sent now. Several threads
may tell.

A topic at which a connection broke is sent alone from then on, after something else was
acknowledged: if connections break there again and again, it is to blame, is left out for a while
and named; the others go on. Knows no connection.
"""

import threading
import time
from collections.abc import Iterable

_STRIKES_MAX = 3  # connections that broke at a topic before it is left out
_LEFT_OUT_S = 3600.0  # then it is tried once more


class RetainedMessages:
    """retained.tell(topic, payload) while topic := retained.plain(held=()): ... # send
    retained.take(topic) retained.answered(topic, refusal="") retained.broke(topic, proven=False) #
    the connection ended when this was its oldest without an answer
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._payloads: dict[str, str] = {}
        self._seqs: dict[str, int] = {}
        self._due: dict[str, None] = {}  # in order
        self._strikes: dict[str, int] = {}
        self._again_at: dict[str, float] = {}  # of those left out
        self._troubles: dict[str, str] = {}

    @property
    def trouble(self) -> str:
        """What is wrong with which topics; empty: nothing."""
        with self._lock:
            return "; ".join(f"{topic}: {why}" for topic, why in self._troubles.items())

    def tell(self, topic: str, payload: str, seq: int = 0) -> None:
        """Have this sent; a newer one takes its place, one with a lower `seq` does not."""
        with self._lock:
            if seq < self._seqs.get(topic, 0):
                return
            self._seqs[topic] = seq
            self._payloads[topic] = payload
            self._due[topic] = None

    def forget(self, topics: Iterable[str]) -> None:
        """Take away what the broker may hold of these from before, unless there is something to say
        in its place."""
        with self._lock:
            self._payloads |= {topic: "" for topic in topics if topic not in self._payloads}
            self._due |= dict.fromkeys(self._payloads)

    def again(self, topics: Iterable[str] | None = None) -> None:
        """Send these once more, or everything: the broker may have forgotten it."""
        with self._lock:
            self._due |= dict.fromkeys(
                topic for topic in topics or self._payloads if topic in self._payloads
            )

    def plain(self, held: Iterable[str] = ()) -> str | None:
        """The next topic that is due and above suspicion, none of `held`."""
        held = set(held)
        with self._lock:
            return next(
                (topic for topic in self._due if topic not in held and topic not in self._strikes),
                None,
            )

    def suspect(self) -> str | None:
        """The next that is due and to be sent alone."""
        now = time.monotonic()
        with self._lock:
            suspects = (topic for topic in self._due if topic in self._strikes)
            return next(
                (topic for topic in suspects if now >= self._again_at.get(topic, 0.0)), None
            )

    def take(self, topic: str) -> str:
        """The payload to send now."""
        with self._lock:
            self._due.pop(topic, None)
            return self._payloads[topic]

    def answered(self, topic: str, refusal: str) -> None:
        """The broker took it (`refusal` empty) or said no; either way the connection lives."""
        with self._lock:
            self._strikes.pop(topic, None)
            self._again_at.pop(topic, None)
            self._troubles.pop(topic, None)
            if refusal:
                self._troubles[topic] = refusal

    def complain(self, topic: str, why: str) -> None:
        """Something is wrong with this topic that no answer of the broker will mend."""
        with self._lock:
            self._troubles[topic] = why

    def broke(self, topic: str, proven: bool) -> None:
        """A connection ended and this was the oldest without an answer. `proven`: it was sent
        alone, and the broker had acknowledged something before; otherwise it is but suspected."""
        with self._lock:
            strikes = self._strikes.get(topic, 0)
            self._strikes[topic] = strikes + 1 if proven else max(strikes, 1)
            if self._strikes[topic] >= _STRIKES_MAX:
                self._strikes[topic] = _STRIKES_MAX - 1
                self._again_at[topic] = time.monotonic() + _LEFT_OUT_S
                self._troubles[topic] = "left out, since connections break whenever it is sent"
