"""The file of a clip while it is written: under a temporary name, and locked, so that clean-ups in
other processes leave it alone."""

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter
from pathlib import Path


@contextmanager
def written(path: Path, data: bytes) -> Iterator[Path]:
    """A new file with these bytes, on the disk, to be renamed to `path`. It stays locked until the
    block ends, under whatever name, and is removed if the block has not renamed it."""
    part, file = _locked_part(path)
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            yield part
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _locked_part(path: Path) -> tuple[Path, BufferedWriter]:
    """A new, locked temporary file for `path`. If a clean-up removes it before it is locked,
    another one is made."""
    while True:
        # another process may save the same clip
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        file = part.open("xb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # it is being removed
            file.close()
        except OSError:  # no locks on this file system: a clean-up may remove the clip
            return part, file
        else:
            if os.fstat(file.fileno()).st_nlink:
                return part, file
            file.close()


def remove_left(path: Path) -> bool:
    """Remove a file unless another process is writing it; True if it is gone."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
