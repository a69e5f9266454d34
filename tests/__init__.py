"""Checks of what the project promises: real files, real databases, a real broker, real processes."""
