"""Contents of files by their SHA-256, remembered as long as the file system says that a file is the
same one.

A file is known by its device, inode, size and times, as git's index knows it: the time of its last
change of any kind cannot be set by hand. What was changed in the last seconds is read again, as it
may change once more within a tick of the clock. Knows no corpus and no run.
"""

import errno
import hashlib
import stat
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console

from edge.contract.bundle import file_sha256
from trainer.files import replacing
from trainer.workers import progress_bar

ABSENT = "absent"
UNREADABLE = "unreadable"
_YOUNG_S = 5.0  # FAT keeps times to two seconds
_READERS = 4  # side by side: hashing leaves Python's lock, and a disk has a queue
_SHOWN_BYTES = 500_000_000  # reading more than this is shown as it goes on
_HEX = 64  # characters of a SHA-256


class Contents:
    """Digests of files; with a `memory`, a file in which they are kept from one start to the
    next."""

    def __init__(self, memory: Path | None = None) -> None:
        self._memory = memory
        self._known = {} if memory is None else _read(memory)
        self._asked: dict[str, str] = {}

    def of(self, path: Path) -> str:
        """SHA-256 of a file, or ABSENT, or UNREADABLE."""
        try:
            identity, young = _identity(path)
            digest = self._known.get(identity) or file_sha256(path)
            # changed while it was read: its next digest is another one
            if _identity(path)[0] != identity:
                return UNREADABLE
        except FileNotFoundError:
            return ABSENT
        except OSError:
            return UNREADABLE
        if not young:
            self._known[identity] = self._asked[identity] = digest
        return digest

    def of_all(self, paths: Sequence[Path], console: Console, title: str) -> list[str]:
        """The same of many, several at a time; shown as it goes on where there is much to read."""
        unread = sum(_unread_bytes(path, self._known) for path in paths)
        with ThreadPoolExecutor(_READERS) as readers:
            if unread < _SHOWN_BYTES:
                return list(readers.map(self.of, paths))
            with progress_bar(console) as progress:
                bar = progress.add_task(title, total=len(paths), note="files compared")
                digests = []
                for digest in readers.map(self.of, paths):
                    digests.append(digest)
                    progress.update(bar, advance=1)
                return digests

    def save(self) -> None:
        """Keep what was asked for; what was not is forgotten."""
        if self._memory is None or self._asked == _read(self._memory):
            return
        text = "".join(f"{digest} {identity}\n" for identity, digest in sorted(self._asked.items()))
        with replacing(self._memory) as temporary:
            temporary.write_text(f"{_sum(text)}\n{text}", encoding="ascii")


def sums_of(contents: Contents, paths: Iterable[Path], folder: Path) -> list[tuple[str, str]]:
    """Names below `folder` and digests of files, in the order of their names."""
    return sorted((path.relative_to(folder).as_posix(), contents.of(path)) for path in paths)


def _identity(path: Path) -> tuple[str, bool]:
    """What the file system knows a file's contents by, and whether it was changed just now."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # reading a pipe or a device might never end
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    now = time.time()
    young = any(abs(now - changed) < _YOUNG_S for changed in (found.st_mtime, found.st_ctime))
    return (
        f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}",
        young,
    )


def _unread_bytes(path: Path, known: dict[str, str]) -> int:
    try:
        return 0 if _identity(path)[0] in known else path.stat().st_size
    except OSError:
        return 0


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read(memory: Path) -> dict[str, str]:
    """What was kept; nothing of a file that is damaged: all is read again then."""
    try:
        head, _, text = memory.read_text(encoding="ascii").partition("\n")
    except (OSError, ValueError):
        return {}
    if head != _sum(text):
        return {}
    return {line[_HEX + 1 :]: line[:_HEX] for line in text.splitlines()}
