"""Checks of what the project promises: real files, real databases, a real broker, real
processes."""

import os

HANGS_S = 1200.0  # a program that has not ended by then hangs; one on a busy machine is only slow


def unmeasured() -> dict[str, str]:
    """The environment of a program whose files or memory are limited: what `make coverage` would
    write of it as well is none of its business."""
    return {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}
