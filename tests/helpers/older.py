"""Files that earlier versions wrote, kept in tests/data/before-0.3, and today's commands on copies.

How they were made: tests/data/README.md."""

import json
import lzma
import shutil
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

from typer import Typer
from typer.testing import CliRunner

from edge.__main__ import app as station

KEPT = Path(__file__).parents[1] / "data" / "before-0.3"
EXPECTED: dict[str, Any] = json.loads((KEPT / "expected.json").read_text(encoding="utf8"))
STATION = "station"  # of the version before the moves
Rows = list[dict[str, Any]]


def copy_station(folder: Path, kept: str = STATION) -> Path:
    """A copy of a kept station, without a broker; its station.yaml. Recordings are alike in all."""
    folder.mkdir()
    for part in ("bundle", "clips", "in"):
        own = KEPT / kept / part
        shutil.copytree(own if own.is_dir() else KEPT / STATION / part, folder / part)
    (folder / "station.db").write_bytes(kept_database(kept))
    settings = folder / "station.yaml"
    lines = (KEPT / kept / "station.yaml").read_text(encoding="utf8").splitlines(keepends=True)
    settings.write_text("".join(line for line in lines if not line.startswith("mqtt:")))
    return settings


def kept_database(kept: str = STATION) -> bytes:
    """The station.db of a kept station."""
    return lzma.decompress((KEPT / kept / "station.db.xz").read_bytes())


def copy_ground(folder: Path) -> Path:
    """The corpus, rasters, weights and recipe of the kept run, and the run itself."""
    with tarfile.open(KEPT / "run.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def rows(database: Path, table: str) -> Rows:
    """All rows of a table, sorted."""
    with closing(sqlite3.connect(database)) as db:
        db.row_factory = sqlite3.Row
        found = [dict(row) for row in db.execute(f'SELECT * FROM "{table}"')]
    return sorted(found, key=repr)


def tables(database: Path) -> list[str]:
    """Names of its tables, but for SQLite's own."""
    with closing(sqlite3.connect(database)) as db:
        found = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        names = [name for (name,) in found]
    return [name for name in names if not name.startswith(("sqlite_", "_sqlite"))]


def run(app: Typer, *arguments: object) -> str:
    """What a command prints that ends well."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, (arguments, done.output, done.exception)
    return done.output


def replayed(settings: Path) -> dict[str, Any]:
    """The summary of a replay of a station's recordings."""
    replay = ("replay", settings.parent / "in", "--jobs", "1", "--json")
    return dict(json.loads(run(station, *replay, "--config", settings).splitlines()[-1]))
