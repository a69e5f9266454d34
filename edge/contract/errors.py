"""The error tree. Each class says who acts on it; a message is one line that a person can act on.

BirdstationError ├── ConfigError       a person: station.yaml or a recipe is wrong              exit
78 ├── UsageError        a person: an argument of the command is wrong            exit 2 ├──
BundleError       a person: the bundle is damaged, foreign or of           exit 78 │
another schema ├── CorpusError       a person: the training data do not match the layout      exit
78 ├── RecordingError    nobody: this recording is set aside, the rest continues  reported │   └──
UnreadError   nobody: this machine could not read it now; retried      reported ├── CaptureError
the microphone: keeps trying to open the card            a Gap ├── EngineError       the recognizer:
continues with ONNX Runtime and reports  a command: exit 1 │                     it in health ├──
StoreError        the ledger: entries wait                                 a command: exit 1 │   ├──
DamagedError  the ledger: closes the database and repairs it │   ├── GoneError     its user: opens
the file that the name now leads to │   └── RowError      the ledger: stores again what the row
refers to, or sets │                     the row aside; the rest continues └── PublishError      the
publisher: waits and keeps trying
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

EXIT_REFUSED = 3  # finished, but some recordings could not be read
EXIT_USAGE = 2  # as for an unknown option
EXIT_CONFIG = 78  # EX_CONFIG of sysexits.h; the service unit does not restart on it


class BirdstationError(Exception):
    """Base of every error that has a one-line message for a person."""

    exit_code = 1
    remedy = ""  # advice for the user of a command, if the message has none


class ConfigError(BirdstationError):
    """A setting is wrong; the message names file, key, what was expected and what was found."""

    exit_code = EXIT_CONFIG


class UsageError(BirdstationError):
    """An argument is wrong; the message names it, what was expected and what was found."""

    exit_code = EXIT_USAGE


class BundleError(BirdstationError):
    """A bundle cannot be trusted; the message names the file."""

    exit_code = EXIT_CONFIG


class CorpusError(BirdstationError):
    """A corpus, raster or run cannot be used; the message names the file."""

    exit_code = EXIT_CONFIG


class RecordingError(BirdstationError):
    """A recording that cannot be analysed, with the reason."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type["RecordingError"], tuple[Path, str]]:
        """Pickle with both arguments: by default an exception is rebuilt from the one text given to
        its base."""
        return type(self), (self.path, self.reason)


class UnreadError(RecordingError):
    """A recording that this machine could not read this time: open files, memory, a disk, a mount,
    permissions.

    It says nothing about the recording, which is tried again; `error` is the system's.
    """

    def __init__(self, path: Path, doing: str, error: OSError | MemoryError) -> None:
        self.error = (
            error
            if isinstance(error, OSError)
            else OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        )
        super().__init__(path, f"{doing}: {self.error.strerror or self.error}")
        self._doing = doing

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self._doing, self.error)


class StopSignal(Exception):
    """A request to stop long work; results so far are kept."""


class CaptureError(BirdstationError):
    """A sound card is missing or cannot be opened; the microphone tries again, and `birdstation
    check` reports it."""


class EngineError(BirdstationError):
    """TensorRT or CUDA cannot do what was requested; the recognizer continues with ONNX Runtime, an
    export ends."""


class StoreError(BirdstationError):
    """The database cannot be read or written."""


class DamagedError(StoreError):
    """The database's pages are not what SQLite wrote; it needs repair, and waiting will not
    help."""

    remedy = (
        "; start or restart the station: it sets the file aside, salvages what can be read and "
        "continues in a new one"
    )


class GoneError(StoreError):
    """The open database has lost its name: it was moved, deleted or replaced."""


class RowError(StoreError):
    """The database accepts everything but this row: what it refers to is gone, or a constraint
    forbids it."""


class PublishError(BirdstationError):
    """The broker refused or did not answer; the publisher waits, and nothing is lost."""


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn a missing library into a ConfigError, for a program whose libraries come with an extra.

    A missing module of our own is a bug, and is raised as it is.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("", "edge", "export", "trainer"):
            raise
        size = (
            " (6.8 GB, less without CUDA: docs/training.md)" if extra in ("train", "export") else ""
        )
        advice = f"install it with pip install '.[{extra}]' in the checkout{size}"
        raise ConfigError(f"{error.name} is not installed; {advice}") from error
