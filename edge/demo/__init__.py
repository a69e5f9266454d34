"""A demonstration: the bundle and soundscapes that ship with birdstation, replayed with an MQTT
broker and a subscriber."""
