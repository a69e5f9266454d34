"""A broker that misbehaves on purpose: MQTT 5 or 3.1.1 as the client asks, sound but for what a
test makes of it."""

import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

CONNECT = 1
PUBLISH = 3
SUBSCRIBE = 8
_PING = 12


def varint(number: int) -> bytes:
    """MQTT's variable byte integer."""
    out = b""
    while True:
        number, byte = number >> 7, number & 127
        out += bytes([byte | (128 if number else 0)])
        if not number:
            return out


def text(value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(raw)) + raw


def publish(topic: bytes | str, payload: bytes, v5: bool = True) -> bytes:
    """A PUBLISH of QoS 0."""
    body = text(topic) + (b"\0" if v5 else b"") + payload
    return b"\x30" + varint(len(body)) + body


@dataclass
class Packet:
    """What the station sent, and the connection over which an answer may go."""

    kind: int
    flags: int
    body: bytes
    connection: socket.socket
    v5: bool

    @property
    def topic(self) -> str:
        """Of a PUBLISH."""
        return self.body[2 : 2 + struct.unpack(">H", self.body[:2])[0]].decode()

    @property
    def payload(self) -> str:
        """Of a PUBLISH."""
        at = 4 + struct.unpack(">H", self.body[:2])[0]
        return self.body[at + (1 + self.body[at] if self.v5 else 0) :].decode()


@dataclass
class OddBroker:
    """`act` sees every packet first; if it returns True, nothing more is done about it; OSError
    ends the connection."""

    act: Callable[["OddBroker", Packet], bool | None] = lambda *_: None
    properties: bytes = b""  # of CONNACK
    port: int = 0
    connects: list[bytes] = field(default_factory=list)  # bodies of CONNECT
    published: list[tuple[str, str]] = field(default_factory=list)
    unanswered: int = 0
    unanswered_max: int = 0  # at any moment
    _later: queue.SimpleQueue[tuple[float, Packet]] = field(default_factory=queue.SimpleQueue)
    _worker: threading.Thread | None = None
    _count: threading.Lock = field(default_factory=threading.Lock)

    def topics(self) -> list[str]:
        """Of all that was acknowledged."""
        return [topic for topic, _ in list(self.published)]

    def serve(self, connection: socket.socket) -> None:
        """One connection to its end."""
        self.unanswered = 0
        v5 = True
        with suppress(OSError, IndexError), connection, connection.makefile("rb") as file:
            while head := file.read(1):
                length = 0
                shift = 0
                while True:
                    byte = file.read(1)[0]
                    length |= (byte & 127) << shift
                    shift += 7
                    if not byte & 128:
                        break
                body = file.read(length)
                packet = Packet(head[0] >> 4, head[0] & 15, body, connection, v5)
                if packet.kind == CONNECT:
                    v5 = packet.v5 = body[6] == 5
                    self.connects.append(body)
                if packet.kind == PUBLISH:
                    with self._count:
                        self.unanswered += 1
                        self.unanswered_max = max(self.unanswered_max, self.unanswered)
                if not self.act(self, packet):
                    self.answer(packet)

    def answer(self, packet: Packet) -> None:
        """As a sound broker does."""
        send = packet.connection.sendall
        if packet.kind == CONNECT:
            ack = b"\0\0" + (varint(len(self.properties)) + self.properties if packet.v5 else b"")
            send(b"\x20" + varint(len(ack)) + ack)
        elif packet.kind == PUBLISH:
            self.published.append((packet.topic, packet.payload))
            at = 2 + len(packet.topic.encode())
            with self._count:
                self.unanswered -= 1
            send(b"\x40\x02" + packet.body[at : at + 2])
        elif packet.kind == SUBSCRIBE:
            send(
                b"\x90"
                + varint(3 + packet.v5)
                + packet.body[:2]
                + (b"\0" if packet.v5 else b"")
                + b"\0"
            )
        elif packet.kind == _PING:
            send(b"\xd0\0")

    def answer_later(self, packet: Packet, seconds: float) -> None:
        """As over a slow link, in order."""
        if self._worker is None:
            self._worker = threading.Thread(target=self._answer_in_order, daemon=True)
            self._worker.start()
        self._later.put((time.monotonic() + seconds, packet))

    def _answer_in_order(self) -> None:
        while True:
            at, packet = self._later.get()
            time.sleep(max(0.0, at - time.monotonic()))
            with suppress(OSError):
                self.answer(packet)


@contextmanager
def odd_broker(
    act: Callable[[OddBroker, Packet], bool | None], properties: bytes = b""
) -> Iterator[OddBroker]:
    """One that listens on 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        broker = OddBroker(act, properties, server.getsockname()[1])
        open_ones: list[socket.socket] = []
        threads: list[threading.Thread] = []

        def accept() -> None:
            with suppress(OSError):
                while True:
                    open_ones.append(server.accept()[0])
                    threads.append(threading.Thread(target=broker.serve, args=(open_ones[-1],)))
                    threads[-1].start()

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield broker
        finally:
            server.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for connection in open_ones:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()
