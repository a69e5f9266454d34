"""Space that is set aside for the day the disk is full: without it SQLite could not even commit a
deletion."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

# a commit of a few clips needs well under 1 MB; the database's log and its index come to it
_RESERVE_BYTES = 8 << 20


class Reserve:
    """A file of random bytes (a file system may store zeros as nothing) in the state folder."""

    def __init__(self, state: Path) -> None:
        self.path = state / "reserve"
        self.bytes = _RESERVE_BYTES

    def give_up_if_full(self) -> bool:
        """Make room if the disk has less free than the reserve holds. Call it before the database
        is opened, which needs a little space itself. Never raises: what hinders it will hinder the
        next step, which says so."""
        with suppress(OSError):
            if shutil.disk_usage(self.path.parent).free < self.bytes:
                self.path.unlink()
                return True
        return False

    def make(self) -> bool:
        """Set the space aside where there is twice as much; True if it is there."""
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
