"""Brokers that break MQTT, answer nothing, send too much or take too little: the publisher outlives
them all."""

import json
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from paho.mqtt.publish import single

from edge.config import MqttSettings
from edge.publisher import Presence, Publisher, session, thread
from edge.store.outbox import OutboxTable
from edge.types import Message
from tests.helpers.brokers import counts, fill, numbered, until
from tests.helpers.odd_brokers import (
    CONNECT,
    PUBLISH,
    SUBSCRIBE,
    OddBroker,
    Packet,
    odd_broker,
    publish,
    text,
    varint,
)

BIRTH = "homeassistant/status"
DISCOVERY = "homeassistant/device/birdstation_porch/config"
SILENT = "the broker acknowledges nothing"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "station.db"


def station(
    database: Path, broker: OddBroker, present: bool = True, **settings: object
) -> Publisher:
    """A publisher with or without presence."""
    last = {"microphone": "s/source/microphone/last"}
    fixed = {"s/meta": "{}", DISCOVERY: '{"device": {}}'}
    presence = (
        Presence("s/status", "s/health", 90, fixed, last, BIRTH, DISCOVERY) if present else None
    )
    mqtt = MqttSettings("127.0.0.1", broker.port, **settings)  # type: ignore[arg-type]
    return Publisher(lambda: OutboxTable(database), mqtt, "porch", presence)


def drained(publisher: Publisher) -> bool:
    """Everything is acknowledged in the end, without waiting long between tries."""
    return any(publisher.drain(5.0) for _ in range(200))


ODD: dict[str, tuple[int, bytes]] = {
    "topic that is no UTF-8": (SUBSCRIBE, publish(b"homeassistant/st\xff\xfetus", b"online")),
    "property that does not exist": (
        SUBSCRIBE,
        b"\x31\x1d" + text(BIRTH) + b"\x04\x7f\x01\x02\x03" + b"on",
    ),
    "topic alias that nobody set": (
        SUBSCRIBE,
        b"\x30\x09" + text("") + b"\x03\x23\x00\x07" + b"on1",
    ),
    "publish cut off": (SUBSCRIBE, b"\x30\x02\x00\x14"),
    "accepted with a code that does not exist": (CONNECT, b"\x20\x03\x00\x7f\x00"),
    "accepted, properties cut off": (CONNECT, b"\x20\x05\x00\x00\x05\x27\x00"),
    "accepted, packet size as text": (CONNECT, b"\x20\x06\x00\x00\x03\x1f\x00\x05"),
    "accepted, a property twice": (CONNECT, b"\x20\x09\x00\x00\x06\x22\x00\x05\x22\x00\x05"),
    "accepted in no bytes": (CONNECT, b"\x20\x00"),
    "acknowledgement of one byte": (PUBLISH, b"\x40\x01\x00"),
    "acknowledgement with a code that does not exist": (PUBLISH, b"\x40\x03\x00\x01\x55"),
    "acknowledgement of what nobody sent": (PUBLISH, b"\x40\x02\xff\xfe" * 50),
    "subscribed without a code": (SUBSCRIBE, b"\x90\x03\x00\x01\x00"),
    "gone with a code that does not exist": (PUBLISH, b"\xe0\x01\x44"),
    "packet of type 0": (PUBLISH, b"\x00\x00"),
    "length of five bytes": (PUBLISH, b"\x30\xff\xff\xff\xff\x01"),
    "authentication": (PUBLISH, b"\xf0\x02\x18\x00"),
    "answers of QoS 2": (PUBLISH, b"\x50\x02\x00\x01\x62\x02\x00\x01"),
    "connect from the wrong side": (PUBLISH, b"\x10\x00"),
}


@pytest.mark.parametrize("what", ODD)
def test_a_packet_that_is_none_costs_one_connection(
    database: Path, bundle_folder: Path, what: str
) -> None:
    kind, bytes_ = ODD[what]
    said: list[str] = []

    def act(_broker: OddBroker, packet: Packet) -> bool:
        if packet.kind == kind and not said:  # once; afterwards the broker is sound
            said.append(what)
            packet.connection.sendall(bytes_)
            return bytes_ != ODD["acknowledgement of what nobody sent"][1]
        return False

    fill(database, bundle_folder, numbered(range(5)))
    with odd_broker(act) as broker, station(database, broker) as publisher:
        assert until(lambda: said)
        assert drained(publisher)
        assert until(
            lambda: publisher.state().last_error in ("", "the broker supports only MQTT 3.1.1")
        )
        assert not publisher.ended
    assert counts(database)["sent"] == 5


@pytest.mark.parametrize("kinds", ["all", "messages"])
def test_connected_means_acknowledged(
    database: Path, bundle_folder: Path, monkeypatch: pytest.MonkeyPatch, kinds: str
) -> None:
    """A broker that accepts connections and acknowledges nothing, or nothing but what is
    retained."""
    monkeypatch.setattr(session, "_ANSWER_S_MAX", 0.3)
    mute = [True]

    def act(_broker: OddBroker, packet: Packet) -> bool:
        return (
            mute[0]
            and packet.kind == PUBLISH
            and (kinds == "all" or packet.topic.startswith("birds"))
        )

    fill(database, bundle_folder, numbered(range(5)))
    with (
        odd_broker(act, properties=b"\x21\x00\x01") as broker,
        station(database, broker) as publisher,
    ):
        assert until(lambda: publisher.last_error == SILENT)
        errors = set()
        away_s = publisher.away_s
        while len(broker.connects) < 4:
            publisher.drain(0.05)  # hurries
            errors.add(publisher.state().last_error)
            assert kinds == "messages" or not publisher.connected
            assert publisher.away_s >= away_s, "over all connections"
            away_s = publisher.away_s
        assert errors == {SILENT}
        mute[0] = False
        assert drained(publisher)
        assert until(
            lambda: publisher.connected and not publisher.last_error and publisher.away_s < away_s
        )
    assert counts(database)["sent"] == 5


def test_a_quiet_connection_is_not_away(database: Path) -> None:
    with odd_broker(lambda *_: None) as broker, station(database, broker) as publisher:
        assert until(lambda: publisher.connected)
        time.sleep(1.0)
        assert until(lambda: publisher.away_s < 0.5)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
@pytest.mark.parametrize("length", [200_000_000, 9_000])
def test_a_packet_that_is_too_large_is_not_gathered(
    database: Path, bundle_folder: Path, protocol: str, length: int
) -> None:
    """It may lie on a topic that the station listens to, and come whenever it does: then it does
    not."""
    passed = [0]

    def act(_broker: OddBroker, packet: Packet) -> bool:
        if packet.kind != SUBSCRIBE:
            return False
        head = text(BIRTH) + (b"\0" if protocol == "5" else b"")
        packet.connection.sendall(b"\x31" + varint(length) + head)
        for _ in range(0, length, 1000):
            packet.connection.sendall(b"x" * 1000)
            passed[0] += 1000
        return True

    fill(database, bundle_folder, numbered(range(3)))
    with odd_broker(act) as broker, station(database, broker, protocol=protocol) as publisher:
        assert until(lambda: "expected at most" in publisher.last_error)
        assert drained(publisher)
        assert until(lambda: publisher.connected and BIRTH in publisher.last_error)
        assert len(broker.connects) == 2
        assert passed[0] < 20_000_000, "what a socket's buffers hold"
        asked = b"\x27" + struct.pack(">I", 8192)
        assert all((asked in connect) == (protocol == "5") for connect in broker.connects)
    assert counts(database)["sent"] == 3


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_what_anybody_retains_on_home_assistants_topic_stops_nothing(
    database: Path, bundle_folder: Path, mosquitto: int, protocol: str
) -> None:
    """A real broker: it keeps large packets from those who asked for none (MQTT 5), and hands them
    to all others."""
    single(BIRTH, b"x" * 1_000_000, retain=True, hostname="127.0.0.1", port=mosquitto)
    fill(database, bundle_folder, numbered(range(3)))
    with station(database, OddBroker(port=mosquitto), protocol=protocol) as publisher:
        assert until(
            lambda: (
                publisher.last_error.startswith(f"{BIRTH}: too many messages") or protocol == "5"
            )
        )
        assert drained(publisher)
        assert until(lambda: publisher.connected)
        assert protocol == "3.1.1" or not publisher.last_error
    assert counts(database)["sent"] == 3


def test_two_stations_of_one_id_are_told(tmp_path: Path, mosquitto: int) -> None:
    """mosquitto ends the first of them without a word."""
    broker = OddBroker(port=mosquitto)
    with station(tmp_path / "a.db", broker) as one, station(tmp_path / "b.db", broker) as other:
        assert until(
            lambda: any(
                "second station with the same station.id" in p.last_error for p in (one, other)
            )
        )


@pytest.mark.parametrize("maximum", [1, 2, 5, 19])
def test_never_more_in_flight_than_the_broker_takes(
    database: Path, bundle_folder: Path, maximum: int
) -> None:
    """Over a link of 10 ms: backlog, retained topics, last ones, health again and again,
    offline."""

    def act(broker: OddBroker, packet: Packet) -> bool:
        if packet.kind == PUBLISH:
            broker.answer_later(packet, 0.01)
        return packet.kind == PUBLISH

    payload = json.dumps({"schema": "detection/1", "source": "microphone"})
    fill(database, bundle_folder, [Message(f"id{n}", "birds", payload) for n in range(60)])
    with odd_broker(act, b"\x21" + struct.pack(">H", maximum)) as broker:
        with station(database, broker) as publisher:
            while not publisher.drain(0.05):
                publisher.tell_health("{}")
            assert until(
                lambda: (
                    {"s/status", "s/health", DISCOVERY, "s/source/microphone/last"}
                    <= set(broker.topics())
                )
            )
        assert until(lambda: broker.published[-1] == ("s/status", "offline"))
        assert 0 < broker.unanswered_max <= maximum
        assert len(broker.connects) == 1
    assert counts(database)["sent"] == 60


@pytest.mark.parametrize("up_s", [10.0, 65_537.0, 1e6, 1e8])
def test_one_message_at_once_on_a_machine_that_is_up_for_long(
    database: Path, bundle_folder: Path, monkeypatch: pytest.MonkeyPatch, up_s: float
) -> None:
    """Its pace is counted on a clock that is a large number by then."""
    begun = time.monotonic()
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() - begun + up_s, sleep=time.sleep)
    monkeypatch.setattr(session, "time", clock)
    fill(database, bundle_folder, numbered(range(3)))
    with (
        odd_broker(lambda *_: False, properties=b"\x21\x00\x01") as broker,
        station(database, broker) as publisher,
    ):
        assert drained(publisher)
    assert counts(database)["sent"] == 3


def test_a_receive_maximum_of_nothing_is_none(database: Path, bundle_folder: Path) -> None:
    """Neither may be 0 by the standard: all messages would be too large, or wait for ever."""
    fill(database, bundle_folder, numbered(range(3)))
    for properties in (b"\x21\x00\x00", b"\x27\x00\x00\x00\x00"):
        with (
            odd_broker(lambda *_: None, properties) as broker,
            station(database, broker) as publisher,
        ):
            assert drained(publisher)
    assert counts(database)["sent"] == 3


def test_a_flood_on_home_assistants_topic_is_cut_off(database: Path, bundle_folder: Path) -> None:
    """Whoever may write there costs a connection, then nobody listens; the station goes on."""

    def act(broker: OddBroker, packet: Packet) -> bool:
        if packet.kind == SUBSCRIBE:
            broker.answer(packet)
            packet.connection.sendall(publish(BIRTH, b"online") * 2000)
        return packet.kind == SUBSCRIBE

    fill(database, bundle_folder, numbered(range(3)))
    with odd_broker(act) as broker, station(database, broker) as publisher:
        assert until(lambda: f"{BIRTH}: too many messages there" in publisher.last_error)
        assert drained(publisher)
        assert until(lambda: publisher.connected and len(broker.connects) == 2)
        assert f"{BIRTH}: too many messages there" in publisher.last_error, (
            "named as long as nobody listens"
        )
        assert broker.topics().count(DISCOVERY) <= 3


def test_more_packets_than_anybody_asked_for_end_the_connection(
    database: Path, bundle_folder: Path
) -> None:
    flooded: list[int] = []

    def act(_broker: OddBroker, packet: Packet) -> bool:
        if packet.kind == PUBLISH and not flooded:
            flooded.append(1)
            packet.connection.sendall(b"\xd0\x00" * 100_000)  # ping, answered
        return False

    fill(database, bundle_folder, numbered(range(3)))
    with odd_broker(act) as broker, station(database, broker) as publisher:
        assert until(lambda: len(broker.connects) == 2 or "more packets" in publisher.last_error)
        assert drained(publisher)


@pytest.mark.slow
@pytest.mark.parametrize("fatal", [DISCOVERY, "s/source/microphone/last"])
def test_a_retained_topic_at_which_connections_break_is_left_out(
    database: Path, bundle_folder: Path, monkeypatch: pytest.MonkeyPatch, fatal: str
) -> None:
    # until which another station of the same id is blamed
    monkeypatch.setattr(thread, "_PROVEN_S", 1.0)

    def act(_broker: OddBroker, packet: Packet) -> bool:
        if packet.kind == PUBLISH and packet.topic == fatal and packet.payload:
            raise OSError("no word for a refusal")
        return False

    payload = json.dumps({"schema": "detection/1", "source": "microphone"})
    fill(database, bundle_folder, [Message("id0", "birds", payload)])
    with (
        odd_broker(act) as broker,
        station(database, broker, protocol="3.1.1", attempts_max=1) as publisher,
    ):
        named = f"{fatal}: left out, as connections break whenever it is sent"
        assert until(
            lambda: (publisher.drain(0.05) and False) or named in publisher.state().last_error
        )
        connects = len(broker.connects)
        fill(database, bundle_folder, [Message("id1", "birds", payload)])
        publisher.tell_health('{"now": 1}')
        assert drained(publisher)
        assert until(lambda: ("s/health", '{"now": 1}') in broker.published)
        assert publisher.connected
        assert len(broker.connects) <= connects + 1
        others = {"s/status", "s/meta", DISCOVERY, "s/source/microphone/last"} - {fatal}
        assert others <= set(broker.topics())
    assert counts(database) == {"sent": 2, "waiting": 0, "dropped": 0, "dead": 0}, (
        "no message was to blame"
    )


def test_whatever_is_raised_costs_one_try(database: Path, bundle_folder: Path) -> None:
    fill(database, bundle_folder, numbered(range(3)))
    raised = iter(
        [RuntimeError("can't start new thread"), MemoryError(), OverflowError("two\nlines")]
    )

    def open_outbox() -> OutboxTable:
        for error in raised:
            raise error
        return OutboxTable(database)

    with odd_broker(lambda *_: None) as broker:
        publisher = Publisher(open_outbox, MqttSettings("127.0.0.1", broker.port), "p")
        with publisher:
            assert until(lambda: publisher.last_error == "RuntimeError: can't start new thread")
            assert until(lambda: publisher.last_error == "OverflowError: two lines")
            assert drained(publisher)
            assert until(lambda: publisher.last_error == "")
            assert not publisher.ended


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_is_gone_is_seen() -> None:
    """Nothing that is known ends it; this is what no `except Exception` catches."""
    open_outbox: Callable[[], OutboxTable] = sys.exit
    with odd_broker(lambda *_: None) as broker:
        publisher = Publisher(open_outbox, MqttSettings("127.0.0.1", broker.port), "p")
        with publisher:
            assert until(lambda: publisher.ended)
            assert not publisher.connected
        assert not publisher.ended, "now it was asked to"


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_stop_while_nothing_is_acknowledged_leaves_the_word_to_the_will(
    database: Path, bundle_folder: Path, protocol: str
) -> None:
    """A goodbye would take the will back, and `online` would stay."""
    goodbyes: list[int] = []

    def act(_broker: OddBroker, packet: Packet) -> bool:
        goodbyes.extend([1] if packet.kind == 14 else [])
        return packet.kind == PUBLISH

    fill(database, bundle_folder, numbered(range(30)))
    with odd_broker(act) as broker:
        with station(database, broker, protocol=protocol):
            assert until(lambda: broker.unanswered >= 20)
        time.sleep(0.1)
    assert not goodbyes
