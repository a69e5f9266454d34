"""A person's word and a whole clip: whatever becomes of a detection, they stay and can be found."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.analysis.recognizer import Recognizer
from edge.analysis.stretch import Analyst
from edge.clips.disk_reserve import Reserve
from edge.clips.maker import ClipMaker
from edge.clips.reconcile import reconcile
from edge.clips.retention import ALL_CLIPS, Retention
from edge.config import Config, RetentionSettings, load_config
from edge.contract.bundle import read_bundle
from edge.contract.errors import UsageError
from edge.replay.archive import recordings_in
from edge.replay.replay import Replay
from edge.reports.why import explain
from edge.store.backup import backup
from edge.store.clips import ClipTable
from edge.store.record import Store
from tests.conftest import hiss, make_bundle, note, write_sound
from tests.helpers.clip_station import in_child, on_small_disk
from tests.trials.kills_in_migration import earlier_version

StationYaml = Callable[..., Path]


def replayed(config_file: Path, folder: Path) -> Config:
    """With clips, in this process."""
    config = load_config(config_file)
    analyst = Analyst(config, Recognizer(read_bundle(config.bundle_folder)))
    bundle_id = analyst.bundle.id
    with Store(config.database) as store:
        maker = lambda: ClipMaker(lambda: ClipTable(config.database), config, bundle_id)  # noqa: E731
        list(Replay(analyst, store, maker).run(*recordings_in(folder)))
    return config


def rows(config: Config, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(config.database)) as db:
        return db.execute(sql).fetchall()


KEPT = "SELECT detection, reviewer, verdict, instead, is_there, stands_now FROM reviews_kept"
CLIPS = "clips: {of_recordings: true}"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    song = np.concatenate([hiss(10), note("lowtoo", 5), hiss(10), note("higtoo", 5), hiss(10)])
    write_sound(tmp_path / "in" / "a_20240512_040000.wav", song)
    return tmp_path / "in"


def reviewed(config: Config, species: str = "lowtoo") -> tuple[str, Path]:
    """A detection that somebody has reviewed, and its clip."""
    ((detection, path),) = rows(
        config,
        "SELECT d.id, c.path FROM detections d JOIN clips c ON c.id = d.clip WHERE species = "
        f"'{species}' ORDER BY score DESC LIMIT 1",
    )
    with Store(config.database) as store:
        store.review(detection, "ann", "wrong", "a tuba", keep=True, instead="higtoo")
    return detection, config.clips_folder / path


def other_bundle(folder: Path) -> Path:
    """The same networks, another bundle: nothing but its thresholds differs."""
    from edge.contract.bundle import Thresholds

    make_bundle(folder, thresholds=Thresholds(0.45, 0.45))
    return folder


@pytest.mark.parametrize(
    ("lines", "comes_again"),
    [
        ("detect: {threshold: 0.4}", True),
        ("windows: {hop_s: 5.0}", True),
        ("detect: {thresholds: {lowtoo: 1.0}}", None),
        ("station", False),
        ("bundle", False),
    ],
)
def test_a_word_stays_whatever_is_changed(
    station_yaml: StationYaml, archive: Path, tmp_path: Path, lines: str, comes_again: bool | None
) -> None:
    config_file = station_yaml(CLIPS)
    config = replayed(config_file, archive)
    detection, clip = reviewed(config)
    sound = clip.read_bytes()
    if lines == "station":
        station_yaml(CLIPS, station="id: porch, timezone: Asia/Kolkata")
    elif lines == "bundle":
        station_yaml(CLIPS, bundle=other_bundle(tmp_path / "bundle"))
    else:
        station_yaml(CLIPS, lines)
    replayed(config_file, archive)
    ((kept, reviewer, verdict, instead, is_there, now),) = rows(config, KEPT)
    assert (kept, reviewer, verdict, instead) == (detection, "ann", "wrong", "higtoo")
    assert is_there == (comes_again is True)
    if comes_again:
        assert now == detection
    elif comes_again is None:  # nothing is heard there any more
        assert now is None
    else:
        assert rows(config, f"SELECT species, offset_s FROM detections WHERE id = '{now}'") == rows(
            config, "SELECT species, offset_s FROM reviews"
        )
    tidied(config)
    assert clip.read_bytes() == sound
    assert rows(config, f"SELECT kept FROM clips WHERE path LIKE '%{clip.name}'") == [(1,)]
    station_yaml(CLIPS)
    replayed(config_file, archive)
    assert rows(config, f"{KEPT} WHERE is_there") == [
        (detection, "ann", "wrong", "higtoo", 1, detection)
    ]
    assert clip.read_bytes() == sound


def tidied(config: Config) -> None:
    with ClipTable(config.database) as table:
        settings = RetentionSettings(days=1, per_species=0)
        keeper = Retention(table, config.clips_folder, Reserve(config.state), settings)
        keeper.tidy(datetime(2090, 1, 1, tzinfo=timezone.utc), limit=ALL_CLIPS)
        reconcile(table, config.clips_folder)


def test_a_review_of_a_salvaged_database_is_kept_too(
    station_yaml: StationYaml, archive: Path
) -> None:
    """A damaged database of an earlier version had no more of it than this."""
    config_file = station_yaml(CLIPS)
    config = replayed(config_file, archive)
    _, clip = reviewed(config)
    columns = ["detection", "reviewer", "verdict", "note", "reviewed_utc"]
    with Store(config.database) as store:
        of_old = store.rows(f"SELECT {', '.join(columns)} FROM reviews")
        with store.bulk() as db:
            db.execute("DELETE FROM reviews")
            db.executemany(
                f"INSERT INTO reviews ({', '.join(columns)}) VALUES (?, ?, ?, ?, ?)", of_old
            )
    assert rows(config, "SELECT recording, is_there FROM reviews_kept") == [(None, 1)]
    station_yaml(CLIPS, "detect: {thresholds: {lowtoo: 1.0}}")
    replayed(config_file, archive)
    assert rows(config, "SELECT species, path, is_there FROM reviews_kept") == [
        ("lowtoo", "a_20240512_040000.wav", 0)
    ]
    assert clip.exists()


def test_what_was_reviewed_after_it_was_chosen_stays(
    station_yaml: StationYaml, archive: Path
) -> None:
    config = replayed(station_yaml(CLIPS), archive)
    with ClipTable(config.database) as table:
        clips = table.removable(0, 10)
        _, path = reviewed(config)
        gone = table.forget([clip.id for clip in clips], spare_kept=True)
    assert len(gone) == len(clips) - 1
    assert path.relative_to(config.clips_folder).as_posix() in {
        p for (p,) in rows(config, "SELECT path FROM clips")
    }


def test_a_clip_of_a_reviewed_file_that_grew_stays(
    station_yaml: StationYaml, tmp_path: Path
) -> None:
    path = tmp_path / "in" / "a_20240512_040000.wav"
    song = np.concatenate([hiss(10), note("lowtoo", 5), hiss(10)])
    write_sound(path, song)
    config_file = station_yaml(CLIPS)
    config = replayed(config_file, path.parent)
    detection, clip = reviewed(config)
    write_sound(path, np.concatenate([song, note("higtoo", 5), hiss(10, seed=3)]))
    replayed(config_file, path.parent)
    ((_, _, _, _, is_there, now),) = rows(config, KEPT)
    assert not is_there
    assert rows(config, f"SELECT species, offset_s FROM detections WHERE id = '{now}'") == rows(
        config, "SELECT species, offset_s FROM reviews"
    )
    tidied(config)
    assert clip.exists()
    with Store(config.database) as store:
        assert [r["detection"] for r in explain(store, str(now))["reviews"]] == [detection]
        with pytest.raises(UsageError, match=f"its review is kept: wrong .ann.; .*now: {now}"):
            explain(store, detection[:12])


def test_a_renewed_clip_has_one_file(station_yaml: StationYaml, archive: Path) -> None:
    """Under other settings its name may be another; the file of the old name goes, not of one that
    is kept."""
    config_file = station_yaml(CLIPS)
    config = replayed(config_file, archive)
    station_yaml(CLIPS, station="id: porch, timezone: Asia/Kolkata")
    replayed(config_file, archive)
    with ClipTable(config.database) as table:
        done = reconcile(table, config.clips_folder)
    assert done.unknown == 0
    files = {
        p.relative_to(config.clips_folder).as_posix() for p in config.clips_folder.rglob("*.flac")
    }
    assert files == {path for (path,) in rows(config, "SELECT path FROM clips")} != set()


def test_a_restored_backup_costs_no_clip(
    station_yaml: StationYaml, archive: Path, tmp_path: Path
) -> None:
    """As docs/install.md says; then the station starts."""
    config_file = station_yaml(CLIPS)
    config = replayed(config_file, archive)
    copy = backup(config.database, tmp_path / "backups", 7, "porch")
    write_sound(
        archive / "b_20240512_050000.wav", np.concatenate([hiss(9), note("midtoo", 5), hiss(9)])
    )
    replayed(config_file, archive)
    _, newer = reviewed(config, "midtoo")
    stranger = newer.with_name("midtoo_0.91_20240512T050007.250Z_0a0b0c0d.flac")
    stranger.write_bytes(b"another station's")
    before = {p: p.read_bytes() for p in config.clips_folder.rglob("*.flac")}
    shutil.copy(copy, config.database)
    for beside in ("-wal", "-shm"):
        Path(f"{config.database}{beside}").unlink(missing_ok=True)
    with ClipTable(config.database) as table:
        done = reconcile(table, config.clips_folder)
    assert (done.files_removed, done.unknown) == (0, 2)
    assert {p: p.read_bytes() for p in config.clips_folder.rglob("*.flac")} == before
    replayed(config_file, archive)
    assert newer.relative_to(config.clips_folder).as_posix() in {
        p for (p,) in rows(config, "SELECT path FROM clips")
    }


@pytest.mark.slow
def test_the_command_takes_what_it_is_instead(station_yaml: StationYaml, archive: Path) -> None:
    config_file = station_yaml(CLIPS)
    config = replayed(config_file, archive)
    (detection,) = rows(config, "SELECT id FROM detections WHERE species = 'lowtoo' LIMIT 1")[0]

    def edge(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-W",
            "error",
            "-m",
            "edge",
            *map(str, arguments),
            "--config",
            str(config_file),
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    for text, stored in (
        ("High Tooter", "higtoo"),
        ("HIGTOO", "higtoo"),
        ("a  chain\nsaw", "a chain saw"),
    ):
        done = edge("review", detection[:12], "wrong", "--reviewer", "ann", "--instead", text)
        assert done.returncode == 0, done.stderr
        assert f"instead {stored} (ann)" in done.stdout
        assert ("this replaces: wrong, " in done.stdout) == (
            stored != "higtoo" or text == "HIGTOO"
        ), "said, not silent"
        assert rows(config, "SELECT instead FROM reviews") == [(stored,)]
    assert "wrong, instead a chain saw (ann)" in edge("why", detection).stdout
    assert (
        json.loads(edge("why", detection, "--json").stdout)["reviews"][0]["instead"]
        == "a chain saw"
    )
    wrong = edge("review", detection, "correct", "--instead", "higtoo")
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1)


REVIEWED_UTC = "2019-02-01T00:00:00.000Z"

# The copy before a newer version changes the database


def copies(folder: Path) -> list[Path]:
    return sorted(folder.glob("*-before-*.db"))


def review_of_first_release(database: Path) -> None:
    """As the version before this one left it: a review, its clip not kept."""
    earlier_version(database)
    from sqlite_utils import Database

    from edge.store.schema import migrations

    with closing(sqlite3.connect(database)) as db:
        migrations.apply(Database(db), stop_before="recording_identity")
        db.execute(
            "INSERT INTO reviews VALUES ('d0', 'ann', 'correct', 'clear', ?)", (REVIEWED_UTC,)
        )
        db.execute(
            "INSERT INTO clips VALUES ('c0', 'x/y.flac', 'r0', '2019-01-01T00:00:00.000Z', 5.0, 9, "
            "'', 0)"
        )
        db.execute("UPDATE detections SET clip = 'c0'")
        db.commit()


def test_reviews_of_earlier_versions_are_brought_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = tmp_path / "station.db"
    review_of_first_release(database)
    with closing(sqlite3.connect(database)) as db:
        before = {
            name: db.execute(f"SELECT * FROM {name}").fetchall()
            for name in ("detections", "recordings", "clips")
        }
    with Store(database) as store:
        assert store.rows("SELECT * FROM reviews") == [
            (
                "d0",
                "ann",
                "correct",
                None,
                "clear",
                REVIEWED_UTC,
                "r0",
                "lowtoo",
                "2019-01-01T00:00:00.000Z",
                0.0,
            )
        ]
        assert store.rows("SELECT kept FROM clips") == [(1,)]
        assert store.rows("PRAGMA foreign_key_check") == []
    (copy,) = copies(tmp_path)
    assert f"copied to {copy.name}" in caplog.text
    with closing(sqlite3.connect(copy)) as db:
        assert {name: db.execute(f"SELECT * FROM {name}").fetchall() for name in before} == before
        assert db.execute("SELECT verdict FROM reviews").fetchall() == [("correct",)]
        assert db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'files'").fetchone() == (
            0,
        )
    Store(database).close()
    assert copies(tmp_path) == [copy], "nothing to bring up, no copy"
    Store(tmp_path / "new.db").close()
    assert copies(tmp_path) == [copy], "nothing to lose, no copy"


def test_the_last_two_copies_stay(tmp_path: Path) -> None:
    database = tmp_path / "station.db"
    for year in (2019, 2020, 2021):
        (tmp_path / f"station-{year}0101T000000Z-before-x.db").write_bytes(b"")
    (tmp_path / "station-notes.db").write_bytes(b"somebody's own")
    review_of_first_release(database)
    Store(database).close()
    assert [p.name[8:12] for p in copies(tmp_path)][:-1] == ["2021"]
    assert len(copies(tmp_path)) == 2
    assert (tmp_path / "station-notes.db").exists()


def body_opened(folder: Path) -> None:
    Store(folder / "station.db").close()


@pytest.mark.slow
def test_several_programs_that_start_at_once_make_one_copy(tmp_path: Path) -> None:
    review_of_first_release(tmp_path / "station.db")
    code = (
        "import sys, pathlib, tests.edge.test_reviews as t; "
        "t.body_opened(pathlib.Path(sys.argv[1]))"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [process.wait(timeout=120) for process in started] == [0, 0, 0]
    assert len(copies(tmp_path)) == 1


KILLS = (  # before the copy has its name, and after it has
    "import os, signal; os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)",
    "import os, signal; r = os.replace; os.replace = lambda *a: (r(*a), os.kill(os.getpid(), "
    "signal.SIGKILL))",
)


@pytest.mark.parametrize("kill", KILLS)
def test_a_kill_leaves_no_half_copy(tmp_path: Path, kill: str) -> None:
    database = tmp_path / "station.db"
    review_of_first_release(database)
    died = in_child("tests.edge.test_reviews.body_opened", tmp_path, before=kill)
    assert died.returncode == -signal.SIGKILL, died.stderr
    with closing(sqlite3.connect(database)) as db:
        assert db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'files'").fetchone() == (
            0,
        )
    Store(database).close()
    for copy in copies(tmp_path):
        with closing(sqlite3.connect(copy)) as db:
            assert db.execute("SELECT verdict FROM reviews").fetchall() == [("correct",)]
    assert copies(tmp_path)
    assert not list(tmp_path.glob("*.part"))


def body_no_room(disk: Path) -> None:
    """The database leaves room for itself and its log, not for a copy."""
    database = disk / "station.db"
    review_of_first_release(database)
    with closing(sqlite3.connect(database)) as db:
        db.execute("CREATE TABLE ballast (bytes BLOB)")
        db.executemany(
            "INSERT INTO ballast VALUES (?)", [(os.urandom(1 << 20),) for _ in range(20)]
        )
        db.commit()
    with Store(database) as store:
        assert store.rows("SELECT count(*) FROM reviews_kept") == [(1,)]
    assert not copies(disk)
    assert not list(disk.glob("*.part"))


def body_full_meanwhile(disk: Path) -> None:
    """There seems to be room, and then there is none: somebody else fills the disk."""
    import edge.store.database_copies as copying

    copying._SPARE_BYTES = -(1 << 30)
    body_no_room(disk)


@pytest.mark.parametrize("body", ["body_no_room", "body_full_meanwhile"])
def test_without_room_for_a_copy_the_station_starts_all_the_same(tmp_path: Path, body: str) -> None:
    on_small_disk(f"tests.edge.test_reviews.{body}", tmp_path, 32)
