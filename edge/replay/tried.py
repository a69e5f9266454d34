"""Recordings at which the program died: counted before they are begun, read last and alone, and at
last refused.

A power cut is no death, nor is a stop, or an error that has words for a person. Knows no sound.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from edge.capture.recording import record_name
from edge.contract.errors import BirdstationError, StopSignal, StoreError
from edge.host.clock import boot_id
from edge.host.machine import runs, this_process
from edge.replay.reader import RecordingRefusal, RecordingTask
from edge.store.attempts import Attempts
from edge.store.effort import moment_of
from edge.store.files import file_id

DEATHS_MAX = 3
_STOPPED = "stopped"  # beside the database: the process that was told to stop and was held


class AttemptLog:
    """Notes which recordings this process reads, and what became of those of processes that are
    gone.

    with attempting.until_left():
        attempting.begin(task)
        ...
        attempting.end(task.name)
    """

    def __init__(self, store: Attempts, station: str) -> None:
        self._store = store
        self._station = station
        self._boot, self._process = boot_id(), this_process()
        for boot, process in store.reading(station):
            here = boot is not None and boot == self._boot
            if not here or not runs(process):
                store.process_gone(
                    station, boot, process, died=here and process != _told_to_stop(store.path)
                )

    def refusal(self, task: RecordingTask) -> RecordingRefusal | None:
        """Why a recording is not read again, if it is not."""
        deaths = self._store.deaths(self._station, task.name, task.file)
        if deaths < DEATHS_MAX:
            return None
        begun = self._store.begun(self._station, task.name, task.file)
        reason = f"the program ended while reading it, {deaths} times"
        return RecordingRefusal(
            task, begun or file_id(self._station, task.name, task.file.sample), reason, None
        )

    def is_suspect(self, task: RecordingTask) -> bool:
        """Whether the program died at it, or at one that was read beside it: it is to be read
        alone."""
        return self._store.deaths(self._station, task.name, task.file) > 0

    def begin(self, task: RecordingTask) -> None:
        """This recording is read from now on."""
        self._store.attempt(self._station, task.name, task.file, self._boot, self._process)

    def end(self, name: str) -> None:
        """It has ended, or could not be read this time."""
        self._store.attempt_ended(self._station, name)

    @contextmanager
    def looking(self, files: Sequence[tuple[str, int, int]]) -> Iterator[set[str]]:
        """While the headers of files are looked at (path, size, modification time of each): those
        that may be. One that the program may have died of is left to whoever reads it alone."""
        suspects = {
            path for path, tried in self._store.tried(self._station).items() if tried.deaths
        }
        mine = [file for file in files if file[0] not in suspects]
        self._store.look(self._station, mine, self._boot, self._process)
        yield {path for path, *_ in mine}
        with suppress(StoreError):
            self._store.looked(self._station, self._process)

    @contextmanager
    def until_left(self) -> Iterator[None]:
        """What is open when this is left, since somebody asked for it or for a reason that is
        known, was stopped. What nobody foresaw is left as it is, and counts when this process is
        gone."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, StopSignal | BirdstationError) or not isinstance(error, Exception):
                with suppress(StoreError):
                    self._store.attempts_stopped(self._station, self._process)
            raise


def forget_gone(store: Attempts, station: str, root: Path, there: Collection[Path]) -> None:
    """What was begun in vain of files that are no more, `there` being those that are, is at an end.
    A disk that is away leaves an empty folder: that says nothing, unless something was taken out of
    it since."""
    if store.reading(station):
        AttemptLog(store, station)  # those who read may be gone
    begun = store.begun_in_vain(station)
    names = {record_name(path, root) for path in there} if begun else set()
    for name, began in begun.items():
        if name not in names and _was_taken_out(root, name, began):
            store.file_gone(station, name)


def _was_taken_out(root: Path, name: str, began: str) -> bool:
    folders = [
        folder for folder in (root / name).parents if folder == root or folder.is_relative_to(root)
    ]
    try:
        folder = next(folder for folder in folders if folder.is_dir())
        if any(folder.iterdir()):
            return True
        return bool(began) and folder.stat().st_mtime > moment_of(began).timestamp()
    except (OSError, ValueError, StopIteration):
        return False


def note_stop(database: Path) -> None:
    """This process was told to stop, and what it reads does not follow: a disk or a lock holds it,
    so that its record cannot be told. Raises OSError."""
    database.with_name(_STOPPED).write_text(this_process(), encoding="utf8")


def _told_to_stop(database: Path) -> str | None:
    """The last process that noted so."""
    try:
        return database.with_name(_STOPPED).read_text(encoding="utf8")
    except OSError:
        return None


def in_order(
    store: Attempts, station: str, root: Path, paths: Sequence[Path], resumes: bool
) -> list[Path]:
    """The same recordings, those last at which the program died most often; and, where none goes on
    where it was (`resumes`), those later that were left in the middle: nothing waits for them for
    ever."""
    tried = store.tried(station)
    if not tried:
        return list(paths)

    def rank(path: Path) -> tuple[int, int]:
        so_far = tried.get(record_name(path, root))
        return (so_far.deaths, 0 if resumes else so_far.stops) if so_far else (0, 0)

    return sorted(paths, key=rank)
