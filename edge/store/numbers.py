"""The highest number (`seq`) that a message of this station can have had, kept in a file beside the
database: one that is put back from a copy must not number other messages with what subscribers have
seen.

The file says the number and its own inode: one that was itself put back from a copy is another's.
Where it is missing or another's although the database knows that it had one, no number is known,
and the time is: milliseconds since 1970 are above any number that messages can have come to.
"""

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

KEPT = "seq kept"  # the counter that says that a database had such a file
NUMBER_MAX = 1 << 52  # subscribers read numbers as doubles; what is larger was damaged
_UNKNOWN_MORE = 1_000_000  # where not even the time is known


class Numbers:
    """The file `station.db.seq`.

    numbers = Numbers(database)
    numbers.given(seq)     # before it is sent; False: there is no such file yet, `begin` it
    numbers.begin(seq)
    """

    def __init__(self, database: Path) -> None:
        self._database, self._path = database, database.with_name(f"{database.name}.seq")
        self._noted = 0

    def given(self, seq: int) -> bool:
        """Note that messages up to this one may be seen; whether there is a file to note it in."""
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
        """A new file, of the database's owner and for whom that is: who makes it may be root."""
        self._path.unlink(missing_ok=True)
        self._write(seq)
        of = self._database.stat()
        with suppress(OSError):
            os.chown(self._path, of.st_uid, of.st_gid)
            self._path.chmod(of.st_mode & 0o777)
        self._noted = seq

    def highest(self) -> int | None:
        """The highest number given; None: no file, or another one's."""
        try:
            with self._path.open("rb") as file:
                number, inode = map(int, file.read(64).split())
                ours = inode == os.fstat(file.fileno()).st_ino
        except (OSError, ValueError):
            return None
        return number if ours and 0 <= number < NUMBER_MAX else None

    def _write(self, seq: int) -> None:
        """In place, in one write of one length: a reader beside it sees the old or the new one. Not
        forced to the disk: what a power cut takes from it, the database has."""
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(handle, b"%020d %020d\n" % (seq, os.fstat(handle).st_ino), 0)
        finally:
            os.close(handle)


def go_on(db: sqlite3.Connection, database: Path) -> None:
    """Inside a transaction, before messages are laid into the outbox: number them above all that
    may have been seen."""
    highest = Numbers(database).highest()
    last = _last(db)
    if highest is None:
        if not db.execute("SELECT 1 FROM counters WHERE name = ?", (KEPT,)).fetchone():
            return  # it never was sent from, or by a version that kept no numbers
        highest = max(time.time_ns() // 1_000_000, last + _UNKNOWN_MORE)
    if last < highest < NUMBER_MAX:
        updated = db.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'outbox'", (highest,))
        if not updated.rowcount:
            db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('outbox', ?)", (highest,))


def _last(db: sqlite3.Connection) -> int:
    found = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").fetchone()
    return int(found[0]) if found else 0
