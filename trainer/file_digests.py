"""SHA-256 digests of files, remembered as long as the file system shows no change.

A file is identified by device, inode, size and times, like in git's index; the time of its last
status change (ctime) cannot be set by hand. A file that was changed within the last seconds is read
again, since it may change once more within one tick of the clock. Knows no corpus and no run.
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
_READERS = 4  # threads: hashing releases Python's lock, and a disk has a queue
_SHOWN_BYTES = 500_000_000  # a progress bar is shown for more than this
_HEX = 64  # characters of a SHA-256


class Contents:
    """Digests of files. `memory` is a file that keeps them from one start to the next."""

    def __init__(self, memory: Path | None = None) -> None:
        self._memory = memory
        self._known = {} if memory is None else _read(memory)
        self._asked: dict[str, str] = {}

    def of(self, path: Path) -> str:
        """SHA-256 of a file, or ABSENT, or UNREADABLE."""
        try:
            identity, young = _identity(path)
            digest = self._known.get(identity) or file_sha256(path)
            # It changed while it was read, so the digest is void.
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
        """Digests of many files, read in parallel, with a progress bar if there is much to read. A
        path that occurs several times is read once."""
        single = list(dict.fromkeys(paths))
        unread = sum(_unread_bytes(path, self._known) for path in single)
        with ThreadPoolExecutor(_READERS) as readers:
            if unread < _SHOWN_BYTES:
                found = dict(zip(single, readers.map(self.of, single), strict=True))
                return [found[path] for path in paths]
            with progress_bar(console) as progress:
                bar = progress.add_task(title, total=len(single), note="files compared")
                found = {}
                for path, digest in zip(single, readers.map(self.of, single), strict=True):
                    found[path] = digest
                    progress.update(bar, advance=1)
                return [found[path] for path in paths]

    def save(self) -> None:
        """Write the digests that were asked for; others are forgotten."""
        if self._memory is None or self._asked == _read(self._memory):
            return
        text = "".join(f"{digest} {identity}\n" for identity, digest in sorted(self._asked.items()))
        with replacing(self._memory) as temporary:
            temporary.write_text(f"{_sum(text)}\n{text}", encoding="ascii")


def sums_of(contents: Contents, paths: Iterable[Path], folder: Path) -> list[tuple[str, str]]:
    """Pairs of a name relative to `folder` and a digest, sorted by name."""
    return sorted((path.relative_to(folder).as_posix(), contents.of(path)) for path in paths)


def _identity(path: Path) -> tuple[str, bool]:
    """The identity of a file's contents in the file system, and True if it was changed just now."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # reading a pipe or a device may never end
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
    """The remembered digests; empty if the file is damaged, so that all files are read again."""
    try:
        head, _, text = memory.read_text(encoding="ascii").partition("\n")
    except (OSError, ValueError):
        return {}
    if head != _sum(text):
        return {}
    return {line[_HEX + 1 :]: line[:_HEX] for line in text.splitlines()}
