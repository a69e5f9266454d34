"""A clip's file while it is written: under a name of its own, and held, so that others know that somebody is at it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def written(path: Path, data: bytes) -> Iterator[None]:
    """A new file with these bytes, on the disk; held until the block ends, under whatever name it has then."""
    with path.open("xb") as file:
        with suppress(OSError):  # a file system without locks: what is being written may be cleaned away, and is lost
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        yield


def remove_left(path: Path) -> bool:
    """Remove a file that nobody writes any more; whether it is gone."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
