"""`make birds`: finds real species in real sound: adopts and checks a published model, replays a
folder, makes a page.

Each step is the real command in its own process and skips what is already done. The folder of
recordings is only read.
"""

import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from edge.capture.recording import find_recordings
from edge.contract.bundle import Bundle, read_bundle
from edge.contract.errors import BirdstationError, BundleError, ConfigError, UsageError
from edge.types import Place
from export.adopt.known import read_known
from export.example_sound import NAMES, example_sound

MODEL = "birdnet-v2.4"
_WRITTEN_BY = "# Written by `python -m export birds`"  # first line of settings that may be replaced
_ALL_WELL = 0
_BAD = 1
_SOME_REFUSED = 3


class StepFailure(BirdstationError):
    """A step failed or was killed."""


def run_birds(
    out: Path,
    console: Console,
    *,
    recordings: Path | None = None,
    place: str | None = None,
    accept: str | None = None,
    bundle: Path | None = None,
    from_folder: Path | None = None,
) -> dict[str, Any]:
    """Fill `out` with bundle, station.yaml, station.db and birds.html. Returns the summary of the
    replay.

    `recordings`: a folder, or one recording; None: an example is fetched. `place`:
    "latitude,longitude". `accept`: the licence of the model; None: the user is asked. `bundle`: an
    existing one, instead of adopting. `from_folder`: the folder of downloaded packages. Raises
    UsageError, ConfigError, NoExample, StepFailure.
    """
    where = None if place is None else parse_place(place)
    config = out / "station.yaml"
    _check(config)
    if recordings is not None:
        recordings = recordings.expanduser()
        _check_recordings(recordings, out)
    adopted = bundle or adopt_model(out / "bundle", console, accept, from_folder)
    if recordings is None:
        console.rule("example recording")
        with naming_disk(out):
            recordings = example_sound(out / "example", from_folder)
        console.print(NAMES, soft_wrap=True, highlight=False)
    with naming_disk(out):
        folder = recordings if recordings.is_dir() else _folder_of(recordings, out / "one")
        _write_settings(config, adopted, folder, where)
    if where is None:
        console.print(
            "No place is known except from the recordings themselves: with PLACE=48.52,9.06, place "
            "and season count too.",
            soft_wrap=True,
        )
    run_step(console, "check", ("edge", "check", "--config", config), goes_on=(_BAD,))
    summary = _replay(console, recordings, config)
    run_step(console, "page", ("edge", "pictures", recordings, "--config", config, "--out", out))
    return summary


def parse_place(text: str) -> Place:
    """Parse two numbers in degrees. Raises UsageError."""
    expected = "expected latitude,longitude in degrees with points, e.g. 48.52,9.06"
    parts = text.split(",")
    try:
        latitude, longitude = map(float, parts)
    except ValueError as error:
        raise UsageError(f"PLACE (--place): found {text!r}; {expected}") from error
    if not (abs(latitude) <= 90 and abs(longitude) <= 180) or math.isnan(latitude + longitude):
        raise UsageError(
            f"PLACE (--place): found {text!r}: latitude is -90 to 90, longitude -180 to 180"
        )
    return Place(latitude, longitude)


def _check(config: Path) -> None:
    """Raise UsageError if the settings of another station would be replaced."""
    try:
        with config.open("rb") as file:
            ours = file.read(len(_WRITTEN_BY)) == _WRITTEN_BY.encode()
    except FileNotFoundError:
        ours = True
    except NotADirectoryError as error:
        raise UsageError(f"{config.parent}: not a folder; choose another one for --out") from error
    if not ours:
        raise UsageError(f"{config}: not made by `make birds`; choose another folder for --out")


def _check_recordings(path: Path, out: Path) -> None:
    """Raise UsageError if there are no recordings, or if results would be written among them."""
    try:
        is_there = path.exists()
        is_folder = path.is_dir()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    # No setting can contain bytes that are not text, or line breaks.
    if not str(path.resolve()).isprintable():
        raise UsageError(
            f"{str(path)!r}: give it a printable name; FOLDER names a folder of recordings"
        )
    if not is_there:
        raise UsageError(f"{path}: no such folder; FOLDER names a folder of recordings")
    if is_folder and not find_recordings(path):
        raise UsageError(
            f"{path}: no recordings in it or below it; FOLDER names a folder of recordings"
        )
    if is_folder and out.resolve().is_relative_to(path.resolve()):
        raise UsageError(
            f"{path}: contains {out}, the folder for results; FOLDER names a folder of recordings "
            "only"
        )


def adopt_model(
    folder: Path,
    console: Console,
    accept: str | None,
    from_folder: Path | None,
    target: str = "birds",
) -> Path:
    """Adopt the model as a bundle, unless it exists. Raises ConfigError if there is no terminal to
    ask for the licence; its advice names make's `target`."""
    there = _bundle(folder)
    if there is not None:
        licence = f", {there.manifest.licence}" if there.manifest.licence else ""
        console.print(
            f"{folder}: adopted before{licence}", soft_wrap=True, highlight=False, markup=False
        )
        return folder
    spdx = read_known(MODEL).licence.spdx
    if accept != spdx and not (accept is None and sys.stdin.isatty()):
        found = f"; found {accept!r}" if accept else ""
        raise ConfigError(
            f"{MODEL} is licensed under {spdx}, which must be accepted: make {target} "
            f"ACCEPT={spdx}{found}"
        )
    command: list[str | Path] = ["export", "adopt", MODEL, "--out", folder]
    command += ["--accept", accept] if accept is not None else []
    command += ["--from", from_folder] if from_folder is not None else []
    run_step(console, "model", command)
    return folder


def _bundle(folder: Path) -> Bundle | None:
    try:
        return read_bundle(folder)
    except BundleError:  # adopting it again reports what cannot be replaced
        return None


def _folder_of(recording: Path, folder: Path) -> Path:
    """A folder with a link to a single recording."""
    folder.mkdir(parents=True, exist_ok=True)
    for link in folder.iterdir():
        if link.is_symlink():
            link.unlink()
    (folder / recording.name).symlink_to(recording.resolve())
    return folder


@contextmanager
def naming_disk(out: Path) -> Iterator[None]:
    """Turn an OSError into a StepFailure with a path; that of a full disk names no file."""
    try:
        yield
    except OSError as error:
        raise StepFailure(f"{error.filename or out}: {error.strerror or error}") from error


def _write_settings(config: Path, bundle: Path, folder: Path, place: Place | None) -> None:
    station: dict[str, Any] = {"id": "birds"}
    if place is not None:
        station |= {"latitude": place.latitude, "longitude": place.longitude}
    settings = {
        "station": station,
        "bundle": str(bundle.resolve()),
        "source": "folder",
        "folder": {"path": str(folder.resolve())},
    }
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    config.parent.mkdir(parents=True, exist_ok=True)
    part = config.with_name(f".birdstation-{config.name}.part")
    part.write_text(
        f"{_WRITTEN_BY}; the project's station.yaml explains every key.\n{text}", encoding="utf8"
    )
    part.replace(config)


def _replay(console: Console, recordings: Path, config: Path) -> dict[str, Any]:
    command = ("edge", "replay", recordings, "--config", config, "--json")
    said = run_step(console, "recordings", command, goes_on=(_SOME_REFUSED,), output=True)
    summary: dict[str, Any] = json.loads(said.splitlines()[-1])
    if summary["recordings"] and not summary["analysed"]:
        raise StepFailure(
            f"{recordings}: none of {summary['recordings']} recordings could be analysed"
        )
    return summary


def run_step(
    console: Console,
    name: str,
    command: Sequence[str | Path],
    goes_on: tuple[int, ...] = (),
    output: bool = False,
) -> str:
    """Run a command. Its messages go to the screen; its output is returned if `output`. If it fails
    with a status, this process ends with the same status, since the command has printed the reason.
    Raises StepFailure if it was killed."""
    console.rule(name)
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        stdout=subprocess.PIPE if output else None,
        text=True,
    )
    if done.returncode < 0:
        words = " ".join(map(str, command[:2]))
        raise StepFailure(f"{name}: python -m {words} was ended by signal {-done.returncode}")
    if done.returncode not in (_ALL_WELL, *goes_on):
        raise SystemExit(done.returncode)
    return done.stdout or ""
