"""What the microphone missed, as rows: each gap once, one that goes on again and again, longer.
Knows no sound."""

from collections.abc import Callable

from edge.config import Config
from edge.daemon.ledger import Ledger
from edge.daemon.timeline import Timeline
from edge.host.clock import Clock, utc_at
from edge.types import Gap, GapReason, GapRow, stable_id

_NOTE_S = 60.0  # a gap that goes on is written down so often


class GapWriter:
    """Gaps of one live source in one boot.

    gaps = GapWriter(config, "microphone", boot, clock, timeline, ledger, on_gap)
    gaps.write(gap)
    gaps.fill(chunk.at_s, seconds)   # before sound is told: of no moment of a run nothing is
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
        self._told = ("", 0.0)  # the gap that was told last, and how long it was then

    def write(self, gap: Gap) -> None:
        """Have it stored, and tell how many seconds more are missing than when it was told last.
        Over a suspend of the machine it is two, with the suspend between them."""
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
        """A span of the monotonic clock is told next: what was not told of the time before it, the
        station was off."""
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
        told_s = self._told[1] if self._told[0] == row.id else 0.0
        self._told = (row.id, row.seconds)
        self._on_gap(row, row.seconds - told_s)

    def is_due(self) -> bool:
        """Whether a gap that goes on is to be written down: the power may fail before it ends."""
        now = self._clock.at_s()
        if now - self._noted_at < _NOTE_S or self._ledger.full:
            return False
        self._noted_at = now
        return True
