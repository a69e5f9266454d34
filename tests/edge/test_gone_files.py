"""What was begun of files that are no more is at an end when the folder is looked at; what is only
away is not."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.analysis.recognizer import Recognizer
from edge.config import Config, load_config
from edge.contract.bundle import read_bundle
from edge.contract.errors import StopSignal
from edge.replay.reader import RecordingTask
from edge.store.record import Store
from tests.edge.test_live import rows
from tests.edge.test_passing_errors import Desk, song

NAME = "card/a_20190601_053000.wav"
OTHER = "b_20190601_063000.wav"
ENDED = "SELECT path, state, reason, audio_s FROM recordings ORDER BY path"


@pytest.fixture(scope="module")
def recognizer(bundle_folder: Path) -> Recognizer:
    return Recognizer(read_bundle(bundle_folder))


@pytest.fixture
def watching(tmp_path: Path, station_yaml: Callable[..., Path]) -> Config:
    (tmp_path / "in" / "card").mkdir(parents=True)
    lines = (
        "source: folder",
        f"folder: {{path: {tmp_path / 'in'}, settle_s: 0}}",
        "runtime: {batch: 2, threads: 1}",
    )
    return load_config(station_yaml(*lines))


def begin(config: Config, recognizer: Recognizer, pieces: int = 30) -> None:
    """A file is left in the middle."""
    told: list[int] = []

    def pulse() -> None:
        told.append(1)
        if len(told) > pieces and rows(config, "SELECT 1 FROM effort"):
            raise StopSignal

    desk = Desk(config, recognizer, pulse)
    with pytest.raises(StopSignal):
        desk.until(lambda: False)
    desk.watched.end()
    assert rows(config, "SELECT path, stops FROM attempts") == [(NAME, 1)]
    assert rows(config, "SELECT path, state FROM recordings") == [(NAME, "started")]


def look(config: Config, recognizer: Recognizer) -> None:
    """Once, with nothing to read."""
    desk = Desk(config, recognizer)
    desk.watched.step()
    desk.watched.end()


@pytest.mark.parametrize("left", ["nothing", "its folder", "another file"])
def test_a_file_that_was_deleted_is_at_an_end(
    tmp_path: Path, watching: Config, recognizer: Recognizer, left: str
) -> None:
    """With what was analysed of it; should it come back, it is analysed as if it were new."""
    path = song(tmp_path / "in" / NAME, 40)
    sound = path.read_bytes()
    begin(watching, recognizer)
    ((analysed_s,),) = rows(watching, "SELECT sum(analysed_s) FROM effort")
    path.unlink()
    if left == "nothing":
        path.parent.rmdir()
    if left == "another file":
        path.with_name("notes.txt").write_text("somebody's")
    look(watching, recognizer)
    assert rows(watching, "SELECT * FROM attempts") == []
    assert rows(watching, ENDED) == [
        (NAME, "analysed", "the file was deleted before its end", analysed_s)
    ]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(sound)
    desk = Desk(watching, recognizer)
    assert desk.until(
        lambda: rows(watching, "SELECT 1 FROM recordings WHERE audio_s = 40") == [(1,)]
    )
    assert rows(watching, ENDED) == [(NAME, "analysed", None, 40.0)]
    assert rows(watching, "SELECT sum(analysed_s) FROM effort") == [(40.0,)]
    desk.watched.end()


@pytest.mark.parametrize("what", ["away", "empty under it", "others"])
def test_what_is_away_with_its_disk_is_not_at_an_end(
    tmp_path: Path, watching: Config, recognizer: Recognizer, what: str
) -> None:
    """A folder under a mount is as empty as it was when the disk was put over it."""
    path = song(tmp_path / "in" / NAME, 40)
    begin(watching, recognizer)
    before = rows(watching, "SELECT * FROM attempts")
    path.parent.rename(tmp_path / "disk")
    if what != "away":
        path.parent.mkdir()
        os.utime(path.parent, (1.5e9, 1.5e9))
    if what == "away":
        (tmp_path / "in").rmdir()
    if what == "others":
        song(tmp_path / "in" / OTHER, 6)
    desk = Desk(watching, recognizer)
    done = rows(watching, "SELECT 1 FROM recordings WHERE state = 'analysed'")
    for _ in range(4):
        desk.watched._looked_at = desk.watched._cleaned_at = float("-inf")
        desk.watched.step()
    desk.watched.end()
    assert len(rows(watching, "SELECT 1 FROM recordings WHERE state = 'analysed'")) == len(done) + (
        what == "others"
    )
    assert rows(watching, f"SELECT * FROM attempts WHERE path = '{NAME}'") == before
    assert rows(watching, f"SELECT state FROM recordings WHERE path = '{NAME}'") == [("started",)]


def test_renamed_it_goes_on(tmp_path: Path, watching: Config, recognizer: Recognizer) -> None:
    """Its content is known; only its old name is forgotten."""
    path = song(tmp_path / "in" / NAME, 40)
    begin(watching, recognizer)
    path.rename(tmp_path / "in" / path.name)
    desk = Desk(watching, recognizer)
    assert desk.until(
        lambda: [row[1:] for row in rows(watching, ENDED)] == [("analysed", None, 40.0)]
    )
    desk.watched._cleaned_at = float("-inf")
    assert desk.until(lambda: rows(watching, "SELECT * FROM attempts") == [])
    desk.watched.end()


def test_of_names_of_any_bytes_and_of_programs_that_died(
    tmp_path: Path, watching: Config, recognizer: Recognizer
) -> None:
    """One that is there is found under its printable name; a death counts before it is forgotten; a
    replay's stays."""
    there = song(tmp_path / "in" / "a\\b\x07.wav", 6)
    song(tmp_path / "in" / OTHER, 7)
    Store(watching.database).close()
    desk = Desk(watching, recognizer)
    assert desk.until(
        lambda: rows(watching, "SELECT count(*) FROM recordings WHERE state = 'analysed'") == [(2,)]
    )
    with Store(watching.database) as store:
        task = RecordingTask.of(there, "a\\\\b\\u0007.wav", "folder")
        for name in (task.name, "gone.wav", "replayed.wav"):
            store.attempt("porch", name, task.file, "another boot", "1 1")
        store.refuse("r", "porch", "replayed.wav", task.file, "a", "why")
    desk.watched._cleaned_at = float("-inf")
    assert desk.until(lambda: len(rows(watching, "SELECT * FROM attempts")) < 3)
    assert rows(watching, "SELECT path, deaths, stops FROM attempts ORDER BY path") == [
        (task.name, 0, 1),
        ("replayed.wav", 0, 1),
    ]
    desk.watched.end()


def test_a_log_that_grows_is_refused_once(
    tmp_path: Path, watching: Config, recognizer: Recognizer, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that is no recording, and whose every line makes the station say so anew: one row, one
    line."""
    path = tmp_path / "in" / "LOGFILE"
    refused = "SELECT path, state, bytes FROM recordings"
    desk = Desk(watching, recognizer)
    for lines in (1, 2, 3):
        path.write_text("begun\n" * lines)
        desk.watched.step()
        assert desk.until(
            lambda size=6 * lines: rows(watching, refused) == [("LOGFILE", "refused", size)]
        )
    desk.watched.end()
    assert len([said for said in caplog.messages if "refused" in said]) == 1
    assert rows(watching, "SELECT count(*) FROM files") == [(1,)]
