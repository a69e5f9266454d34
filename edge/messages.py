"""Topics and payloads as described in docs/mqtt.md. Within v1 fields are only ever added. Knows no
connection."""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from edge.config import Config
from edge.contract.bundle import Bundle
from edge.types import Detection, Message, QueuedMessage, RecordingRow, utc_text

QUEUED_S = 30.0  # a message older than this is marked as late


def topic_of(config: Config, name: str) -> str:
    """TOPIC/v1/STATION/name."""
    return f"{config.mqtt.topic if config.mqtt else 'birdstation'}/v1/{config.station.id}/{name}"


def detection_message(
    detection: Detection, recording: RecordingRow, config: Config, bundle: Bundle
) -> Message:
    """A detection for TOPIC/v1/STATION/detection, as it waits: with its exact place.

    On sending, its times are updated from the record, `seq` and `queued` are added, and its place
    is reduced to what may be disclosed (edge.disclosure).
    """
    species = bundle.taxonomy[bundle.taxonomy.index(detection.species)]
    payload = {
        "schema": "detection/1",
        "id": detection.id,
        "station": config.station.id,
        "source": recording.source,
        "recording": recording.known_as,
        "start": utc_text(detection.start),
        "end": utc_text(detection.end),
        "utc_offset_minutes": detection.utc_offset_minutes,
        "offset_s": round(detection.offset_s, 3),
        "species_code": species.code,
        "scientific_name": species.scientific_name,
        "common_name": species.common_name,
        "score": round(detection.score, 4),
        "acoustic": round(detection.acoustic, 4),
        "prior": None if detection.prior is None else round(detection.prior, 4),
        "threshold": round(detection.threshold, 4),
        "rule": detection.rule,
        "member_low": round(detection.member_low, 4),
        "member_high": round(detection.member_high, 4),
        "decided_by": detection.decided_by,
        "level_dbfs": None if detection.level_dbfs is None else round(detection.level_dbfs, 1),
        "latitude": recording.place.latitude if recording.place else None,
        "longitude": recording.place.longitude if recording.place else None,
        "time_source": recording.time_source,
        "clock_state": recording.clock_state,
        "shed": detection.shed,
        "bundle": bundle.id[:16],
    }
    return Message(
        detection.id, topic_of(config, "detection"), json.dumps(payload, ensure_ascii=False)
    )


@dataclass(frozen=True)
class NumberedMessage:
    """A message with its number; its place is still exact."""

    payload: str
    source: str | None  # of a detection; None for other messages


class FreshSpan(NamedTuple):
    """Messages that were created in this span (UTC text) are not late."""

    since: str
    until: str

    @classmethod
    def of(cls, now: datetime, connected_s: float) -> "FreshSpan":
        """The span for a connection that has lasted `connected_s`, at the time `now`.

        `now` is the clock of this moment only: if the clock was set since the connection began, or
        since a message was created, that is not taken into account.
        """
        since = now - timedelta(seconds=min(QUEUED_S, connected_s))
        return cls(utc_text(since), utc_text(now + timedelta(seconds=QUEUED_S)))


def stamp(message: QueuedMessage, fresh: FreshSpan) -> NumberedMessage:
    """Add `seq`, `queued` (true unless it is `fresh`) and the present time of its detection.

    Payloads that are not an object stay unchanged.
    """
    try:
        payload: Any = json.loads(message.payload)
    except ValueError:
        payload = None
    if not isinstance(payload, dict):
        return NumberedMessage(message.payload, None)
    payload |= {"seq": message.seq, "queued": not fresh.since <= message.created_utc <= fresh.until}
    is_detection = payload.get("schema") == "detection/1"
    if is_detection and message.lies is not None:
        start, end, minutes = message.lies
        payload |= {"start": start, "end": end, "utc_offset_minutes": minutes}
    source = payload.get("source") if is_detection else None
    return NumberedMessage(
        json.dumps(payload, ensure_ascii=False), source if isinstance(source, str) else None
    )
