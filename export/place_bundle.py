"""Puts a finished bundle into the folder given by the user, which may contain an older bundle.
Removes nothing else.

The bundle is made in a folder of our own beside it: `.birdstation-export-NAME`, with a mark file
that is locked during the export, `new`, and `old` while the older bundle is replaced. Leftovers of
a killed export are identified by the mark and by the lists of names here and in it, and removed by
the next export. Knows names and sums, no network.
"""

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from edge.contract.bundle import LICENCE, MANIFEST, NAMES, PRIOR, PROBE, SUMS, TAXONOMY
from edge.contract.errors import UsageError
from edge.contract.folders import holds_nothing, passed_over
from edge.contract.text import lines_of
from trainer.files import cannot_write, make_folder, naming

_OURS = ".birdstation-export-"  # prefix of the working folder of an export
_MARK = "export.json"
_NEW = "new"
_OLD = "old"
_MADE = (  # files that an export writes into `new`
    *(
        MANIFEST,
        SUMS,
        TAXONOMY,
        PROBE,
        NAMES,
        LICENCE,
        "report.html",
        "members/*.onnx",
        "members/*.npy",
    ),
    *(f"{PRIOR}/*.onnx", f"{PRIOR}/*.json", f"{PRIOR}/*.npz"),
)
_MOUNTS = Path("/proc/self/mountinfo")
_UNLOCKED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # of file systems without locks


def check_out(out: Path) -> tuple[Path, list[str]]:
    """The folder itself, with links resolved, and the files of the bundle to replace. Raises
    UsageError if it contains anything else, or cannot be replaced."""
    try:
        folder = out.resolve()
    except (OSError, RuntimeError) as error:  # a link to itself
        raise UsageError(f"{out}: {error}") from error
    if folder.is_symlink():  # the same in Python 3.13
        raise UsageError(f"{out}: a link to itself; --out is the folder of a bundle")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{out}: is a file; --out is the folder of a bundle")
    if _is_mounted(folder):
        raise UsageError(
            f"{out}: a disk is mounted there, so it cannot be replaced; choose a folder in it"
        )
    if holds_nothing(folder):
        return folder, []
    files = _sealed(folder)
    if not files:
        raise UsageError(f"{out}: is not empty and not a bundle; choose another folder")
    known = {
        *files,
        *(parent.as_posix() for name in files for parent in PurePosixPath(name).parents),
    }
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.as_posix() not in known and not any(map(passed_over, name.parts)):
            raise UsageError(
                f"{out}: contains {name}, which is not part of the bundle; move it, or choose "
                "another folder"
            )
    return folder, files


def probe_place(out: Path) -> None:
    """Check before any work that `bundle_place` will succeed. Raises UsageError for a folder that
    cannot be replaced, OSError if nothing can be written."""
    with _place(out):
        pass


@contextmanager
def bundle_place(out: Path) -> Iterator[Path]:
    """An empty folder beside `out` to make a bundle in, which replaces `out` when the block
    succeeds. Of an older bundle only the files that it lists are removed; files of the operating
    system stay.

    Raises UsageError if `out` contains anything but a bundle, or if another export is at work on
    it; OSError naming `out`.
    """
    with _place(out) as (place, folder, files):
        try:
            with naming(out):
                (place / _NEW).mkdir()
                yield place / _NEW
                _replace(place, folder, files)
        except OSError as error:
            # For a copy, the source comes first.
            names = (str(name or "") for name in (error.filename, error.filename2))
            if any(name.startswith(str(place)) for name in names):
                raise cannot_write(out, error) from error
            raise


def _is_mounted(folder: Path) -> bool:
    """True if a file system, or a folder of the same one, is mounted there."""
    try:
        places = [line.split(b" ")[4] for line in _MOUNTS.read_bytes().splitlines()]
    except (OSError, IndexError):  # on other systems
        return folder.is_mount()
    return os.fsencode(folder) in [
        place.decode("unicode_escape").encode("latin-1") for place in places
    ]


def _sealed(folder: Path) -> list[str]:
    """The files that SHA256SUMS lists, if the manifest is that of a bundle of any version; else
    none."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf8"))
        lines = lines_of((folder / SUMS).read_text(encoding="utf8"))
    except (OSError, ValueError):
        return []
    ours = (
        isinstance(manifest, dict)
        and {"schema", "id", "front_end", "taxonomy_digest"} <= manifest.keys()
    )
    return [*_inside(line.partition("  ")[2] for line in lines), SUMS] if ours else []


def _inside(names: Any) -> list[str]:
    """The names that stay inside a folder, not beside or above it."""
    found = [PurePosixPath(name) for name in names]
    return [
        name.as_posix()
        for name in found
        if name.name and not name.is_absolute() and ".." not in name.parts
    ]


@contextmanager
def _place(out: Path) -> Iterator[tuple[Path, Path, list[str]]]:
    """The working folder of this export alone, cleared of earlier ones; `out` itself; and the files
    of the bundle in it."""
    folder, _ = check_out(out)
    place = folder.with_name(f"{_OURS}{folder.name}")
    with _locked(place, out):
        try:
            _recover(place, folder)
            yield place, *check_out(out)  # an older bundle may have been restored
        finally:
            with suppress(OSError):  # the next export removes the rest
                _clear_new(place / _NEW)


@contextmanager
def _locked(place: Path, out: Path) -> Iterator[None]:
    """Create the working folder with its mark, locked by this process; both are removed at the end,
    unless the folder contains anything else."""
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise UsageError(f"{place}: is in the way and was not made by an export; move it")
    try:
        make_folder(place)
    except OSError as error:
        # The parent of our own folder.
        named = out if error.errno == errno.ENAMETOOLONG else place.parent
        raise OSError(error.errno, error.strerror, str(named)) from None
    mark = place / _MARK
    names = [] if mark.is_file() else sorted(path.name for path in place.iterdir())
    if names and _MARK not in names:
        raise UsageError(f"{place}: contains {names[0]} and was not made by an export; move it")
    with _hold(mark, out):
        try:
            yield
        finally:
            with suppress(OSError):  # there are other files
                if [path.name for path in place.iterdir()] == [_MARK]:
                    mark.unlink()
                    place.rmdir()


@contextmanager
def _hold(mark: Path, out: Path) -> Iterator[None]:
    """Lock a mark. The lock ends with the process. A mark that its holder has removed meanwhile is
    void and created again."""
    while True:
        make_folder(mark.parent)
        try:
            number = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:  # the folder was removed, too
            continue
        with os.fdopen(number, "r+b"):
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                advice = "wait for it or choose another --out"
                raise UsageError(f"{out}: in use by another export; {advice}") from None
            except OSError as error:
                if error.errno not in _UNLOCKED:
                    raise
            if mark.exists() and mark.stat().st_ino == os.fstat(number).st_ino:
                yield
                return


def _write_mark(place: Path, replaces: Sequence[str]) -> None:
    """Record the files that an export removes, in case it is killed. Written in place: a new file
    would have no lock."""
    text = json.dumps({"program": "birdstation export", "replaces": list(replaces)})
    (place / _MARK).write_text(text + "\n", encoding="utf8")


def _recover(place: Path, folder: Path) -> None:
    """Clean up after a killed export: remove its files, and restore the older bundle unless the new
    one has replaced it."""
    if (place / _OLD).is_dir():
        if holds_nothing(folder):
            with suppress(OSError):
                folder.rmdir()
            (place / _OLD).rename(folder)
        else:
            _clear_old(place, folder, [*_files_of_mark(place), *_sealed(place / _OLD)])
    _clear_new(place / _NEW)
    for path in place.iterdir():
        if path.name != _MARK:
            raise UsageError(f"{place}: contains {path.name}, which no export made; move it")


def _files_of_mark(place: Path) -> list[str]:
    try:
        return _inside(json.loads((place / _MARK).read_text(encoding="utf8"))["replaces"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _replace(place: Path, folder: Path, files: Sequence[str]) -> None:
    """Replace `folder` by `new`, removing only `files` of it."""
    _write_mark(place, files)
    if folder.exists():
        (place / _NEW).chmod(folder.stat().st_mode & 0o7777)
        folder.rename(place / _OLD)
    try:
        (place / _NEW).rename(folder)
    except BaseException:
        if (place / _OLD).exists():
            (place / _OLD).rename(folder)
        raise
    if (place / _OLD).exists():
        _clear_old(place, folder, files)


def _clear_old(place: Path, folder: Path, files: Sequence[str]) -> None:
    """Remove the files of an older bundle; move its other files to the new one, unless that has a
    file of this name."""
    old = place / _OLD
    for path in _remove(old, files):
        target = folder / path.relative_to(old)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            path.rename(target)
    _remove(old, ())


def _clear_new(folder: Path) -> None:
    """Remove the files of an export, by name, and folders that are then empty."""
    if not folder.is_symlink():
        names = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
        _remove(folder, [name for name in names if any(fnmatch(name, made) for made in _MADE)])


def _remove(folder: Path, files: Sequence[str]) -> list[Path]:
    """Remove these files and folders that are then empty. Returns the files that are left."""
    for name in files:
        if not (folder / name).is_dir() or (folder / name).is_symlink():
            (folder / name).unlink(missing_ok=True)
    left = []
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):  # not empty
                path.rmdir()
        else:
            left.append(path)
    with suppress(OSError):
        folder.rmdir()
    return left
