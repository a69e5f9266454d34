"""Sound saved around detections, and its removal. Knows the record only as the Protocols in its
files."""
