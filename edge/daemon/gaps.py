"""What the microphone missed, as rows: each gap once, one that goes on again and again, longer. Knows no sound."""

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from edge.clock import Clock
from edge.config import Config
from edge.ledger import Ledger
from edge.types import Gap, GapReason, GapRow, stable_id, utc_text

_NOTE_S = 60.0  # a gap that goes on is written down so often


class GapWriter:
    """Gaps of one live source in one boot.

    gaps = GapWriter(config, "microphone", boot, clock, ledger, on_gap)
    gaps.write(gap)
    gaps.note_absence()   # from what the record knows last until this was made the station was off
    """

    def __init__(
        self,
        config: Config,
        source: str,
        boot: str,
        clock: Clock,
        ledger: Ledger,
        on_gap: Callable[[GapRow, float], None],
    ) -> None:
        self._station, self._zone = config.station.id, config.zone
        self._source = source
        self._boot = boot
        self._clock = clock
        self._ledger = ledger
        self._on_gap = on_gap
        self._noted_at = 0.0
        self._told = ("", 0.0)  # the gap that was told last, and how long it was then
        self._began = clock.now()

    def write(self, gap: Gap) -> None:
        """Have it stored, and tell how many seconds more are missing than when it was told last."""
        id_ = stable_id(self._station, self._source, self._boot, f"{gap.at_s:.3f}", gap.reason)
        row = self._row(id_, self._clock.utc(gap.at_s), gap.seconds, gap.reason, gap.detail)
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

    def note_absence(self) -> None:
        """The time off is a gap, as soon as the record can be asked where it began; where a repair has lost rows,
        nobody knows."""
        self._ledger.absence(self._absence)

    def _absence(self, last: str | None) -> GapRow | None:
        since = _moment(last) if last else self._began
        if self._began <= since:
            return None
        id_ = stable_id(self._station, self._source, "off", utc_text(since))
        seconds = (self._began - since) / timedelta(seconds=1)
        if self._ledger.record.lost_rows:
            return self._row(id_, since, seconds, "store", "the record was damaged: what it said of this time is lost")
        return self._row(id_, since, seconds, "off", "")

    def _row(self, id_: str, start: datetime, seconds: float, reason: GapReason, detail: str) -> GapRow:
        return GapRow(
            id=id_,
            source=self._source,
            start=start,
            seconds=seconds,
            reason=reason,
            detail=detail,
            clock_state=self._clock.state,
            boot=self._boot,
            zone=self._zone,
        )


def _moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
