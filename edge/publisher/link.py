"""One connection to the broker, from CONNECT to its end. The next one is a new object, so that
nothing of paho's own queue survives. Everything happens in the calling thread. Knows no outbox.

Whatever the other side sends can at worst end this connection, and costs bounded memory and work:
packets larger than requested are not read, nor more packets per second than a normal broker sends.
"""

import ssl
import time
from contextlib import suppress

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge.config import MqttSettings
from edge.contract.errors import PublishError
from edge.publisher.credentials import password, tls_context

# mosquitto drops messages beyond a slow subscriber's queue although it has acknowledged them
IN_FLIGHT_MAX = 20
BROKE = "the connection broke"
_KEEPALIVE_S = 30
_CONNECT_TIMEOUT_S = 5.0
_CONNACK_TIMEOUT_S = 10.0
_PACKET_BYTES_MAX = 268_435_455  # MQTT's own limit
# packets from the broker: answers with a reason, and Home Assistant's `online`
_TAKEN_BYTES_MAX = 8192
_READS_MAX = 10_000  # per second; an acknowledgement takes three, and there are 500 at most
_WORDS_MAX = 200  # characters of an error message that others may have made long
_HEADER_BYTES_MAX = 32  # of a PUBLISH besides topic and payload
_UNSUPPORTED_VERSION = 0x84
_HINTS = {  # refusals that will not go away within seconds
    0x85: "the broker does not accept the client id, which is made from station.id",
    0x86: "check mqtt.username and mqtt.password_file",
    0x87: "check mqtt.username, mqtt.password_file and the broker's access rules",
    0x8A: "the broker has banned this station",
    0x8E: "is there a second station with the same station.id?",
}


class _Client(mqtt.Client):
    """paho's client, which would read a packet of any announced size; this one checks the size
    first. (paho requests the whole rest of a packet's body at once.)"""

    reads = 0

    def _sock_recv(self, bufsize: int) -> bytes:
        if bufsize > _TAKEN_BYTES_MAX:
            raise PublishError(
                f"the broker sends a packet of {bufsize} bytes, expected at most {_TAKEN_BYTES_MAX}"
            )
        self.reads += 1
        return super()._sock_recv(bufsize)


class Link:
    """One connection.

    link = Link(settings, "birdstation-porch", "5")
    link.open()
    while not link.ended:
        link.turn(0.1)  # sets accepted, answers and heard
    """

    def __init__(
        self,
        settings: MqttSettings,
        client_id: str,
        protocol: str,
        will: tuple[str, str] | None = None,
    ) -> None:
        """`will`: topic and payload that the broker retains when this connection breaks. Raises
        ConfigError."""
        self.accepted = False
        self.ended = ""  # the reason of its end; empty while it lasts
        self.other_protocol = False  # it may work with another version of MQTT
        self.patience = False  # another attempt soon would fail in the same way
        # it ended because the broker sent too much, perhaps on the topic that it listens to
        self.too_much = False
        # message number, and the reason of a refusal; empty: acknowledged
        self.answers: list[tuple[int, str]] = []
        self.heard: list[tuple[str, str]] = []  # topic and payload
        self.room = IN_FLIGHT_MAX  # messages that may be in flight
        self.protocol = protocol
        self._settings = settings
        self._v5 = protocol == "5"
        self._bytes_max = _PACKET_BYTES_MAX
        self._deadline = 0.0
        version = mqtt.MQTTv5 if self._v5 else mqtt.MQTTv311
        self._client = client = _Client(
            CallbackAPIVersion.VERSION2, client_id, protocol=version, reconnect_on_failure=False
        )
        client.connect_timeout = _CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(IN_FLIGHT_MAX)
        if settings.username:
            client.username_pw_set(settings.username, password(settings))
        if settings.tls:
            client.tls_set_context(tls_context(settings.tls))
        if will:
            client.will_set(*will, qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        self._reads_from = (0.0, 0)  # start of the counted second, and number of reads before it

    def open(self) -> None:
        """Connect; if that fails, `ended` has the reason. May take seconds if nothing answers."""
        self._deadline = time.monotonic() + _CONNECT_TIMEOUT_S + _CONNACK_TIMEOUT_S
        try:
            self._client.connect(
                self._settings.host,
                self._settings.port,
                keepalive=_KEEPALIVE_S,
                properties=self._asked_for(),
            )
        except ssl.SSLCertVerificationError as error:
            self._end(
                f"TLS: the broker's certificate is not accepted: {error.verify_message}; see "
                "mqtt.tls.ca_file"
            )
        except ssl.SSLError as error:
            self._end(f"TLS: {error.reason or error}; does port {self._settings.port} speak TLS?")
        except (OSError, ValueError) as error:  # ValueError: not a host name
            words = str(getattr(error, "strerror", None) or error)
            reset = self._settings.tls and isinstance(error, ConnectionResetError)
            self._end(
                f"TLS: {words}; does port {self._settings.port} speak TLS?" if reset else words
            )
        except Exception as error:  # from libraries: costs only this connection
            self._end(_in_words(error))

    def _asked_for(self) -> Properties | None:
        if not self._v5:
            return None
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.MaximumPacketSize = _TAKEN_BYTES_MAX
        return properties

    def turn(self, timeout_s: float) -> None:
        """Read and write for `timeout_s` at most."""
        if self.ended:
            return
        try:
            broke = self._client.loop(timeout_s) != mqtt.MQTT_ERR_SUCCESS
        except PublishError as error:
            self.too_much = True
            self._end(str(error))
        except Exception as error:  # from paho, for invalid packets
            self._end(f"the broker's reply is not MQTT ({_in_words(error)})")
        else:
            if broke:
                self._end(BROKE)  # unless on_disconnect has set a better reason
            elif not self.accepted and time.monotonic() > self._deadline:
                self._end("connected, but no MQTT reply; is this really a broker?")
            self._count_reads()

    def _count_reads(self) -> None:
        now = time.monotonic()
        (since, before) = self._reads_from
        if self._client.reads - before > _READS_MAX:
            self.too_much = True
            self._end("the broker sends far more packets than expected")
        elif now - since > 1.0:
            self._reads_from = (now, self._client.reads)

    def send(
        self, topic: str, payload: str, retain: bool = False, expiry_s: int | None = None
    ) -> int:
        """Send with QoS 1; returns the message number of the later answer. Raises PublishError if
        the message can never be sent."""
        properties: Properties | None = None
        if self._v5 and expiry_s:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = expiry_s
        try:
            packet_bytes = len(topic.encode()) + len(payload.encode()) + _HEADER_BYTES_MAX
            if packet_bytes > self._bytes_max:
                raise PublishError(
                    f"packet of {packet_bytes} bytes, the broker takes {self._bytes_max}"
                )
            return self._client.publish(
                topic, payload, qos=1, retain=retain, properties=properties
            ).mid
        except ValueError as error:  # an invalid topic or text
            raise PublishError(str(error)) from error

    def listen(self, topic: str) -> None:
        """Subscribe to a topic, whose messages go to `heard`, with QoS 0, so that a flood fills no
        queue at the broker. Raises PublishError for an invalid topic."""
        try:
            self._client.subscribe(topic, qos=0)
        except ValueError as error:
            raise PublishError(str(error)) from error

    def close(self, goodbye: bool = True) -> None:
        """Close the connection. Without `goodbye` the broker publishes the will."""
        client = self._client
        if self.accepted and not self.ended:
            with suppress(Exception):
                if goodbye:
                    client.disconnect()
            self._end("closed")
        client.on_connect = client.on_disconnect = client.on_publish = client.on_message = None
        connection = client.socket()
        if connection is not None:
            connection.close()

    def _on_connect(
        self,
        _c: mqtt.Client,
        _d: object,
        _f: mqtt.ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self.other_protocol = reason.value == _UNSUPPORTED_VERSION
            self._refused(reason)
            return
        self.accepted = True
        # MQTT forbids 0 for both; a broker that sends it means something else
        self.room = min(
            IN_FLIGHT_MAX, int(getattr(properties, "ReceiveMaximum", 0)) or IN_FLIGHT_MAX
        )
        self._bytes_max = int(getattr(properties, "MaximumPacketSize", 0)) or _PACKET_BYTES_MAX

    def _on_disconnect(
        self,
        _c: mqtt.Client,
        _d: object,
        flags: mqtt.DisconnectFlags,
        reason: ReasonCode,
        _p: Properties | None,
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._refused(reason)
        elif self.accepted:
            known = "" if reason == "Unspecified error" else f" ({reason})"
            self._end(f"{BROKE}{known}")
        elif not self.ended:
            self.other_protocol = True  # old brokers just close
            self._end(
                "the broker closed the connection without a reason; does it need TLS or a client "
                "certificate?"
            )

    def _refused(self, reason: ReasonCode) -> None:
        hint = _HINTS.get(reason.value)
        self.patience = hint is not None
        self._end(f"{reason}; {hint}" if hint else str(reason))

    def _on_publish(
        self, _c: mqtt.Client, _d: object, mid: int, reason: ReasonCode, _p: Properties
    ) -> None:
        self.answers.append((mid, str(reason) if reason.is_failure else ""))

    def _on_message(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        self.heard.append((message.topic, message.payload.decode("utf8", "replace")))

    def _end(self, reason: str) -> None:
        self.ended = self.ended or reason


def _in_words(error: Exception) -> str:
    """The error in one line of limited length."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:_WORDS_MAX]
