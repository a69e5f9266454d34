"""The outbox to an MQTT broker, and what a station says of itself there. docs/mqtt.md describes it
for subscribers."""

from edge.messages import detection_message
from edge.publisher.presence import Presence, station_presence
from edge.publisher.thread import Publisher, PublisherState

__all__ = ["Presence", "Publisher", "PublisherState", "detection_message", "station_presence"]
