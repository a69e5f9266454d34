"""Closed recordings of a watched folder that wait to be analysed, oldest first.

Knows files and headers. Does not know what becomes of a recording: its reader calls `done`, and
remembers across restarts what was finished.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path
from typing import NamedTuple

from edge.capture.own_files import OWN_FOLDER, OwnFiles, is_kept
from edge.capture.recording import SIDECAR_SUFFIXES, open_recording
from edge.capture.start_time import start_of
from edge.contract.errors import RecordingError
from edge.contract.folders import passed_over

# Time for reading headers in one scan; the rest of a million files is left to later scans.
_READ_S_MAX = 2.0
# Headers per batch: if the program dies on one, this many files are suspects.
_AT_ONCE = 64
_GONE = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)


class Content(NamedTuple):
    """The state of a file: if any field changes, the content may have changed."""

    bytes: int
    mtime_ns: int
    # inode change time: a file from another card may have the same size and modification time
    ctime_ns: int


Looking = Callable[[Sequence[tuple[Path, Content]]], AbstractContextManager[Collection[Path]]]


@contextmanager
def _at_all(files: Sequence[tuple[Path, Content]]) -> Iterator[Collection[Path]]:
    """The default for `looking`: every header may be read."""
    yield {path for path, _ in files}


@dataclass(slots=True)  # there may be a million
class _File:
    content: Content
    since_s: float  # monotonic clock when this state was first seen
    # time of its first sample, seconds since 1970; None: header not read yet
    start_s: float | None = None
    seconds: float = 0.0  # length of its sound, if the header gives it
    claimed: Content | None = None  # state when handed out; None: not since it was last done
    done: Content | None = None


@dataclass(frozen=True)
class RecordingQueue:
    """Closed recordings that have not been analysed yet."""

    files: int
    seconds: float  # length of their sound, as far as headers were read and give it


class FolderWatch:
    """The closed recordings of a folder. Each call of `ready` scans the folder once, however many
    files it holds.

    A file is closed when neither size nor modification time has changed for `settle_s` by the
    monotonic clock. In the first scan a file also counts as closed if its modification time is
    older than that, so that files left from before a restart need not wait. Later files get no such
    credit: on a share whose server's clock is slow, everything looks old. `zone` applies to
    recorders that do not name theirs, and only affects the order here. Files that a station keeps
    for itself, `own` or another, are skipped. `looking` is a context manager in which headers are
    read, a few files at a time; it returns the files whose headers may be read.

        watch = FolderWatch(folder, settle_s=5.0)
        for path in watch.ready()[:1]:  # then look again: an older one may have come
            ...
            watch.done(path)
    """

    def __init__(
        self,
        folder: Path,
        settle_s: float,
        zone: tzinfo | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        own: OwnFiles | None = None,
        looking: Looking = _at_all,
    ) -> None:
        self.folder = folder
        self.settle_s = settle_s
        # the folder's problem as of the last scan, in one line
        self.problem: str | None = None
        self.readable = True  # False: `problem` kept the whole folder from being read
        self._zone = zone
        self._monotonic = monotonic
        self._wall = wall
        self._own = own or OwnFiles()
        self._looking = looking
        self._files: dict[str, _File] = {}
        self._first_look = True
        self._looked_s = monotonic()

    def ready(self) -> list[Path]:
        """Every closed recording that is not done, ordered by start time, then by name.

        Raises nothing: an error is in `problem`, and whatever can be read is still returned. A
        recording that was handed out is returned again until it is done, after that only if it
        changes.
        """
        self._look()
        closed = [(name, file) for name, file in self._files.items() if self._is_closed(file)]
        self._read_headers(closed)
        known = sorted(
            (file.start_s, name, file) for name, file in closed if file.start_s is not None
        )
        for _, _, file in known:
            file.claimed = file.claimed or file.content
        return [Path(name) for _, name, _ in known]

    @property
    def there(self) -> list[Path]:
        """All recordings in the folder, as of the last scan."""
        return [Path(name) for name in self._files]

    def done(self, path: Path) -> None:
        """Mark a recording as finished in the state in which it was handed out.

        Anything appended since then is still to come. If it was handed out twice before it was
        done, the first state counts; nothing is lost.
        """
        file = self._files.get(str(path))
        if file is not None:
            file.done = file.claimed or file.done
            file.claimed = None

    def waiting(self) -> RecordingQueue:
        """Number and length of the closed recordings that are not done, as of the last `ready`; no
        file access."""
        closed = [file for file in self._files.values() if self._is_closed(file)]
        return RecordingQueue(len(closed), sum(file.seconds for file in closed))

    def _is_closed(self, file: _File) -> bool:
        return file.done != file.content and self._looked_s - file.since_s >= self.settle_s

    def _look(self) -> None:
        """Scan the folder once. Files that are gone are forgotten."""
        self._looked_s = self._monotonic()
        wall_s = self._wall()
        found: dict[str, _File] = {}
        problems: list[str] = []
        self._own.look()
        if self._own.leads_in(self.folder):
            problems.append(f"{_printable(str(self.folder))}: {OWN_FOLDER}")
        for name, content in _walk(str(self.folder), problems, self._own):
            file = self._files.get(name)
            if file is None:
                file = _File(content, self._looked_s)
                if (
                    self._first_look
                    and content.bytes
                    and wall_s - content.mtime_ns / 1e9 >= self.settle_s
                ):
                    file.since_s -= self.settle_s
            elif file.content != content:
                file = _File(content, self._looked_s, claimed=file.claimed, done=file.done)
            found[name] = file
        self._files = found
        self.readable = bool(found) or not problems
        self._first_look = self._first_look and not self.readable
        more = f" (and {len(problems) - 1} more like it)" if len(problems) > 1 else ""
        self.problem = problems[0] + more if problems else None

    def _read_headers(self, closed: list[tuple[str, _File]]) -> None:
        """Read start and length of new files, in order of modification time."""
        unread = [
            (file.content.mtime_ns, name, file) for name, file in closed if file.start_s is None
        ]
        until_s = self._monotonic() + _READ_S_MAX
        oldest = sorted(unread, key=lambda entry: entry[:2])
        for at in range(0, len(oldest), _AT_ONCE):
            some = [(Path(name), file) for _, name, file in oldest[at : at + _AT_ONCE]]
            with self._looking([(path, file.content) for path, file in some]) as may_be_read:
                for path, file in some:
                    self._read_header(path, file, path in may_be_read)
                    if self._monotonic() >= until_s:
                        return

    def _read_header(self, path: Path, file: _File, may_be_read: bool) -> None:
        seconds = None
        with suppress(RecordingError, OSError):  # damaged or gone: its analysis will report that
            seconds = open_recording(path).duration_s if may_be_read else None
        with suppress(RecordingError):  # gone
            file.start_s = start_of(path, zone=self._zone, duration_s=seconds).start_utc.timestamp()
            file.seconds = seconds or 0.0


def _walk(top: str, problems: list[str], own: OwnFiles) -> Iterator[tuple[str, Content]]:
    """Name and state of the files that `find_recordings` would find, unordered, with one stat for
    each.

    `find_recordings` takes three times as long, and this runs every few seconds.
    """
    folders = [] if own.leads_in(top) else [top]
    while folders:
        folder = folders.pop()
        is_state = own.is_state(folder)
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if passed_over(entry.name) or (is_state and is_kept(entry.name)):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        if not own.is_own(entry.path):
                            folders.append(entry.path)
                    elif entry.is_symlink() and own.leads_in(entry.path):
                        continue
                    elif not _is_sidecar(entry.name):
                        yield from _content(entry, problems)
        except OSError as error:
            if folder == top or error.errno not in _GONE:
                hint = "; is the disk mounted?" if error.errno == errno.ENOENT else ""
                problems.append(f"{_printable(folder)}: cannot be listed: {error.strerror}{hint}")


def _is_sidecar(name: str) -> bool:
    """True for names of what lies beside recordings."""
    suffix = os.path.splitext(name)[1]  # noqa: PTH122 - quicker, and folders are large
    return suffix.lower() in SIDECAR_SUFFIXES


def _content(entry: os.DirEntry[str], problems: list[str]) -> Iterator[tuple[str, Content]]:
    """One file, or nothing if it is not a regular file, has vanished, or cannot be accessed (added
    to `problems`)."""
    try:
        status = entry.stat()
    except OSError as error:
        if error.errno not in _GONE:
            problems.append(f"{_printable(entry.path)}: cannot be accessed: {error.strerror}")
        return
    if stat.S_ISREG(status.st_mode):
        name = entry.path.removeprefix("./")  # as in str(Path)
        yield name, Content(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _printable(name: str) -> str:
    """A name of arbitrary bytes as text that every message can carry."""
    return " ".join(os.fsencode(name).decode("utf8", "replace").split())
