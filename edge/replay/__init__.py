"""Recordings analysed once, into the record. Knows no microphone."""
