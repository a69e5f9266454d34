"""A clip's file while it is written: under a name of its own, and held, so that others know that
somebody is at it."""

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter
from pathlib import Path


@contextmanager
def written(path: Path, data: bytes) -> Iterator[Path]:
    """A new file with these bytes, on the disk, that is to become `path`; held until the block
    ends, under whatever name it has then. Where the block has left it, it is removed."""
    part, file = _held(path)
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            yield part
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _held(path: Path) -> tuple[Path, BufferedWriter]:
    """A new part of `path` that is held. One who cleans up may take it away before it is: then
    another is made."""
    while True:
        # another process may save the same clip
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        file = part.open("xb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # it is being removed
            file.close()
        except (
            OSError
        ):  # a file system without locks: what is being written may be cleaned away, and is lost
            return part, file
        else:
            if os.fstat(file.fileno()).st_nlink:
                return part, file
            file.close()


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
