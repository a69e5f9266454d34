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
from edge.store.open_record import OpenRecord
from edge.store.record import Store
from edge.types import GapRow, RecordingRow

WAITING_MAX = 20_000  # entries; a live station makes one every few seconds

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
        self.record = OpenRecord(database, self._enter_run)
        self._open: tuple[str, Entry] | None = None  # the stretch that is heard, and how it begins
        self._waiting: deque[Entry] = deque()
        self._again_at = 0.0
        self.error: str | None = None
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
        return self.record.store()

    def _enter_run(self, store: Store) -> None:
        """Into each file that is opened: what later entries refer to."""
        store.add_bundle(self._bundle, self._manifest)
        heard, begin = self._open or ("", None)
        store.end_cut_off(self._station, but=heard)
        if begin is not None and not store.rows("SELECT 1 FROM recordings WHERE id = ?", (heard,)):
            begin(store)

    def begin(self, row: RecordingRow, analysis: str) -> None:
        """A stretch begins."""

        def entry(store: Store) -> None:
            store.begin(row, self._station, self._bundle.id, analysis)
            self._open = (row.id, entry)

        self._enter(entry)

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

        def entry(store: Store) -> None:
            store.finish(row.id, heard_s, windows, None)
            self._open = None

        self._enter(entry)

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
            self.store()
            while self._waiting:
                self._waiting[0](self.store())
                self._waiting.popleft()
        except StoreError as error:
            self.failed(error)
        else:
            if self.error is not None:
                log.warning("%s: stored again", self._database)
            self.error, self._again_at = None, 0.0

    def failed(self, error: StoreError) -> None:
        """The store said no; it is asked again in a few seconds, at once if it only has to be opened anew."""
        if self.error is None:
            log.warning("%s; what is heard waits", error)
        self.error = str(error)
        self.record.failed(error)
        self._again_at = time.monotonic() + self.record.again_s

    def close(self) -> None:
        """Try once more, and let go."""
        self.flush(now=True)
        if self._waiting:
            log.error("%s: %d entries could not be stored: %s", self._database, len(self._waiting), self.error)
        self.record.close()
