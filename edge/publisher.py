"""The outbox to an MQTT broker: at least once, in order, at most 20 in flight, marked sent on the broker's ack.

Runs in a thread of its own; a broker that is away costs waiting rows, nothing else. Knows no sound and no species.
"""

import json
import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge.config import Config, MqttSettings
from edge.contract.bundle import Bundle
from edge.contract.errors import ConfigError, StoreError
from edge.types import Detection, Message, Outbox, RecordingRow, utc_text

IN_FLIGHT_MAX = 20  # mosquitto drops for a slow subscriber what exceeds its queue, although it acknowledged
_POLL_S = 0.2
_RECONNECT_MAX_S = 60
_CONNECT_PATIENCE_S = 3.0

log = logging.getLogger(__name__)


class Publisher:
    """Empties an outbox, which it opens in a thread of its own.

    with Publisher(lambda: Store(database), settings, client_id="birdstation-porch-replay") as publisher:
        ...                              # other threads commit messages
        left = publisher.drain(timeout_s=30)
    """

    def __init__(self, open_outbox: Callable[[], Outbox], settings: MqttSettings, client_id: str) -> None:
        self._open_outbox, self._settings = open_outbox, settings
        self._acked: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._stopping, self._connected, self._drained = threading.Event(), threading.Event(), threading.Event()
        self.last_error = ""
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
        self._client.max_inflight_messages_set(IN_FLIGHT_MAX)
        self._client.reconnect_delay_set(1, _RECONNECT_MAX_S)
        if settings.username:
            self._client.username_pw_set(settings.username, _password(settings.password_file))
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_publish = self._on_publish
        self._client.on_connect_fail = self._on_connect_fail
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def __enter__(self) -> "Publisher":
        self._client.connect_async(self._settings.host, self._settings.port, keepalive=30)
        self._client.loop_start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._client.disconnect()
        self._client.loop_stop()

    def drain(self, timeout_s: float) -> bool:
        """Wait until the broker has acknowledged everything; False if it has not in time or cannot be reached."""
        self._drained.clear()
        deadline = time.monotonic() + timeout_s
        patience = time.monotonic() + min(timeout_s, _CONNECT_PATIENCE_S)
        while not self._drained.wait(0.05):
            now = time.monotonic()
            if now > deadline or (now > patience and not self._connected.is_set()):
                return False
        return True

    def _on_connect(
        self, _client: mqtt.Client, _data: object, _flags: mqtt.ConnectFlags, reason: ReasonCode, _p: Properties | None
    ) -> None:
        if reason.is_failure:
            self._fail(f"{reason}")
        else:
            self.last_error = ""
            self._connected.set()

    def _on_disconnect(
        self, _c: mqtt.Client, _d: object, _f: mqtt.DisconnectFlags, reason: ReasonCode, _p: Properties | None
    ) -> None:
        self._connected.clear()
        if reason.is_failure and not self._stopping.is_set():
            self._fail(f"{reason}")

    def _on_connect_fail(self, _client: mqtt.Client, _data: object) -> None:
        self._fail("no answer")

    def _fail(self, reason: str) -> None:
        if reason != self.last_error:
            self.last_error = reason
            log.warning("MQTT broker %s:%d: %s; messages wait", self._settings.host, self._settings.port, reason)

    def _on_publish(
        self, _client: mqtt.Client, _data: object, mid: int, _reason: ReasonCode, _properties: Properties
    ) -> None:
        self._acked.put(mid)

    def _run(self) -> None:
        """Feed the client from the outbox. After a reconnect paho sends again what was in flight; a message can thus
        arrive twice, with the same id."""
        in_flight: dict[int, int] = {}  # message id of the client -> seq in the outbox
        newest = 0
        with self._open_outbox() as outbox:
            while not self._stopping.is_set():
                try:
                    self._mark_acked(outbox, in_flight)
                    if not self._connected.is_set():
                        self._connected.wait(_POLL_S)
                        continue
                    waiting = outbox.waiting(newest, IN_FLIGHT_MAX - len(in_flight))
                    for seq, topic, payload in waiting:
                        in_flight[self._client.publish(topic, payload, qos=1).mid] = seq
                        newest = seq
                    if not waiting and not in_flight and not outbox.waiting_count():
                        self._drained.set()
                    self._wait_for_ack(in_flight)
                except StoreError as error:  # a busy or full disk: the rows stay where they are
                    log.warning("outbox: %s", error)
                    self._stopping.wait(1.0)
            self._mark_acked(outbox, in_flight)

    def _wait_for_ack(self, in_flight: dict[int, int]) -> None:
        try:
            self._acked.put(self._acked.get(timeout=_POLL_S if in_flight else _POLL_S / 4))
        except queue.Empty:
            return

    def _mark_acked(self, outbox: Outbox, in_flight: dict[int, int]) -> None:
        seqs = []
        while True:
            try:
                seqs.append(in_flight.pop(self._acked.get_nowait(), None))
            except queue.Empty:
                break
        outbox.mark_sent([seq for seq in seqs if seq is not None])


def detection_message(detection: Detection, recording: RecordingRow, config: Config, bundle: Bundle) -> Message:
    """A detection as subscribers see it, on TOPIC/v1/STATION/detection. Fields are only ever added within v1."""
    species = bundle.taxonomy[bundle.taxonomy.index(detection.species)]
    payload = {
        "schema": "detection/1",
        "id": detection.id,
        "station": config.station.id,
        "recording": recording.path,
        "start": utc_text(detection.start),
        "end": utc_text(detection.end),
        "offset_s": round(detection.offset_s, 3),
        "species_code": species.code,
        "scientific_name": species.scientific_name,
        "common_name": species.common_name,
        "score": round(detection.score, 4),
        "acoustic": round(detection.acoustic, 4),
        "prior": None if detection.prior is None else round(detection.prior, 4),
        "threshold": round(detection.threshold, 4),
        "rule": detection.rule,
        "time_source": recording.time_source,
        "bundle": bundle.id[:16],
    }
    topic = f"{config.mqtt.topic if config.mqtt else 'birdstation'}/v1/{config.station.id}/detection"
    return Message(detection.id, topic, json.dumps(payload, ensure_ascii=False))


def _password(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf8").splitlines()[0]
    except (OSError, IndexError) as error:
        raise ConfigError(f"mqtt.password_file: {path}: {error}") from error
