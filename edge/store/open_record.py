"""The record that is open is the one that its name leads to, and it is sound: opened, looked after,
opened anew.

Decides what follows from an error: busy or full is tried again, damaged is repaired, gone is opened
anew with what this run has written. Knows no sound and no source of it.
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
from edge.store.carry import LostFile, carry, marks_of
from edge.store.connection import BUSY_TIMEOUT_S, suspected
from edge.store.named import OpenFile
from edge.store.record import Store
from edge.store.salvage import SalvageSummary, set_aside, sound_database

AGAIN_S = 5.0  # before a database that said no is asked again
_REPAIR_AGAIN_S = 30.0  # before one that could not be repaired is read as a whole again
_SPARE_BYTES = 16 << 20
# SQLITE_BUSY and SQLITE_LOCKED, SQLITE_FULL
_LOCKED = (5, 6)
_FULL = 13

log = logging.getLogger(__name__)


class OpenRecord:
    """For one thread. `enter` is called with each store that is opened, and lays into it what a run
    needs there: its bundle, the stretch that is being heard. It may be called again for the same
    file.

    `prepare` is called before that, and before what this run has written is carried over.

    record = OpenRecord(config.database, enter)
    try:
        record.store().add(...)
    except StoreError as error:
        record.failed(error)       # what `again_s` and `advice` say now is for this error
    """

    def __init__(
        self,
        path: Path,
        enter: Callable[[Store], None],
        prepare: Callable[[Store], None] = lambda _: None,
    ) -> None:
        self.path = path
        # with another writer's lock, of a store that is opened from now on
        self.patience_s = BUSY_TIMEOUT_S
        self.again_s = AGAIN_S
        self.advice = ""
        # a repair in this run could not read all: the time behind them is not "off"
        self.lost_rows = False
        self._enter = enter
        self._prepare = prepare
        self._store: Store | None = None
        self._file: OpenFile | None = None  # that the store is of
        # a file that lost its name, until its rows are carried over
        self._left: tuple[Store, OpenFile] | None = None
        # where the tables of the open file ended when this run opened it
        self._marks: dict[str, int] | None = None
        self._happened: list[str] = []

    @property
    def problem(self) -> str | None:
        """What a person should know of the record although it can be written, in one line: it was
        another file for a while in this run, or a damaged one lies beside it."""
        aside = [file.name for file in set_aside(self.path)]
        if aside:
            return (
                f"{self.path.name} was damaged and salvaged; what was damaged is kept as "
                f"{', '.join(aside[-3:])}: see"
                " whether its disk wears out, then move or delete it"
            )
        return self._happened[-1] if self._happened else None

    def store(self) -> Store:
        """The open store, of the file that has the name now. Raises StoreError if it cannot be
        had."""
        if self._store is not None and self.path in suspected:
            self._close()
        if self._store is not None and not self._store.is_named():
            self._leave()
        if self._store is None:
            self._open()
        assert self._store is not None
        return self._store

    def failed(self, error: StoreError) -> None:
        """A call of the store raised this: what becomes of it, and when it is to be asked again."""
        self.again_s, self.advice = AGAIN_S, _advice(self.path, error)
        if isinstance(error, (DamagedError, GoneError)):
            self.again_s = 0.0 if self._store is not None else _REPAIR_AGAIN_S
        if isinstance(error, DamagedError):
            self._close()

    def close(self) -> None:
        """Let go of the file."""
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
        """The open file has lost its name: it is kept open until what this run wrote is in
        another."""
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
                    "lost its -wal or -shm while the station ran; what it held was written back"
                )
                self._drop_left()
                suspected.add(self.path)  # others may have begun another log meanwhile
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
                self._marks = marks  # after a repair the rows have their numbers still
            self._enter(store)
            if short:
                store.tell_losses()  # of what ended before that which is heard now, too
        except StoreError:
            store.close()
            file.close()
            raise
        self._store = store
        self._file = file

    def _note(self, salvaged: SalvageSummary) -> None:
        self.lost_rows = self.lost_rows or salvaged.lost > 0

    def _carry(self, store: Store, marks: dict[str, int]) -> bool:
        """What this run wrote; all of it, if nothing else has the rest, the new file is empty and
        there is room. Whether all could be read."""
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
        taken = "all that it held" if all_of_it else "what this run had written"
        said = (
            f"{what}{where} while the station ran; it goes on in what has that name now, with "
            f"{taken}: {carried} rows"
        )
        said += "" if leaving.whole else "; not all of it could be read any more"
        self._tell(said)
        self._drop_left()
        return leaving.whole

    def _tell(self, said: str) -> None:
        self._happened.append(f"{self.path.name} {said}")
        log.warning("%s: %s", self.path, said)

    def _has_room(self, old: Store) -> bool:
        with suppress(sqlite3.Error, OSError):
            pages, size = (
                old.raw.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "page_size")
            )
            free = shutil.disk_usage(self.path.parent).free
            # its rows, and the log through which they go
            return bool(free > 2 * pages * size + _SPARE_BYTES)
        return False


def _advice(path: Path, error: StoreError) -> str:
    """What a person can do about it."""
    cause = error.__cause__
    said = str(error)
    if os.path.lexists(path) and not path.is_file():  # a link that leads nowhere, too
        return f"it is no file; move {path.name} away, and the station begins a new record"
    if "another program's database" in said or "no such table" in said or "no such column" in said:
        return (
            f"move {path.name} away, and the station begins a new record; nothing in that one "
            f"is changed"
        )
    code = (getattr(cause, "sqlite_errorcode", None) or 0) & 0xFF
    if code == _FULL or getattr(cause, "errno", None) == errno.ENOSPC:
        return "make room on the disk"
    if isinstance(error, DamagedError):
        return "the station salvages what can be read, by itself; see whether its disk wears out"
    if isinstance(error, GoneError):
        return (
            "the station opens what has that name now; move or restore its database only while "
            "it is stopped"
        )
    if code in _LOCKED:
        return "close the program that has it open for writing (lsof names it)"
    if "mounted read-only" in said:
        return "mount it so that it can be written, and the station goes on by itself"
    if "may not be written" in said or "belongs to" in said:
        return "type that, and the station goes on by itself"
    return "make room on the disk or let the station write to its state folder"
