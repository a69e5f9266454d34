"""Fit to be left alone or not: a real bundle, real brokers, real databases; sound from a
hand-written sound card."""

import json
import math
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt
import pytest
from numpy.typing import NDArray
from paho.mqtt.enums import CallbackAPIVersion
from sqlite_utils import Database

from edge.analysis.recognizer import Recognizer
from edge.capture.meter import Level
from edge.capture.portaudio import devices
from edge.check import model, outside, storage
from edge.check.model import check_codes, check_pace, check_place, pace_verdict
from edge.check.outside import check_broker, check_clock
from edge.check.run import run_checks
from edge.check.settings import check_settings
from edge.check.sound import Watch, check_folder, check_microphone, sound_verdict
from edge.check.storage import check_database, check_disk, check_state, file_system
from edge.check.verdict import CheckResult, exit_status
from edge.config import Config, MicrophoneSettings, load_config
from edge.contract.bundle import read_bundle
from edge.contract.errors import CaptureError, ConfigError
from edge.host.machine import DiskStatus
from edge.store.record import Store
from edge.store.schema import first_schema
from edge.types import utc_text
from tests import HANGS_S
from tests.conftest import hiss, note, write_sound
from tests.helpers.brokers import Broker, free_port

Yaml = Callable[..., Path]
FIT = (
    "station: {id: porch, latitude: 20, longitude: 10, timezone: Europe/Vilnius}",
    "privacy: {human: 'off'}",
)
ORDER = [
    "program",
    "settings",
    "time zone",
    "schedule",
    "bundle",
    "privacy",
    "place",
    "runtime",
    "state folder",
    "health folder",
]
ORDER += ["database", "disk", "clock", "broker", "microphone"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speed is measured over a tenth of a second, except by the command itself."""
    monkeypatch.setattr(model, "_MEASURE_S", 0.1)


@pytest.fixture
def fit_yaml(bundle_folder: Path, tmp_path: Path) -> Yaml:
    """A station.yaml with nothing to complain of; arguments are further lines, `station` other
    first ones."""

    def write(*lines: str, station: tuple[str, ...] = FIT, bundle: Path = bundle_folder) -> Path:
        path = tmp_path / "station" / "station.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join([*station, f"bundle: {bundle}", *lines]) + "\n")
        return path

    return write


def command(
    path: Path, *arguments: str, before: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    line = [
        *before,
        sys.executable,
        "-W",
        "error",
        "-m",
        "edge",
        "check",
        "--config",
        str(path),
        *arguments,
    ]
    return subprocess.run(line, capture_output=True, text=True, timeout=HANGS_S, check=False)


def report(
    path: Path, before: tuple[str, ...] = ()
) -> tuple[int, dict[str, Any], dict[str, dict[str, Any]]]:
    """Exit status, the whole answer, its checks by name."""
    done = command(path, "--listen-s", "0", "--json", before=before)
    assert "Traceback" not in done.stderr, done.stderr
    whole = json.loads(done.stdout)
    return done.returncode, whole, {check["name"]: check for check in whole["checks"]}


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def in_process(path: Path) -> tuple[int, dict[str, CheckResult]]:
    """Exit status and checks by name; quicker than the command."""
    checks = run_checks(path, 0, lambda _: None)
    return exit_status(checks), {check.name: check for check in checks}


def one(checks: list[CheckResult]) -> CheckResult:
    (check,) = checks
    return check


@pytest.mark.slow
def test_a_fit_station(fit_yaml: Yaml, mosquitto: int) -> None:
    path = fit_yaml(
        f"mqtt: {{host: 127.0.0.1, port: {mosquitto}}}",
        "schedule: [[sunrise, sunset], ['20:00', '21:00']]",
    )
    code, whole, checks = report(path)
    assert code == 0
    assert set(whole) == {"verdict", "exit", "checks"}
    assert whole["exit"] == 0
    assert list(checks) == ORDER
    for check in whole["checks"]:
        assert set(check) == {"name", "verdict", "found", "advice", "stops", "figures"}
        assert check["found"]
        assert bool(check["advice"]) == (check["verdict"] != "ok"), check
        assert "\n" not in check["found"] + check["advice"]
    # these may differ from one machine to another
    of_the_machine = {"clock", "disk", "runtime", "state folder"}
    assert {name for name, check in checks.items() if check["verdict"] != "ok"} <= of_the_machine
    assert checks["settings"]["figures"]["set"] == (
        "station.id, station.latitude, station.longitude, station.timezone, bundle, schedule, "
        "privacy.human, mqtt"
    )
    assert "until" in checks["schedule"]["found"]
    assert checks["bundle"]["figures"]["species"] == 3
    assert checks["runtime"]["figures"]["x_real_time"] > 0
    # the test bundle's prior: low notes in the north
    assert "Low Tooter is the likeliest" in checks["place"]["found"]
    assert checks["broker"]["figures"]["protocol"] == "5"
    assert names_in(path.parent) == ["station.yaml"], "a check leaves nothing behind"


@pytest.mark.slow
def test_people_get_a_table(fit_yaml: Yaml) -> None:
    done = command(
        fit_yaml(station=("station: {id: porch}", "privacy: {speech: false}")), "--listen-s", "0"
    )
    assert done.returncode == 0
    text = " ".join(done.stdout.replace("│", " ").split())
    assert "→ Set station.timezone" in text
    assert "→ Set station.latitude and station.longitude" in text
    assert "voices are not recognised" in text


@pytest.mark.slow
def test_wrong_settings_are_one_line(fit_yaml: Yaml) -> None:
    done = command(fit_yaml("windows: {hop_s: 9}"), "--json")
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.count("\n") == 1
    assert "windows.hop_s" in done.stderr


def test_a_damaged_bundle_stops_and_the_rest_is_checked(fit_yaml: Yaml, own_bundle: Path) -> None:
    (own_bundle / "members" / "mixup.onnx").write_bytes(b"none")
    checks = run_checks(fit_yaml(bundle=own_bundle), 0, lambda _: None)
    bundle = next(check for check in checks if check.name == "bundle")
    assert (bundle.verdict, bundle.stops) == ("bad", True)
    assert "mixup.onnx" in bundle.found
    assert exit_status(checks) == 78
    assert {"database", "clock", "broker", "microphone"} <= {check.name for check in checks}


@pytest.mark.parametrize(
    ("line", "name", "words"),
    [
        ("detect: {thresholds: {dodo: 0.5}}", "runtime", "found dodo"),
        ("privacy: {classes: [human]}", "runtime", "found human"),
        ("schedule: [[noon, sunset]]", "schedule", "schedule[0]"),
        (
            "mqtt: {host: 127.0.0.1, username: me, password_file: nowhere}",
            "broker",
            "mqtt.password_file",
        ),
        ("source: folder", "folder", "folder.path"),
    ],
)
def test_settings_that_do_not_fit_stop(line: str, name: str, words: str, fit_yaml: Yaml) -> None:
    checks = run_checks(fit_yaml(line, station=FIT[:1]), 0, lambda _: None)
    bad = one([check for check in checks if check.verdict == "bad"])
    assert bad.name == name
    assert words in bad.found
    assert bad.advice
    assert exit_status(checks) == 78


def test_exit_statuses() -> None:
    fine, warns, bad = (CheckResult("x", verdict, "") for verdict in ("ok", "warning", "bad"))
    assert [
        exit_status(checks)
        for checks in ([], [fine, warns], [fine, bad], [bad, CheckResult("y", "bad", "", "", True)])
    ] == [
        0,
        0,
        1,
        78,
    ]


# Settings, place, people


def test_defaults_are_told_from_what_was_set(tmp_path: Path) -> None:
    path = tmp_path / "station.yaml"
    path.write_text(
        "{station: {id: station}, state: ., windows: {hop_s: 2.5}, clips: {format: wav}}\n"
    )
    assert one(check_settings(path, load_config(path))).figures["set"] == "clips.format"


@pytest.mark.parametrize(
    ("lines", "verdict", "words"),
    [
        ("station: {id: porch}", "warning", "not set"),
        ("station: {id: a, latitude: 0, longitude: 0}", "warning", "without a fix"),
        ("station: {id: a, latitude: 0, longitude: 10}", "ok", "likeliest"),
        ("station: {id: a}\ndetect: {prior: 'off'}", "ok", "detect.prior is off"),
    ],
)
def test_places(lines: str, verdict: str, words: str, fit_yaml: Yaml, bundle_folder: Path) -> None:
    check = one(check_place(load_config(fit_yaml(station=(lines,))), read_bundle(bundle_folder)))
    assert check.verdict == verdict
    assert words in check.found


def test_a_code_that_protects_nothing_is_bad(fit_yaml: Yaml, bundle_folder: Path) -> None:
    config = load_config(fit_yaml("sensitive: {species: [lowtoo, eagowl]}"))
    sensitive, _ = check_codes(config, read_bundle(bundle_folder))
    assert sensitive.verdict == "bad"
    assert "eagowl" in sensitive.found
    assert "lowtoo" not in sensitive.found


# Speed


@pytest.mark.parametrize("hop_s", [0.1, 2.5, 5.0])
def test_a_slow_machine_is_told_what_the_ladder_gives(
    hop_s: float, fit_yaml: Yaml, bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = Recognizer(read_bundle(bundle_folder), threads=1)
    config = load_config(fit_yaml(f"windows: {{hop_s: {hop_s}}}"))
    fast = one(check_pace(config, recognizer))
    assert "x_real_time_shed_1" not in fast.figures or fast.verdict != "ok"
    times = float(str(fast.figures["x_real_time"]))
    windows = float(str(fast.figures["windows_per_s"]))
    assert windows * config.windows.hop_s == pytest.approx(times, rel=0.02)
    assert (
        0 < float(str(fast.figures["window_ms_p50"])) <= float(str(fast.figures["window_ms_p95"]))
    )
    monkeypatch.setattr(model, "PACE_EASY", math.inf)
    slow = one(check_pace(config, recognizer))
    assert slow.verdict != "ok"
    assert "windows.hop_s" in slow.advice
    assert {"x_real_time_shed_1", "x_real_time_shed_2"} <= set(slow.figures)
    assert "without overlap" in slow.found


def test_pace_verdicts() -> None:
    assert [pace_verdict(times) for times in (0.5, 1.19, 1.2, 2.9, 3.0, 40.0)] == [
        *("bad", "bad"),
        *("warning", "warning"),
        *("ok", "ok"),
    ]


# Database, state folder, disk


def config_in(folder: Path, *lines: str) -> Config:
    folder.mkdir(exist_ok=True)
    named = [] if any(line.startswith("station:") for line in lines) else ["station: {id: porch}"]
    (folder / "station.yaml").write_text("\n".join([*named, *lines]) + "\n")
    return load_config(folder / "station.yaml")


def test_a_database_in_use_is_sound(tmp_path: Path, bundle_folder: Path) -> None:
    config = config_in(tmp_path / "s")
    assert "does not exist yet" in one(check_database(config)).found
    assert not config.database.exists()
    with Store(config.database) as store:
        store.add_bundle(read_bundle(bundle_folder), "{}")
        check = one(check_database(config))
    assert check.verdict == "ok"
    assert check.figures["recordings"] == check.figures["pending"] == 0
    (tmp_path / "s" / "station.db.damaged-20261128T120000.000000Z").touch()
    (tmp_path / "s" / "station.db.damaged-20261128T120000.000000Z-wal").touch()
    check = one(check_database(config))
    assert check.verdict == "warning"
    assert "salvaged: station.db.damaged-20261128T120000.000000Z beside it" in check.found
    assert "move or delete" in check.advice


def test_an_earlier_version_is_told_and_left(tmp_path: Path) -> None:
    config = config_in(tmp_path / "s")
    with closing(sqlite3.connect(config.database)) as raw:
        first_schema(Database(raw))
        raw.commit()
    before = config.database.read_bytes()
    check = one(check_database(config))
    assert check.verdict == "ok"
    assert "earlier version" in check.found
    assert config.database.read_bytes() == before


@pytest.mark.slow
def test_a_reader_without_an_end_is_said(tmp_path: Path, bundle_folder: Path) -> None:
    """While it reads, nothing of the write-ahead log can be written back."""
    config = Config(state=tmp_path, bundle=bundle_folder)
    with Store(config.database), closing(sqlite3.connect(config.database)) as writer:
        writer.execute("CREATE TABLE ballast (bytes BLOB)")
        with closing(sqlite3.connect(config.database, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM recordings").fetchone()
            for _ in range(40):
                with writer:
                    writer.execute("INSERT INTO ballast VALUES (randomblob(1000000))")
            check = one(check_database(config))
            assert (check.verdict, "write-ahead log has grown to 4" in check.found) == (
                "warning",
                True,
            )
            assert "lsof" in check.advice
        writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert one(check_database(config)).verdict == "ok"


def test_a_damaged_database_is_reported_and_left(fit_yaml: Yaml) -> None:
    path = fit_yaml()
    database = path.parent / "station.db"
    database.write_bytes(b"this is no database " * 999)
    code, checks = in_process(path)
    assert code == 1
    assert checks["database"].verdict == "bad"
    assert "not a database" in checks["database"].found
    assert "copies all that can be read" in checks["database"].advice
    assert database.read_bytes() == b"this is no database " * 999
    assert names_in(path.parent) == ["station.db", "station.yaml"]


def test_a_state_folder_that_cannot_be(fit_yaml: Yaml, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, checks = in_process(fit_yaml(f"state: {tmp_path}/file/state"))
    assert code == 1
    assert checks["state folder"].verdict == checks["health folder"].verdict == "bad"
    assert "Not a directory" in checks["state folder"].found


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting wants root")
def test_a_state_folder_on_a_read_only_disk(fit_yaml: Yaml, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with Store(state / "station.db"):
        pass
    mounted = f'mount --bind {state} {state} && mount -o remount,ro,bind {state} && exec "$@"'
    code, _, checks = report(
        fit_yaml(f"state: {state}"), before=("unshare", "-m", "sh", "-c", mounted, "sh")
    )
    assert code == 1
    assert checks["state folder"]["verdict"] == "bad"
    assert "Read-only" in checks["state folder"]["found"]
    assert checks["database"]["verdict"] == "bad"


@pytest.mark.skipif(os.geteuid() != 0, reason="chown wants root")
def test_root_is_told_that_it_is_not_the_station(tmp_path: Path) -> None:
    config = config_in(tmp_path / "s")
    os.chown(config.state, 1234, 1234)
    check = one(check_state(config))
    assert check.verdict == "warning"
    assert "sudo -u" in check.advice


def test_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my card").mkdir()
    card = str(tmp_path / "my card").replace(" ", "\\040")
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        f"1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/sda rw\n2 1 8:2 / {card} rw - vfat /dev/sdb "
        "rw\n"
    )
    assert file_system(tmp_path, mounts) == "ext4"
    assert file_system(tmp_path / "my card", mounts) == "vfat"
    monkeypatch.setattr(storage, "file_system", lambda _: "vfat")
    check = one(check_state(config_in(tmp_path / "my card")))
    assert check.verdict == "warning"
    assert "power cut" in check.found


def test_days_left_follow_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk of its own, half full: the machine's can be past the share at which no days are
    left."""
    monkeypatch.setattr(
        "edge.check.storage.disk", lambda _: DiskStatus(free_mb=5_000_000.0, total_mb=10_000_000.0)
    )
    config = config_in(tmp_path / "s")
    estimated = one(check_disk(config))
    assert "estimated" in estimated.found
    now = datetime.now(timezone.utc)
    with Store(config.database):
        pass
    with closing(sqlite3.connect(config.database)) as db:
        began = utc_text(now - timedelta(days=20))
        db.execute("INSERT INTO bundles VALUES ('b', '{}', ?)", (began,))
        db.execute(
            "INSERT INTO recordings (id, station, path, bytes, mtime_ns, state, analysis) VALUES "
            "('r', 's', 'p', 0, 0, 'analysed', 'a')"
        )
        for n, age in enumerate((1, 3, 15)):  # of these two are of the last week
            created = utc_text(now - timedelta(days=age))
            row = (f"c{n}", f"{n}.flac", "r", began, 1.0, 700_000_000_000, created)
            db.execute(
                "INSERT INTO clips (id, path, recording, start_utc, seconds, bytes, created_utc) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                row,
            )
        db.commit()
    check = one(check_disk(config))
    assert "200000 MB a day, as recorded over 7 d" in check.found
    share = config.retention.disk_share
    assert check.figures["days_left"] == pytest.approx(
        (5e6 - 1e7 * (1 - share)) / 200_000, abs=0.05
    )
    assert float(str(check.figures["days_left"])) < float(str(estimated.figures["days_left"]))


# Clock and broker


def test_clocks() -> None:
    assert one(check_clock(Config())).verdict in ("ok", "warning")
    never_set = one(check_clock(Config(), wall_s=315_532_800.0))
    assert never_set.verdict == "bad"
    assert "1980-01-01" in never_set.found


def broker_check(folder: Path, port: int, more: str = "") -> CheckResult:
    return one(
        check_broker(
            config_in(
                folder / "s",
                "station: {id: porch}",
                f"mqtt: {{host: 127.0.0.1, port: {port}{more}}}",
            )
        )
    )


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_the_broker_really_gets_a_message(protocol: str, tmp_path: Path, mosquitto: int) -> None:
    heard: list[tuple[str, Any, bool]] = []
    subscribed = threading.Event()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="listener")
    client.on_connect = lambda *_: client.subscribe("birdstation/#", qos=1)
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_message = lambda _c, _d, m: heard.append((m.topic, json.loads(m.payload), m.retain))
    client.connect("127.0.0.1", mosquitto)
    client.loop_start()
    assert subscribed.wait(20)
    check = broker_check(tmp_path, mosquitto, f", protocol: '{protocol}'")
    deadline = time.monotonic() + 20
    while not heard and time.monotonic() < deadline:
        time.sleep(0.05)
    client.disconnect()
    client.loop_stop()
    assert (check.verdict, check.figures["protocol"]) == ("ok", protocol)
    topic, payload, retained = heard[0]
    assert topic == "birdstation/v1/porch/check"
    assert payload["schema"] == "check/1"
    assert not retained


def test_a_wrong_password_and_a_forbidden_topic(tmp_path: Path) -> None:
    users = tmp_path / "users"
    acl = tmp_path / "acl"
    subprocess.run(
        ["mosquitto_passwd", "-b", "-c", users, "me", "right"], check=True, capture_output=True
    )
    users.chmod(0o644)
    acl.write_text("user me\ntopic write elsewhere/#\n")
    (tmp_path / "password").write_text("wrong\n")
    login = f", username: me, password_file: {tmp_path / 'password'}"
    rights = ("allow_anonymous false", f"password_file {users}", f"acl_file {acl}")
    with Broker(tmp_path, free_port(), *rights) as broker:
        port = broker.port
        wrong = broker_check(tmp_path, port, login)
        (tmp_path / "password").write_text("right\n")
        forbidden = broker_check(tmp_path, port, login)
        allowed = broker_check(tmp_path, port, f"{login}, topic: elsewhere")
    assert wrong.verdict == "bad"
    assert "Not authorized" in wrong.found
    assert "mqtt.password_file" in wrong.found
    assert forbidden.verdict == "bad"
    assert "birdstation/v1/porch/check: Not authorized" in forbidden.found
    assert allowed.verdict == "ok"


def test_no_broker_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = broker_check(tmp_path, free_port())
    assert (gone.verdict, gone.stops) == ("bad", False)
    assert "refused" in gone.found
    monkeypatch.setattr(outside, "ANSWER_S_MAX", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        silent = broker_check(tmp_path, mute.getsockname()[1])
    assert silent.verdict == "bad"
    assert "no MQTT reply" in silent.found


# Sound


class FakeStream:
    """Feeds its sound in real time, a tenth of a second at a time, as PortAudio's thread does."""

    def __init__(
        self, sound: NDArray[np.float32], samplerate: int, channels: int, callback: Any, **_: Any
    ) -> None:
        self._sound = sound
        self._frames = samplerate // 10
        self._channels = channels
        self._callback = callback
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._feed, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _feed(self) -> None:
        at = 0
        while not self._stop.wait(0.1):
            block = np.take(self._sound, range(at, at + self._frames), mode="wrap")
            raw = np.stack([block] * self._channels, 1).astype(np.float32).tobytes()
            self._callback(raw, self._frames, None, SimpleNamespace(input_overflow=False))
            at += self._frames

    def abort(self, ignore_errors: bool = True) -> None:  # noqa: ARG002
        self._stop.set()
        self._thread.join()

    def close(self, ignore_errors: bool = True) -> None: ...


def sound_card(sound: NDArray[np.float32] | None) -> Any:
    """As much of the module sounddevice as PortAudio here touches: one card that plays `sound`;
    None: no card."""
    card = {
        "index": 0,
        "name": "Test Card",
        "hostapi": 0,
        "max_input_channels": 2,
        "default_samplerate": 32_000.0,
    }

    def query_devices(_device: object = None, kind: str | None = None) -> Any:
        return card if kind else [card] if sound is not None else []

    return SimpleNamespace(
        PortAudioError=OSError,
        _initialized=0,
        _initialize=lambda: None,
        _terminate=lambda: None,
        query_hostapis=lambda: [{"name": "Test"}],
        query_devices=query_devices,
        RawInputStream=lambda **options: FakeStream(sound, **options),
    )


LISTEN_S = 2.5  # the first sound is kept back for a second


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sound", "verdict", "advice"),
    [
        (note("midtoo", 1, 0.1), "ok", ""),
        (np.clip(note("midtoo", 1, 1.5), -1, 1), "bad", "gain"),
        (note("midtoo", 1, 0.1) + np.float32(0.05), "warning", "constant offset"),
        (hiss(1, 1e-5), "warning", "plugged in"),
        (np.full(32_000, 0.25, np.float32), "bad", "All samples are equal"),
    ],
    ids=["fine", "clipped", "offset", "quiet", "dead"],
)
def test_what_the_microphone_gives(sound: NDArray[np.float32], verdict: str, advice: str) -> None:
    cards, heard = check_microphone(MicrophoneSettings(), LISTEN_S, sound_card(sound))
    assert cards.found == "'Test Card' (2 channels, 32000 Hz)"
    assert heard.verdict == verdict, heard
    assert advice in heard.advice
    assert heard.figures["offset"] == pytest.approx(sound.mean(), abs=1e-3)
    if verdict == "ok":
        # a sine of 0.1: -20 - 3
        assert heard.figures["level_dbfs"] == pytest.approx(-23.0, abs=0.1)
        assert heard.figures["peak_dbfs"] == pytest.approx(-20.0, abs=0.1)
    json.dumps(dict(heard.figures), allow_nan=False)


def test_no_card_and_a_card_of_another_name() -> None:
    none = one(check_microphone(MicrophoneSettings(), LISTEN_S, sound_card(None)))
    assert none.verdict == "bad"
    assert "arecord -l" in none.advice
    _, other = check_microphone(MicrophoneSettings(device="AudioMoth"), 0.2, sound_card(hiss(1)))
    assert other.verdict == "bad"
    assert "'Test Card'" in other.found


@pytest.mark.slow
def test_this_machines_own_portaudio_never_raises(fit_yaml: Yaml) -> None:
    try:
        if devices():
            pytest.skip("this machine has a sound card")
    except CaptureError:
        pass
    done = command(fit_yaml(), "--listen-s", "1", "--json")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    microphone = json.loads(done.stdout)["checks"][-1]
    assert (microphone["name"], microphone["verdict"]) == ("microphone", "bad")
    assert microphone["advice"]


GOOD = {"seconds": 9.0, "level_dbfs": -45.0, "peak": 0.2, "clipped": 0.0, "offset": 0.001}


@pytest.mark.parametrize(
    ("level", "lost", "ppm", "verdict"),
    [
        ({}, 0.0, 80.0, "ok"),
        ({}, 0.0, None, "ok"),
        ({"clipped": 0.002}, 0.0, 0.0, "bad"),
        ({"clipped": 0.0005}, 0.0, 0.0, "ok"),
        ({"offset": -0.02}, 0.0, 0.0, "warning"),
        ({"level_dbfs": -90.0}, 0.0, 0.0, "warning"),
        ({"level_dbfs": -math.inf}, 0.0, 0.0, "bad"),
        ({}, 0.002, 0.0, "warning"),
        ({}, 0.02, 0.0, "bad"),
        ({}, 0.0, -80_000.0, "warning"),  # 44.1 kHz that call themselves 48
    ],
)
def test_rules_of_sound(
    level: dict[str, float], lost: float, ppm: float | None, verdict: str
) -> None:
    found, advice = sound_verdict(Level(**(GOOD | level)), lost, ppm)
    assert found == verdict
    assert bool(advice) == (verdict != "ok")


def test_the_rate_comes_from_the_arrivals() -> None:
    watch = Watch()
    assert watch.rate_ppm() is None
    rng = np.random.default_rng(1)
    watch.rate_hz = 48_000
    # blocks of 0.05 s at 0.3 % more than the nominal rate
    times = np.arange(200) * 0.05 + rng.uniform(0, 0.01, 200)
    watch.arrivals = [(float(at), 2407 if n % 5 else 2408) for n, at in enumerate(times)]
    ppm = watch.rate_ppm()
    assert ppm == pytest.approx(3_000, abs=500)
    watch.arrivals = watch.arrivals[:60]
    assert watch.rate_ppm() is None, "three seconds are too little"


def test_a_folder_and_what_its_times_are_worth(tmp_path: Path) -> None:
    config = config_in(tmp_path / "s", "source: folder", f"folder: {{path: {tmp_path / 'in'}}}")
    missing = one(check_folder(config))
    assert missing.verdict == "bad"
    assert "mounted" in missing.found
    write_sound(tmp_path / "in" / "20240512_034500.wav", hiss(1))
    fine = one(check_folder(config))
    assert fine.verdict == "ok"
    assert "1 recordings; first 20240512_034500.wav 2024-05-12 03:45:00 UTC by name" in fine.found
    write_sound(tmp_path / "in" / "morning.wav", hiss(1))
    guessed = one(check_folder(config))
    assert (guessed.verdict, guessed.figures["guessed"], guessed.figures["files"]) == (
        "warning",
        1,
        2,
    )
    (tmp_path / "in" / "broken.wav").write_bytes(b"RIFF")
    broken = one(check_folder(config))
    assert (broken.verdict, broken.figures["refused"]) == ("warning", 1)
    assert "broken.wav" in broken.found


def test_a_folder_that_is_not_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"folder\.path"):
        check_folder(config_in(tmp_path / "s", "source: folder"))
