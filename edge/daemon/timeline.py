"""Time of one run of the station: on its boot's clock, and in UTC by the best knowledge of machine
and record.

Knows no sound. The rules for which clock to trust are in edge.host.clock for one boot, and in
edge.store.boot_placement for all boots.
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
        ...  # begin another stretch
    """

    def __init__(
        self, config: Config, source: str, boot: str, clock: Clock, ledger: Ledger
    ) -> None:
        self._clock = clock
        self._ledger = ledger
        # time up to which everything is accounted for, on the monotonic and on the boot's clock
        self._told_s = clock.at_s()
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
        """Seconds by which UTC has moved since the last call: the wall clock was set, or the record
        knows better. The record moves earlier timestamps accordingly."""
        before = self._clock.line.offset_ms
        self._clock.suspended(self._told_s)
        step_s = self._clock.check()
        if step_s is not None:
            log.warning(
                "the clock was set by %+.1f s: timestamps of this boot are moved accordingly",
                step_s,
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
        """Account for a span that begins at `at_s` on the monotonic clock. Returns the unaccounted
        time before it, if any: its begin on the boot's clock, its seconds, and "suspended" if the
        machine was suspended in it, else ""."""
        since_s = self._told_s
        begin_s = self._told_boot_s
        boot_s = self._clock.boot_s(at_s)
        self._told_s = max(since_s, at_s + seconds)
        self._told_boot_s = max(begin_s, boot_s + seconds)
        missing_s = boot_s - begin_s
        if missing_s < _HOLE_S:
            return None
        return begin_s, missing_s, "suspended" if missing_s - (at_s - since_s) >= SUSPEND_S else ""
