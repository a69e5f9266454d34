"""Stores what waits, in one thread, through bad days: while the disk is full, away or slow, or the
database is locked, it goes on waiting; what the record alone refuses is set aside, and nothing
waits for it.

Knows the store and the clips that follow from what is stored, and not what the entries tell.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from edge.clips.maker import ClipMaker, Clips
from edge.clips.patient import PatientClips
from edge.contract.errors import RowError, StoreError
from edge.daemon.backlog import BacklogEntry, WriteBacklog
from edge.store.open_record import AGAIN_S, OpenRecord
from edge.store.record import Store
from edge.store.unstored import Note, UnstoredTime

LOCK_PATIENCE_S = 0.5  # of the writer's thread for one try: it can be told to end
_LOCKED_S_MAX = 10.0  # of another writer's lock, before it is a problem
_LAST_AGAIN_S = 0.1  # when it is told to end
_NOTE_S = 60.0  # what waits is noted so often: the power may fail before it is stored
_NOTE_S_MAX = 0.3  # for the note of one that ends
_LOOK_S = 5.0  # the writer's thread looks after its store so often, with nothing to store

NO_TIME = "there was no time left"

log = logging.getLogger(__name__)


class Writer:
    """Keeps one store open, or tries to, for one thread: its own once `start` is called, else the
    caller's. Nothing here raises StoreError but `store`. A heir says what an opened file must have
    (`_enter_run`) and what it wants of one that is sound (`_ask`)."""

    def __init__(self, database: Path, clips: ClipMaker | None = None) -> None:
        self._database = database
        self._clips = clips
        self._opened = False
        self.record = OpenRecord(database, self._opened_anew, self._book_unstored)
        self._note = Note(database)
        self._noted: UnstoredTime | None = None  # what it says of this run
        self._noted_at: float | None = None
        self._backlog = WriteBacklog()
        # entries that the record refused, and why the last
        self._set_aside = 0
        self._refused = ""
        self._again_at = 0.0
        self._locked_at: float | None = None  # since when another writer has the lock
        self.error: str | None = None
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
    def waiting(self) -> int:
        """Entries that are not stored yet."""
        return self._backlog.rows

    @property
    def problem(self) -> str | None:
        """What a person should know of the record although it can be written, in one line."""
        if self._set_aside:
            entries = f"{self._set_aside} entr{'y' if self._set_aside == 1 else 'ies'}"
            return (
                f"it refused {entries} ({self._refused}): undo what was changed in it by hand; "
                f"the rest is stored"
            )
        return self.record.problem

    def store(self) -> Store:
        """The open store. Raises StoreError if it cannot be had."""
        self._owner = threading.get_ident()
        return self.record.store()

    def flush(self, now: bool = False) -> None:
        """Store what waits, oldest first; after a failure try again every few seconds, or `now`."""
        if not now and time.monotonic() < self._again_at:
            return
        try:
            self.store()
            while self._backlog and time.monotonic() < self._leave_by:
                entry = self._backlog.first()
                if entry.store is not None:
                    self._store(entry, entry.store)
                self._backlog.let_go()
                if entry.clips is not None and self._clips is not None:
                    entry.clips(self._clips)
            self._ask()
        except StoreError as error:
            if not (self._is_lock(error) and self._is_brief()):
                self.failed(error)
        else:
            self._stores()

    def failed(self, error: StoreError) -> None:
        """The store said no; it is asked again in a few seconds, at once if it only has to be
        opened anew."""
        if self.error is None:
            log.warning("%s; what is heard waits", error)
        self.error = str(error)
        self.record.failed(error)
        self._note_now_and_then()
        self._again_at = time.monotonic() + self.record.again_s

    def patient(self, open_table: Callable[[], Clips]) -> Clips:
        """The table of clips, for `clips`: a lock is waited for there, too, and what is heard waits
        behind it."""
        return PatientClips(open_table, self._wait_for)

    def settled(self, timeout_s: float) -> bool:
        """Wait until nothing waits; False if that did not come in time."""
        deadline = time.monotonic() + timeout_s
        while self._backlog and time.monotonic() < deadline:
            self._work.set()
            time.sleep(0.01)
        return not self._backlog

    def close(self, patience_s: float = 2.0) -> None:
        """Try once more, and let go. Returns in that time, whatever the disk does; what could not
        be stored is said."""
        if self._thread is not None:
            self._leave_by = time.monotonic() + patience_s
            self._closing.set()
            self._work.set()
            self._thread.join(patience_s + LOCK_PATIENCE_S + _NOTE_S_MAX)
            if self._thread.is_alive():
                self._say_lost()
        elif self._owner in (None, threading.get_ident()):  # another thread's is its own to close
            self.flush(now=True)
            self._close()

    # What a heir does

    def _enter_run(self, store: Store) -> None:
        """Lay into the record what entries refer to, where it is not there."""

    def _opened_anew(self, store: Store) -> None:
        """A file was opened."""
        self._enter_run(store)
        self._opened = True

    def _ask(self) -> None:
        """All that waited is stored."""

    def _book_unstored(self, store: Store) -> None:
        """What the note says of runs before this, before anything else is laid into the record."""

    # it knows no run
    def _unstored(
        self,
        waiting: list[BacklogEntry],  # noqa: ARG002
        why: str,  # noqa: ARG002
    ) -> UnstoredTime | None:
        """What is to be said of these entries if they are not stored any more; None: nothing."""
        return None

    # In the thread that stores

    def _store(self, entry: BacklogEntry, write: Callable[[Store], object]) -> None:
        """What the record refuses although it can be written holds up nothing: what it refers to is
        entered anew, and if that does not help, it is set aside."""
        store = self.store()
        try:
            write(store)
        except RowError:
            try:
                self._enter_run(store)
                write(store)
            except RowError as error:
                self._refuse(entry, store, error)
            else:
                log.warning(
                    "%s: rows that others refer to were gone; they are entered anew", self._database
                )

    def _refuse(self, entry: BacklogEntry, store: Store, error: RowError) -> None:
        if entry.refused is not None:
            with suppress(RowError):
                entry.refused(store, error)
        if str(error) != self._refused:
            log.error("%s; what it refuses is lost, the rest goes on", error)
        self._set_aside, self._refused = self._set_aside + 1, str(error)

    def _stores(self) -> None:
        if self.error is not None:
            log.warning("%s: stored again", self._database)
        self.error = None
        self._again_at = 0.0
        self._locked_at = None
        self._noted_at = None
        if self._noted is not None and not self._backlog:
            self._note.drop([self._noted.run.id])
            self._noted = None

    def _note_now_and_then(self) -> None:
        if self._noted_at is None or time.monotonic() - self._noted_at >= _NOTE_S:
            self._write_note(self._backlog.unstored)

    def _write_note(self, waiting: list[BacklogEntry]) -> None:
        """So that the next run knows why it is missing, should this one end before it is stored."""
        unstored = self._unstored(waiting, self.error or NO_TIME)
        if unstored is not None:
            self._noted, self._noted_at = unstored, time.monotonic()
            self._note.write(unstored)

    def _is_lock(self, error: StoreError) -> bool:
        """Whether another writer is at work. In a thread that waits for it by itself a lock is an
        error like others."""
        cause = error.__cause__
        locked = isinstance(cause, sqlite3.OperationalError) and "locked" in str(cause)
        return locked and self._thread is not None and not self._closing.is_set()

    def _is_brief(self) -> bool:
        """Whether that has not lasted for long: then it is asked again at once, and no problem."""
        now = time.monotonic()
        self._locked_at = self._locked_at or now
        self._work.set()
        return now - self._locked_at < _LOCKED_S_MAX

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
        while self._backlog and time.monotonic() < self._leave_by:
            self._try(now=True)
            if self.error is not None:
                time.sleep(_LAST_AGAIN_S)
        self._end()

    def _try(self, now: bool) -> None:
        """What nobody foresaw costs one entry; the others are stored before the station ends of
        it."""
        try:
            self.flush(now)
        except Exception as error:
            log.exception("%s: an entry cannot be stored", self._database)
            self.broke = self.broke or error
            if self._backlog and self._opened:
                self._backlog.let_go()

    def _end(self) -> None:
        try:
            self._close()
        except Exception as error:
            log.exception("%s: cannot be closed", self._database)
            self.broke = self.broke or error

    def _close(self) -> None:
        self._say_lost()
        if self._clips is not None:
            self._clips.close()
        self.record.close()

    def _say_lost(self) -> None:
        waiting = self._backlog.unstored
        if waiting:
            note = threading.Thread(
                target=self._write_note, args=(waiting,), daemon=True
            )  # its disk may stand still
            note.start()
            seconds = sum(entry.analysed_s for entry in waiting)
            why = self.error or NO_TIME
            text = "%s: %d entries with %.0f s of sound could not be stored: %s"
            log.error(text, self._database, len(waiting), seconds, why)
            note.join(_NOTE_S_MAX)
