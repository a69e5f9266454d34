"""What the daemon writes down, in order, through bad days: while the disk is full, away or slow, or the database is
locked, it waits in memory, and nobody else waits.

Knows the store and the clips that follow from what is stored, and no source of sound.
"""

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from edge.analysis import Found
from edge.clips.encode import pcm
from edge.clips.maker import ClipMaker, Clips
from edge.clips.patient import PatientClips
from edge.clock import Line
from edge.config import Config
from edge.contract.audio import RATE_HZ, Samples
from edge.contract.bundle import Bundle
from edge.contract.errors import StoreError
from edge.store.open_record import AGAIN_S, OpenRecord
from edge.store.record import Store
from edge.types import GapRow, RecordingRow, StationRun

WAITING_MAX = 20_000  # entries; a live station makes one every few seconds
SOUND_S_MAX = 600.0  # of sound that waits for its clips, 64 kB each: 38 MB
LOCK_PATIENCE_S = 0.5  # of the writer's thread for one try: it can be told to end
_LOCKED_S_MAX = 10.0  # of another writer's lock, before it is a problem
_ASK_S = 2.0  # between two looks at what the record says of the time
_LAST_AGAIN_S = 0.1  # when it is told to end
_LOOK_S = 5.0  # the writer's thread looks after its store so often, with nothing to store

log = logging.getLogger(__name__)


def _nothing(_: Store) -> None:
    """What is done at the first opening where nothing is to be done."""


@dataclass(frozen=True)
class _Entry:
    """What is stored, and what clips follow from it once it is."""

    store: Callable[[Store], object] | None = None
    clips: Callable[[ClipMaker], object] | None = None
    analysed_s: float = 0.0  # sound that is in no row if this is not stored
    sound_s: float = 0.0  # samples in it


class Ledger:
    """Keeps one store open, or tries to, for one thread: its own once `start` is called, else the caller's. Nothing
    here raises StoreError but `store`.

    ledger = Ledger(config.database, station="porch", bundle=bundle, clips=maker)
    ledger.start()
    ledger.begin(row, analysis)
    ledger.hear(samples)   # for clips
    ledger.found(found)
    ledger.error           # None, or why nothing can be stored just now
    ledger.close(patience_s=2)

    A clip is made when its detections are committed, however much later. Beyond SOUND_S_MAX of sound that waits for
    that, clips are given up, not detections. `on_open` is called once, when the store is open and before anything is
    stored in it.
    """

    def __init__(
        self,
        database: Path,
        station: str,
        bundle: Bundle,
        clips: ClipMaker | None = None,
        on_open: Callable[[Store], object] = _nothing,
    ) -> None:
        self._database, self._station, self._bundle = database, station, bundle
        self._manifest = (bundle.folder / "manifest.json").read_text(encoding="utf8")  # its disk may go, too
        self._clips = clips
        self._on_open, self._opened = on_open, False
        self.record = OpenRecord(database, self._enter_run)
        self._open: tuple[str, Callable[[Store], object]] | None = None  # the stretch that is heard, and how it begins
        self._waiting: deque[_Entry] = deque()
        self._entered = self._stored = 0  # entries, each counted by one thread alone
        self._sound_in_s = self._sound_out_s = 0.0  # seconds of sound, likewise
        self._missing_s = 0.0  # sound that was given up since the last entry
        self._station_run: StationRun | None = None  # whose line the record has
        self._line: tuple[int, Line | None] = (0, None)  # that, and after how many words on it
        self._told = self._heeded = 0  # words on that line, each counted by one thread alone
        self._asked_at = float("-inf")
        self._until = ("", 0.0)  # the stretch that was told last, and up to where
        self._again_at = 0.0
        self._locked_at: float | None = None  # since when another writer has the lock
        self.error: str | None = None
        self.given_up_s = 0.0  # seconds of sound of which no clip can be made any more
        self.broke: BaseException | None = None  # what nobody foresaw
        self._thread: threading.Thread | None = None
        self._owner: int | None = None  # the thread that has opened the store
        self._work, self._closing = threading.Event(), threading.Event()
        self._leave_by = float("inf")

    def start(self) -> None:
        """Store in a thread of its own from now on."""
        self.record.patience_s = LOCK_PATIENCE_S
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether its thread, if it has one, has ended."""
        return self._thread is None or not self._thread.is_alive()

    @property
    def full(self) -> bool:
        """No more can wait: whoever hears must say that it is lost."""
        return self.waiting >= WAITING_MAX

    @property
    def waiting(self) -> int:
        """Entries that are not stored yet."""
        return self._entered - self._stored

    @property
    def waiting_sound_s(self) -> float:
        """Seconds of sound that wait for their clips."""
        return self._sound_in_s - self._sound_out_s

    def store(self) -> Store:
        """The open store. Raises StoreError if it cannot be had."""
        self._owner = threading.get_ident()
        return self.record.store()

    def _enter_run(self, store: Store) -> None:
        """Into each file that is opened: what later entries refer to."""
        store.add_bundle(self._bundle, self._manifest)
        if self._station_run is not None:
            store.begin_run(self._station, self._station_run, self.record.lost_rows)
        heard, begin = self._open or ("", None)
        store.end_cut_off(self._station, but=heard)
        if begin is not None and not store.rows("SELECT 1 FROM recordings WHERE id = ?", (heard,)):
            begin(store)
        if not self._opened:
            self._on_open(store)
            self._opened = True

    # What is to be written down: never waits

    def begin(self, row: RecordingRow, analysis: str) -> None:
        """A stretch begins."""

        def entry(store: Store) -> None:
            store.begin(row, self._station, self._bundle.id, analysis)
            self._open = (row.id, entry)

        self._enter(_Entry(entry, lambda clips: clips.begin(row)))

    def hear(self, samples: Samples) -> None:
        """Sound of the stretch, of which clips may be made."""
        if self._clips is None:
            return
        seconds = len(samples) / RATE_HZ
        if self.waiting_sound_s + seconds > SOUND_S_MAX:
            self._missing_s += seconds
            self.given_up_s += seconds
            return
        sound = pcm(samples)
        self._sound_missed()
        self._put(_Entry(clips=lambda clips: clips.hear(sound), sound_s=seconds))

    def found(self, found: Found) -> None:
        """A batch of windows: detections, messages and effort, in one transaction."""
        before_s = self._until[1] if self._until[0] == found.row.id else found.begins_s
        self._until = (found.row.id, found.until_s)
        self._enter(
            _Entry(
                lambda store: store.add(
                    found.row.id,
                    self._bundle.id,
                    found.detections,
                    found.messages,
                    found.effort,
                    suppressed=found.suppressed,
                    row=found.row,
                ),
                lambda clips: clips.decided(found.until_s, found.detections, found.private),
                found.until_s - before_s,
            )
        )

    def finish(self, row: RecordingRow, heard_s: float, windows: int) -> None:
        """A stretch has ended."""

        def entry(store: Store) -> None:
            store.finish(row.id, heard_s, windows, None)
            self._open = None

        self._enter(_Entry(entry, lambda clips: clips.end()))

    def gap(self, gap: GapRow) -> None:
        """Sound that is missing; one that goes on is given again, longer."""
        self._enter(_Entry(lambda store: store.add_gaps(self._station, [gap])))

    def clock_step(self, boot: str, at: datetime, seconds: float) -> None:
        """The wall clock was set."""
        self._enter(_Entry(lambda store: store.add_clock_step(boot, at, seconds)))

    def then(self, do: Callable[[Store], object]) -> None:
        """Something that wants all that was entered before to be stored."""
        self._enter(_Entry(do))

    def begin_run(self, run: StationRun) -> None:
        """A run of the station begins, whose clock says this."""

        def entry(store: Store) -> None:
            store.begin_run(self._station, run, self.record.lost_rows)

        self._tell(run, entry)

    def follow(self, run: StationRun) -> None:
        """Its clock says, or is known, otherwise now."""
        self._tell(run, lambda store: store.follow(self._station, run))

    @property
    def line(self) -> Line | None:
        """How UTC follows from the boot's clock in this run, as the record knew it some seconds ago; None: what was
        told of it last has not come there."""
        number, line = self._line
        return line if number == self._told else None

    def _tell(self, run: StationRun, entry: Callable[[Store], object]) -> None:
        self._told += 1
        number = self._told

        def tell(store: Store) -> None:
            entry(store)
            self._station_run, self._heeded, self._asked_at = run, number, float("-inf")

        self._enter(_Entry(tell))

    def take(self, config: Config) -> None:
        """Clips of stretches that begin from now on are made by these settings."""
        self._put(_Entry(clips=lambda clips: setattr(clips, "config", config)))

    def _enter(self, entry: _Entry) -> None:
        self._sound_missed()
        self._entered += 1
        self._put(entry)
        if self._thread is not None:
            self._work.set()
        elif self.error is None:
            self.flush()

    def _sound_missed(self) -> None:
        """Over sound that was given up no clip reaches."""
        if self._missing_s:
            seconds, self._missing_s = self._missing_s, 0.0
            self._put(_Entry(clips=lambda clips: clips.miss(seconds)))

    def _put(self, entry: _Entry) -> None:
        self._sound_in_s += entry.sound_s
        self._waiting.append(entry)

    # Writing it down: in one thread

    def flush(self, now: bool = False) -> None:
        """Store what waits, oldest first; after a failure try again every few seconds, or `now`."""
        if not now and time.monotonic() < self._again_at:
            return
        try:
            self.store()
            while self._waiting and time.monotonic() < self._leave_by:
                entry = self._waiting[0]
                if entry.store is not None:
                    entry.store(self.store())
                self._let_go()
                if entry.clips is not None and self._clips is not None:
                    entry.clips(self._clips)
            self._ask()
        except StoreError as error:
            if not (self._is_lock(error) and self._is_brief()):
                self.failed(error)
        else:
            self._stores()

    def _ask(self) -> None:
        """Somebody else may have put the clock right."""
        if self._station_run is None or time.monotonic() - self._asked_at < _ASK_S:
            return
        line, self._asked_at = self.store().line(self._station_run.id), time.monotonic()
        self._line = (self._heeded, line)
        if line is not None:
            self._station_run = replace(self._station_run, offset_ms=line.offset_ms, known=line.known)

    def _let_go(self) -> None:
        entry = self._waiting.popleft()
        self._stored += entry.store is not None
        self._sound_out_s += entry.sound_s

    def _stores(self) -> None:
        if self.error is not None:
            log.warning("%s: stored again", self._database)
        self.error, self._again_at, self._locked_at = None, 0.0, None

    def failed(self, error: StoreError) -> None:
        """The store said no; it is asked again in a few seconds, at once if it only has to be opened anew."""
        if self.error is None:
            log.warning("%s; what is heard waits", error)
        self.error = str(error)
        self.record.failed(error)
        self._again_at = time.monotonic() + self.record.again_s

    def _is_lock(self, error: StoreError) -> bool:
        """Whether another writer is at work. In a thread that waits for it by itself a lock is an error like others."""
        cause = error.__cause__
        locked = isinstance(cause, sqlite3.OperationalError) and "locked" in str(cause)
        return locked and self._thread is not None and not self._closing.is_set()

    def _is_brief(self) -> bool:
        """Whether that has not lasted for long: then it is asked again at once, and no problem."""
        now = time.monotonic()
        self._locked_at = self._locked_at or now
        self._work.set()
        return now - self._locked_at < _LOCKED_S_MAX

    def patient(self, open_table: Callable[[], Clips]) -> Clips:
        """The table of clips, for `clips`: a lock is waited for there, too, and what is heard waits behind it."""
        return PatientClips(open_table, self._wait_for)

    def _wait_for(self, error: StoreError) -> bool:
        """Whether to try again; a lock that lasts is said meanwhile."""
        if not self._is_lock(error):
            return False
        if not self._is_brief():
            self.failed(error)
        return True

    def _run(self) -> None:
        while not self._closing.is_set():
            self._try(now=False)
            self._work.wait(_LOOK_S if self.error is None else AGAIN_S)
            self._work.clear()
        while self._waiting and time.monotonic() < self._leave_by:
            self._try(now=True)
            if self.error is not None:
                time.sleep(_LAST_AGAIN_S)
        self._end()

    def _try(self, now: bool) -> None:
        """What nobody foresaw costs one entry; the others are stored before the station ends of it."""
        try:
            self.flush(now)
        except Exception as error:
            log.exception("%s: an entry cannot be stored", self._database)
            self.broke = self.broke or error
            if self._waiting and self._opened:
                self._let_go()

    def _end(self) -> None:
        try:
            self._close()
        except Exception as error:
            log.exception("%s: cannot be closed", self._database)
            self.broke = self.broke or error

    def settled(self, timeout_s: float) -> bool:
        """Wait until nothing waits; False if that did not come in time."""
        deadline = time.monotonic() + timeout_s
        while self._waiting and time.monotonic() < deadline:
            self._work.set()
            time.sleep(0.01)
        return not self._waiting

    def close(self, patience_s: float = 2.0) -> None:
        """Try once more, and let go. Returns in that time, whatever the disk does; what could not be stored is said."""
        if self._thread is not None:
            self._leave_by = time.monotonic() + patience_s
            self._closing.set()
            self._work.set()
            self._thread.join(patience_s + LOCK_PATIENCE_S)
            if self._thread.is_alive():
                self._say_lost()
        elif self._owner in (None, threading.get_ident()):  # another thread's is its own to close
            self.flush(now=True)
            self._close()

    def _close(self) -> None:
        self._say_lost()
        if self._clips is not None:
            self._clips.close()
        self.record.close()

    def _say_lost(self) -> None:
        waiting = [entry for entry in list(self._waiting) if entry.store is not None]
        if waiting:
            seconds, why = sum(entry.analysed_s for entry in waiting), self.error or "there was no time left"
            text = "%s: %d entries with %.0f s of sound could not be stored: %s"
            log.error(text, self._database, len(waiting), seconds, why)
