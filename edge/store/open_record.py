"""Keeper of the open record: opens it, checks that it is intact and still has its name, and reopens
it.

Decides how to react to errors: a busy or full one is tried again, a damaged one is repaired, and
for one that was moved, deleted or replaced, the file of that name is opened and gets the rows that
this run has written. Knows no sound and no source of it.
"""

import errno
import logging
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from edge.contract.errors import DamagedError, GoneError, StoreError
from edge.store.connection import BUSY_TIMEOUT_S, suspected
from edge.store.file_identity import OpenFile
from edge.store.lost_file import LostFile, carry, marks_of
from edge.store.record import Store
from edge.store.salvage import SalvageSummary, set_aside, sound_database

AGAIN_S = 5.0  # before a database that failed is tried again
_REPAIR_AGAIN_S = 30.0  # before another attempt at a repair, which reads all of it
_SPARE_BYTES = 16 << 20
# SQLITE_BUSY and SQLITE_LOCKED, SQLITE_FULL
_LOCKED = (5, 6)
_FULL = 13

log = logging.getLogger(__name__)


class OpenRecord:
    """The open record of one thread. `enter` is called with each newly opened store and stores the
    rows that a run needs there: its bundle, the present stretch. It may be called again for the
    same file.

    `prepare` is called before `enter`, and before this run's rows are copied from an earlier file.

    record = OpenRecord(config.database, enter)
    try:
        record.store().add(...)
    except StoreError as error:
        record.failed(error)       # sets `again_s` and `advice` for this error
    """

    def __init__(
        self,
        path: Path,
        enter: Callable[[Store], None],
        prepare: Callable[[Store], None] = lambda _: None,
    ) -> None:
        self.path = path
        # longest wait for another writer's lock, for stores opened from now on
        self.patience_s = BUSY_TIMEOUT_S
        self.again_s = AGAIN_S
        self.advice = ""
        # a repair in this run could not read all rows: missing time is not "off"
        self.lost_rows = False
        self._enter = enter
        self._prepare = prepare
        self._store: Store | None = None
        self._file: OpenFile | None = None  # the store's file
        # a file that lost its name, until its rows are copied
        self._left: tuple[Store, OpenFile] | None = None
        # highest rowids of the open file when this run opened it
        self._marks: dict[str, int] | None = None
        self._happened: list[str] = []

    @property
    def problem(self) -> str | None:
        """Trouble with a record that can be written, in one line: it was moved, deleted or replaced
        in this run, or a damaged one is kept beside it."""
        aside = [file.name for file in set_aside(self.path)]
        if aside:
            return (
                f"{self.path.name} was damaged and repaired; the damaged file is kept as "
                f"{', '.join(aside[-3:])}: check whether the disk is wearing out, then move or "
                "delete that file"
            )
        return self._happened[-1] if self._happened else None

    def store(self) -> Store:
        """The open store of the file that has the name now. Raises StoreError if it cannot be
        opened."""
        if self._store is not None and self.path in suspected:
            self._close()
        if self._store is not None and not self._store.is_named():
            self._leave()
        if self._store is None:
            self._open()
        assert self._store is not None
        return self._store

    def failed(self, error: StoreError) -> None:
        """React to an error of the store: close a damaged one, and set `again_s` and `advice`."""
        self.again_s = AGAIN_S
        self.advice = _advice(self.path, error)
        if isinstance(error, (DamagedError, GoneError)):
            self.again_s = 0.0 if self._store is not None else _REPAIR_AGAIN_S
        if isinstance(error, DamagedError):
            self._close()

    def close(self) -> None:
        """Close all files."""
        self._close()
        self._drop_left()

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def _drop_left(self) -> None:
        if self._left is not None:
            store, file = self._left
            self._left = None
            with suppress(sqlite3.Error):
                store.close()
            file.close()

    def _leave(self) -> None:
        """Set the open file aside, which has lost its name; it stays open until this run's rows are
        in another file."""
        assert self._store is not None
        assert self._file is not None
        self._drop_left()
        self._left = (self._store, self._file)
        self._store = self._file = None

    def _open(self) -> None:
        if self._left is not None:
            self._left[0].leave()
            if self._left[0].is_same_file():
                self._tell(
                    "lost its -wal or -shm while the station ran; their contents were written back"
                )
                self._drop_left()
                suspected.add(self.path)  # others may have started another log meanwhile
        suspicious = self.path in suspected
        salvaged = sound_database(self.path, thorough=suspicious)
        if salvaged is not None:
            self._note(salvaged)
        suspected.discard(self.path)
        store = Store(self.path, durable=True, patience_s=self.patience_s)
        file = OpenFile(self.path)
        try:
            self._prepare(store)
            marks = marks_of(store)
            short = salvaged is not None and salvaged.lost > 0
            if self._left is not None:
                short = not self._carry(store, marks) or short
                self._marks = marks
            elif self._marks is None:
                self._marks = marks  # kept after a repair, in which rows keep their numbers
            self._enter(store)
            if short:
                store.tell_losses()  # again, now that the present run and stretch have their rows
        except StoreError:
            store.close()
            file.close()
            raise
        self._store = store
        self._file = file

    def _note(self, salvaged: SalvageSummary) -> None:
        self.lost_rows = self.lost_rows or salvaged.lost > 0

    def _carry(self, store: Store, marks: dict[str, int]) -> bool:
        """Copy this run's rows into the new file, or all rows if the old file was deleted, the new
        one is empty and there is room. False if some could not be read."""
        assert self._left is not None
        old, file = self._left
        fresh = not (marks["recordings"] or marks["bundles"])
        all_of_it = file.deleted and fresh and self._has_room(old)
        what = (
            "was replaced by another file"
            if not fresh
            else "was deleted"
            if file.deleted
            else "was moved"
        )
        where = f" (to {file.name})" if file.name and fresh else ""
        leaving = LostFile(old.raw)
        carried = carry(leaving, store, {} if all_of_it else self._marks or {})
        extent = "all its rows" if all_of_it else "the rows of this run"
        text = (
            f"{what}{where} while the station ran; it continues in the file that has this name "
            f"now, with {extent}: {carried}"
        )
        text += "" if leaving.whole else "; some of them could not be read any more"
        self._tell(text)
        self._drop_left()
        return leaving.whole

    def _tell(self, text: str) -> None:
        self._happened.append(f"{self.path.name} {text}")
        log.warning("%s: %s", self.path, text)

    def _has_room(self, old: Store) -> bool:
        with suppress(sqlite3.Error, OSError):
            pages, size = (
                old.raw.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "page_size")
            )
            free = shutil.disk_usage(self.path.parent).free
            # room for the rows, and for the log through which they pass
            return bool(free > 2 * pages * size + _SPARE_BYTES)
        return False


def _advice(path: Path, error: StoreError) -> str:
    """Advice to the user about an error."""
    cause = error.__cause__
    text = str(error)
    if os.path.lexists(path) and not path.is_file():  # also a broken link
        return f"it is not a file; move {path.name} away, and the station begins a new record"
    if "another program's database" in text or "no such table" in text or "no such column" in text:
        return (
            f"move {path.name} away, and the station begins a new record; the file itself is not "
            "changed"
        )
    code = (getattr(cause, "sqlite_errorcode", None) or 0) & 0xFF
    if code == _FULL or getattr(cause, "errno", None) == errno.ENOSPC:
        return "make room on the disk"
    if isinstance(error, DamagedError):
        return (
            "the station repairs it and keeps all readable rows; check whether the disk is wearing "
            "out"
        )
    if isinstance(error, GoneError):
        return (
            "the station opens the file that has this name now; move or restore its database only "
            "while it is stopped"
        )
    if code in _LOCKED:
        return "close the program that has it open for writing (lsof shows which)"
    if "mounted read-only" in text:
        return "mount it writable, and the station continues by itself"
    if "may not be written" in text or "belongs to" in text:
        return "run that command, and the station continues by itself"
    return "make room on the disk or let the station write to its state folder"
