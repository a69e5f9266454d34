"""Real brokers and listeners for the tests, and one stand-in that speaks only what a test wants to
see refused."""

import itertools
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edge.config import MqttSettings
from edge.contract.bundle import read_bundle
from edge.publisher import Publisher
from edge.store.outbox import OutboxTable
from edge.store.record import Store
from edge.types import Message
from tests import HANGS_S

TOPIC = "birds/v1/porch/detection"
_PORTS = range(20_000, 32_000)  # below those that Linux gives to outgoing connections
_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_own_ports = _PORTS[_worker % _workers :: _workers]
_ports = itertools.cycle(_own_ports)


def free_port() -> int:
    """A TCP port where nobody listens: of this worker's own, so that no test beside it takes it
    meanwhile."""
    for port in itertools.islice(_ports, len(_own_ports)):
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("all ports of this worker are taken")


class Broker:
    """A mosquitto that forgets everything when it is killed.

    broker = Broker(folder, port, "allow_anonymous false", "password_file ...")
    broker.start(); ...; broker.kill()
    """

    def __init__(self, folder: Path, port: int, *lines: str) -> None:
        program = shutil.which("mosquitto") or shutil.which(
            "mosquitto", path="/usr/sbin:/usr/local/sbin"
        )
        assert program, "the tests want mosquitto: apt-get install mosquitto"
        self._config = folder / f"broker-{port}.conf"
        self.port = port
        anonymous = (
            [] if any("allow_anonymous" in line for line in lines) else ["allow_anonymous true"]
        )
        settings = [
            f"listener {port} 127.0.0.1",
            "persistence false",
            "user root",
            *anonymous,
            *lines,
        ]
        self._config.write_text("\n".join(settings) + "\n")
        self._command = [program, "-c", str(self._config)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Broker":
        """Returns when it listens."""
        self._process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
        assert until(lambda: _listens(self.port)), self._config.read_text()
        return self

    def kill(self) -> None:
        """SIGKILL."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> "Broker":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class Listener:
    """Keeps what arrives, and subscribes again at every connection. Begins when it is subscribed,
    unless `early`."""

    def __init__(self, port: int, topic: str = "#", qos: int = 1, early: bool = False) -> None:
        self.messages: list[mqtt.MQTTMessage] = []
        self.subscribed = threading.Event()
        self._topic = topic
        self._qos = qos
        self._early = early
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = self._on_connect
        self.client.on_message = lambda _c, _d, message: self.messages.append(message)
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.on_disconnect = lambda *_: self.subscribed.clear()
        self.client.connect_async("127.0.0.1", port)

    def _on_connect(self, client: mqtt.Client, *_: object) -> None:
        client.subscribe(self._topic, qos=self._qos)

    def __enter__(self) -> "Listener":
        self.client.loop_start()
        assert self._early or self.subscribed.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def payloads(self, topic: str) -> list[str]:
        """In the order in which they came."""
        return [m.payload.decode() for m in list(self.messages) if m.topic == topic]


@contextmanager
def gate(port: int, target: int) -> Iterator[None]:
    """While this is open, what connects to `port` is connected to `target`."""
    sockets: list[socket.socket] = []

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                pair = (
                    server.accept()[0],
                    socket.create_connection(("127.0.0.1", target), timeout=10),
                )
                sockets.extend(pair)
                for ends in (pair, pair[::-1]):
                    threads.append(threading.Thread(target=copy, args=ends))
                    threads[-1].start()

    with socket.create_server(("127.0.0.1", port)) as server:
        threads = [threading.Thread(target=accept)]
        threads[0].start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for end in sockets:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()
            for end in sockets:
                end.close()


@contextmanager
def stand_in(answer: Callable[[int, socket.socket], bool]) -> Iterator[tuple[int, list[int]]]:
    """Port and the versions of MQTT that were offered, one per connection. `answer` gets each with
    its socket; when it returns True the connection is served as MQTT 3.1.1: every QoS 1 message is
    acknowledged.

    mosquitto cannot be told to refuse a version. What the publisher sees of a broker is what it
    sends, and this sends byte for byte what section 3.2 of either standard says, or closes the
    connection.
    """
    offered: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        stopping = threading.Event()

        def serve() -> None:
            while not stopping.is_set():
                with suppress(OSError):
                    connection, _ = server.accept()
                    with connection:
                        connection.settimeout(10)
                        kind, body = _packet(connection)
                        assert kind >> 4 == 1, "the first packet is CONNECT"
                        offered.append(body[6])
                        if answer(body[6], connection):
                            serve_311(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], offered
        finally:
            stopping.set()
            thread.join()


def _packet(connection: socket.socket) -> tuple[int, bytes]:
    kind = _exactly(connection, 1)[0]
    length = 0
    shift = 0
    while True:
        byte = _exactly(connection, 1)[0]
        length |= (byte & 127) << shift
        shift += 7
        if not byte & 128:
            return kind, _exactly(connection, length)


def _exactly(connection: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        more = connection.recv(count - len(got))
        if not more:
            raise ConnectionError("closed")
        got += more
    return got


def serve_311(
    connection: socket.socket, refuses: Callable[[bytes], bool] = lambda _: False
) -> None:
    """Accept, and acknowledge every QoS 1 message; close the connection at the first that
    `refuses`."""
    connection.sendall(bytes([0x20, 2, 0, 0]))
    while True:
        kind, body = _packet(connection)
        if kind >> 4 == 14 or (kind >> 4 == 3 and refuses(body)):  # DISCONNECT
            return
        if kind >> 4 == 3:  # PUBLISH with QoS 1: topic, then its number
            at = 2 + int.from_bytes(body[:2], "big")
            connection.sendall(bytes([0x40, 2]) + body[at : at + 2])


def numbered(numbers: range, padding: int = 0) -> list[Message]:
    return [
        Message(f"id{n}", TOPIC, json.dumps({"id": f"id{n}", "n": n, "x": "x" * padding}))
        for n in numbers
    ]


def publisher_of(database: Path, port: int, **settings: object) -> Publisher:
    return Publisher(
        lambda: OutboxTable(database), MqttSettings("127.0.0.1", port, **settings), "p"
    )  # type: ignore[arg-type]


def fill(database: Path, bundle_folder: Path, messages: list[Message]) -> None:
    """Lay messages into the outbox as the station does."""
    with Store(database) as store:
        store.add_bundle(read_bundle(bundle_folder), "{}")
        store.add("none", "none", [], messages, [])


def counts(database: Path) -> dict[str, int]:
    """Rows of the outbox by state; asserts that the counters say the same and that they add up to
    the last message."""
    with OutboxTable(database) as outbox:
        outbox.rows("BEGIN")  # a publisher may be at work: one look
        rows = dict(outbox.rows("SELECT state, count(*) FROM outbox GROUP BY state"))
        counted = outbox.counts()
    states = {state: int(rows.get(state, 0)) for state in ("sent", "waiting", "dropped", "dead")}
    assert counted == states | {"created": sum(states.values())}
    return states


def until(condition: Callable[[], Any], seconds: float = HANGS_S) -> bool:
    """Wait for something to become true: long, since the machine may be busy with other tests."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())
