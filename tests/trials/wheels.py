"""The wheel on its own: built, installed in an empty environment of each interpreter, and at work
from another folder.

    python -m tests.trials.wheels --python PYTHON [--python PYTHON …] [--max-mb 350] [--keep DIR]

The wheel is built by `python -m build --wheel` from a copy of the tracked files, so nothing of this
checkout is on the way. Each environment is a fresh one by `python -m venv`; `birdstation demo` then
runs in a folder of its own, with neither PYTHONPATH nor the checkout at hand. Said of each: seconds
of the installation (downloads included, if pip has nothing in its cache), megabytes that it added
and how many of them pip compiled, seconds of the demonstration, detections, and whether these are
those of the first. Exits 1 if one does not install, is larger than allowed, does not run or finds
something else.
"""

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.trials import above_zero

PROJECT = Path(__file__).resolve().parents[2]
Rows = tuple[tuple[str, str, float], ...]


@dataclass(frozen=True)
class Tried:
    """What one interpreter made of the wheel."""

    python: str
    install_s: float
    added_mb: float
    compiled_mb: float
    demo_s: float
    rows: Rows
    problems: tuple[str, ...]

    def told(self, first: Rows) -> str:
        """One line for the screen."""
        same = "the same" if self.rows == first else "OTHERS"
        figures = (
            f"{self.install_s:.1f} s, {self.added_mb:.0f} MB; demo {self.demo_s:.1f} s, "
            f"{len(self.rows)} detections"
        )
        return "; ".join(
            (f"Python {self.python}: installed in {figures} ({same} as the first)", *self.problems)
        )


def bare_environment() -> dict[str, str]:
    """This process's environment without what points Python at a checkout or an environment."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }


def checked(command: Sequence[str | Path], folder: Path) -> str:
    """Run it in `folder`; its standard output. Raises RuntimeError with the end of what it said if
    it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=bare_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])
        raise RuntimeError(
            f"{' '.join(str(part) for part in command)}: exit {done.returncode}\n{said}"
        )
    return done.stdout


def size_mb(folder: Path, pattern: str = "*") -> float:
    """Megabytes (10⁶ bytes) of the files below, links not followed."""
    files = (path.lstat() for path in folder.rglob(pattern))
    return sum(found.st_size for found in files) / 1e6


def tracked_copy(to: Path) -> Path:
    """The tracked files of this checkout as they lie there, without anything that was built."""
    names = checked(["git", "ls-files", "-z"], PROJECT).split("\0")
    for name in filter(None, names):
        if (PROJECT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, to / name)
    return to


def built(work: Path) -> Path:
    """The wheel, built in an environment of its own."""
    checked([sys.executable, "-m", "venv", work / "builder"], work)
    python = work / "builder/bin/python"
    checked([python, "-m", "pip", "install", "--quiet", "build"], work)
    checked(
        [
            python,
            "-m",
            "build",
            "--wheel",
            "--outdir",
            work / "dist",
            tracked_copy(work / "source"),
        ],
        work,
    )
    (wheel,) = (work / "dist").glob("*.whl")
    return wheel


def detections(database: Path) -> Rows:
    """Id, species and score (6 digits) of each detection, in the order of their ids."""
    with closing(sqlite3.connect(database)) as db:
        found = db.execute("SELECT id, species, score FROM detections ORDER BY id").fetchall()
    return tuple((identity, species, round(score, 6)) for identity, species, score in found)


def tried(interpreter: str, wheel: Path, work: Path, max_mb: float) -> Tried:
    """Install the wheel into an empty environment of that interpreter and run the demonstration
    from another folder."""
    named = checked(
        [interpreter, "-c", "import platform; print(platform.python_version())"], work
    ).strip()
    place = work / f"venv-{named}"
    elsewhere = work / f"elsewhere-{named}"
    elsewhere.mkdir()
    problems: list[str] = []
    checked([interpreter, "-m", "venv", place], work)
    empty = (size_mb(place), size_mb(place, "*.pyc"))
    start = time.perf_counter()
    checked([place / "bin/python", "-m", "pip", "install", "--quiet", wheel], elsewhere)
    install_s = time.perf_counter() - start
    added_mb = size_mb(place) - empty[0]
    compiled_mb = size_mb(place, "*.pyc") - empty[1]
    if added_mb > max_mb:
        problems.append(f"more than {max_mb:.0f} MB")
    start = time.perf_counter()
    checked([place / "bin/birdstation", "demo", "--out", "shown"], elsewhere)
    demo_s = time.perf_counter() - start
    rows = detections(elsewhere / "shown/station.db")
    if (
        len(rows)
        != json.loads((elsewhere / "shown/summary.json").read_text(encoding="utf8"))["detections"]
    ):
        problems.append("summary.json counts other detections than station.db holds")
    return Tried(named, install_s, added_mb, compiled_mb, demo_s, rows, tuple(problems))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--python",
        action="append",
        required=True,
        help="an interpreter; may be given several times",
    )
    parser.add_argument(
        "--max-mb", type=above_zero, default=350, help="what an installation may add"
    )
    parser.add_argument(
        "--keep", type=Path, help="where the wheel goes; by default it is thrown away"
    )
    return parser.parse_args()


def main() -> int:
    """Build, install and run; 1 if anything is wrong."""
    given = _arguments()
    wrong = 0
    first = None
    with tempfile.TemporaryDirectory(prefix="wheels-") as folder:
        work = Path(folder)
        (work / "source").mkdir()
        wheel = built(work)
        with zipfile.ZipFile(wheel) as parts:
            print(
                f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB, {len(parts.namelist())} files",
                flush=True,
            )
        if given.keep:
            given.keep.mkdir(parents=True, exist_ok=True)
            shutil.copy2(wheel, given.keep)
        for interpreter in given.python:
            try:
                found = tried(interpreter, wheel, work, given.max_mb)
            except (RuntimeError, OSError, sqlite3.Error) as error:
                print(f"{interpreter}: {error}", flush=True)
                wrong += 1
                continue
            first = first if first is not None else found.rows
            print(found.told(first), flush=True)
            wrong += bool(found.problems or found.rows != first or not found.rows)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
