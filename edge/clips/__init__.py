"""Sound saved around detections, and which of it goes again. Knows the record only as the Protocols
in its files."""
