"""Clips as a listener finds them: the right sound, nothing that must not be in it, and a row for
every file."""

import os
import signal
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.capture.start_time import start_of
from edge.clips.maker import ClipMaker
from edge.clips.reconcile import reconcile
from edge.config import ClipSettings, Config, SensitiveSettings
from edge.contract.audio import RATE_HZ
from edge.disclosure import Disclosure
from edge.store.clips import ClipTable
from edge.types import ClipRow, Detection, RecordingRow
from tests.helpers.clip_station import START, commit, detection, in_child, on_small_disk, stretch

WINDOW = 5 * RATE_HZ


def maker_of(config: Config, bundle_id: str = "b" * 64) -> ClipMaker:
    return ClipMaker(lambda: ClipTable(config.database), config, bundle_id)


def save(
    config: Config,
    bundle_id: str,
    row: RecordingRow,
    sound: NDArray[Any],
    found: Sequence[Detection],
) -> ClipMaker:
    """One stretch, told at once."""
    with maker_of(config, bundle_id) as maker:
        maker.begin(row)
        maker.hear(sound)
        maker.decided(len(sound) / RATE_HZ, found)
        maker.end()
    return maker


def one_clip(config: Config) -> tuple[Path, tuple[Any, ...]]:
    with ClipTable(config.database) as table:
        rows = table.rows("SELECT path, start_utc, seconds, bytes, id, recording FROM clips")
    assert len(rows) == 1
    return config.clips_folder / rows[0][0], rows[0]


@pytest.mark.parametrize("kind", ["flac", "wav", "ogg"])
def test_the_sound_is_in_its_place(kind: Any, tmp_path: Path, bundle_folder: Path) -> None:
    """A click 12.5 s into the stretch, heard in the window from 10 s, is 5.5 s into a clip with 3 s
    before it."""
    config = Config(state=tmp_path, clips=ClipSettings(format=kind))
    row = stretch()
    found = [detection(row, 10 * RATE_HZ, score=0.87), detection(row, 10 * RATE_HZ, "midtoo", 0.91)]
    bundle_id = commit(config, bundle_folder, row, found)
    sound = np.zeros(40 * RATE_HZ, np.float32)
    sound[round(12.5 * RATE_HZ)] = 0.9
    maker = save(config, bundle_id, row, sound, found)
    assert (maker.saved, maker.failed, maker.last_error) == (1, 0, "")
    path, (name, start_utc, seconds, size, clip_id, _) = one_clip(config)
    heard, rate = soundfile.read(path)
    assert rate == RATE_HZ
    assert len(heard) == 11 * RATE_HZ
    assert abs(int(np.argmax(np.abs(heard))) - round(5.5 * RATE_HZ)) <= (32 if kind == "ogg" else 0)
    assert (seconds, size, start_utc) == (11.0, path.stat().st_size, "2019-05-21T23:30:07.250Z")
    assert name == f"2019-05-22/midtoo_0.91_20190521T233007.250Z_{clip_id[:8]}.{kind}"
    assert len(path.name.encode()) <= 100
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    start = start_of(
        path.rename(path.with_name(f"renamed.{kind}")), zone=timezone(timedelta(hours=9))
    )
    path = path.with_name(f"renamed.{kind}")
    assert (start.source, start.start_utc) == ("guano", START + timedelta(seconds=7))
    assert (start.utc_offset_minutes, start.zone_source) == (120, "recorded")
    assert (start.latitude, start.longitude) == (52.123456, 13.654321)
    text = guano_of(path)
    assert text["Timestamp"] == "2019-05-22T01:30:07.250+02:00"
    assert text["Loc Position"] == "52.123456 13.654321"
    assert text["Species Auto ID"] == "midtoo, lowtoo"
    assert text["birdstation|Scores"] == "midtoo 0.910, lowtoo 0.870"
    assert (text["Samplerate"], text["Length"], text["birdstation|Bundle"]) == (
        "32000",
        "11.000",
        bundle_id,
    )
    if kind == "wav":
        data = path.read_bytes()
        assert int.from_bytes(data[4:8], "little") == len(data) - 8
    with ClipTable(config.database) as table:
        assert table.rows("SELECT DISTINCT clip FROM detections") == [(clip_id,)]


def guano_of(path: Path) -> dict[str, str]:
    if path.suffix == ".wav":
        data = path.read_bytes()
        at = data.index(b"guan")
        text = data[at + 8 : at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")].decode()
    else:
        with soundfile.SoundFile(path) as file:
            text = file.comment
    assert text.startswith("GUANO|Version: 1.0\n")
    return dict(line.split(": ", 1) for line in text.splitlines() if line)


@pytest.mark.parametrize("kind", ["flac", "wav", "ogg"])
@pytest.mark.parametrize("source", ["date", "mtime"])
def test_a_clip_knows_no_better_when_than_its_recording(
    kind: Any, source: str, tmp_path: Path, bundle_folder: Path
) -> None:
    """A recording known by its day, or by its file's time alone, has no hour; its clips, heard
    again, have none."""
    config = Config(state=tmp_path, clips=ClipSettings(format=kind))
    row = replace(stretch(), time_source=source)
    found = [detection(row, 10 * RATE_HZ)]
    save(
        config,
        commit(config, bundle_folder, row, found),
        row,
        np.zeros(40 * RATE_HZ, np.float32),
        found,
    )
    start = start_of(one_clip(config)[0], zone=None)
    assert (start.source, start.date_only) == (source, source == "date")
    assert (start.start_utc, start.latitude) == (START + timedelta(seconds=7), 52.123456)


def test_long_song_becomes_clips_that_each_hold_their_windows(
    tmp_path: Path, bundle_folder: Path
) -> None:
    config = Config(state=tmp_path, clips=ClipSettings(seconds_max=20, format="wav"))
    row = stretch()
    found = [detection(row, at) for at in range(0, 60 * RATE_HZ - WINDOW + 1, WINDOW // 2)]
    bundle_id = commit(config, bundle_folder, row, found)
    maker = save(config, bundle_id, row, np.zeros(60 * RATE_HZ, np.float32), found)
    with ClipTable(config.database) as table:
        clips = table.rows("SELECT start_utc, seconds FROM clips ORDER BY start_utc")
        assert table.rows("SELECT count(*) FROM detections WHERE clip IS NULL") == [(0,)]
    assert maker.saved == len(clips) == 6
    # from the first sample on: 3 s less before
    assert clips[0] == ("2019-05-21T23:30:00.250Z", 15.5)
    assert all(seconds <= 20 for _, seconds in clips)


def test_where_a_sensitive_species_may_live_the_place_is_coarse_and_it_has_no_clip(
    tmp_path: Path, bundle_folder: Path
) -> None:
    sensitive = SensitiveSettings(("midtoo",), decimals=1)
    config = Config(state=tmp_path, clips=ClipSettings(format="wav"), sensitive=sensitive)
    row = stretch()
    found = [
        detection(row, 0),
        detection(row, 6 * RATE_HZ, "midtoo"),
        detection(row, 11 * RATE_HZ + 1),
    ]
    bundle_id = commit(config, bundle_folder, row, found)
    with maker_of(config, bundle_id) as maker:
        maker.begin(row)
        maker.hear(np.zeros(40 * RATE_HZ, np.float32))
        maker.decided(40.0, found, [(18.0, 20.0)])
        maker.end()
    with ClipTable(config.database) as table:
        clips = table.rows("SELECT start_utc, seconds FROM clips ORDER BY start_utc")
        path = config.clips_folder / table.rows("SELECT path FROM clips")[0][0]
        assert table.rows("SELECT species FROM detections WHERE clip IS NULL") == [("midtoo",)]
    assert clips == [("2019-05-21T23:30:00.250Z", 6.0), ("2019-05-21T23:30:11.250Z", 7.0)]
    assert guano_of(path)["Loc Position"] == "52.1 13.7"


def test_a_clip_of_before_the_setting_that_is_written_after_it_tells_no_more(
    tmp_path: Path, bundle_folder: Path
) -> None:
    """What is heard may wait for a locked record, with settings behind it that are not its own."""
    config = Config(state=tmp_path)
    row = replace(stretch(), path="52.123456N_13.654321E/a.wav")
    now = config
    found = [detection(row, 0)]
    bundle_id = commit(config, bundle_folder, row, found)
    with ClipMaker(
        lambda: ClipTable(config.database), config, bundle_id, lambda: Disclosure.of(now)
    ) as maker:
        maker.begin(row)
        maker.hear(np.zeros(40 * RATE_HZ, np.float32))
        now = replace(config, sensitive=SensitiveSettings(("midtoo",), decimals=1))
        maker.decided(40.0, found)
        maker.end()
    text = guano_of(one_clip(config)[0])
    assert (text["Loc Position"], text["birdstation|Recording"]) == ("52.1 13.7", "a.wav")


class Books:
    """What a ClipTable is told, kept in a list: the property test needs no SQLite, which the other
    tests have."""

    def __init__(self) -> None:
        self.clips: list[tuple[ClipRow, tuple[str, ...]]] = []

    def __enter__(self) -> "Books":
        return self

    def __exit__(self, *_: object) -> None: ...

    def add(
        self, clip: ClipRow, detections: Sequence[str], put: Callable[[], None], *_: object
    ) -> None:
        put()
        self.clips.append((clip, tuple(sorted(detections))))

    def take_away(
        self, remove: Callable[[str], bool], paths: Collection[str] | None = None
    ) -> None: ...


@st.composite
def stretches(draw: st.DrawFn) -> tuple[int, list[tuple[int, int, str, bool]]]:
    """Length of a stretch and its windows: (start, length, species heard: a, s (sensitive) or none,
    people speak)."""
    total = draw(st.sampled_from([3, 30, 60, 90, 90])) * RATE_HZ - draw(
        st.integers(0, 3 * RATE_HZ - 3_200)
    )
    hop = draw(st.sampled_from([WINDOW // 2, WINDOW, 37_600]))
    starts = list(range(0, total - WINDOW + 1, hop))
    if not starts or starts[-1] + WINDOW < total:
        starts.append(max(0, total - WINDOW))
    # long stretches come out richer than if drawn one by one
    dice = np.random.default_rng(draw(st.integers(0, 2**32)))
    busy = draw(st.sampled_from([0.1, 0.4, 0.9]))
    kinds = [
        ("a" * (dice.random() < busy) + "s" * (dice.random() < 0.08), dice.random() < 0.05)
        for _ in starts
    ]
    return total, [(at, min(WINDOW, total), *kind) for at, kind in zip(starts, kinds, strict=True)]


def run_maker(
    config: Config, total: int, windows: list[tuple[int, int, str, bool]], blocks: list[int]
) -> tuple[list[tuple[ClipRow, tuple[str, ...]]], float]:
    """Hear and decide in pieces of so many samples; returns clips and the most seconds that were
    held."""
    sound = (np.arange(total) % 65_536 - 32_768).astype(
        np.float32
    ) / 32_768  # every sample says where it is
    books = Books()
    row = stretch()
    waiting = list(windows)
    at = 0
    held = 0.0
    with ClipMaker(lambda: books, config, "b") as maker:
        maker.begin(row)
        for size in [*blocks, total]:
            maker.hear(sound[at : at + size])
            at = min(total, at + size)
            ready = [w for w in waiting if w[0] + w[1] <= at]
            waiting = waiting[len(ready) :]
            found = [
                detection(row, start, kind, length=length)
                for start, length, kinds, _ in ready
                for kind in kinds
            ]
            private = [
                (start / RATE_HZ, (start + length) / RATE_HZ)
                for start, length, _, spoken in ready
                if spoken
            ]
            if ready:
                maker.decided((ready[-1][0] + ready[-1][1]) / RATE_HZ, found, private)
            held = max(held, maker.held_s)
        maker.end()
        assert maker.failed == 0, maker.last_error
    return books.clips, held


@pytest.mark.slow
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    stretches(),
    st.lists(st.integers(1, 20 * RATE_HZ), max_size=12),
    st.sampled_from([0.0, 3.0, 7.3]),
    st.sampled_from([0.0, 3.0, 12.0]),
    st.sampled_from([15.0, 22.0, 60.0]),
)
def test_every_detection_has_one_clip_or_a_reason(
    tmp_path: Path,
    heard: tuple[int, list[tuple[int, int, str, bool]]],
    blocks: list[int],
    before_s: float,
    after_s: float,
    seconds_max: float,
) -> None:
    total, windows = heard
    wanted = ClipSettings(before_s=before_s, after_s=after_s, seconds_max=seconds_max, format="wav")
    config = Config(state=tmp_path, clips=wanted, sensitive=SensitiveSettings(("s",)))
    clips, _ = run_maker(config, total, windows, blocks)
    again, held = run_maker(config, total, windows, [RATE_HZ] * (total // RATE_HZ))
    assert clips == again
    # … + the window that is not decided yet + a block
    assert held <= seconds_max + before_s + 5 + 5 + 1
    spans = {}
    for clip, ids in clips:
        start = round((clip.start - START).total_seconds() * RATE_HZ)
        sound, _ = soundfile.read(config.clips_folder / clip.path, dtype="int16")
        assert (sound == np.arange(start, start + len(sound)) % 65_536 - 32_768).all()
        assert len(sound) <= round(seconds_max * RATE_HZ)
        spans |= {each: (start, start + len(sound)) for each in ids}
    assert len(spans) == sum(len(ids) for _, ids in clips), "a detection in two clips"
    forbidden = [
        (at, at + length) for at, length, kinds, spoken in windows if spoken or "s" in kinds
    ]
    for low, high in spans.values():
        assert not any(start < high and low < stop for start, stop in forbidden)
    for at, length, kinds, _ in windows:
        for kind in kinds:
            span = spans.get(detection(stretch(), at, kind).id)
            if any(start < at + length and at < stop for start, stop in forbidden):
                assert span is None
            else:
                assert span is not None
                assert span[0] <= at
                assert at + length <= span[1]


def test_the_same_stretch_again_gives_the_same_clip_once(
    tmp_path: Path, bundle_folder: Path
) -> None:
    config = Config(state=tmp_path)
    row = stretch()
    found = [detection(row, 0)]
    bundle_id = commit(config, bundle_folder, row, found)
    sound = np.zeros(20 * RATE_HZ, np.float32)
    save(config, bundle_id, row, sound, found)
    path, before = one_clip(config)
    with ClipTable(config.database) as table, table._transaction():
        table._db.execute("UPDATE clips SET kept = 1")
    save(config, bundle_id, row, sound, found)
    assert one_clip(config) == (path, before)
    with ClipTable(config.database) as table:
        assert table.rows("SELECT kept FROM clips") == [(1,)]
    replayed = replace(row, id="file", source="replay")
    assert save(config, bundle_id, replayed, sound, [detection(replayed, 0)]).saved == 0


def test_a_detection_that_is_not_stored_costs_its_clip_and_no_more(
    tmp_path: Path, bundle_folder: Path
) -> None:
    config = Config(state=tmp_path)
    row = stretch()
    found = [detection(row, 0), detection(row, 30 * RATE_HZ)]
    bundle_id = commit(config, bundle_folder, row, found[1:])
    maker = save(config, bundle_id, row, np.zeros(40 * RATE_HZ, np.float32), found)
    assert (maker.saved, maker.failed) == (1, 1)
    assert "not stored" in maker.last_error
    path, _ = one_clip(config)
    assert list(path.parent.iterdir()) == [path]


def body_killed(state: Path, bundle_folder: Path) -> None:
    config = Config(state=state)
    row = stretch()
    found = [detection(row, 0)]
    bundle_id = commit(config, bundle_folder, row, found)
    save(config, bundle_id, row, np.zeros(20 * RATE_HZ, np.float32), found)


KILL_AFTER_RENAME = (
    "import os, signal; real = os.replace; os.replace = lambda *a: (real(*a), os.kill(os.getpid(), "
    "signal.SIGKILL))"
)
KILL_BEFORE_RENAME = (
    "import os, signal; os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)"
)


@pytest.mark.parametrize(
    ("before", "whole"), [(KILL_AFTER_RENAME, True), (KILL_BEFORE_RENAME, False)]
)
def test_a_kill_between_file_and_row_leaves_what_is_whole(
    before: str, whole: bool, tmp_path: Path, bundle_folder: Path
) -> None:
    died = in_child("tests.edge.test_clips.body_killed", tmp_path, bundle_folder, before=before)
    assert died.returncode == -signal.SIGKILL, died.stderr
    folder = tmp_path / "clips"
    (folder / "2019-05-22" / "notes.txt").write_text("somebody's own")
    with ClipTable(tmp_path / "station.db") as table:
        assert table.rows("SELECT count(*) FROM clips") == [(0,)]
        (left,) = folder.rglob("*.flac*")
        done = reconcile(table, folder)
        assert (done.files_removed, done.rows_cleaned, done.unknown) == (
            int(not whole),
            0,
            int(whole),
        )
        assert table.rows("SELECT count(*) FROM detections") == [(1,)]
    assert {p.name for p in folder.rglob("*") if p.is_file()} == {
        "notes.txt",
        *([left.name] if whole else []),
    }
    body_killed(tmp_path, bundle_folder)
    assert one_clip(Config(state=tmp_path))[0].exists()
    with ClipTable(tmp_path / "station.db") as table:
        assert reconcile(table, folder).unknown == 0, "analysed again, it has its row"


def test_a_clip_deleted_by_hand_is_forgotten(tmp_path: Path, bundle_folder: Path) -> None:
    config = Config(state=tmp_path)
    body_killed(tmp_path, bundle_folder)
    one_clip(config)[0].unlink()
    with ClipTable(config.database) as table:
        assert reconcile(table, config.clips_folder).rows_cleaned == 1
        assert table.rows("SELECT count(*) FROM clips") == [(0,)]
        assert table.rows("SELECT clip FROM detections") == [(None,)]


@pytest.mark.parametrize("count", [1, 60])
def test_a_lost_record_costs_no_clip(tmp_path: Path, count: int) -> None:
    """Of a backup that is older than they are, of another station, or of a database that is
    gone."""
    folder = tmp_path / "clips"
    (folder / "2019-05-22").mkdir(parents=True)
    for n in range(count):
        (folder / "2019-05-22" / f"lowtoo_0.91_20190521T233007.250Z_{n:08x}.flac").write_bytes(
            b"sound"
        )
    (folder / "2019-05-22" / ".lowtoo_0.91_20190521T233007.250Z_00000000.flac.part").write_bytes(
        b"fLaC"
    )
    with ClipTable(tmp_path / "station.db") as table:
        done = reconcile(table, folder)
    assert (done.files_removed, done.unknown) == (1, count)
    assert len(list(folder.rglob("*.flac"))) == count


def body_full_disk(disk: Path, bundle_folder: Path, state: Path) -> None:
    """The clips' folder is on a disk of 40 MB, of which clips leave 32 MB alone; the record is
    elsewhere."""
    (state / "clips").symlink_to(disk)
    config = Config(state=state, clips=ClipSettings(format="wav", before_s=0, after_s=0))
    row = stretch()
    found = [detection(row, at * 10 * RATE_HZ) for at in range(40)]
    bundle_id = commit(config, bundle_folder, row, found)
    maker = save(config, bundle_id, row, np.zeros(400 * RATE_HZ, np.float32), found)
    assert maker.saved > 5
    assert maker.saved + maker.failed == 40
    assert "No space left" in maker.last_error or "space" in maker.last_error
    with ClipTable(config.database) as table:
        rows = {path for (path,) in table.rows("SELECT path FROM clips")}
        assert table.rows("SELECT count(*) FROM detections") == [(40,)]
        (disk / "big").write_bytes(b"1" * 7_000_000)  # to the last byte, if it goes on writing
    files = {p.relative_to(disk).as_posix() for p in disk.rglob("*.wav*")}
    assert files == rows
    assert len(files) == maker.saved
    (disk / "big").unlink()
    for path in list(disk.rglob("*.wav"))[:5]:
        path.unlink()
    again = save(config, bundle_id, row, np.zeros(10 * RATE_HZ, np.float32), found[:1])
    assert (again.saved, again.failed) == (1, 0)
    assert os.system(f"mount -o remount,ro {disk}") == 0
    again = save(config, bundle_id, row, np.zeros(20 * RATE_HZ, np.float32), found[1:2])
    assert (again.saved, again.failed) == (0, 1)
    assert "Read-only" in again.last_error


@pytest.mark.slow
def test_on_a_full_or_readonly_disk_clips_are_lost_and_nothing_else(
    tmp_path: Path, bundle_folder: Path
) -> None:
    disk = tmp_path / "disk"
    state = tmp_path / "state"
    disk.mkdir()
    state.mkdir()
    on_small_disk("tests.edge.test_clips.body_full_disk", disk, 40, bundle_folder, state)


def test_it_says_when_it_was(tmp_path: Path, bundle_folder: Path) -> None:
    """A clip's rows are in UTC whatever the zone."""
    config = Config(state=tmp_path)
    row = replace(
        stretch(), utc_offset_minutes=-570, start=datetime(2024, 1, 1, 3, tzinfo=timezone.utc)
    )
    found = [detection(row, 0)]
    save(
        config,
        commit(config, bundle_folder, row, found),
        row,
        np.zeros(8 * RATE_HZ, np.float32),
        found,
    )
    path, (name, start, *_) = one_clip(config)
    assert name.startswith("2023-12-31/lowtoo_0.80_20240101T030000.000Z_")
    assert start == "2024-01-01T03:00:00.000Z"
    assert guano_of(path)["Timestamp"] == "2023-12-31T17:30:00.000-09:30"
