"""Clips of a folder, and what a table beside them says of when and where each was recorded.

    clips.csv: file (relative to the table), time (ISO 8601), latitude, longitude, score

The table is optional, and so are its columns but `file`. Knows no network.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edge.contract.coordinates import check_coordinates
from edge.contract.errors import CorpusError
from edge.contract.folders import files_under
from edge.contract.text import Table, TextError, text_of
from trainer.corpus.recordings import AUDIO

TABLE = "clips.csv"


@dataclass(frozen=True)
class Clip:
    """A sound file, named relative to its folder, and what is known of it."""

    path: Path
    name: str
    time: datetime | None = None  # as the table's clock shows it
    latitude: float | None = None  # degrees north, WGS84; None exactly if longitude is
    longitude: float | None = None
    score: float | None = None


def read_clips(folder: Path, tell: Callable[[str], None]) -> list[Clip]:
    """Every sound file below `folder`, by name. Cells of the table that cannot be read, and files
    that are not there, go to `tell` with their line.

    Raises CorpusError if there is no sound file, or if the table is none.
    """
    if not folder.is_dir():
        raise CorpusError(f"{folder}: expected a folder of sound files, found none")
    files = files_under(folder)
    rows: dict[Path, Clip] = {}
    for table in (path for path in files if path.name == TABLE):
        rows |= _read_table(table, tell)
    found = [path for path in files if path.suffix.lower() in AUDIO]
    if not found:
        raise CorpusError(f"{folder}: expected sound files ({', '.join(AUDIO)}), found none")
    return [_named(rows.get(path, Clip(path, "")), folder) for path in found]


def _named(clip: Clip, folder: Path) -> Clip:
    name = clip.path.relative_to(folder).as_posix()
    return Clip(clip.path, name, clip.time, clip.latitude, clip.longitude, clip.score)


def _read_table(path: Path, tell: Callable[[str], None]) -> dict[Path, Clip]:
    also = ("time", "latitude", "longitude", "score")
    rows: dict[Path, Clip] = {}
    try:
        for line, row in Table(text_of(path.read_bytes()), ("file",), also):
            if not isinstance(row, dict):
                tell(f"{path}, line {line}: skipped: has {len(row)} cells")
                continue
            file = path.parent / row["file"]
            if not file.is_file():
                tell(f"{path}, line {line}: file: {row['file']!r} is not there")
                continue
            clip, problems = _row(file, row)
            rows[file] = clip
            for words in problems:
                tell(f"{path}, line {line}: {words}")
    except (OSError, TextError) as error:
        raise CorpusError(f"{path}: not readable: {error}") from error
    return rows


def _row(file: Path, row: dict[str, str]) -> tuple[Clip, list[str]]:
    """A row's clip, not yet named, and what of the row cannot be read."""
    problems: list[str] = []
    time = None
    text = (row.get("time") or "").strip()
    if text:
        try:
            time = datetime.fromisoformat(text.replace("Z", "+00:00"))
        except ValueError:
            problems.append(
                f"time: expected ISO 8601, e.g. 2026-05-01T04:30:00+02:00, found {text!r}"
            )
    latitude, longitude, score = (
        _number(key, row.get(key) or "", problems) for key in ("latitude", "longitude", "score")
    )
    if latitude is None or longitude is None:
        return Clip(file, "", time, score=score), problems
    try:
        check_coordinates(latitude, longitude)
    except ValueError as error:
        problems.append(str(error))
        return Clip(file, "", time, score=score), problems
    return Clip(file, "", time, latitude, longitude, score), problems


def _number(key: str, text: str, problems: list[str]) -> float | None:
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isfinite(value):
        return value
    problems.append(f"{key}: expected a number, found {text!r}")
    return None
