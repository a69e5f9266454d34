"""What the daemon writes down, in order, through bad days: while the disk is full or away, it waits in memory.

Knows the store, and no source of sound.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from edge.analysis import Found
from edge.contract.bundle import Bundle
from edge.contract.errors import StoreError
from edge.store.record import Store
from edge.store.salvage import sound_database
from edge.types import GapRow, RecordingRow

WAITING_MAX = 20_000  # entries; a live station makes one every few seconds
_AGAIN_S = 5.0

Entry = Callable[[Store], object]
log = logging.getLogger(__name__)


class Ledger:
    """Keeps one store open, or tries to, for one thread. Nothing here raises StoreError but `store`.

    ledger = Ledger(config.database, station="porch", bundle=bundle)
    ledger.begin(row, analysis)
    ledger.found(found)
    ledger.error    # None, or why nothing can be stored just now
    """

    def __init__(self, database: Path, station: str, bundle: Bundle) -> None:
        self._database, self._station, self._bundle = database, station, bundle
        self._manifest = (bundle.folder / "manifest.json").read_text(encoding="utf8")  # its disk may go, too
        self._store: Store | None = None
        self._waiting: deque[Entry] = deque()
        self._again_at = 0.0
        self.error: str | None = None
        self.salvaged: str | None = None  # what was wrong with the database when it was opened
        self.flush()

    @property
    def full(self) -> bool:
        """No more can wait: whoever hears must say that it is lost."""
        return len(self._waiting) >= WAITING_MAX

    @property
    def waiting(self) -> int:
        """Entries that are not stored yet."""
        return len(self._waiting)

    def store(self) -> Store:
        """The open store. Raises StoreError if it cannot be had."""
        if self._store is None:
            self.salvaged = sound_database(self._database) or self.salvaged
            store = Store(self._database, durable=True)
            try:
                store.add_bundle(self._bundle, self._manifest)
                store.end_cut_off(self._station)
            except StoreError:  # a store that is half begun is no store
                store.close()
                raise
            self._store = store
        return self._store

    def begin(self, row: RecordingRow, analysis: str) -> None:
        """A stretch begins."""
        self._enter(lambda store: store.begin(row, self._station, self._bundle.id, analysis))

    def found(self, found: Found) -> None:
        """A batch of windows: detections, messages and effort, in one transaction."""
        self._enter(
            lambda store: store.add(
                found.row.id,
                self._bundle.id,
                found.detections,
                found.messages,
                found.effort,
                suppressed=found.suppressed,
            )
        )

    def finish(self, row: RecordingRow, heard_s: float, windows: int) -> None:
        """A stretch has ended."""
        self._enter(lambda store: store.finish(row.id, heard_s, windows, None))

    def gap(self, gap: GapRow) -> None:
        """Sound that is missing; one that goes on is given again, longer."""
        self._enter(lambda store: store.add_gaps(self._station, [gap]))

    def clock_step(self, boot: str, at: datetime, seconds: float) -> None:
        """The wall clock was set."""
        self._enter(lambda store: store.add_clock_step(boot, at, seconds))

    def _enter(self, entry: Entry) -> None:
        self._waiting.append(entry)
        if self.error is None:
            self.flush()

    def flush(self, now: bool = False) -> None:
        """Store what waits, oldest first; after a failure try again every few seconds, or `now`."""
        if not now and time.monotonic() < self._again_at:
            return
        try:
            store = self.store()
            while self._waiting:
                self._waiting[0](store)
                self._waiting.popleft()
        except StoreError as error:
            self.failed(error)
        else:
            if self.error is not None:
                log.warning("%s: stored again", self._database)
            self.error, self._again_at = None, 0.0

    def failed(self, error: StoreError) -> None:
        """The store said no; it is asked again in a few seconds."""
        if self.error is None:
            log.warning("%s; what is heard waits", error)
        self.error = str(error)
        self._again_at = time.monotonic() + _AGAIN_S

    def close(self) -> None:
        """Try once more, and let go."""
        self.flush(now=True)
        if self._waiting:
            log.error("%s: %d entries could not be stored: %s", self._database, len(self._waiting), self.error)
        if self._store is not None:
            self._store.close()
            self._store = None
