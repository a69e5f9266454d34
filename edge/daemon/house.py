"""The house of clips, kept beside hearing: what a crash or a hand has left, and what is to go.
Knows no sound."""

import logging
from collections.abc import Callable

from edge.clips.reconcile import reconcile
from edge.clips.reserve import Reserve
from edge.clips.retention import Retention, RetentionSummary
from edge.config import Config
from edge.contract.errors import StoreError
from edge.host.clock import Clock
from edge.store.clips import ClipTable
from edge.store.clock import present_time

log = logging.getLogger(__name__)


class House:
    """Clips of one station; `settings` gives the present ones, `on_tidied` is told what a clean-up
    did.

    house = House(lambda: station.config, reserve, clock, vitals.tidied)
    house.reconcile()   # once, before a clip is written
    house.tidy()        # every few minutes, in a thread of its own
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
        """Retention; what the record or the disk says against it is said in health by whoever meets
        it next."""
        try:
            while self._tidy_some():
                pass
        except StoreError as error:
            log.warning("retention: %s", error)

    def _tidy_some(self) -> bool:
        """Whether more is to go."""
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
                ", ".join(f"{count} clips went ({why})" for why, count in done.removed.items()),
            )
        return done.more

    def reconcile(self) -> None:
        """Bring rows and files together. An error of the record is said by whoever meets it
        next."""
        config = self._settings()
        try:
            with ClipTable(config.database, durable=True) as table:
                found = reconcile(table, config.clips_folder)
        except StoreError:
            return
        if found.away:
            log.warning("clips: none of many is there; is their disk mounted? Nothing was cleaned")
        elif found.rows_cleaned or found.files_removed or found.unknown:
            log.warning(
                "clips: %d rows without a file cleaned, %d files without a row removed, %d whole "
                "ones left alone",
                found.rows_cleaned,
                found.files_removed,
                found.unknown,
            )
