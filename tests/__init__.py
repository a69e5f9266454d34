"""Checks of what the project promises: real files, real databases, a real broker, real processes."""

HANGS_S = 1200.0  # a program that has not ended by then hangs; one on a busy machine is only slow
