"""Publishing of the outbox and of the station's presence to an MQTT broker. docs/mqtt.md describes
the messages for subscribers."""

from edge.messages import detection_message
from edge.publisher.presence import Presence, station_presence
from edge.publisher.thread import Publisher, PublisherState

__all__ = ["Presence", "Publisher", "PublisherState", "detection_message", "station_presence"]
