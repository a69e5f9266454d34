"""The replay as a user runs it: a real process, real files, a real database, killed and started
again."""

import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from pyarrow import parquet

from tests import HANGS_S
from tests.conftest import hiss, note, write_sound
from tests.helpers.records import dump

StationYaml = Callable[..., Path]

LABELS = "row_id,site,audio_id,seconds,birds\n" + "".join(
    f"1_COR_{end},COR,1,{end},{birds}\n"
    for end, birds in (
        (5, "nocall"),
        (10, "lowtoo"),
        (15, "nocall"),
        (20, "higtoo"),
        (25, "nocall"),
    )
)


def sounds(folder: Path, copies: int = 1) -> Path:
    """A folder as it comes from the field: good recordings in three codecs, others that cannot be
    read."""
    quiet = [hiss(5, seed=i) for i in range(5)]
    song = np.concatenate(
        [quiet[0], note("lowtoo", 5) + quiet[1], quiet[2], note("higtoo", 5) + quiet[3], quiet[4]]
    )
    for copy in range(copies):
        write_sound(folder / f"{copy + 1}_COR_20190601.ogg", song)
        write_sound(
            folder / "deep" / f"m{copy}_20190601_235950.wav", np.stack([song, song], axis=1)
        )
        write_sound(folder / "deep" / f"m{copy}_20190602_053000.flac", song[: 32_000 * 12])
        write_sound(folder / f"m{copy}_20190603_053000.mp3", song)
    (folder / "notes.txt").write_text("not a recording")
    (folder / "bad.wav").write_bytes(b"RIFF????WAVEhello")
    (folder / "empty.flac").write_bytes(b"")
    return folder


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "edge", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANGS_S)


def replay(*arguments: object, status: int = 0) -> dict[str, Any]:
    done = run("replay", *arguments, "--json")
    assert done.returncode == status, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
def test_replay_writes_the_record(tmp_path: Path, station_yaml: StationYaml) -> None:
    config = station_yaml()
    folder = sounds(tmp_path / "in")
    (tmp_path / "labels.csv").write_text(LABELS)
    found = replay(folder, "--config", config, "--labels", tmp_path / "labels.csv", status=3)
    assert found["recordings"] == 6
    assert found["analysed"] == 4
    assert {r["file"]: r["reason"] for r in found["refused"]}.keys() == {"bad.wav", "empty.flac"}
    assert all(r["reason"] for r in found["refused"])
    assert found["audio_s"] == pytest.approx(25 + 25 + 12 + 25, abs=0.2)
    assert found["species"] == 2
    assert found["detections"] == found["new_detections"] > 8
    assert found["f1"] == 1.0
    assert found["f1_all_nocall"] == 0.6
    assert found["f1_call_rows"] == found["f1_nocall_rows"] == 1.0
    assert {"windows", "wall_s", "cpu_s", "x_real_time", "peak_rss_mb"} <= set(found)
    rows = dump(config.parent / "station.db")
    heard = [row for row in rows["detections"] if row[3] == "lowtoo"]
    assert all(row[4].endswith("Z") for row in heard)
    wav = next(r for r in rows["recordings"] if r[1] == "deep/m0_20190601_235950.wav")
    assert wav[2:5] == ("2019-06-01T23:59:50.000Z", "name", "analysed")
    assert sorted(r[1] for r in rows["effort"] if r[0] == wav[0]) == [
        "2019-06-01T23:00:00.000Z",
        "2019-06-02T00:00:00.000Z",
    ]
    assert sum(r[3] for r in rows["effort"]) == pytest.approx(found["audio_s"], abs=0.01)
    assert rows["outbox"] == []


@pytest.mark.slow
def test_a_second_run_changes_nothing_and_says_so(
    tmp_path: Path, station_yaml: StationYaml
) -> None:
    config = station_yaml()
    folder = sounds(tmp_path / "in")
    first = replay(folder, "--config", config, status=3)
    rows = dump(config.parent / "station.db")
    second = replay(folder, "--config", config, status=3)
    assert second["new_detections"] == 0
    assert second["unchanged"] == 6
    for key in ("recordings", "analysed", "refused", "audio_s", "windows", "detections", "species"):
        assert second[key] == first[key]
    assert dump(config.parent / "station.db") == rows
    assert "Nothing to do" in run("replay", folder, "--config", config).stdout


@pytest.mark.slow
def test_other_settings_replace_the_rows(tmp_path: Path, station_yaml: StationYaml) -> None:
    folder = sounds(tmp_path / "in")
    before = replay(folder, "--config", station_yaml(), status=3)
    strict = station_yaml("detect: {thresholds: {lowtoo: 1.0}}")
    after = replay(folder, "--config", strict, status=3)
    assert after["unchanged"] == 0
    assert 0 < after["detections"] < before["detections"]
    assert {row[3] for row in dump(strict.parent / "station.db")["detections"]} == {"higtoo"}


@pytest.mark.slow
def test_a_changed_file_is_analysed_again(tmp_path: Path, station_yaml: StationYaml) -> None:
    config = station_yaml()
    path = write_sound(tmp_path / "in" / "a_20190601_053000.wav", hiss(10))
    assert replay(path, "--config", config)["detections"] == 0
    write_sound(path, note("midtoo", 10))
    again = replay(path, "--config", config)
    assert again["unchanged"] == 0
    assert again["new_detections"] == again["detections"] == 3


@pytest.mark.slow
def test_a_run_speaks_of_its_own_recordings(tmp_path: Path, station_yaml: StationYaml) -> None:
    """Two cards with the same names; files of one recording count once, and are scored once."""
    config = station_yaml()
    labels = tmp_path / "labels.csv"
    rows = [f"1_COR_{end},COR,1,{end},{'lowtoo' if end == 10 else 'nocall'}" for end in (5, 10, 15)]
    labels.write_text("row_id,site,audio_id,seconds,birds\n" + "\n".join(rows) + "\n")
    for card, code in (("a", "lowtoo"), ("b", "higtoo")):
        song = np.concatenate([hiss(5), note(code, 5) + hiss(5), hiss(5)])
        path = write_sound(tmp_path / card / "1_COR_20190601.wav", song)
        (tmp_path / card / "copy").mkdir()
        (tmp_path / card / "copy" / path.name).hardlink_to(path)
    options = ("--config", config, "--labels", labels, "--parquet", tmp_path / "tables")
    for card, f1, code in (("a", 1.0, "lowtoo"), ("b", 2 / 3, "higtoo"), ("a", 1.0, "lowtoo")):
        summary = replay(tmp_path / card, *options)
        assert (summary["files"], summary["recordings"], summary["audio_s"]) == (2, 1, 15.0)
        assert summary["f1"] == pytest.approx(f1)
        heard = parquet.read_table(tmp_path / "tables" / "detections.parquet")
        assert set(heard["species"].to_pylist()) == {code}
        assert heard.num_rows == summary["detections"] > 0
        assert parquet.read_metadata(tmp_path / "tables" / "recordings.parquet").num_rows == 1
        shown = run("replay", tmp_path / card, "--config", config).stdout
        assert ("Low Tooter" in shown, "High Tooter" in shown) == (
            code == "lowtoo",
            code == "higtoo",
        )
        assert "1 file with the same sound as another" in shown


@pytest.mark.slow
def test_place_and_season_weigh_in(tmp_path: Path, station_yaml: StationYaml) -> None:
    folder = tmp_path / "in"
    write_sound(folder / "1_NOR_20190601.wav", note("higtoo", 10))
    write_sound(folder / "2_SOU_20190601.wav", note("higtoo", 10))
    write_sound(folder / "3_XXX_20190601.wav", note("higtoo", 10))
    sites = "sites: {NOR: {latitude: 60, longitude: 5}, SOU: {latitude: -60, longitude: 5}}"
    config = station_yaml(sites, "detect: {threshold: 0.998}")
    replay(folder, "--config", config)
    with closing(sqlite3.connect(config.parent / "station.db")) as db, db:
        rows = db.execute(
            "SELECT r.path, d.prior, d.rule FROM detections d JOIN recordings r ON r.id = "
            "d.recording"
        )
        found = {path: (prior, rule) for path, prior, rule in rows}
    db.close()
    assert set(found) == {"2_SOU_20190601.wav", "3_XXX_20190601.wav"}
    assert found["2_SOU_20190601.wav"][0] > 0.99
    assert found["3_XXX_20190601.wav"] == (None, "station-acoustic")
    off = station_yaml(sites, "detect: {prior: off}", name="off")
    assert replay(folder, "--config", off)["detections"] == 9


@pytest.mark.slow
def test_messages_reach_a_subscriber(
    tmp_path: Path, station_yaml: StationYaml, mosquitto: int
) -> None:
    config = station_yaml(f"mqtt: {{host: 127.0.0.1, port: {mosquitto}, topic: woods}}")
    received: list[dict[str, Any]] = []
    subscribed = threading.Event()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.on_message = lambda _c, _d, message: received.append(json.loads(message.payload))
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect("127.0.0.1", mosquitto)
    client.subscribe("woods/v1/porch/detection", qos=1)
    client.loop_start()
    assert subscribed.wait(10)
    found = replay(sounds(tmp_path / "in"), "--config", config, status=3)
    deadline = time.monotonic() + 20
    while len(received) < found["detections"] and time.monotonic() < deadline:
        time.sleep(0.05)
    client.disconnect()
    client.loop_stop()
    assert found["mqtt_waiting"] == 0
    rows = dump(config.parent / "station.db")
    assert [m["id"] for m in received] == [row[0] for row in order(rows, config)]
    assert len(received) == found["detections"]
    assert received[0]["schema"] == "detection/1"
    assert {"start", "end", "species_code", "score", "threshold", "bundle"} <= set(received[0])


def order(rows: dict[str, list[tuple[Any, ...]]], config: Path) -> list[tuple[Any, ...]]:
    """Outbox rows in the order they were written."""
    with closing(sqlite3.connect(config.parent / "station.db")) as db, db:
        seqs = dict(db.execute("SELECT id, seq FROM outbox").fetchall())
    db.close()
    return sorted(rows["outbox"], key=lambda row: seqs[row[0]])


@pytest.mark.slow
def test_without_a_broker_messages_wait(
    tmp_path: Path, station_yaml: StationYaml, mosquitto: int
) -> None:
    path = write_sound(tmp_path / "a_20190601_053000.wav", note("midtoo", 10))
    away = station_yaml("mqtt: {host: 127.0.0.1, port: 1}")
    found = replay(path, "--config", away)
    assert found["mqtt_waiting"] == found["detections"] == 3
    back = station_yaml(f"mqtt: {{host: 127.0.0.1, port: {mosquitto}}}")
    assert replay(path, "--config", back)["mqtt_waiting"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["replay"], 2, "Missing argument"),
        (["replay", "x", "--nonsense"], 2, "No such option"),
        (["replay", "/nowhere", "--config", "CONFIG"], 2, "/nowhere: no such file or folder"),
        (["replay", ".", "--config", "/nowhere.yaml"], 78, "/nowhere.yaml: no such file"),
        (["replay", "EMPTY", "--config", "CONFIG", "--labels", "/nowhere.csv"], 2, "/nowhere.csv"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, station_yaml: StationYaml, arguments: list[str], status: int, message: str
) -> None:
    names = {"CONFIG": str(station_yaml()), "EMPTY": str(tmp_path)}
    done = run(*(names.get(a, a) for a in arguments))
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    if status == 78 or done.stderr.startswith("error: "):
        assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("hop_s", [0.1, 0.2, 0.625, 2.5])
def test_every_hop_that_divides_a_row_can_be_scored(
    tmp_path: Path, station_yaml: StationYaml, hop_s: float
) -> None:
    """In samples: 5 % 0.1 is 0.0999… in floating point."""
    (tmp_path / "labels.csv").write_text("row_id,birds\na_5,midtoo\n")
    write_sound(tmp_path / "in" / "a.wav", note("midtoo", 6))
    config = station_yaml(f"windows: {{hop_s: {hop_s}}}")
    assert (
        replay(tmp_path / "in", "--config", config, "--labels", tmp_path / "labels.csv")["f1"]
        == 1.0
    )


@pytest.mark.slow
def test_a_row_that_fits_two_recordings_names_both(
    tmp_path: Path, station_yaml: StationYaml
) -> None:
    (tmp_path / "labels.csv").write_text("row_id,birds\n10_AAA_5,midtoo\n")
    for folder, code in (("A", "midtoo"), ("B", "lowtoo")):
        write_sound(tmp_path / "in" / folder / "10_AAA_20240512.wav", note(code, 6))
    done = run(
        "replay", tmp_path / "in", "--config", station_yaml(), "--labels", tmp_path / "labels.csv"
    )
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert (
        last == "error: rows of 10_AAA: expected one recording, found A/10_AAA_20240512.wav and "
        "B/10_AAA_20240512.wav"
    )


@pytest.mark.slow
def test_a_whole_name_goes_before_a_shortened_one(
    tmp_path: Path, station_yaml: StationYaml
) -> None:
    (tmp_path / "labels.csv").write_text("row_id,birds\n10_AAA_5,midtoo\n")
    for name, code in (
        ("10_AAA", "midtoo"),
        ("10_AAA_20240512", "lowtoo"),
        ("10_AAA_20240513", "lowtoo"),
    ):
        write_sound(tmp_path / "in" / f"{name}.wav", note(code, 6))
    found = replay(tmp_path / "in", "--config", station_yaml(), "--labels", tmp_path / "labels.csv")
    assert found["f1"] == 1.0


@pytest.mark.slow
def test_an_empty_folder_is_no_error(tmp_path: Path, station_yaml: StationYaml) -> None:
    config = station_yaml()
    (tmp_path / "in").mkdir()
    assert replay(tmp_path / "in", "--config", config)["recordings"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "expected columns row_id and birds"),
        ("row_id,birds\nnonsense,x\n", "line 2: row id: expected NAME_SECONDS, found 'nonsense'"),
        ("row_id,birds\n", "no rows"),
        ("row_id,birds\nother_5,x\n", "none of the labelled rows"),
    ],
)
def test_bad_labels_are_one_line(
    tmp_path: Path, station_yaml: StationYaml, text: str, message: str
) -> None:
    (tmp_path / "labels.csv").write_text(text)
    write_sound(tmp_path / "in" / "a_20190601_053000.wav", hiss(6))
    done = run(
        "replay", tmp_path / "in", "--config", station_yaml(), "--labels", tmp_path / "labels.csv"
    )
    assert done.returncode == 2
    assert message in done.stderr


def test_the_station_starts_without_the_trainers_libraries(
    tmp_path: Path, station_yaml: StationYaml
) -> None:
    blocked = (
        "torch",
        "torchvision",
        "timm",
        "pandas",
        "sklearn",
        "catboost",
        "rasterio",
        "librosa",
        "matplotlib",
        "onnx",
    )
    path = write_sound(tmp_path / "a_20190601_053000.wav", note("midtoo", 10))
    program = (
        f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\nfrom edge.__main__ import "
        "app\napp()\n"
    )
    command = [
        sys.executable,
        "-c",
        program,
        "replay",
        str(path),
        "--config",
        str(station_yaml()),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS_S)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["detections"] == 3
