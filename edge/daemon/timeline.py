"""When one run of the station was: on its boot's clock, and in UTC as machine and record together
know it best.

Knows no sound. The rule which clock is believed is edge.host.clock's for one boot and
edge.store.placing's for all.
"""

import logging
import uuid
from dataclasses import replace

from edge.config import Config
from edge.daemon.ledger import Ledger
from edge.host.clock import SUSPEND_S, Clock
from edge.types import StationRun

_HOLE_S = 0.001

log = logging.getLogger(__name__)


class Timeline:
    """One run in one boot.

    timeline = Timeline(config, "microphone", boot, clock, ledger)
    if timeline.moved():
        ...  # what is heard from now on is another stretch
    """

    def __init__(
        self, config: Config, source: str, boot: str, clock: Clock, ledger: Ledger
    ) -> None:
        self._clock = clock
        self._ledger = ledger
        self._told_s = clock.at_s()  # up to where anything is told
        self._told_boot_s = began_s = clock.boot_s(self._told_s)
        self._line = clock.line
        self._run = StationRun(
            str(uuid.uuid4()),
            source,
            boot,
            began_s,
            self._line.offset_ms,
            self._line.known,
            config.zone,
        )
        self.run = self._run.id
        ledger.begin_run(self._run)

    def moved(self) -> float:
        """By how many seconds UTC is another from now on: the wall clock was set, or the record has
        learnt better. What was stamped before goes along in the record."""
        before = self._clock.line.offset_ms
        self._clock.suspended(self._told_s)
        step_s = self._clock.check()
        if step_s is not None:
            log.warning(
                "the clock was set by %+.1f s: what this boot has stamped moves with it", step_s
            )
            self._ledger.clock_step(self._run.boot, self._clock.now(), step_s)
        if self._clock.line != self._line:
            self._line = self._clock.line
            self._ledger.follow(
                replace(self._run, offset_ms=self._line.offset_ms, known=self._line.known)
            )
        recorded = self._ledger.line
        if recorded is not None and recorded != self._line:
            self._line = recorded
            self._clock.adopt(recorded)
        return (self._clock.line.offset_ms - before) / 1000

    def hole(self, at_s: float, seconds: float) -> tuple[float, float, str] | None:
        """A span of the monotonic clock is told next. If of the time before it nothing was: from
        when on the boot's clock, for how long, and whether the machine was suspended then."""
        since_s, self._told_s = self._told_s, max(self._told_s, at_s + seconds)
        missing_s = self._clock.boot_s(at_s) - self._told_boot_s
        begin_s, self._told_boot_s = (
            self._told_boot_s,
            max(self._told_boot_s, self._clock.boot_s(at_s) + seconds),
        )
        if missing_s < _HOLE_S:
            return None
        return begin_s, missing_s, "suspended" if missing_s - (at_s - since_s) >= SUSPEND_S else ""
