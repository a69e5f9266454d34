"""The sound files below a folder, found by whatever a table calls them: a path of another machine,
a name alone, Windows' notation. Decodes nothing and knows no labels."""

import os
import re
import unicodedata
from functools import cached_property
from pathlib import Path

from edge.contract.folders import files_under
from trainer.corpus.sound import AUDIO

_DRIVE = re.compile(r"[A-Za-z]:(?=/)")


class SoundFiles:
    """All sound files below a folder, sorted. Raises CorpusError if a folder cannot be listed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.all = files_under(folder)
        self.sound = [path for path in self.all if is_sound(path) and is_text(path.name)]
        self._sought: dict[tuple[str, Path], tuple[Path, ...]] = {}
        self._there = frozenset(self.sound)

    def find(self, written: str, beside: Path) -> tuple[Path, ...]:
        """The files that a text in a table in the folder `beside` may mean: relative to that
        folder, to the data, an absolute path, or a file with this name and as much as possible of
        its path. Several if that is ambiguous."""
        if (written, beside) not in self._sought:
            self._sought[written, beside] = self._find(_tidy(written), beside)
        return self._sought[written, beside]

    def beside(self, table: Path) -> Path | None:
        """The sound file that a table without names of files is about: `a.wav` for `a.txt`,
        `a.BirdNET.results.csv` and `a.Table.1.selections.txt`; in the table's folder, else the only
        one with this name."""
        stem = _same(table.stem)
        names = [stem, *(stem[: at.start()] for at in reversed([*re.finditer("[._ -]", stem)]))]
        for name in filter(None, names):
            found = self._by_stem.get(name, [])
            here = [path for path in found if path.parent == table.parent]
            if here or len(found) == 1:
                return (here or found)[0]
        return None

    def name_of(self, path: Path) -> str:
        """The path of a file below the folder, with forward slashes; of one elsewhere all of it."""
        return (
            path.relative_to(self.folder) if path.is_relative_to(self.folder) else path
        ).as_posix()

    def _find(self, text: str, beside: Path) -> tuple[Path, ...]:
        parts = [part for part in _same(text).split("/") if part not in ("", ".", "..")]
        if not parts:
            return ()
        for base in (beside, self.folder):
            path = self._existing(base / text)
            if path is not None:
                return (path,)
        found = self._by_name.get(parts[-1]) or self._by_stem.get(parts[-1], [])
        agree = {path: _agreement(parts, _parts(self.name_of(path))) for path in found}
        most = max(agree.values(), default=0)
        likely = tuple(path for path in found if agree[path] == most)
        near = tuple(path for path in likely if path.is_relative_to(beside))
        return near or likely

    def _existing(self, path: Path) -> Path | None:
        """The file at a path, as listed if it is below the folder."""
        try:
            if path in self._there:
                return path
            return self._by_real.get(os.path.realpath(path), path) if path.is_file() else None
        except (OSError, ValueError):  # a name that no file can have
            return None

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in self.sound:
            found.setdefault(_same(path.name), []).append(path)
        return found

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in self.sound:
            found.setdefault(_same(path.stem), []).append(path)
        return found

    @cached_property
    def _by_real(self) -> dict[str, Path]:
        return {os.path.realpath(path): path for path in self.sound}


def is_sound(path: Path) -> bool:
    """True if a file has the suffix of a sound file."""
    return path.suffix.lower() in AUDIO


def is_text(name: str) -> bool:
    """True unless a name has bytes that are not UTF-8, which no table can hold."""
    try:
        name.encode("utf8")
    except UnicodeEncodeError:
        return False
    return True


def _tidy(written: str) -> str:
    """A path as this system writes it: `C:\\\\birds\\\\a.wav` is `/birds/a.wav`."""
    return _DRIVE.sub("", written.strip().strip("\"'").replace("\\", "/"))


def _same(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _parts(name: str) -> list[str]:
    return _same(name).split("/")


def _agreement(parts: list[str], others: list[str]) -> int:
    """The number of last parts of two paths that agree; the file's name may lack its suffix."""
    count = 1
    while count < min(len(parts), len(others)) and parts[-count - 1] == others[-count - 1]:
        count += 1
    return count
