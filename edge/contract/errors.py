"""The error tree. Each class says who acts on it; a message is one line that a person can act on.

BirdstationError ├── ConfigError a person: station.yaml or a recipe is wrong exit 78 ├── UsageError
a person: an argument of the command is wrong exit 2 ├── BundleError a person: the bundle is
damaged, foreign or of another schema exit 78 ├── CorpusError a person: the training data is not
what the layout says exit 78 ├── RecordingError nobody now: this one recording is set aside, the
rest goes on reported │ └── UnreadError nobody: this machine could not read it now; tried again
reported ├── CaptureError the microphone: opens the card again, for ever a Gap ├── EngineError the
recognizer: goes on with ONNX Runtime, health says so; a command by hand ends exit 1 ├── StoreError
the ledger: what was heard waits; a command by hand ends exit 1 │ ├── DamagedError the ledger:
closes the database and repairs it │ ├── GoneError whoever has it open: opens what its name leads to
now │ └── RowError the ledger: enters anew what the row refers to, or sets it aside; the rest goes
on └── PublishError the publisher: waits and tries again; never leaves it
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

EXIT_REFUSED = 3  # done, but some recordings could not be read
EXIT_USAGE = 2  # as for an option that is not known
EXIT_CONFIG = 78  # EX_CONFIG of sysexits.h; the service unit does not restart on it


class BirdstationError(Exception):
    """Base of every error that has a one-line message for a person."""

    exit_code = 1
    remedy = ""  # what whoever typed a command does about it, where the message does not say so


class ConfigError(BirdstationError):
    """A setting is wrong; the message names file, key, what was expected and what was found."""

    exit_code = EXIT_CONFIG


class UsageError(BirdstationError):
    """An argument names what is not there; the message names it, what was expected and what was
    found."""

    exit_code = EXIT_USAGE


class BundleError(BirdstationError):
    """A bundle cannot be trusted; the message names the file."""

    exit_code = EXIT_CONFIG


class CorpusError(BirdstationError):
    """A corpus, raster or run cannot be used; the message names the file."""

    exit_code = EXIT_CONFIG


class RecordingError(BirdstationError):
    """One recording that cannot be analysed, with the reason."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type["RecordingError"], tuple[Path, str]]:
        """As it comes back from a worker: an exception is made anew of what its base was given, one
        text here."""
        return type(self), (self.path, self.reason)


class UnreadError(RecordingError):
    """This machine could not read a recording this time: open files, memory, a disk, a mount,
    rights. It says nothing of the recording, which is tried again; `error` is the system's own."""

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
    """Asked to stop in the middle of long work; what was done of it stays."""


class CaptureError(BirdstationError):
    """A sound card is not there or cannot be opened; the microphone tries again, `edge check` says
    it."""


class EngineError(BirdstationError):
    """TensorRT or CUDA cannot do what was asked; the recognizer goes on with ONNX Runtime, an
    export ends."""


class StoreError(BirdstationError):
    """The database cannot be read or written."""


class DamagedError(StoreError):
    """The database's pages are not what SQLite wrote; it wants repair, not patience."""

    remedy = (
        "; start the station, or restart it: it sets the file aside, salvages what can be "
        "read and goes on in a new one"
    )


class GoneError(StoreError):
    """The database that is open has lost its name: it was moved, deleted or replaced."""


class RowError(StoreError):
    """The database takes everything but this row: what it refers to is gone, or a rule of a table
    forbids it."""


class PublishError(BirdstationError):
    """The broker refused or did not answer; the publisher waits, nothing is lost."""


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """For a program whose libraries come with an extra: one that is missing is a ConfigError. Our
    own are a mistake of ours, and stay what they are."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("", "edge", "export", "trainer"):
            raise
        size = (
            " (6.8 GB, less without CUDA: docs/training.md)" if extra in ("train", "export") else ""
        )
        advice = f"pip install '.[{extra}]' in the checkout brings it{size}"
        raise ConfigError(f"{error.name} is not installed; {advice}") from error
