"""Sound to detections, whatever it comes from. Knows no source, no database and no broker."""
