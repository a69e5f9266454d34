"""Highest message number (`seq`) that this station has used, kept in a file beside the database, so
that a database restored from a copy never reuses numbers that subscribers have seen.

The file holds the number and its own inode, which shows whether the file itself was restored from a
copy. If it is missing or restored although the database had one, numbering continues from the time:
milliseconds since 1970 are above any number that messages can have reached.
"""

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

KEPT = "seq kept"  # counter that marks a database that has had such a file
NUMBER_MAX = 1 << 52  # subscribers read numbers as doubles; larger ones come from damage
_UNKNOWN_MORE = 1_000_000  # added to the last number, in case the clock is wrong


class Numbers:
    """The file `station.db.seq`.

    numbers = Numbers(database)
    numbers.given(seq)     # before it is sent; False: there is no such file yet, `begin` it
    numbers.begin(seq)
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._path = database.with_name(f"{database.name}.seq")
        self._noted = 0

    def given(self, seq: int) -> bool:
        """Note that messages up to this one may have been seen; False if there is no file yet."""
        if seq <= self._noted and self._path.exists():
            return True
        highest = self.highest()
        if highest is None:
            return False
        if seq > highest:
            self._write(seq)
        self._noted = max(seq, highest)
        return True

    def begin(self, seq: int) -> None:
        """Create the file with the owner and permissions of the database, as this process may be
        root."""
        self._path.unlink(missing_ok=True)
        self._write(seq)
        of = self._database.stat()
        with suppress(OSError):
            os.chown(self._path, of.st_uid, of.st_gid)
            self._path.chmod(of.st_mode & 0o777)
        self._noted = seq

    def highest(self) -> int | None:
        """The highest number used; None if there is no file, or it was restored from a copy."""
        try:
            with self._path.open("rb") as file:
                number, inode = map(int, file.read(64).split())
                ours = inode == os.fstat(file.fileno()).st_ino
        except (OSError, ValueError):
            return None
        return number if ours and 0 <= number < NUMBER_MAX else None

    def _write(self, seq: int) -> None:
        """Write in place, in one write of fixed length, so that a reader sees the old or the new
        number. Not forced to the disk: after a power cut the database has the number."""
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(handle, b"%020d %020d\n" % (seq, os.fstat(handle).st_ino), 0)
        finally:
            os.close(handle)


def go_on(db: sqlite3.Connection, database: Path) -> None:
    """Continue numbering above all numbers that may have been seen. Call it inside a transaction,
    before messages are added to the outbox."""
    highest = Numbers(database).highest()
    last = _last(db)
    if highest is None:
        if not db.execute("SELECT 1 FROM counters WHERE name = ?", (KEPT,)).fetchone():
            return  # never sent from, or only by a version without this file
        highest = max(time.time_ns() // 1_000_000, last + _UNKNOWN_MORE)
    if last < highest < NUMBER_MAX:
        updated = db.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'outbox'", (highest,))
        if not updated.rowcount:
            db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('outbox', ?)", (highest,))


def _last(db: sqlite3.Connection) -> int:
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").fetchone()
    return int(row[0]) if row else 0
