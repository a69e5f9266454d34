"""Invalid outputs of a network: they never mean that nothing is there, and are remembered for a
while.

Knows no network and no sound.
"""

import logging
from collections import deque
from collections.abc import Sequence

_WINDOWS = 720  # remembered: an hour without overlap

log = logging.getLogger(__name__)


class OddScores:
    """Windows without a valid score among the last ones, and the reasons. Thread-safe.

    odd = OddScores("privacy.detector", "such windows count as speech")
    odd.add(["", "expected a score from 0 to 1, found nan"])
    odd.trouble
    """

    def __init__(self, whose: str, consequence: str) -> None:
        self._whose = whose
        self._consequence = consequence
        self._whys: deque[str] = deque(maxlen=_WINDOWS)

    def add(self, whys: Sequence[str]) -> None:
        """Add the next windows: the reason for a missing score, or "". The first failure in a while
        is logged."""
        known = any(self._whys)
        self._whys.extend(whys)
        if any(whys) and not known:
            log.warning("%s", self.trouble)

    @property
    def trouble(self) -> str | None:
        """Number of recent windows without a score, the latest reason, and the consequence; None if
        there are none."""
        whys = tuple(self._whys)
        odd = [why for why in whys if why]
        if not odd:
            return None
        share = f"{len(odd)} of the last {len(whys)} windows"
        return f"{self._whose}: no score for {share}: {odd[-1]}; {self._consequence}"
