"""Files of clips and those who write them: several processes at once, other names, what is not
noted in the end."""

import fcntl
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.clips.partial_file import written
from edge.clips.reconcile import reconcile
from edge.config import ClipSettings, Config
from edge.contract.audio import RATE_HZ
from edge.contract.errors import StoreError
from edge.store.clips import ClipTable
from edge.types import ClipRow, RecordingRow
from tests.edge.test_clips import one_clip, save
from tests.helpers.children import children
from tests.helpers.clip_station import START, commit, detection, stretch


def both(config: Config, bundle_id: str, row: RecordingRow, scores: Sequence[float]) -> list[int]:
    """A process for each score, which save the same clip of a recording again and again, all at
    once."""

    def body(score: float) -> None:
        sound = np.zeros(20 * RATE_HZ, np.float32)
        for _ in range(10):
            maker = save(config, bundle_id, row, sound, [detection(row, 5 * RATE_HZ, score=score)])
            assert (maker.saved, maker.failed) == (1, 0), maker.last_error

    return children(*(partial(body, score) for score in scores))


@pytest.mark.parametrize("scores", [(0.9, 0.9), (0.9, 0.8)])
def test_two_processes_that_save_one_clip_leave_its_file(
    tmp_path: Path, bundle_folder: Path, scores: Sequence[float]
) -> None:
    """Two replays of one folder at once, with the same settings or with others: one name, or one
    clip of two names."""
    config = Config(state=tmp_path, clips=ClipSettings(format="wav", before_s=0, after_s=0))
    row = stretch()
    bundle_id = commit(config, bundle_folder, row, [detection(row, 5 * RATE_HZ)])
    assert both(config, bundle_id, row, scores) == [0, 0]
    path, _ = one_clip(config)
    assert path.is_file()
    with ClipTable(config.database) as table:
        found = reconcile(table, config.clips_folder)
    assert (found.rows_cleaned, found.unknown) == (0, 0)
    assert [p for p in config.clips_folder.rglob("*") if p.is_file()] == [path]


@pytest.mark.parametrize(("score", "kind"), [(0.81, "wav"), (0.9, "flac")])
def test_a_clip_that_is_renewed_under_another_name_takes_its_old_file_away(
    tmp_path: Path, bundle_folder: Path, score: float, kind: Any
) -> None:
    """Analysed again with other scores, or saved in another format."""
    config = Config(state=tmp_path, clips=ClipSettings(format="wav"))
    row = stretch()
    bundle_id = commit(config, bundle_folder, row, [detection(row, 5 * RATE_HZ)])
    sound = np.zeros(20 * RATE_HZ, "f4")
    save(config, bundle_id, row, sound, [detection(row, 5 * RATE_HZ, score=0.9)])
    before, _ = one_clip(config)
    config = replace(config, clips=ClipSettings(format=kind))
    save(config, bundle_id, row, sound, [detection(row, 5 * RATE_HZ, score=score)])
    after, _ = one_clip(config)
    assert before != after
    assert [p for p in config.clips_folder.rglob("*") if p.is_file()] == [after]
    with ClipTable(config.database) as table:
        assert table.going() == set()


def test_a_part_that_somebody_writes_is_left_alone(tmp_path: Path) -> None:
    """The daemon cleans up at its start, beside a replay."""
    folder = tmp_path / "clips" / "2019-05-22"
    folder.mkdir(parents=True)
    clip = folder / "lowtoo_0.90_20190521T233007.250Z_0123abcd.flac"
    with ClipTable(tmp_path / "station.db") as table:
        with written(clip, b"half of") as part:
            assert reconcile(table, tmp_path / "clips").files_removed == 0
            assert part.read_bytes() == b"half of"
        assert not part.exists()
        part.write_bytes(b"half of")  # as a program leaves it that is killed
        assert reconcile(table, tmp_path / "clips").files_removed == 1
    assert not list(folder.glob("*"))


def test_a_part_that_is_removed_before_it_is_held_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process saves the same clip, and takes it for what a killed one left."""
    met: list[Path] = []
    flock = fcntl.flock

    def late(file: Any, how: int) -> None:
        if len(met) < 2:
            (left,) = tmp_path.glob(".clip.wav.*.part")
            met.append(left)
            if len(met) == 1:
                left.unlink()
            else:
                with left.open("rb") as other:
                    flock(other, how)
                    left.unlink()
                    flock(file, how)
        flock(file, how)

    monkeypatch.setattr("edge.clips.partial_file.fcntl.flock", late)
    with written(tmp_path / "clip.wav", b"sound") as part:
        assert part not in met
        part.rename(tmp_path / "clip.wav")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("clip.wav", b"sound")]
    assert len(met) == 2


def test_a_file_that_cannot_be_noted_goes_while_nobody_else_can_note_it(
    tmp_path: Path, bundle_folder: Path
) -> None:
    config = Config(state=tmp_path)
    row = stretch()
    found = [detection(row, 5 * RATE_HZ)]
    commit(config, bundle_folder, row, found)
    file = tmp_path / "clip"
    held = []

    def put() -> None:
        file.touch()
        raise OSError("the folder's entry cannot be written")

    def undo() -> None:
        with (
            closing(sqlite3.connect(config.database, timeout=0)) as other,
            pytest.raises(sqlite3.OperationalError),
        ):
            other.execute("BEGIN IMMEDIATE")
        held.append(True)
        file.unlink()

    with ClipTable(config.database) as table:
        with pytest.raises(StoreError, match="entry"):
            table.add(
                ClipRow("c", "2019-05-22/c.flac", row.id, START, 1.0, 1), [found[0].id], put, undo
            )
        assert table.rows("SELECT count(*) FROM clips") == [(0,)]
    assert held == [True]
    assert not file.exists()
