"""Presence of a station on the broker as retained messages: status, metadata, health and last
detections.

Knows no connection. A replay has no presence.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from math import ceil

from edge.config import Config
from edge.contract.bundle import Bundle
from edge.disclosure import Disclosure
from edge.messages import topic_of
from edge.publisher.homeassistant import discovery
from edge.types import Place, utc_text

ONLINE = "online"
OFFLINE = "offline"
_RETAINED = ("microphone", "folder")  # sources whose last detection may be retained on the broker
_EXPIRY_INTERVALS = 3  # after which the broker drops an old health message (MQTT 5)


@dataclass(frozen=True)
class Presence:
    """Topics, and the payloads that do not change while the station runs."""

    status_topic: str
    health_topic: str
    health_expiry_s: int
    # topic -> payload, sent at every connect; an empty payload deletes the retained message
    fixed: Mapping[str, str]
    # source -> topic of its last detection
    last_topics: Mapping[str, str] = field(default_factory=dict)
    birth_topic: str | None = None  # on which Home Assistant announces `online`
    discovery_topic: str | None = None
    disclosure: Disclosure = field(default_factory=Disclosure)  # of places


def station_presence(config: Config, bundle: Bundle, version: str, started: datetime) -> Presence:
    """Presence of the daemon under one configuration; `started` is aware UTC."""
    disclosure = Disclosure.of(config)
    sources: tuple[str, ...] = (config.source,)
    fixed = {topic_of(config, "meta"): _meta(config, bundle, version, started, disclosure)}
    unused = (source for source in _RETAINED if source not in sources)
    # left over from a time with another source
    fixed |= {topic_of(config, f"source/{source}/last"): "" for source in unused}
    status = topic_of(config, "status")
    health = topic_of(config, "health")
    last = {source: topic_of(config, f"source/{source}/last") for source in sources}
    expiry_s = ceil(_EXPIRY_INTERVALS * config.health.interval_s)
    prefix = config.mqtt.homeassistant if config.mqtt else None
    if not prefix:
        return Presence(status, health, expiry_s, fixed, last, disclosure=disclosure)
    discovery_topic = f"{prefix}/device/birdstation_{config.station.id}/config"
    fixed[discovery_topic] = discovery(
        config.station.id, version, topic_of(config, "detection"), status, health, last, expiry_s
    )
    return Presence(
        status, health, expiry_s, fixed, last, f"{prefix}/status", discovery_topic, disclosure
    )


def _meta(
    config: Config, bundle: Bundle, version: str, started: datetime, disclosure: Disclosure
) -> str:
    station = config.station
    place = None
    if station.latitude is not None and station.longitude is not None:
        place = Place(station.latitude, station.longitude)
    latitude, longitude = disclosure.place(place)
    meta = {
        "schema": "meta/1",
        "station": station.id,
        "version": version,
        "bundle": bundle.id[:16],
        "species": len(bundle.taxonomy),
        "source": config.source,
        "latitude": latitude,
        "longitude": longitude,
        "started": utc_text(started),
    }
    return json.dumps(meta, ensure_ascii=False)
