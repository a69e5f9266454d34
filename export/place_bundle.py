"""Puts a finished bundle into the folder that a person named, where an older bundle may lie. Takes away nothing else.

Knows names and sums, no network.
"""

import glob
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from edge.contract.bundle import MANIFEST, SUMS
from edge.contract.errors import UsageError
from edge.contract.folders import holds_nothing, passed_over
from trainer.files import make_folder

_OURS = ".birdstation-"  # how the name of a folder begins that an export works in
_OLD = ".old"  # how it ends where the older bundle lies meanwhile


def check_out(out: Path) -> tuple[Path, list[str]]:
    """The folder itself, links resolved, and the files of the bundle that is to be replaced. Raises UsageError where
    it holds anything else."""
    try:
        folder = out.resolve()
    except (OSError, RuntimeError) as error:  # a link to itself
        raise UsageError(f"{out}: {error}") from error
    if folder.is_symlink():  # the same, as Python 3.13 has it
        raise UsageError(f"{out}: a link that leads to itself; --out is the folder of a bundle")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{out}: is a file; --out is the folder of a bundle")
    if holds_nothing(folder):
        return folder, []
    files = _sealed(folder)
    if not files:
        raise UsageError(f"{out}: is not empty and not a bundle; choose another folder")
    known = {*files, *(parent.as_posix() for name in files for parent in PurePosixPath(name).parents)}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.as_posix() not in known and not any(map(passed_over, name.parts)):
            raise UsageError(f"{out}: holds {name}, which is not of the bundle; move it, or choose another folder")
    return folder, files


def _sealed(folder: Path) -> list[str]:
    """What SHA256SUMS lists, if the manifest is a bundle's, of any version; else nothing."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf8"))
        lines = (folder / SUMS).read_text(encoding="utf8").splitlines()
    except (OSError, ValueError):
        return []
    ours = isinstance(manifest, dict) and {"schema", "id", "front_end", "taxonomy_digest"} <= manifest.keys()
    names = [PurePosixPath(line.partition("  ")[2]) for line in lines]
    inside = [name.as_posix() for name in names if name.name and not name.is_absolute() and ".." not in name.parts]
    return [*inside, SUMS] if ours else []


def work_folder(folder: Path) -> Path:
    """An empty folder beside `folder`; what killed exports left there is removed."""
    for left in folder.parent.glob(f"{_OURS}*-{glob.escape(folder.name)}*"):
        process = left.name.removeprefix(_OURS).partition("-")[0]
        if not process.isdigit() or _lives(int(process)):
            continue
        if left.name.endswith(_OLD):
            _take_away(left, _sealed(left))
        else:
            shutil.rmtree(left, ignore_errors=True)
    work = folder.with_name(f"{_OURS}{os.getpid()}-{folder.name}")
    shutil.rmtree(work, ignore_errors=True)
    try:
        make_folder(work)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from None  # the name that a person knows
    return work


def replace_bundle(work: Path, folder: Path, files: Sequence[str]) -> None:
    """`work` takes the place of `folder`, of which only `files` go; what systems left there stays."""
    old = work.with_name(work.name + _OLD)
    if folder.exists():
        work.chmod(folder.stat().st_mode & 0o7777)
        folder.rename(old)
    work.rename(folder)
    if old.exists():
        for path in _take_away(old, files):
            target = folder / path.relative_to(old)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                path.rename(target)
        _take_away(old, ())


def _take_away(folder: Path, files: Sequence[str]) -> list[Path]:
    """Remove these files and the folders that are empty then; returns what is left."""
    for name in files:
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


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
