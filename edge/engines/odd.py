"""What a network says that is no score: it never means that nothing is there, so it is remembered
for a while.

Knows no network and no sound.
"""

import logging
from collections import deque
from collections.abc import Sequence

_WINDOWS = 720  # in which it is remembered: an hour without overlap

log = logging.getLogger(__name__)


class OddScores:
    """Of the last windows: for which of them somebody gave no score, and why. For several threads.

    odd = OddScores("privacy.detector", "such windows count as speech")
    odd.add(["", "expected a score from 0 to 1, found nan"])
    odd.trouble
    """

    def __init__(self, whose: str, consequence: str) -> None:
        self._whose = whose
        self._consequence = consequence
        self._whys: deque[str] = deque(maxlen=_WINDOWS)

    def add(self, whys: Sequence[str]) -> None:
        """Of the next windows: why there is no score, "" if there is one. The first of a while is
        logged."""
        known = any(self._whys)
        self._whys.extend(whys)
        if any(whys) and not known:
            log.warning("%s", self.trouble)

    @property
    def trouble(self) -> str | None:
        """In how many of the last windows, what was said last, and what becomes of it; None: in
        none."""
        whys = tuple(self._whys)
        odd = [why for why in whys if why]
        if not odd:
            return None
        share = f"{len(odd)} of the last {len(whys)} windows"
        return f"{self._whose}: no score for {share}: {odd[-1]}; {self._consequence}"
