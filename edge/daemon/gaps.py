"""Rows for the gaps of the microphone. An ongoing gap is written repeatedly under one id, longer
each time. Knows no sound."""

from collections.abc import Callable

from edge.config import Config
from edge.daemon.ledger import Ledger
from edge.daemon.timeline import Timeline
from edge.host.clock import Clock, utc_at
from edge.types import Gap, GapReason, GapRow, stable_id

_NOTE_S = 60.0  # interval at which an ongoing gap is written


class GapWriter:
    """Gaps of one live source in one boot.

    gaps = GapWriter(config, "microphone", boot, clock, timeline, ledger, on_gap)
    gaps.write(gap)
    gaps.fill(chunk.at_s, seconds)   # before each chunk, so that every moment is accounted for
    """

    def __init__(
        self,
        config: Config,
        source: str,
        boot: str,
        clock: Clock,
        timeline: Timeline,
        ledger: Ledger,
        on_gap: Callable[[GapRow, float], None],
    ) -> None:
        self._station = config.station.id
        self._zone = config.zone
        self._source = source
        self._boot = boot
        self._clock = clock
        self._timeline = timeline
        self._ledger = ledger
        self._on_gap = on_gap
        self._noted_at = 0.0
        self._reported = ("", 0.0)  # id of the last reported gap, and its seconds then

    def write(self, gap: Gap) -> None:
        """Store a gap and report by how many seconds it has grown. A gap during which the machine
        was suspended becomes two, with the suspend between them."""
        for at_s, seconds in self._clock.awake(gap.at_s, gap.seconds):
            begin_s = self._clock.boot_s(at_s)
            hole = self._timeline.hole(at_s, seconds)
            if hole is not None and (gap.reason, hole[2]) == ("off", ""):  # one row for both
                begin_s = hole[0]
                seconds = hole[1] + seconds
            elif hole is not None:
                self._write(hole[0], hole[1], "off", hole[2])
            self._write(begin_s, seconds, gap.reason, gap.detail)

    def fill(self, at_s: float, seconds: float) -> None:
        """Write a gap "off" for the unaccounted time, if any, before a span that begins at `at_s`
        on the monotonic clock."""
        hole = self._timeline.hole(at_s, seconds)
        if hole is not None:
            begin_s, missing_s, detail = hole
            self._write(begin_s, missing_s, "off", detail)

    def _write(self, boot_s: float, seconds: float, reason: GapReason, detail: str) -> None:
        row = GapRow(
            id=stable_id(self._station, self._source, self._boot, f"{boot_s:.3f}", reason),
            source=self._source,
            start=utc_at(self._clock.line.offset_ms, boot_s),
            seconds=seconds,
            reason=reason,
            detail=detail,
            clock_state=self._clock.state,
            boot=self._boot,
            zone=self._zone,
            run=self._timeline.run,
            boot_s=boot_s,
        )
        self._ledger.gap(row)
        reported_s = self._reported[1] if self._reported[0] == row.id else 0.0
        self._reported = (row.id, row.seconds)
        self._on_gap(row, row.seconds - reported_s)

    def is_due(self) -> bool:
        """True if an ongoing gap should be written now, since the power may fail before it ends."""
        now = self._clock.at_s()
        if now - self._noted_at < _NOTE_S or self._ledger.full:
            return False
        self._noted_at = now
        return True
