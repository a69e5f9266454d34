"""An archive read side by side: by threads, and by the nodes of a cluster. The record must not tell
how."""

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from ray.cluster_utils import Cluster

from edge.analysis.recognizer import Recognizer
from edge.analysis.stretch import Analyst
from edge.config import load_config
from edge.contract.audio import Image
from edge.contract.blend import Scores
from edge.contract.bundle import read_bundle
from edge.contract.errors import ConfigError
from edge.engines.onnx import OnnxEngine
from edge.replay import cluster, replay
from edge.replay.archive import recordings_in, replay_folder
from edge.replay.reader import Event, RecordingEnd, RecordingTask, read_recordings
from edge.replay.reader_threads import Readers
from edge.reports.parquet import write_parquet
from edge.store.record import Store
from edge.types import Outcome
from tests.conftest import hiss, note, write_sound
from tests.helpers.ray_nodes import kill_a_node_of, two_nodes
from tests.helpers.records import differences, dump
from tests.helpers.spoken import scene

StationYaml = Callable[..., Path]
MANY = 12


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short and long recordings, of which some cannot be read."""
    folder = tmp_path_factory.mktemp("archive")
    for number in range(MANY):
        seconds = 6.0 + 3.7 * number
        song = hiss(seconds, seed=number) + (note("lowtoo", seconds) if number % 3 else 0)
        write_sound(
            folder / f"{number:02d}_20190601_05{number:02d}00.{'flac' if number % 2 else 'wav'}",
            song,
        )
    (folder / "03_bad.wav").write_bytes(b"RIFF????WAVEhello")
    (folder / "07_empty.flac").write_bytes(b"")
    return folder


def replayed(config: Path, archive: Path, **how: object) -> list[Outcome]:
    return replay_folder(load_config(config), archive, **how).outcomes  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_record_does_not_depend_on_jobs(
    archive: Path, station_yaml: StationYaml, tmp_path: Path
) -> None:
    rows = {}
    for jobs in (1, 3, 40):
        (tmp_path / str(jobs)).mkdir()
        config = station_yaml(
            "clips: {of_recordings: true}", f"state: {tmp_path / str(jobs)}", name=f"with{jobs}"
        )
        outcomes = replayed(config, archive, jobs=jobs)
        assert sorted(o.path for o in outcomes) == sorted(p.name for p in archive.iterdir())
        assert sum(o.state == "refused" for o in outcomes) == 2
        rows[jobs] = dump(tmp_path / str(jobs) / "station.db")
    assert len(rows[1]["detections"]) > MANY
    assert len(rows[1]["clips"]) >= MANY * 2 // 3
    assert differences(rows[3], rows[1]) == differences(rows[40], rows[1]) == []


def test_windows_of_several_recordings_share_a_call(
    archive: Path, station_yaml: StationYaml, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    ask = OnnxEngine.scores

    def count(self: OnnxEngine, images: Image, members: object = None) -> Scores:
        calls.append(len(images))
        return ask(self, images, members)  # type: ignore[arg-type]

    monkeypatch.setattr(OnnxEngine, "scores", count)
    windows = sum(o.windows for o in replayed(station_yaml("runtime: {batch: 8}"), archive, jobs=1))
    _, *asked = calls  # the first is the probe's
    assert sum(asked) == windows
    assert all(size == 8 for size in asked[:-1]), "only the last call of all may be smaller"
    assert len(asked) == -(-windows // 8)


def test_the_events_of_a_recording_come_in_order(archive: Path, station_yaml: StationYaml) -> None:
    config = load_config(station_yaml())
    analyst = Analyst(config, Recognizer(read_bundle(config.bundle_folder)))
    tasks = [RecordingTask.of(path, path.name, "replay") for path in recordings_in(archive)[1]]
    events = list(
        Readers(lambda tasks, pulse: read_recordings(analyst, tasks, pulse=pulse), 3).events(tasks)
    )
    names: dict[str, list[Event]] = {}
    for event in events:
        path = event.task.name if hasattr(event, "task") else event.row.path
        names.setdefault(path, []).append(event)
    assert set(names) == {task.name for task in tasks}
    for path, mine in names.items():
        kinds = [type(event).__name__ for event in mine]
        if "bad" in path or "empty" in path:
            assert kinds == ["RecordingRefusal"]
        else:
            assert kinds == ["RecordingStart", *["BatchResult"] * (len(mine) - 2), "RecordingEnd"]
            last = mine[-1]
            assert isinstance(last, RecordingEnd)
            assert last.windows == max(event.windows for event in mine[1:-1])  # type: ignore[union-attr]


def test_what_fails_in_a_thread_is_raised_and_no_thread_is_left(
    archive: Path, station_yaml: StationYaml
) -> None:
    def broken(*_: object) -> Iterator[Event]:
        raise ZeroDivisionError("unforeseen")
        yield

    with pytest.raises(ZeroDivisionError, match="unforeseen"):
        list(Readers(broken, 2).events([]))  # type: ignore[arg-type]
    config = load_config(station_yaml())
    analyst = Analyst(config, Recognizer(read_bundle(config.bundle_folder)))
    tasks = (RecordingTask.of(path, path.name, "replay") for path in recordings_in(archive)[1])
    left_early = Readers(
        lambda tasks, pulse: read_recordings(analyst, tasks, pulse=pulse), 2
    ).events(tasks)
    next(left_early)
    left_early.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reader-")]


def test_progress_ends_at_the_end(archive: Path, station_yaml: StationYaml) -> None:
    seen: list[tuple[float, float]] = []

    def look(now: replay.Progress) -> None:
        seen.append((now.bytes_done, now.audio_s))

    done = replay_folder(
        load_config(station_yaml()), archive, lambda _, now: look(now), look, jobs=2
    )
    assert seen == sorted(seen)
    assert seen[-1][0] == pytest.approx(sum(path.stat().st_size for path in archive.iterdir()))
    assert seen[-1][1] == pytest.approx(sum(o.audio_s for o in done.outcomes), abs=0.01)


def test_parquet_holds_what_the_database_does(
    archive: Path, station_yaml: StationYaml, tmp_path: Path
) -> None:
    config = load_config(station_yaml())
    done = replay_folder(config, archive)
    recordings = [o.recording for o in done.outcomes if o.recording]
    with Store(config.database) as store:
        names = write_parquet(store, done.bundle.id, recordings, tmp_path / "tables")
        columns = [row[1] for row in store.rows("PRAGMA table_info(detections)")]
        detections = store.rows(
            "SELECT d.*, r.path FROM detections d JOIN recordings r ON r.id = d.recording"
        )
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == sorted(names)
    table = parquet.read_table(tmp_path / "tables" / "detections.parquet")
    assert table.column_names == [*columns, "path"]
    found = zip(*(column.to_pylist() for column in table.columns), strict=True)
    assert sorted(found, key=repr) == sorted(detections, key=repr) != []
    assert parquet.read_metadata(tmp_path / "tables" / "recordings.parquet").num_rows == len(
        recordings
    )


def test_parquet_without_pyarrow_says_what_to_install(
    station_yaml: StationYaml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with (
        Store(load_config(station_yaml()).database) as store,
        pytest.raises(ConfigError, match=r"pyarrow is missing; type pip install '\.\[parquet\]'"),
    ):
        write_parquet(store, "b", [], tmp_path / "tables")


# a cluster


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    with two_nodes() as made:
        yield made


@pytest.mark.slow
def test_people_are_heard_alike_by_jobs_and_nodes(
    nodes: Cluster, station_yaml: StationYaml, tmp_path: Path
) -> None:
    for number in range(3):
        song = scene(30, 5.0 + 7.3 * number) + note("lowtoo", 30, 0.05)
        write_sound(tmp_path / "archive" / f"{number:02d}_20190601_05{number:02d}00.flac", song)
    kept = {}
    for name, how in (
        ("one", {}),
        ("two", {"jobs": 2}),
        ("nodes", {"cluster": nodes.address}),
        ("deaf", {}),
    ):
        (tmp_path / name).mkdir()
        human = "off" if name == "deaf" else "all"
        config = station_yaml(
            f"state: {tmp_path / name}", f"privacy: {{human: '{human}'}}", name=f"s{name}"
        )
        replayed(config, tmp_path / "archive", **how)
        kept[name] = dump(tmp_path / name / "station.db")
    assert 0 < len(kept["one"]["detections"]) < len(kept["deaf"]["detections"])
    assert differences(kept["two"], kept["one"]) == differences(kept["nodes"], kept["one"]) == []


@pytest.mark.slow
def test_a_node_killed_in_the_middle_loses_nothing(
    nodes: Cluster,
    archive: Path,
    station_yaml: StationYaml,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "_GROUP_TASKS", 1)
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    replayed(station_yaml(f"state: {tmp_path / 'here'}", name="h"), archive)
    ended: list[str] = []

    def kill(outcome: Outcome, _: object) -> None:
        ended.append(outcome.path)
        if len(ended) == 2:
            kill_a_node_of(nodes)

    config = station_yaml(f"state: {tmp_path / 'there'}", name="t")
    outcomes = replayed(config, archive, on_outcome=kill, cluster=nodes.address)
    assert len(outcomes) == len(ended) == MANY + 2
    rows = dump(tmp_path / "there" / "station.db")
    assert np.size(rows["detections"]) > 0
    assert differences(rows, dump(tmp_path / "here" / "station.db")) == []
    again = replayed(config, archive, cluster=nodes.address)
    assert all(o.earlier for o in again)


@pytest.mark.slow
def test_recordings_whose_reader_dies_are_told_and_the_rest_goes_on(
    nodes: Cluster, archive: Path, station_yaml: StationYaml, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One recording kills whoever reads it, as a decoder's crash would; it lies in a group with
    others."""
    config = load_config(station_yaml())
    monkeypatch.setattr(cluster, "LOST_MAX", 0)
    bundle = read_bundle(config.bundle_folder)
    tasks = [
        RecordingTask.of(path, path.name, "replay") for path in sorted(archive.glob("0[0-4]*"))
    ]
    read = cluster._read_there

    def deadly(config: object, bundle_id: str, group: list[RecordingTask]) -> list[Event]:
        import os

        if any(task.name.startswith("02") for task in group):
            os._exit(1)
        return read(config, bundle_id, group)  # type: ignore[arg-type]

    monkeypatch.setattr(cluster, "_read_there", deadly)
    events = list(cluster.ClusterReaders(nodes.address, config, bundle.id).events(tasks))
    unread = [event for event in events if type(event).__name__ == "ReadFailure"]
    assert [event.task.name[:2] for event in unread] == ["02"]  # type: ignore[union-attr]
    assert sum(type(event).__name__ == "RecordingEnd" for event in events) == 4


@pytest.mark.slow
def test_a_cluster_refuses_what_it_cannot_do(
    nodes: Cluster, archive: Path, station_yaml: StationYaml
) -> None:
    with pytest.raises(ConfigError, match=r"clips\.of_recordings is on"):
        replayed(station_yaml("clips: {of_recordings: true}"), archive, cluster=nodes.address)
    config = load_config(station_yaml())
    tasks = [RecordingTask.of(path, path.name, "replay") for path in sorted(archive.glob("00*"))]
    with pytest.raises(
        ConfigError,
        match=r"the bundle on node .* differs from the one here; all nodes need the same$",
    ) as told:
        list(cluster.ClusterReaders(nodes.address, config, "another").events(tasks))
    assert "\n" not in str(told.value)
