"""A replayed archive with clips, and a person who reviews it."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.analysis.recognizer import Recognizer
from edge.analysis.stretch import Analyst
from edge.clips.maker import ClipMaker
from edge.config import Config, load_config
from edge.contract.bundle import read_bundle
from edge.replay.archive import recordings_in
from edge.replay.replay import Replay
from edge.reports.why import species_instead
from edge.store.clips import ClipTable
from edge.store.record import Store
from tests.conftest import hiss, note, write_sound

CLIPS = "clips: {of_recordings: true}"
PLACE = "id: porch, latitude: 52.123456, longitude: 13.654321, timezone: Asia/Kolkata"
NAME = "a_20240512_020000.wav"  # in India; the day before in UTC


class Heard(NamedTuple):
    """A detection and its clip."""

    id: str
    species: str
    clip: str


def write_archive(folder: Path) -> Path:
    """A low and a high note in two clips of one recording; a day later a middle and a low one at
    once, in one clip."""
    song = np.concatenate([hiss(9), note("lowtoo", 5), hiss(20), note("higtoo", 5), hiss(9)])
    write_sound(folder / NAME, song)
    chord: NDArray[np.float32] = note("midtoo", 5) + note("lowtoo", 5)
    write_sound(folder / "b_20240513_060000.wav", np.concatenate([hiss(9), chord, hiss(9)]))
    return folder


def replayed(config_file: Path, folder: Path) -> Config:
    """Analysed with clips, in this process."""
    config = load_config(config_file)
    analyst = Analyst(config, Recognizer(read_bundle(config.bundle_folder)))
    with Store(config.database) as store:

        def maker() -> ClipMaker:
            return ClipMaker(lambda: ClipTable(config.database), config, analyst.bundle.id)

        list(Replay(analyst, store, maker).run(*recordings_in(folder)))
    return config


def heard(config: Config, species: str = "", recording: str = "") -> list[Heard]:
    """Detections with clips, the best of each clip and species first."""
    with Store(config.database) as store:
        found = store.rows(
            "SELECT d.id, d.species, c.path FROM detections d JOIN clips c ON c.id = d.clip JOIN "
            "recordings r ON r.id = d.recording WHERE d.species LIKE ? AND r.path LIKE ? ORDER BY "
            "d.start_utc, d.species, d.id",
            (species or "%", f"{recording or '%'}%"),
        )
    return [Heard(*row) for row in found]


def review(
    config: Config, detection: str, verdict: str, instead: str = "", reviewer: str = "ann"
) -> None:
    """As `birdstation review` does it."""
    with Store(config.database) as store:
        other = species_instead(store, instead, verdict)
        store.review(detection, reviewer, verdict, "", keep=True, instead=other)


def table(corpus: Path) -> list[dict[str, str]]:
    """Rows of the table of a corpus."""
    with (corpus / "train_metadata.csv").open(encoding="utf8", newline="") as file:
        return list(csv.DictReader(file))


def state_of_files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
