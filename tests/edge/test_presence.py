"""What a station says of itself on a real broker: there or not, how it is, what it heard last."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import paho.mqtt.publish as publish
import pytest

from edge.config import Config, load_config
from edge.contract.bundle import read_bundle
from edge.publisher import Presence, Publisher, station_presence
from edge.store.outbox import OutboxTable
from edge.types import Message
from tests.helpers.brokers import Broker, Listener, fill, free_port, until

BASE = "birdstation/v1/porch"
DISCOVERY = "homeassistant/device/birdstation_porch/config"
STARTED = datetime(2026, 5, 1, 4, 30, tzinfo=timezone.utc)
ConfigOf = Callable[..., Config]


@pytest.fixture
def config_of(station_yaml: Callable[..., Path]) -> ConfigOf:
    def load(port: int, *lines: str, mqtt: str = "") -> Config:
        return load_config(station_yaml(f"mqtt: {{host: 127.0.0.1, port: {port}, {mqtt}}}", *lines))

    return load


def presence_of(config: Config) -> Presence:
    return station_presence(config, read_bundle(config.bundle_folder), "1.2.3", STARTED)


def publisher_of(config: Config) -> Publisher:
    assert config.mqtt
    return Publisher(
        lambda: OutboxTable(config.database), config.mqtt, "birdstation-porch", presence_of(config)
    )


def heard(number: int, source: str = "microphone") -> Message:
    payload = {
        "schema": "detection/1",
        "id": f"id{number}",
        "source": source,
        "common_name": f"Bird {number}",
    }
    return Message(f"id{number}", f"{BASE}/detection", json.dumps(payload))


def retained(port: int, topic: str) -> list[str]:
    """What the broker keeps for a subscriber that comes now; what the station says just then is not
    of it."""
    with Listener(port, topic) as late:
        until(lambda: any(message.retain for message in late.messages), 1.0)
        return [m.payload.decode() for m in list(late.messages) if m.retain and m.topic == topic]


def test_online_then_offline_at_a_clean_stop(config_of: ConfigOf, mosquitto: int) -> None:
    config = config_of(mosquitto)
    with Listener(mosquitto, f"{BASE}/status") as listener:
        with publisher_of(config):
            assert until(lambda: listener.messages)
        assert until(lambda: len(listener.messages) == 2)
        assert listener.payloads(f"{BASE}/status") == ["online", "offline"]
    assert retained(mosquitto, f"{BASE}/status") == ["offline"]


_STATION = """
import sys, time
from pathlib import Path
from edge.config import MqttSettings
from edge.publisher import Presence, Publisher
from edge.store.outbox import OutboxTable
presence = Presence("s/status", "s/health", 90, {})
settings = MqttSettings("127.0.0.1", int(sys.argv[1]))
with Publisher(lambda: OutboxTable(Path(sys.argv[2])), settings, "s", presence):
    time.sleep(60)
"""


def test_a_killed_station_is_offline(tmp_path: Path, mosquitto: int) -> None:
    command = [sys.executable, "-c", _STATION, str(mosquitto), str(tmp_path / "station.db")]
    with Listener(mosquitto, "s/status") as listener, subprocess.Popen(command) as station:
        assert until(lambda: listener.payloads("s/status") == ["online"])
        os.kill(station.pid, signal.SIGKILL)
        assert until(lambda: listener.payloads("s/status") == ["online", "offline"])
    assert retained(mosquitto, "s/status") == ["offline"]


@pytest.mark.slow
def test_only_the_latest_health_is_sent_and_it_expires(config_of: ConfigOf, tmp_path: Path) -> None:
    port = free_port()
    with publisher_of(config_of(port, "health: {interval_s: 1}")) as publisher:
        for number in range(50):
            publisher.tell_health(json.dumps({"number": number}))
        with Broker(tmp_path, port), Listener(port, f"{BASE}/health") as listener:
            assert until(lambda: listener.messages)
            publisher.tell_health('{"number": 50}')
            assert until(lambda: len(listener.messages) == 2)
            assert listener.payloads(f"{BASE}/health") == ['{"number": 49}', '{"number": 50}']
            assert retained(port, f"{BASE}/health") == ['{"number": 50}']
            assert until(lambda: retained(port, f"{BASE}/health") == []), (
                "three intervals without news"
            )


@pytest.mark.slow
def test_a_broker_that_forgot_is_told_again(config_of: ConfigOf, tmp_path: Path) -> None:
    broker = Broker(tmp_path, free_port())
    with publisher_of(config_of(broker.port)) as publisher:
        publisher.tell_health("{}")
        for _ in range(2):
            with broker:
                assert until(lambda: publisher.connected)
                topics = [f"{BASE}/status", f"{BASE}/meta", f"{BASE}/health", DISCOVERY]
                assert until(lambda: all(retained(broker.port, topic) for topic in topics))  # noqa: B023
            assert until(lambda: not publisher.connected)


@pytest.mark.slow
def test_the_last_detection_of_the_source_is_retained_and_no_event_is(
    config_of: ConfigOf, bundle_folder: Path, mosquitto: int
) -> None:
    config = config_of(mosquitto)
    with Listener(mosquitto, f"{BASE}/#") as listener, publisher_of(config) as publisher:
        fill(config.database, bundle_folder, [*(heard(n) for n in range(40)), heard(40, "replay")])
        assert publisher.drain(20)
        last = f"{BASE}/source/microphone/last"
        assert until(lambda: any('"id39"' in payload for payload in listener.payloads(last)))
        [payload] = retained(mosquitto, last)
        assert payload in listener.payloads(f"{BASE}/detection"), "the same as the event"
    assert json.loads(payload)["seq"] == 40
    assert len(listener.payloads(last)) < 40, "a backlog does not cost twice"
    assert retained(mosquitto, f"{BASE}/source/replay/last") == []
    assert retained(mosquitto, f"{BASE}/detection") == []


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [("microphone", "folder"), ("folder", "microphone")])
def test_the_last_detection_of_a_source_of_before_goes(
    config_of: ConfigOf, bundle_folder: Path, mosquitto: int, before: str, after: str
) -> None:
    config = config_of(mosquitto, f"source: {before}", "folder: {path: in}")
    with publisher_of(config) as publisher:
        fill(config.database, bundle_folder, [heard(1, before)])
        assert publisher.drain(20)
        assert until(lambda: retained(mosquitto, f"{BASE}/source/{before}/last"))
    last = f"{BASE}/source/{before}/last"
    other = config_of(mosquitto, f"source: {after}", "folder: {path: in}")
    with Listener(mosquitto, last) as listener, publisher_of(other):
        assert until(lambda: listener.payloads(last)[-1:] == [""])
    assert retained(mosquitto, last) == []
    assert retained(mosquitto, f"{BASE}/meta"), "what is true of any source stays"


def test_a_replay_says_nothing_of_the_station(
    config_of: ConfigOf, bundle_folder: Path, mosquitto: int
) -> None:
    config = config_of(mosquitto)
    assert config.mqtt
    fill(config.database, bundle_folder, [heard(1)])
    with Listener(mosquitto) as listener:
        with Publisher(
            lambda: OutboxTable(config.database), config.mqtt, "birdstation-porch-replay"
        ) as replay:
            replay.tell_health("{}")
            assert replay.drain(20)
        assert until(lambda: listener.messages)
        time.sleep(0.2)
        assert {message.topic for message in listener.messages} == {f"{BASE}/detection"}


def test_home_assistants_birth_is_answered(config_of: ConfigOf, mosquitto: int) -> None:
    with Listener(mosquitto, DISCOVERY) as listener, publisher_of(config_of(mosquitto)):
        assert until(lambda: len(listener.messages) == 1)
        until(lambda: False, 0.3)  # its subscription is on the way
        publish.single("homeassistant/status", "offline", hostname="127.0.0.1", port=mosquitto)
        publish.single(
            "homeassistant/status", "online", hostname="127.0.0.1", port=mosquitto, qos=1
        )
        assert until(lambda: len(listener.messages) == 2)
        time.sleep(0.3)
        assert len(listener.messages) == 2


def test_without_home_assistant_nothing_is_announced(config_of: ConfigOf, mosquitto: int) -> None:
    with Listener(mosquitto) as listener:
        with publisher_of(config_of(mosquitto, mqtt="homeassistant: null")):
            assert until(lambda: listener.payloads(f"{BASE}/status"))
        assert until(lambda: len(listener.payloads(f"{BASE}/status")) == 2)
    assert not [m for m in listener.messages if m.topic.startswith("homeassistant")]


def test_meta_says_what_the_station_is(config_of: ConfigOf, bundle_folder: Path) -> None:
    place = "station: {id: porch, latitude: 52.123456, longitude: 13.654321}"
    found = []
    for lines in ((), ("sensitive: {species: [lowtoo], decimals: 0}",)):
        path = config_of(1).state / "other.yaml"
        path.write_text("\n".join([place, f"bundle: {bundle_folder}", "mqtt: {host: h}", *lines]))
        found.append(json.loads(presence_of(load_config(path)).fixed[f"{BASE}/meta"]))
    assert (found[0]["latitude"], found[0]["longitude"]) == (52.12, 13.65)
    assert (found[1]["latitude"], found[1]["longitude"]) == (52.0, 14.0), (
        "a sensitive species is not found through this"
    )
    expected = {
        "schema": "meta/1",
        "version": "1.2.3",
        "species": 3,
        "started": "2026-05-01T04:30:00.000Z",
    }
    assert expected.items() <= found[0].items()


def test_a_retained_topic_that_is_forbidden_is_named(config_of: ConfigOf, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "acl").write_text(f"topic readwrite {BASE}/#\n")
    with (
        Broker(tmp_path, port, f"acl_file {tmp_path / 'acl'}"),
        publisher_of(config_of(port)) as publisher,
    ):
        assert until(lambda: publisher.last_error == f"{DISCOVERY}: Not authorized")
        assert publisher.connected
