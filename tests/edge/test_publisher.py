"""The outbox against real brokers that go away, come back, and say no."""

import json
import logging
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest

from edge.config import MqttSettings
from edge.publisher import Publisher
from edge.store.outbox import OutboxTable
from edge.types import Message
from tests.helpers.brokers import (
    TOPIC,
    Broker,
    Listener,
    counts,
    fill,
    free_port,
    gate,
    numbered,
    publisher_of,
    serve_311,
    stand_in,
    until,
)


def numbers_in(listener: Listener) -> list[int]:
    return [json.loads(payload)["n"] for payload in listener.payloads(TOPIC)]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "station.db"


@pytest.mark.slow
def test_everything_arrives_in_order_and_is_marked(
    database: Path, bundle_folder: Path, mosquitto: int
) -> None:
    fill(database, bundle_folder, numbered(range(300)))
    with Listener(mosquitto) as listener, publisher_of(database, mosquitto) as publisher:
        assert publisher.drain(20)
        fill(database, bundle_folder, numbered(range(290, 310)))  # ten of them are known
        assert publisher.drain(20)
        assert until(lambda: len(listener.messages) == 310)
        assert until(lambda: publisher.state().sent == 310)
        state = publisher.state()
    assert (state.connected, state.waiting, state.created, state.last_error) == (True, 0, 310, "")
    payloads = [json.loads(p) for p in listener.payloads(TOPIC)]
    assert [p["n"] for p in payloads] == list(range(310)), "in order, each once"
    assert [p["seq"] for p in payloads] == list(range(1, 311)), "no number is left out"
    assert {p["queued"] for p in payloads[300:]} == {False}
    assert counts(database) == {"sent": 310, "waiting": 0, "dropped": 0, "dead": 0}


def test_what_was_created_before_the_connection_is_marked_as_queued(
    database: Path, bundle_folder: Path, mosquitto: int
) -> None:
    fill(database, bundle_folder, numbered(range(3)))
    with Listener(mosquitto) as listener:
        time.sleep(0.01)  # rows know milliseconds
        with publisher_of(database, mosquitto) as publisher:
            assert publisher.drain(20)
        assert until(lambda: len(listener.messages) == 3)
    assert all(json.loads(p)["queued"] for p in listener.payloads(TOPIC))


@pytest.mark.slow
def test_a_broker_that_comes_after_the_run_gets_everything(
    database: Path, tmp_path: Path, bundle_folder: Path
) -> None:
    port = free_port()
    fill(database, bundle_folder, numbered(range(500)))
    with publisher_of(database, port) as publisher, Listener(port, early=True) as listener:
        assert not publisher.drain(0.5)
        assert "refused" in publisher.last_error.lower()
        assert counts(database)["waiting"] == 500
        with Broker(tmp_path, port):
            assert listener.subscribed.wait(20)
            # What was published before the listener was there has no subscriber: the broker is
            # rightly content.
            assert until(lambda: counts(database)["waiting"] == 0)
            fill(database, bundle_folder, numbered(range(500, 600)))
            assert publisher.drain(20)
            assert until(lambda: set(numbers_in(listener)) >= set(range(500, 600)))
    assert counts(database) == {"sent": 600, "waiting": 0, "dropped": 0, "dead": 0}


@pytest.mark.slow
def test_a_broker_killed_every_second_costs_duplicates_and_no_message(
    database: Path, tmp_path: Path, bundle_folder: Path
) -> None:
    """The publisher gets to the broker only when the listener is there: what nobody subscribes to
    reaches nobody. And the listener takes QoS 0, which mosquitto writes to its socket before it
    acknowledges to the publisher."""
    port = free_port()
    total = 300
    broker = Broker(tmp_path, free_port())
    received: list[str] = []
    fill(database, bundle_folder, numbered(range(1)))

    def create() -> None:
        for first in range(1, total, 10):
            fill(database, bundle_folder, numbered(range(first, min(first + 10, total))))
            time.sleep(0.1)

    creator = threading.Thread(target=create)
    kills = 0
    with publisher_of(database, port) as publisher:
        creator.start()
        while creator.is_alive() or counts(database)["waiting"]:
            with broker, Listener(broker.port, qos=0) as listener:
                with gate(port, broker.port):
                    publisher.drain(0.6)  # and does not wait long for the next try
                    time.sleep(0.2)
                    broker.kill()
                assert until(lambda: not listener.subscribed.is_set())
                received += [json.loads(p)["id"] for p in listener.payloads(TOPIC)]
            kills += 1
            assert kills < 60
        creator.join()
    assert kills >= 3
    assert set(received) == {f"id{n}" for n in range(total)}, (
        "at least once, and by id exactly once"
    )
    assert counts(database) == {"sent": total, "waiting": 0, "dropped": 0, "dead": 0}


@pytest.mark.slow
def test_a_message_that_the_broker_forbids_is_set_aside_and_the_others_go_on(
    database: Path, tmp_path: Path, bundle_folder: Path
) -> None:
    port = free_port()
    (tmp_path / "acl").write_text("topic readwrite birds/#\n")
    messages = numbered(range(30))
    messages[4] = Message("poison", "elsewhere/detection", "{}")
    fill(database, bundle_folder, messages)
    with (
        Broker(tmp_path, port, f"acl_file {tmp_path / 'acl'}"),
        Listener(port, "birds/#") as listener,
    ):
        with publisher_of(database, port, attempts_max=2) as publisher:
            assert until(lambda: counts(database)["sent"] == 29)
            assert counts(database)["dead"] == 0, "one refusal is not yet the end of it"
            assert publisher.drain(20), "what is dead does not wait"
            assert until(lambda: publisher.state().dead == 1)
        assert numbers_in(listener) == [n for n in range(30) if n != 4]
    with OutboxTable(database) as outbox:
        dead = outbox.rows(
            "SELECT id, topic, attempts, reason, payload FROM outbox WHERE state = 'dead'"
        )
    assert dead == [("poison", "elsewhere/detection", 2, "Not authorized", "{}")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ("max_packet_size 2000", "the broker takes 2000"),
        ("message_size_limit 2000", "connection ended whenever"),
    ],
)
def test_a_message_too_large_for_the_broker_is_set_aside(
    database: Path, tmp_path: Path, bundle_folder: Path, limit: str, reason: str
) -> None:
    """The first limit is announced when we connect. The second mosquitto answers with a code that
    MQTT 5 does not have for an acknowledgement: paho takes it for a broken protocol and closes."""
    port = free_port()
    fill(
        database,
        bundle_folder,
        [*numbered(range(3)), *numbered(range(3, 4), padding=5000), *numbered(range(4, 8))],
    )
    with Broker(tmp_path, port, limit), publisher_of(database, port, attempts_max=1) as publisher:
        assert any(publisher.drain(5.0) for _ in range(200))
    assert counts(database) == {"sent": 7, "waiting": 0, "dropped": 0, "dead": 1}
    with OutboxTable(database) as outbox:
        [(why,)] = outbox.rows("SELECT reason FROM outbox WHERE state = 'dead'")
    assert reason in why


@pytest.mark.slow
def test_a_message_on_which_an_old_broker_closes_stops_no_other(
    database: Path, bundle_folder: Path
) -> None:
    """MQTT 3.1.1 has no word for a refusal: brokers close the connection."""
    fill(database, bundle_folder, [*numbered(range(1), 5000), *numbered(range(1, 40))])

    def answer(_version: int, connection: socket.socket) -> bool:
        serve_311(connection, refuses=lambda body: len(body) > 4000)
        return False

    with (
        stand_in(answer) as (port, _),
        publisher_of(database, port, attempts_max=1, protocol="3.1.1") as publisher,
    ):
        assert any(publisher.drain(5.0) for _ in range(200))
    assert counts(database) == {"sent": 39, "waiting": 0, "dropped": 0, "dead": 1}
    with OutboxTable(database) as outbox:
        assert outbox.rows("SELECT id, reason FROM outbox WHERE state = 'dead'") == [
            ("id0", "the connection ended whenever it was sent")
        ]


@pytest.mark.slow
def test_a_broker_that_accepts_nothing_kills_no_message(
    database: Path, bundle_folder: Path
) -> None:
    """It closes whatever it is sent: then no message is to blame."""
    fill(database, bundle_folder, numbered(range(40)))

    def answer(_version: int, connection: socket.socket) -> bool:
        serve_311(connection, refuses=lambda _: True)
        return False

    settings = {"attempts_max": 1, "protocol": "3.1.1"}
    with stand_in(answer) as (port, offered), publisher_of(database, port, **settings) as publisher:
        assert until(lambda: publisher.drain(0.2) or len(offered) >= 8)
    assert counts(database) == {"sent": 0, "waiting": 40, "dropped": 0, "dead": 0}


def test_a_full_outbox_drops_the_oldest_and_counts_them(
    database: Path, tmp_path: Path, bundle_folder: Path
) -> None:
    port = free_port()
    with publisher_of(database, port, waiting_max=100) as publisher:
        for first in range(0, 400, 50):
            fill(database, bundle_folder, numbered(range(first, first + 50)))
        assert until(lambda: counts(database)["waiting"] == 100)
        assert counts(database) == {"sent": 0, "waiting": 100, "dropped": 300, "dead": 0}
        assert until(lambda: publisher.state().dropped == 300)
        with Broker(tmp_path, port), Listener(port, qos=0) as listener:
            assert until(lambda: counts(database)["sent"] == 100)
            fill(database, bundle_folder, numbered(range(400, 410)))
            assert publisher.drain(20)
            assert until(lambda: 409 in numbers_in(listener))
    assert counts(database) == {"sent": 110, "waiting": 0, "dropped": 300, "dead": 0}
    with OutboxTable(database) as outbox:
        assert outbox.rows("SELECT min(seq), max(seq) FROM outbox WHERE state = 'dropped'") == [
            (1, 300)
        ]


def test_the_bound_leaves_what_is_on_its_way(database: Path, bundle_folder: Path) -> None:
    fill(database, bundle_folder, numbered(range(10)))
    with OutboxTable(database) as outbox:
        assert outbox.bound(4, after=3) == 6
        assert [m.seq for m in outbox.waiting(0, 10)] == [1, 2, 3, 10]
    counts(database)


def test_a_disk_that_fails_keeps_the_connection_and_no_message_is_lost(
    database: Path, bundle_folder: Path, mosquitto: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The file is away for a while (its folder renamed); what was acknowledged meanwhile is written
    down later."""
    fill(database, bundle_folder, numbered(range(5)))
    away = database.with_name("away")
    with Listener(mosquitto) as listener, caplog.at_level(logging.WARNING):
        shutil.move(database, away)
        database.mkdir()  # no database can be opened here
        with publisher_of(database, mosquitto) as publisher:
            assert until(lambda: publisher.connected and publisher.state().last_error)
            assert not publisher.drain(0.5)
            assert publisher.connected, "health and status go on"
            database.rmdir()
            shutil.move(away, database)
            assert publisher.drain(20)
            assert publisher.state().last_error == ""
        assert until(lambda: len(listener.messages) == 5)
    assert sum(record.getMessage().startswith("outbox") for record in caplog.records) == 1, (
        "said once"
    )
    assert counts(database)["sent"] == 5


def test_acknowledged_while_the_disk_is_read_only_is_written_down_later(
    database: Path, bundle_folder: Path, mosquitto: int
) -> None:
    """A second writer that holds the lock longer than anyone waits; here SQLite is told to wait 0.1
    s."""
    fill(database, bundle_folder, numbered(range(5)))

    def open_outbox() -> OutboxTable:
        outbox = OutboxTable(database)
        outbox.rows("PRAGMA busy_timeout = 100")
        return outbox

    settings = MqttSettings("127.0.0.1", mosquitto)
    with Listener(mosquitto) as listener, Publisher(open_outbox, settings, "p") as publisher:
        assert publisher.drain(20)
        with OutboxTable(database) as writer:
            fill(database, bundle_folder, numbered(range(5, 8)))
            writer.rows("BEGIN IMMEDIATE")
            assert until(lambda: "locked" in publisher.state().last_error)
            writer.rows("ROLLBACK")
        assert publisher.drain(20)
        assert until(lambda: len(listener.messages) >= 8)
    assert sorted({json.loads(p)["n"] for p in listener.payloads(TOPIC)}) == list(range(8))
    assert counts(database)["sent"] == 8
