"""Analysis of sound from any source into detections. Knows no source, no database and no broker."""
