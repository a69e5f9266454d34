"""Recordings during which the program died: each start is noted, suspects are read last and alone,
and after DEATHS_MAX deaths refused.

A power cut does not count as a death, nor does a stop or an error with a message for the user.
Knows no sound.
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
_STOPPED = "stopped"  # file beside the database: the process that was told to stop but hung


class AttemptLog:
    """Notes the recordings that this process reads, and settles those of processes that are gone.

    with attempting.until_left():
        attempting.begin(task)
        ...
        attempting.end(task.name)
    """

    def __init__(self, store: Attempts, station: str) -> None:
        self._store = store
        self._station = station
        self._boot = boot_id()
        self._process = this_process()
        for boot, process in store.reading(station):
            this_boot = boot is not None and boot == self._boot
            if not this_boot or not runs(process):
                store.process_gone(
                    station, boot, process, died=this_boot and process != _told_to_stop(store.path)
                )

    def refusal(self, task: RecordingTask) -> RecordingRefusal | None:
        """Refusal of a recording at which the program died DEATHS_MAX times; None if it may be
        read."""
        deaths = self._store.deaths(self._station, task.name, task.file)
        if deaths < DEATHS_MAX:
            return None
        begun = self._store.begun(self._station, task.name, task.file)
        reason = f"the program ended while reading it, {deaths} times"
        return RecordingRefusal(
            task, begun or file_id(self._station, task.name, task.file.sample), reason, None
        )

    def is_suspect(self, task: RecordingTask) -> bool:
        """True if the program died while reading it or one beside it, so that it must be read
        alone."""
        return self._store.deaths(self._station, task.name, task.file) > 0

    def begin(self, task: RecordingTask) -> None:
        """Note that this recording is being read from now on."""
        self._store.attempt(self._station, task.name, task.file, self._boot, self._process)

    def end(self, name: str) -> None:
        """Note that it has ended, or could not be read this time."""
        self._store.attempt_ended(self._station, name)

    @contextmanager
    def looking(self, files: Sequence[tuple[str, int, int]]) -> Iterator[set[str]]:
        """Note that the headers of files (path, size, modification time) are being read; yields the
        paths that may be read. Files suspected of a crash are left out."""
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
        """Note open recordings as stopped if the block is left on request or with a foreseen error.
        After an unforeseen error they stay open and count as a death once this process is gone."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, StopSignal | BirdstationError) or not isinstance(error, Exception):
                with suppress(StoreError):
                    self._store.attempts_stopped(self._station, self._process)
            raise


def forget_gone(store: Attempts, station: str, root: Path, there: Collection[Path]) -> None:
    """End the attempts at files that no longer exist; `there` are those that exist. An empty folder
    proves nothing, since a disk may be unmounted, unless something was taken out of it since."""
    if store.reading(station):
        AttemptLog(store, station)  # settle the attempts of processes that are gone
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
    """Note that this process was told to stop while a disk or a lock blocks it, so that the stop
    cannot be written to the record. Raises OSError."""
    database.with_name(_STOPPED).write_text(this_process(), encoding="utf8")


def _told_to_stop(database: Path) -> str | None:
    """The last process that `note_stop` noted; None if there is none."""
    try:
        return database.with_name(_STOPPED).read_text(encoding="utf8")
    except OSError:
        return None


def in_order(
    store: Attempts, station: str, root: Path, paths: Sequence[Path], resumes: bool
) -> list[Path]:
    """The recordings sorted by how often the program died at them, fewest first. Unless interrupted
    recordings are resumed (`resumes`), those interrupted most often also come later, so that they
    never block the others for good."""
    tried = store.tried(station)
    if not tried:
        return list(paths)

    def rank(path: Path) -> tuple[int, int]:
        attempts = tried.get(record_name(path, root))
        return (attempts.deaths, 0 if resumes else attempts.stops) if attempts else (0, 0)

    return sorted(paths, key=rank)
