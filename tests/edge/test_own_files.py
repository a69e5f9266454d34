"""A station does not hear itself: what it keeps is passed over wherever recordings are looked
for."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from edge.analysis.recognizer import Recognizer
from edge.analysis.stretch import Analyst
from edge.capture.folder import FolderWatch
from edge.capture.own_files import OwnFiles
from edge.capture.recording import find_recordings
from edge.check.sound import check_folder
from edge.clips.maker import ClipMaker
from edge.config import Config, load_config
from edge.contract.audio import RATE_HZ
from edge.contract.bundle import read_bundle
from edge.contract.errors import UsageError
from edge.daemon.ledger import Ledger
from edge.daemon.watched_folder import WatchedFolder
from edge.replay.archive import recordings_in
from edge.store.clips import ClipTable
from edge.store.record import Store
from tests.conftest import hiss, note, write_sound

StationYaml = Callable[..., Path]
STEPS = 12  # of the watched folder: more than there are recordings and clips


def keeps(state: Path, record: bool = True) -> set[Path]:
    """Fill a state folder with what a station leaves there; returns the sound in it that is none of
    the station's."""
    clip = "clips/2024-05-12/wren_0.91_20240512T040000.000Z_12345678.flac"
    for name in (
        clip,
        "backups/x.flac",
        "priors/a.npz",
        "engines/b.engine",
        "station.lock",
        "reserve",
    ):
        (state / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(state / name, note("midtoo", 1.0), RATE_HZ, format="FLAC")
    for name in (
        "station.db.damaged-20240512T040000Z",
        "station.db-wal",
        "health.prom",
        "reserve.part",
    ):
        (state / name).write_bytes(b"kept")
    if record:
        (state / "station.db").write_bytes(b"SQLite format 3")
    others = {state / "a_20240512_040000.wav", state / "cliffs" / "b_20240512_050000.wav"}
    for path in others:
        write_sound(path, note("midtoo", 1.0))
    return others


def found(root: Path, own: OwnFiles | None) -> set[Path]:
    """What both walks find; they must agree."""
    watch = FolderWatch(root, 0.0, own=own)
    ready = set(watch.ready())
    assert set(find_recordings(root, own)) == ready
    return ready


@pytest.mark.parametrize("record", [True, False])
@pytest.mark.parametrize("where", ["itself", "below"])
def test_the_state_in_the_watched_folder(tmp_path: Path, where: str, record: bool) -> None:
    """Also while there is no record: somebody has moved it away."""
    state = tmp_path if where == "itself" else tmp_path / "deep" / "state"
    others = keeps(state, record)
    assert found(tmp_path, OwnFiles(state)) == others
    assert found(tmp_path, OwnFiles(tmp_path / "none" / ".." / state.relative_to(tmp_path))) == (
        others if record else found(tmp_path, None)
    )
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    assert found(tmp_path / "again", OwnFiles(state)) == {
        tmp_path / "again" / one.relative_to(tmp_path) for one in others
    }


def test_folders_that_lie_elsewhere(tmp_path: Path) -> None:
    """Clips on another disk, which is the watched one; and a link to a clip."""
    state = tmp_path / "state"
    disk = tmp_path / "disk"
    keeps(state)
    shutil.move(state / "clips", disk / "birdsong")
    (state / "clips").symlink_to(disk / "birdsong", target_is_directory=True)
    mine = write_sound(disk / "in" / "a_20240512_040000.wav", note("midtoo", 1.0))
    clip = next((disk / "birdsong").rglob("*.flac"))
    (disk / "linked_20240512_040000.flac").symlink_to(clip)
    (disk / "round").symlink_to(disk / "round")
    other = write_sound(tmp_path / "other.wav", note("midtoo", 1.0))
    (disk / "other_20240512_040000.wav").symlink_to(other)
    assert found(disk, OwnFiles(state)) == {mine, disk / "other_20240512_040000.wav"}
    assert clip in found(disk, None)


def test_another_stations_state_and_a_persons_clips(tmp_path: Path) -> None:
    others = keeps(tmp_path / "porch") | keeps(tmp_path / "shed")
    mine = write_sound(tmp_path / "clips" / "a_20240512_040000.wav", note("midtoo", 1.0))
    assert found(tmp_path, OwnFiles(tmp_path / "porch")) == others | {mine}
    assert found(tmp_path, None) == others | {mine}


@pytest.mark.parametrize("name", ["clips", "clips/2024-05-12", "by a link"])
def test_a_folder_that_is_the_stations_own(
    tmp_path: Path, station_yaml: StationYaml, name: str
) -> None:
    config_path = station_yaml("source: folder", f"folder: {{path: {name}, settle_s: 0}}")
    config = load_config(config_path)
    keeps(config.state)
    (config.state / "by a link").symlink_to("clips")
    folder = config.folder.path
    assert folder is not None
    watch = FolderWatch(folder, 0.0, own=OwnFiles(config.state))
    assert watch.ready() == []
    assert "found the station's own files" in str(watch.problem)
    (row,) = check_folder(config)
    assert row.verdict == "bad"
    with pytest.raises(UsageError, match="found the station's own files"):
        recordings_in(folder, OwnFiles(config.state))
    clip = next(folder.rglob("*.flac"))
    with pytest.raises(UsageError):
        recordings_in(clip, OwnFiles(config.state))
    assert recordings_in(clip, OwnFiles(tmp_path / "another"))[1] == [clip]


def hears(config: Config, recognizer: Recognizer) -> list[str]:
    """What a station analyses that watches its folder for a while, and saves clips of it."""
    ledger = Ledger(config.database, config.station.id, recognizer.bundle)
    maker = ClipMaker(lambda: ClipTable(config.database), config, recognizer.bundle.id)
    with maker:
        watched = WatchedFolder(
            config, Analyst(config, recognizer), ledger, maker, lambda _f: None, lambda _g, _s: None
        )
        for _ in range(STEPS):
            watched._looked_at = float("-inf")
            watched.step()
    ledger.close()
    with Store(config.database) as store:
        return [row[0] for row in store.rows("SELECT path FROM recordings ORDER BY path")]


def test_a_station_that_watches_its_own_state(
    station_yaml: StationYaml, bundle_folder: Path
) -> None:
    lines = ("source: folder", "folder: {path: ., settle_s: 0}", "clips: {of_recordings: true}")
    config = load_config(station_yaml(*lines))
    write_sound(config.state / "a_20240512_040000.wav", note("midtoo", 12.0) + hiss(12.0))
    os.utime(config.state / "a_20240512_040000.wav", (1.7e9, 1.7e9))
    recognizer = Recognizer(read_bundle(bundle_folder), threads=1)
    assert hears(config, recognizer) == ["a_20240512_040000.wav"]
    assert list(config.clips_folder.rglob("*.flac"))
    (row,) = check_folder(config)
    assert "the station's own files in it (clips, copies, record) are ignored" in row.found
    assert row.figures["files"] == 1
