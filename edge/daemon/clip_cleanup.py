"""Clean-up of clips while the station listens: rows and files that no longer match, and retention.
Knows no sound."""

import logging
from collections.abc import Callable

from edge.clips.disk_reserve import Reserve
from edge.clips.reconcile import reconcile
from edge.clips.retention import Retention, RetentionSummary
from edge.config import Config
from edge.contract.errors import StoreError
from edge.host.clock import Clock
from edge.store.clips import ClipTable
from edge.store.clock import present_time

log = logging.getLogger(__name__)


class House:
    """Clean-up of one station's clips; `settings` returns the present settings, `on_tidied` gets
    the result of each clean-up.

    house = House(lambda: station.config, reserve, clock, vitals.tidied)
    house.reconcile()   # once, before a clip is written
    house.tidy()        # every few minutes, in a separate thread
    """

    def __init__(
        self,
        settings: Callable[[], Config],
        reserve: Reserve,
        clock: Clock,
        on_tidied: Callable[[RetentionSummary], None],
    ) -> None:
        self._settings = settings
        self._reserve = reserve
        self._clock = clock
        self._on_tidied = on_tidied

    def tidy(self) -> None:
        """Apply retention. A failing record or disk is only logged here; the next thread that meets
        it reports it in health."""
        try:
            while self._tidy_some():
                pass
        except StoreError as error:
            log.warning("retention: %s", error)

    def _tidy_some(self) -> bool:
        """Remove some clips; True if there are more to remove."""
        config = self._settings()
        self._reserve.give_up_if_full()
        with ClipTable(config.database, durable=True) as table:
            retention = Retention(table, config.clips_folder, self._reserve, config.retention)
            time = present_time(config.database, self._clock)
            done = retention.tidy(time.now, clock_is_set=time.known)
        self._on_tidied(done)
        if done.removed:
            log.info(
                "retention: %s",
                ", ".join(f"{count} clips removed ({why})" for why, count in done.removed.items()),
            )
        return done.more

    def reconcile(self) -> None:
        """Make rows and files of clips match. An error of the record is left to the next thread
        that meets it."""
        config = self._settings()
        try:
            with ClipTable(config.database, durable=True) as table:
                summary = reconcile(table, config.clips_folder)
        except StoreError:
            return
        if summary.away:
            log.warning(
                "clips: none of many files is there; is their disk mounted? Nothing was cleaned up"
            )
        elif summary.rows_cleaned or summary.files_removed or summary.unknown:
            log.warning(
                "clips: %d rows without a file cleared, %d files without a row removed, %d "
                "complete ones kept",
                summary.rows_cleaned,
                summary.files_removed,
                summary.unknown,
            )
