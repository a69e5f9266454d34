"""Disk space reserved for the case that the disk is full, when SQLite could not even commit a
deletion."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

# a commit of a few clips needs well under 1 MB; the database's log and its index need more
_RESERVE_BYTES = 8 << 20


class Reserve:
    """A file of random bytes in the state folder; a file system might store zeros without using
    space."""

    def __init__(self, state: Path) -> None:
        self.path = state / "reserve"
        self.bytes = _RESERVE_BYTES

    def give_up_if_full(self) -> bool:
        """Delete the file if the disk has less free space than it holds; True if it did. Call it
        before the database is opened, which needs a little space. Never raises: an error here will
        also occur, and be reported, in the next step."""
        with suppress(OSError):
            if shutil.disk_usage(self.path.parent).free < self.bytes:
                self.path.unlink()
                return True
        return False

    def make(self) -> bool:
        """Make the file if there is room for twice as much; True if it exists."""
        part = self.path.with_name("reserve.part")
        try:
            if self.path.exists() and self.path.stat().st_size == self.bytes:
                return True
            if shutil.disk_usage(self.path.parent).free < 2 * self.bytes:
                return False
            with part.open("wb") as file:
                file.write(os.urandom(self.bytes))
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)
        except OSError:
            with suppress(OSError):
                part.unlink()
            return False
        return True
