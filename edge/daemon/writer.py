"""Writer of waiting entries, in one thread. While the disk is full, absent or slow, or the database
is locked, entries keep waiting; an entry that the record itself refuses is set aside, so that it
does not block the others.

Knows the store, and the clips that are made after entries are stored. Does not know the contents of
entries.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from edge.clips.maker import ClipMaker, Clips
from edge.clips.waiting_table import PatientClips
from edge.contract.errors import RowError, StoreError
from edge.daemon.backlog import BacklogEntry, WriteBacklog
from edge.store.open_record import AGAIN_S, OpenRecord
from edge.store.record import Store
from edge.store.unstored_time import Note, UnstoredTime

LOCK_PATIENCE_S = 0.5  # for one attempt of the writer's thread, which may be told to end
_LOCKED_S_MAX = 10.0  # with another writer's lock, before it is a problem
_LAST_AGAIN_S = 0.1  # between attempts when it is told to end
_NOTE_S = 60.0  # between notes of waiting entries, since the power may fail before they are stored
_NOTE_S_MAX = 0.3  # for the last note at the end
_LOOK_S = 5.0  # between checks of the store when there is nothing to write

NO_TIME = "there was no time left"

log = logging.getLogger(__name__)


class Writer:
    """Keeps one store open, or tries to, in one thread: its own once `start` is called, else the
    caller's. Only `store` raises StoreError. Subclasses store the rows that a newly opened file
    must have (`_enter_run`) and read from a healthy one (`_ask`)."""

    def __init__(self, database: Path, clips: ClipMaker | None = None) -> None:
        self._database = database
        self._clips = clips
        self._opened = False
        self.record = OpenRecord(database, self._opened_anew, self._book_unstored)
        self._note = Note(database)
        self._noted: UnstoredTime | None = None  # the note about this run
        self._noted_at: float | None = None
        self._backlog = WriteBacklog()
        self._set_aside = 0  # number of entries that the record refused
        self._refused = ""  # reason of the last one
        self._again_at = 0.0
        self._locked_at: float | None = None  # since when another writer has the lock
        self.error: str | None = None
        self.broke: BaseException | None = None  # an unexpected error
        self._thread: threading.Thread | None = None
        self._owner: int | None = None  # the thread that has opened the store
        self._work = threading.Event()
        self._closing = threading.Event()
        self._leave_by = float("inf")

    def start(self) -> None:
        """Store entries in a separate thread from now on."""
        self.record.patience_s = LOCK_PATIENCE_S
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        """True if its thread has ended, or was never started."""
        return self._thread is None or not self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Number of entries that are not stored yet."""
        return self._backlog.rows

    @property
    def problem(self) -> str | None:
        """Trouble with a record that can still be written, in one line."""
        if self._set_aside:
            entries = f"{self._set_aside} entr{'y' if self._set_aside == 1 else 'ies'}"
            return (
                f"it refused {entries} ({self._refused}): undo manual changes to the database; all "
                "other entries are stored"
            )
        return self.record.problem

    def store(self) -> Store:
        """The open store. Raises StoreError if it cannot be opened."""
        self._owner = threading.get_ident()
        return self.record.store()

    def flush(self, now: bool = False) -> None:
        """Store waiting entries, oldest first. After a failure it tries again every few seconds, or
        at once with `now`."""
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
        """Note an error of the store. It is tried again in a few seconds, or at once if it only
        needs to be reopened."""
        if self.error is None:
            log.warning("%s; results wait in memory", error)
        self.error = str(error)
        self.record.failed(error)
        self._note_now_and_then()
        self._again_at = time.monotonic() + self.record.again_s

    def patient(self, open_table: Callable[[], Clips]) -> Clips:
        """A table of clips that waits for another writer's lock; entries wait behind it."""
        return PatientClips(open_table, self._wait_for)

    def settled(self, timeout_s: float) -> bool:
        """Wait until all entries are stored; False if they are not in time."""
        deadline = time.monotonic() + timeout_s
        while self._backlog and time.monotonic() < deadline:
            self._work.set()
            time.sleep(0.01)
        return not self._backlog

    def close(self, patience_s: float = 2.0) -> None:
        """Try to store the rest, and close. Returns in about that time even if the disk blocks;
        logs what could not be stored."""
        if self._thread is not None:
            self._leave_by = time.monotonic() + patience_s
            self._closing.set()
            self._work.set()
            self._thread.join(patience_s + LOCK_PATIENCE_S + _NOTE_S_MAX)
            if self._thread.is_alive():
                self._say_lost()
        elif self._owner in (None, threading.get_ident()):  # only its own thread may close it
            self.flush(now=True)
            self._close()

    # For subclasses

    def _enter_run(self, store: Store) -> None:
        """Store the rows that entries refer to, if they are missing."""

    def _opened_anew(self, store: Store) -> None:
        """Prepare a file that was just opened."""
        self._enter_run(store)
        self._opened = True

    def _ask(self) -> None:
        """Read from the store after everything is stored."""

    def _book_unstored(self, store: Store) -> None:
        """Store the note's account of earlier runs, before anything else is stored."""

    # the base class knows no run
    def _unstored(
        self,
        waiting: list[BacklogEntry],  # noqa: ARG002
        why: str,  # noqa: ARG002
    ) -> UnstoredTime | None:
        """Account of these entries in case they are never stored; None if there is nothing to
        note."""
        return None

    # In the thread that stores

    def _store(self, entry: BacklogEntry, write: Callable[[Store], object]) -> None:
        """Store an entry. If the record refuses it, the rows that it refers to are stored again; if
        that does not help, it is set aside."""
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
                    "%s: rows that others refer to were missing and are restored", self._database
                )

    def _refuse(self, entry: BacklogEntry, store: Store, error: RowError) -> None:
        if entry.refused is not None:
            with suppress(RowError):
                entry.refused(store, error)
        if str(error) != self._refused:
            log.error("%s; the refused entry is lost, all others are stored", error)
        self._set_aside += 1
        self._refused = str(error)

    def _stores(self) -> None:
        if self.error is not None:
            log.warning("%s: can be written again", self._database)
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
        """Write a note for the next run, in case this one ends before the entries are stored."""
        unstored = self._unstored(waiting, self.error or NO_TIME)
        if unstored is not None:
            self._noted = unstored
            self._noted_at = time.monotonic()
            self._note.write(unstored)

    def _is_lock(self, error: StoreError) -> bool:
        """True for the lock of another writer, if this writer has its own thread. In the caller's
        thread, which waits by itself, and while closing, a lock is an error like others."""
        cause = error.__cause__
        locked = isinstance(cause, sqlite3.OperationalError) and "locked" in str(cause)
        return locked and self._thread is not None and not self._closing.is_set()

    def _is_brief(self) -> bool:
        """True if the lock has not lasted for long: then it is no problem, and the store is tried
        again at once."""
        now = time.monotonic()
        self._locked_at = self._locked_at or now
        self._work.set()
        return now - self._locked_at < _LOCKED_S_MAX

    def _wait_for(self, error: StoreError) -> bool:
        """True to try again after this error, which is a lock; a long one is reported meanwhile."""
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
        """Store waiting entries. An unexpected error costs one entry; the others are stored before
        the station ends because of it."""
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
            # in a thread, since the disk may block
            note = threading.Thread(target=self._write_note, args=(waiting,), daemon=True)
            note.start()
            seconds = sum(entry.analysed_s for entry in waiting)
            why = self.error or NO_TIME
            text = "%s: %d entries with %.0f s of sound could not be stored: %s"
            log.error(text, self._database, len(waiting), seconds, why)
            note.join(_NOTE_S_MAX)
