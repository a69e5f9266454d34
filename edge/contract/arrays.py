"""Arrays in npz and npy files. Whatever numpy raises for a damaged file becomes one error with its
cause in a line.

Reads no pickle.
"""

import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
# Exceptions of numpy, zipfile and zlib for truncated files and files with wrong bytes, as found by
# damaging every byte in turn.
_DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    MemoryError,
    OverflowError,
    SyntaxError,
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
)


class ArraysError(Exception):
    """A file of arrays that cannot be read; the message is the cause alone."""


@contextmanager
def _as_arrays_error() -> Iterator[None]:
    """Turn the errors of damaged files into ArraysError."""
    try:
        yield
    except _DAMAGE as error:
        cause = error.args[0] if isinstance(error, KeyError) and error.args else error
        if isinstance(error, OSError) and error.strerror:
            cause = error.strerror
        raise ArraysError(" ".join(str(cause).split()) or type(error).__name__) from error


def read_arrays(path: Path, names: Sequence[str] | None = None) -> Arrays:
    """Arrays of an npz file by name: those in `names`, none of which may be missing, or all. Raises
    ArraysError."""
    with _as_arrays_error(), path.open("rb") as raw:
        found = np.load(raw, allow_pickle=False)
        if isinstance(found, np.ndarray):
            raise ValueError("expected an npz file, found a single array")
        with found as file:
            return {name: file[name] for name in (file.files if names is None else names)}


def read_array(path: Path) -> NDArray[Any]:
    """The array of an npy file, in memory. Raises ArraysError."""
    with _as_arrays_error(), path.open("rb") as raw:
        found = np.load(raw, allow_pickle=False)
        if not isinstance(found, np.ndarray):
            raise ValueError("expected a single array, found an npz file")
        return found


def map_array(path: Path) -> NDArray[Any]:
    """The array of an npy file, memory-mapped and read-only. Raises ArraysError."""
    with _as_arrays_error():
        array: NDArray[Any] = np.lib.format.open_memmap(path, "r")
        return array
