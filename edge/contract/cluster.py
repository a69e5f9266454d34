"""Connection to a running Ray cluster. Ray is an extra, imported only if a cluster was
requested."""

import importlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edge.contract.errors import ConfigError


@contextmanager
def joined(address: str) -> Iterator[Any]:
    """The ray module, connected to the cluster at `address`. Raises ConfigError if there is
    none."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray = importlib.import_module("ray")
    except ModuleNotFoundError:
        raise ConfigError(
            f"--cluster {address}: ray is not installed; install it with pip install '.[cluster]' "
            "in the checkout"
        ) from None
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--cluster {address}: no Ray cluster found: {str(error).splitlines()[0]}"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Connect once, and raise OSError if nothing listens: ray itself keeps trying for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10.0).close()
