"""docs/mqtt.md, its JSON schema and what the station really sends: the three say the same."""

import json
import re
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from edge.config import Config, MqttSettings, load_config
from edge.contract.bundle import read_bundle
from edge.daemon.health import Health, Mqtt
from edge.disclosure import Disclosure
from edge.messages import FreshSpan, stamp
from edge.publisher import Publisher, PublisherState, detection_message, station_presence
from edge.store.outbox import OutboxTable
from edge.types import Detection, Message, Place, QueuedMessage, RecordingRow, utc_text
from tests.helpers.brokers import Broker, Listener, counts, fill, free_port, until

DOCS = Path(__file__).parents[2] / "docs"
DOCUMENT = (DOCS / "mqtt.md").read_text(encoding="utf8")
SCHEMA = json.loads((DOCS / "mqtt.schema.json").read_text(encoding="utf8"))
VALIDATOR = Draft202012Validator(SCHEMA)
START = datetime(2026, 5, 1, 4, 12, 7, 500_000, tzinfo=timezone.utc)
RECORDING = RecordingRow(
    "r",
    "porch/a.wav",
    1,
    1,
    "",
    START,
    "guano",
    "guano",
    120,
    Place(52.123456, -13.654321),
    "folder",
    "rtc",
)
DETECTION = Detection(
    "d1",
    "r",
    START,
    START + timedelta(seconds=5),
    12.5,
    "lowtoo",
    0.91,
    0.8,
    0.1,
    0.5,
    "bundle",
    0.7,
    0.9,
    -40.04,
    shed=1,
    utc_offset_minutes=120,
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)


@pytest.fixture
def config_of(station_yaml: Callable[..., Path]) -> Callable[..., Config]:
    def load(*lines: str) -> Config:
        return load_config(station_yaml("mqtt: {host: h, place_decimals: 3}", *lines))

    return load


def sent(
    config: Config, detection: Detection = DETECTION, recording: RecordingRow = RECORDING
) -> dict[str, Any]:
    message = detection_message(detection, recording, config, read_bundle(config.bundle_folder))
    assert message.topic == "birdstation/v1/porch/detection"
    waiting = QueuedMessage(7, message.topic, message.payload, "2026-05-01T04:12:13.000Z")
    stamped = stamp(
        waiting, FreshSpan.of(datetime(2026, 5, 1, 4, 12, 30, tzinfo=timezone.utc), 600.0)
    )
    payload: dict[str, Any] = json.loads(Disclosure.of(config).payload(stamped.payload))
    VALIDATOR.validate(payload)
    return payload


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_examples_are_valid_and_complete() -> None:
    examples = [json.loads(block) for block in blocks("json")]
    assert {example["schema"] for example in examples} == {"detection/1", "meta/1"}
    for example in examples:
        VALIDATOR.validate(example)
        name = example["schema"].split("/")[0]
        assert list(example) == list(SCHEMA["$defs"][name]["properties"])


@pytest.mark.parametrize("name", ["detection", "meta"])
def test_the_tables_have_every_field_and_no_other(name: str) -> None:
    part = DOCUMENT.split("## A detection" if name == "detection" else "## Meta and health")[
        1
    ].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE) == list(
        SCHEMA["$defs"][name]["properties"]
    )


def test_a_detection_is_as_described(config_of: Callable[..., Config]) -> None:
    payload = sent(config_of())
    assert list(payload) == list(SCHEMA["$defs"]["detection"]["properties"])
    expected = {
        "id": "d1",
        "seq": 7,
        "queued": False,
        "common_name": "Low Tooter",
        "source": "folder",
        "shed": 1,
    }
    expected |= {
        "latitude": 52.123,
        "longitude": -13.654,
        "level_dbfs": -40.0,
        "utc_offset_minutes": 120,
    }
    assert expected.items() <= payload.items()


@pytest.mark.parametrize(
    ("created_s_ago", "connected_s", "late"),
    [
        (1.0, 600.0, False),
        (31.0, 600.0, True),
        (1.0, 0.5, True),  # before the connection
        (-86_400.0, 600.0, True),  # by a clock that was ahead, and was set back since
        (86_400.0, 600.0, True),  # or behind
    ],
)
def test_what_is_late_hangs_on_no_clock_of_before(
    created_s_ago: float, connected_s: float, late: bool
) -> None:
    """A connection that began by a clock that was a year ahead makes nothing late that comes after
    it was set."""
    now = datetime(2026, 5, 1, 4, 12, 30, tzinfo=timezone.utc)
    waiting = QueuedMessage(7, "t", "{}", utc_text(now - timedelta(seconds=created_s_ago)))
    assert json.loads(stamp(waiting, FreshSpan.of(now, connected_s)).payload)["queued"] is late


def test_what_may_be_null_is(config_of: Callable[..., Config]) -> None:
    payload = sent(
        config_of(), replace(DETECTION, prior=None, level_dbfs=None), replace(RECORDING, place=None)
    )
    assert [key for key, value in payload.items() if value is None] == [
        "prior",
        "level_dbfs",
        "latitude",
        "longitude",
    ]


def test_where_a_sensitive_species_may_live_every_place_is_coarse(
    config_of: Callable[..., Config],
) -> None:
    config = config_of("sensitive: {species: [lowtoo], decimals: 1}")
    payload = sent(config)
    assert (payload["latitude"], payload["longitude"]) == (52.1, -13.7)
    assert sent(config, replace(DETECTION, species="midtoo"))["latitude"] == 52.1, (
        "or it would tell the other's place"
    )
    assert sent(config_of())["latitude"] == 52.123
    finer = config_of("sensitive: {species: [lowtoo], decimals: 3}")
    assert sent(replace(finer, mqtt=replace(finer.mqtt, place_decimals=0)))["latitude"] == 52.0  # type: ignore[type-var]


def test_the_schema_refuses_what_is_missing_or_wrong(config_of: Callable[..., Config]) -> None:
    payload = sent(config_of())
    for key in payload:
        assert not VALIDATOR.is_valid({k: v for k, v in payload.items() if k != key}), key
    for key, value in (
        ("score", 1.2),
        ("start", "2026-05-01 04:12:07"),
        ("latitude", 91),
        ("seq", 0),
        ("queued", 1),
    ):
        assert not VALIDATOR.is_valid(payload | {key: value}), key
    assert VALIDATOR.is_valid(payload | {"added_later": 1})


def test_meta_and_health_are_as_described(config_of: Callable[..., Config]) -> None:
    config = config_of()
    presence = station_presence(config, read_bundle(config.bundle_folder), "1", START)
    VALIDATOR.validate(json.loads(presence.fixed["birdstation/v1/porch/meta"]))
    described = SCHEMA["$defs"]["health"]["properties"]
    assert list(described) == [field.name for field in fields(Health)]
    names = {field.name for field in fields(Mqtt)}
    assert (
        names
        == set(described["mqtt"]["properties"])
        == {field.name for field in fields(PublisherState)}
    )


def test_every_topic_is_in_the_table(config_of: Callable[..., Config]) -> None:
    config = config_of()
    presence = station_presence(config, read_bundle(config.bundle_folder), "1", START)
    fixed = {topic for topic, payload in presence.fixed.items() if payload}
    topics = {presence.status_topic, presence.health_topic, *fixed, *presence.last_topics.values()}
    topics |= {"birdstation/v1/porch/detection"}
    words = {
        "TOPIC": "birdstation",
        "STATION": "porch",
        "SOURCE": "microphone",
        "PREFIX": "homeassistant",
    }
    described = re.findall(r"^\| `((?:TOPIC|PREFIX)/[^`]+)` \|", DOCUMENT, re.MULTILINE)
    assert {re.sub("[A-Z]+", lambda word: words[word[0]], topic) for topic in described} == topics


def test_the_rules_for_mosquitto_let_a_station_do_its_work(
    station_yaml: Callable[..., Path], bundle_folder: Path, tmp_path: Path
) -> None:
    port = free_port()
    [rules] = blocks("acl")
    (tmp_path / "acl").write_text(rules)
    (tmp_path / "passwords").write_text("porch:secret\n")
    subprocess.run(["mosquitto_passwd", "-U", tmp_path / "passwords"], check=True)
    (tmp_path / "secret").write_text("secret\n")
    config = load_config(
        station_yaml(
            f"mqtt: {{host: 127.0.0.1, port: {port}, username: porch, password_file: "
            f"{tmp_path}/secret}}"
        )
    )
    assert config.mqtt
    presence = station_presence(config, read_bundle(config.bundle_folder), "1", START)
    own, foreign = (
        Message(name, f"birdstation/v1/{name}/detection", "{}") for name in ("porch", "barn")
    )
    fill(config.database, bundle_folder, [own, foreign])
    lines = [
        "allow_anonymous false",
        f"password_file {tmp_path}/passwords",
        f"acl_file {tmp_path}/acl",
    ]
    settings = replace(config.mqtt, attempts_max=1)
    with (
        Broker(tmp_path, port, *lines),
        Publisher(
            lambda: OutboxTable(config.database), settings, "birdstation-porch", presence
        ) as publisher,
    ):
        assert publisher.drain(20)
        publisher.tell_health("{}")
        assert publisher.last_error == ""
    assert counts(config.database) == {"sent": 1, "waiting": 0, "dropped": 0, "dead": 1}


def test_what_was_set_aside_can_be_sent_again(
    bundle_folder: Path, tmp_path: Path, mosquitto: int
) -> None:
    database = tmp_path / "station.db"
    fill(database, bundle_folder, [Message("a", "t", "{}"), Message("b", "t", "{}")])
    with OutboxTable(database) as outbox:
        assert outbox.refused(1, "no", attempts_max=1)
    [sql] = blocks("sql")
    with Listener(mosquitto, "t") as listener:
        with Publisher(
            lambda: OutboxTable(database), MqttSettings("127.0.0.1", mosquitto), "p"
        ) as publisher:
            assert publisher.drain(20)
            assert counts(database) == {"sent": 1, "waiting": 0, "dropped": 0, "dead": 1}
            with closing(sqlite3.connect(database)) as person:
                person.executescript(sql)
            assert publisher.drain(20)
        assert until(lambda: len(listener.messages) == 2)
    assert counts(database) == {"sent": 2, "waiting": 0, "dropped": 0, "dead": 0}
