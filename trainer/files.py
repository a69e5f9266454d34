"""Files of a run: JSON and CSV written atomically, and read with errors that name the file."""

import csv
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.contract.arrays import Arrays, ArraysError, map_array, read_array, read_arrays
from edge.contract.errors import CorpusError, UsageError
from edge.contract.text import Table, TextError, text_of

# Prefix of our temporary files; other hidden files in a folder belong to someone else.
_OURS = ".birdstation-part"
_REFUSED = "cannot be written: "
_HEADER_BYTES = 1024
# A disk with less free space than this counts as full: libraries hide the system's error.
_ROOM_BYTES = 1 << 20


def make_folder(folder: Path) -> None:
    """Make a folder if it is missing. Raises OSError naming it, of a kind that run_program reports
    as a user's mistake."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from None


def check_writable(folder: Path) -> None:
    """Make a folder if it is missing, then create and remove a file in it. Raises like
    `make_folder`."""
    _begin(folder / "check").unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add `path` to an OSError that names no file (from a write into an open one); or the folder
    for temporary files if that is full and the disk of `path` is not."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        places = [place for place in (path, Path(tempfile.gettempdir())) if _is_full(place)]
        if error.errno is None and not places:
            raise
        raise cannot_write(places[0] if places else path, error) from error


def cannot_write(path: Path, error: OSError) -> OSError:
    """An error that names the path. /proc and the like, and a folder that was removed, report
    ENOENT, which run_program would take for a bug of ours. numpy reports how many bytes it could
    write, but not the reason."""
    number = error.errno
    words = (error.strerror or "").removeprefix(_REFUSED)
    if number is None:
        number = errno.ENOSPC if _is_full(path) else errno.EIO
        words = os.strerror(number)
    return OSError(
        errno.EACCES if number == errno.ENOENT else number, f"{_REFUSED}{words}", str(path)
    )


def _is_full(path: Path) -> bool:
    with suppress(OSError):
        return shutil.disk_usage(path if path.is_dir() else path.parent).free < _ROOM_BYTES
    return False


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block succeeds, so that the file is
    written whole or not at all. Raises OSError naming `path` if it cannot be written."""
    temporary = _begin(path)
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.filename in (None, str(temporary), temporary):
            raise cannot_write(path, error) from error
        raise
    finally:
        with suppress(OSError):  # a failing disk was reported above
            temporary.unlink(missing_ok=True)


def _begin(path: Path) -> Path:
    """Create an empty temporary file beside `path`."""
    make_folder(path.parent)
    # Keeps the suffix, from which numpy and matplotlib take the format.
    temporary = path.with_name(f"{_OURS}{os.getpid()}-{path.name}")
    try:
        temporary.touch()
    except OSError as error:
        raise cannot_write(path, error) from None
    return temporary


def check_replaceable(path: Path, header: Sequence[str]) -> None:
    """Raise UsageError if a table with this header would replace anything but an older one; OSError
    naming the file if it cannot be written."""
    try:
        if not path.exists() and not path.is_symlink():
            _begin(path).unlink()
            return
        is_table = path.is_file() and path.read_bytes()[:_HEADER_BYTES].splitlines()[:1] == [
            ",".join(header).encode()
        ]
    except OSError as error:
        raise cannot_write(path, error) from error
    if not is_table:
        raise UsageError(
            f"{path}: exists but is not a table of this kind; choose another name for --out"
        )


def clear_temporaries(folder: Path) -> None:
    """Remove the temporary files of a killed `replacing` anywhere in a folder that no other trainer
    writes to."""
    for path in folder.rglob(f"{_OURS}[0-9]*-*"):
        if path.is_file():
            path.unlink()


def write_json(path: Path, value: object) -> None:
    """Write `value` (dataclasses as dicts) as JSON, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises CorpusError naming the file."""
    try:
        raw = json.loads(text_of(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise CorpusError(f"{path}: not readable: {error}") from error
    if not isinstance(raw, dict):
        raise CorpusError(f"{path}: expected a JSON object, found {type(raw).__name__}")
    return raw


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file atomically."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf8") as file:
        plain = csv.writer(file, lineterminator="\n")
        quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        plain.writerow(header)
        # Python 3.11 would not quote a carriage return within a name.
        for row in rows:
            (quoted if any("\r" in str(cell) for cell in row) else plain).writerow(row)


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file that has at least `columns`. Raises CorpusError naming the file."""
    try:
        table = Table(text_of(path.read_bytes()), columns)
        rows = []
        for line, row in table:
            if not isinstance(row, dict):
                raise CorpusError(
                    f"{path}, line {line}: expected {len(table.names)} cells, found {len(row)}"
                )
            rows.append(row)
    except (OSError, TextError) as error:
        raise CorpusError(f"{path}: not readable: {error}") from error
    return rows


def read_npz(path: Path, names: Sequence[str], advice: str) -> Arrays:
    """Read these arrays of an npz file. Raises CorpusError naming the file, the cause and the
    remedy (`advice`)."""
    with _readable(path, advice):
        return read_arrays(path, names)


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays as an npz file, atomically; equal arrays give equal bytes."""
    with replacing(path) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)


def read_npy(path: Path, advice: str) -> NDArray[Any]:
    """Read the array of an npy file into memory. Raises like `read_npz`."""
    with _readable(path, advice):
        return read_array(path)


def map_npy(path: Path, advice: str) -> NDArray[Any]:
    """Map the array of an npy file from disk, read-only. Raises like `read_npz`."""
    with _readable(path, advice):
        return map_array(path)


@contextmanager
def _readable(path: Path, advice: str) -> Iterator[None]:
    try:
        yield
    except ArraysError as error:
        raise CorpusError(f"{path}: not readable: {error}; {advice}") from error


def digest(*parts: object) -> str:
    """SHA-256 over the inputs of a stage: files (their bytes, or their absence) and plain
    values."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            total.update(part.read_bytes() if part.is_file() else b"absent")
        else:
            total.update(json.dumps(part, sort_keys=True, default=str).encode())
        total.update(b"\0")
    return total.hexdigest()
