"""The outbox against a real broker that goes away, comes back, and says no."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge.config import MqttSettings
from edge.contract.bundle import read_bundle
from edge.contract.errors import ConfigError
from edge.demo.run import free_port
from edge.publisher import Publisher
from edge.store import Store
from edge.types import Message


@contextmanager
def broker(folder: Path, port: int, *lines: str) -> Iterator[None]:
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    assert program
    config = folder / "broker.conf"
    config.write_text("\n".join([f"listener {port} 127.0.0.1", "persistence false", *lines]) + "\n")
    with subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL) as process:
        time.sleep(0.3)
        yield
        process.kill()


@contextmanager
def subscriber(port: int) -> Iterator[list[int]]:
    """Numbers received; subscribes again whenever it is connected again."""
    received: list[int] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="listener", protocol=mqtt.MQTTv5)
    client.reconnect_delay_set(1, 1)
    client.on_message = lambda _c, _d, m: received.append(json.loads(m.payload))

    def subscribe(_client: mqtt.Client, *_: object) -> None:
        client.subscribe("t", qos=1)

    client.on_connect = subscribe
    client.connect_async("127.0.0.1", port)
    client.loop_start()
    yield received
    client.disconnect()
    client.loop_stop()


def fill(database: Path, bundle_folder: Path, numbers: range) -> None:
    with Store(database) as store:
        store.add_bundle(read_bundle(bundle_folder), "{}")
        store.add("none", "none", [], [Message(f"id{n}", "t", json.dumps(n)) for n in numbers], [])


def waiting(database: Path) -> int:
    with Store(database) as store:
        return store.waiting_count()


def until(condition, seconds: float = 20.0) -> bool:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(condition())


def test_everything_arrives_in_order_and_is_marked(tmp_path: Path, bundle_folder: Path, mosquitto: int) -> None:
    database = tmp_path / "station.db"
    fill(database, bundle_folder, range(300))
    with subscriber(mosquitto) as received:
        time.sleep(0.5)
        with Publisher(lambda: Store(database), MqttSettings("127.0.0.1", mosquitto), "p") as publisher:
            assert publisher.drain(20)
            fill(database, bundle_folder, range(300, 310))
            assert publisher.drain(20)
        assert until(lambda: len(received) == 310)
    assert received == list(range(310))
    assert waiting(database) == 0


def test_a_broker_that_comes_late_and_restarts_loses_nothing(tmp_path: Path, bundle_folder: Path) -> None:
    database, port = tmp_path / "station.db", free_port()
    fill(database, bundle_folder, range(50))
    with (
        Publisher(lambda: Store(database), MqttSettings("127.0.0.1", port), "p") as publisher,
        subscriber(port) as received,
    ):
        assert not publisher.drain(1)
        assert waiting(database) == 50
        with broker(tmp_path, port, "allow_anonymous true"):
            assert until(lambda: len(received) >= 50)
        fill(database, bundle_folder, range(50, 90))
        assert not publisher.drain(0.5)
        with broker(tmp_path, port, "allow_anonymous true"):
            assert until(lambda: set(received) >= set(range(50)) and waiting(database) == 0, 40)
    assert waiting(database) == 0


def test_a_broker_that_refuses_is_named_and_costs_nothing(tmp_path: Path, bundle_folder: Path) -> None:
    database, port = tmp_path / "station.db", free_port()
    (tmp_path / "secret").write_text("wrong\n")
    fill(database, bundle_folder, range(3))
    with broker(tmp_path, port, "allow_anonymous false", f"password_file {tmp_path / 'nobody'}"):
        settings = MqttSettings("127.0.0.1", port, username="me", password_file=tmp_path / "secret")
        with Publisher(lambda: Store(database), settings, "p") as publisher:
            assert not publisher.drain(2)
            assert publisher.last_error
    assert waiting(database) == 3


def test_a_missing_password_file_is_a_setting_to_mend(tmp_path: Path) -> None:
    settings = MqttSettings("127.0.0.1", 1, username="me", password_file=tmp_path / "none")
    with pytest.raises(ConfigError, match=r"mqtt\.password_file"):
        Publisher(lambda: Store(tmp_path / "station.db"), settings, "p")
