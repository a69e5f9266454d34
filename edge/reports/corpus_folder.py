"""The folder of a corpus that a station writes: its mark, which says what is the station's own in
it, its table, and its files, each whole or not at all.

Nothing else in the folder is touched, and rows of others in the table stay. The table names no file
that is not there, whenever a run is killed. Knows no record and no sound.
"""

import csv
import fcntl
import io
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from edge.contract.errors import UsageError
from edge.contract.folders import holds_nothing
from edge.contract.text import Table, TextError, text_of

TABLE = "train_metadata.csv"
SOUNDS = "train_short_audio"
BACKGROUNDS = "nocall"
MARK = ".birdstation-corpus.json"
_PART = ".birdstation-"  # how temporary files begin
_SCHEMA = "corpus/1"


@dataclass(frozen=True)
class CorpusRow:
    """A line of the table: columns as docs/corpus.md has them, in their order."""

    primary_label: str
    secondary_labels: str
    type: str
    latitude: str
    longitude: str
    scientific_name: str
    common_name: str
    author: str
    date: str
    filename: str
    license: str
    rating: str
    time: str
    url: str

    @property
    def path(self) -> str:
        """Its file in the folder."""
        return f"{SOUNDS}/{self.primary_label}/{self.filename}"


_COLUMNS = tuple(column.name for column in fields(CorpusRow))


@dataclass(frozen=True)
class OwnFile:
    """A file of the station's in the folder, which is there or about to be."""

    clip: str  # id
    bytes: int


class CorpusFolder:
    """An open folder, locked against other runs of the same command.

        with CorpusFolder(out, "porch", rules) as folder:
            folder.announce(files)      # before any of them is written
            folder.put(path, content)
            folder.finish(rows, files)  # the table, and away with files that it no longer has

    `rules` say by what the files were chosen and written: those of other rules are removed at
    once. Raises UsageError for a folder that is not the station's corpus; OSError, with the file's
    name, where something cannot be written.
    """

    def __init__(self, out: Path, station: str, rules: str) -> None:
        self._out = out
        self._station = station
        self._rules = rules
        self.files: dict[str, OwnFile] = {}  # by path in the folder
        self.rows: dict[str, CorpusRow] = {}  # all of the table, by path

    def __enter__(self) -> "CorpusFolder":
        _check(self._out)
        self._out.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(self._out, os.O_RDONLY)
        try:
            self._lock()
            self._read()
        except BaseException:
            os.close(self._handle)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"--out {self._out}: another `birdstation corpus` is writing there; wait for it"
            ) from None
        except OSError:
            return  # no locks on this file system

    def _read(self) -> None:
        mark = self._out / MARK
        if not mark.exists():
            return
        station, rules, self.files = _mark_of(mark)
        if station != self._station:
            raise UsageError(
                f"--out {self._out}: holds clips of station {station!r}, and station.id is "
                f"{self._station!r}; choose another folder"
            )
        self.rows = _table_of(self._out / TABLE)
        for part in self._out.glob(f"**/{_PART}*.part"):  # of a run that was killed
            part.unlink(missing_ok=True)
        if rules != self._rules:
            self.finish({}, {})

    def holds(self, path: str) -> bool:
        """True if this file of the station's is there, whole."""
        own = self.files.get(path)
        with suppress(OSError):
            return own is not None and (self._out / path).stat().st_size == own.bytes
        return False

    def is_taken(self, path: str) -> bool:
        """True if something that is not the station's has this name."""
        return path not in self.files and (self._out / path).exists()

    def announce(self, files: Mapping[str, OwnFile]) -> None:
        """Note files that will be written, besides those that are there."""
        both = {**self.files, **files}
        if both != self.files:
            self.files = both
            self._note()

    def put(self, path: str, content: bytes) -> None:
        """Write a file that was announced."""
        assert path in self.files, "a run that is killed here must leave no stranger"
        target = self._out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        _put(target, content)

    def finish(self, rows: Mapping[str, CorpusRow], files: Mapping[str, OwnFile]) -> None:
        """Write the table of these rows and those of others, then remove all of the station's files
        that are not among `files`."""
        others = {path: row for path, row in self.rows.items() if path not in self.files}
        table = {**others, **rows}
        if table != self.rows or not (self._out / TABLE).exists():
            _put(self._out / TABLE, _csv_of(table).encode())
        for path in self.files.keys() - files.keys():
            _remove(self._out / path)
        self.rows = table
        changed = self.files != files
        self.files = dict(files)
        if changed or not (self._out / MARK).exists():
            self._note()

    def _note(self) -> None:
        content = {
            "schema": _SCHEMA,
            "station": self._station,
            "rules": self._rules,
            "files": {path: asdict(own) for path, own in sorted(self.files.items())},
        }
        _put(self._out / MARK, json.dumps(content, indent=1).encode())


def _check(out: Path) -> None:
    """Raise UsageError unless the folder is new, empty or a station's corpus."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: expected a folder, found a file")
    if not holds_nothing(out) and not (out / MARK).is_file():
        raise UsageError(
            f"--out {out}: expected a new folder, an empty one, or one that `birdstation corpus` "
            "made, found other files; choose another folder"
        )


def _mark_of(path: Path) -> tuple[str, str, dict[str, OwnFile]]:
    """Station, rules and files of a mark. Raises UsageError."""
    try:
        mark = json.loads(path.read_bytes())
        if mark["schema"] != _SCHEMA:
            raise ValueError(f"expected schema {_SCHEMA}, found {mark['schema']!r}")
        files = {
            str(name): OwnFile(str(own["clip"]), int(own["bytes"]))
            for name, own in mark["files"].items()
        }
        for name in files:
            if name.startswith("/") or ".." in name.split("/"):
                raise ValueError(f"expected names of files in the folder, found {name!r}")
        return str(mark["station"]), str(mark["rules"]), files
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(
            f"{path}: expected the mark of a station's corpus, found something else ({error}); "
            "choose another folder for --out"
        ) from error


def _table_of(path: Path) -> dict[str, CorpusRow]:
    """Rows of a table by path; none if it does not exist. Raises UsageError, since rows of others
    would be lost."""
    if not path.exists():
        return {}
    rows = {}
    try:
        table = Table(text_of(path.read_bytes()), _COLUMNS)
        if len(table.names) != len(_COLUMNS):
            raise TextError(f"expected the columns {', '.join(_COLUMNS)}")
        for line, cells in table:
            if not isinstance(cells, dict):
                raise TextError(f"line {line}: expected {len(_COLUMNS)} cells, found {len(cells)}")
            row = CorpusRow(**cells)
            rows[row.path] = row
    except TextError as error:
        raise UsageError(
            f"{path}: {error}; correct it, or choose another folder for --out"
        ) from error
    return rows


def _csv_of(rows: Mapping[str, CorpusRow]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(
        [getattr(row, column) for column in _COLUMNS] for _, row in sorted(rows.items())
    )
    return text.getvalue()


def _put(path: Path, content: bytes) -> None:
    """Write a file, whole and on the disk, or not at all. Raises OSError with its name."""
    part = path.with_name(f"{_PART}{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    with suppress(OSError):
        path.parent.rmdir()  # the last of its species
