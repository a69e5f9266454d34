"""Retained messages of a station, and those of them that must be sent now. Several threads may set
them.

A topic during whose sending a connection broke is sent alone from then on, after another message
was acknowledged. If connections keep breaking at it, it is to blame: it is left out for a while and
reported, and the others continue. Knows no connection.
"""

import threading
import time
from collections.abc import Iterable

_STRIKES_MAX = 3  # connections that broke at a topic before it is left out
_LEFT_OUT_S = 3600.0  # before it is tried once more


class RetainedMessages:
    """The latest payload of each topic, and the topics that are due.

    retained.tell(topic, payload)
    while topic := retained.plain(held=()):
        ...  # send retained.take(topic)
    retained.answered(topic, refusal="")
    retained.broke(topic, proven=False)  # when the connection ends before its answer
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
        """Topics with errors, in one line; empty if there are none."""
        with self._lock:
            return "; ".join(f"{topic}: {why}" for topic, why in self._troubles.items())

    def tell(self, topic: str, payload: str, seq: int = 0) -> None:
        """Set the payload of a topic to be sent. It replaces an earlier one, unless its `seq` is
        lower."""
        with self._lock:
            if seq < self._seqs.get(topic, 0):
                return
            self._seqs[topic] = seq
            self._payloads[topic] = payload
            self._due[topic] = None

    def forget(self, topics: Iterable[str]) -> None:
        """Delete what the broker may still retain on these topics, unless they have a payload
        here."""
        with self._lock:
            self._payloads |= {topic: "" for topic in topics if topic not in self._payloads}
            self._due |= dict.fromkeys(self._payloads)

    def again(self, topics: Iterable[str] | None = None) -> None:
        """Send these topics, or all, once more, as the broker may have lost them."""
        with self._lock:
            self._due |= dict.fromkeys(
                topic for topic in topics or self._payloads if topic in self._payloads
            )

    def plain(self, held: Iterable[str] = ()) -> str | None:
        """The next due topic that is not a suspect and not in `held`."""
        held = set(held)
        with self._lock:
            return next(
                (topic for topic in self._due if topic not in held and topic not in self._strikes),
                None,
            )

    def suspect(self) -> str | None:
        """The next due topic that must be sent alone."""
        now = time.monotonic()
        with self._lock:
            suspects = (topic for topic in self._due if topic in self._strikes)
            return next(
                (topic for topic in suspects if now >= self._again_at.get(topic, 0.0)), None
            )

    def take(self, topic: str) -> str:
        """The payload to send now; the topic is no longer due."""
        with self._lock:
            self._due.pop(topic, None)
            return self._payloads[topic]

    def answered(self, topic: str, refusal: str) -> None:
        """Note that the broker accepted (`refusal` empty) or refused it; in both cases the
        connection survived."""
        with self._lock:
            self._strikes.pop(topic, None)
            self._again_at.pop(topic, None)
            self._troubles.pop(topic, None)
            if refusal:
                self._troubles[topic] = refusal

    def complain(self, topic: str, why: str) -> None:
        """Report a lasting error with this topic."""
        with self._lock:
            self._troubles[topic] = why

    def broke(self, topic: str, proven: bool) -> None:
        """Note that a connection ended while this was its oldest unanswered message. `proven`: it
        was sent alone, after another message was acknowledged; otherwise it is only a suspect."""
        with self._lock:
            strikes = self._strikes.get(topic, 0)
            self._strikes[topic] = strikes + 1 if proven else max(strikes, 1)
            if self._strikes[topic] >= _STRIKES_MAX:
                self._strikes[topic] = _STRIKES_MAX - 1
                self._again_at[topic] = time.monotonic() + _LEFT_OUT_S
                self._troubles[topic] = "left out, as connections break whenever it is sent"
