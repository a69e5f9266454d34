"""Messages to the service manager by sd_notify's protocol: datagrams over a Unix socket.

Knows nothing of what the station does. Without a service manager nothing is sent.
"""

import logging
import os
import socket
import time
from collections.abc import Mapping

from edge.contract.text import printable

_SEND_TIMEOUT_S = 1.0  # the manager's queue may be full; listening continues without it
_log = logging.getLogger(__name__)


class Notifier:
    """Reports the state of the service to systemd, if there is one.

    notifier = Notifier()
    notifier.ready("listening")
    if notifier.watchdog_s:  # ping at half of it, and only while all is well
        notifier.watchdog()
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # A name that begins with @ is an abstract socket; the kernel writes it with a zero byte.
        self._address = (
            "\0" + address[1:]
            if address.startswith("@")
            else address
            if address.startswith("/")
            else None
        )
        self.watchdog_s = _watchdog_s(environment)

    @property
    def is_there(self) -> bool:
        """True if a service manager has started this process."""
        return self._address is not None

    def ready(self, status: str = "") -> None:
        """Start or reload is finished."""
        self._send("READY=1", f"STATUS={_line(status)}")

    def status(self, text: str) -> None:
        """Set the line shown by `systemctl status`."""
        self._send(f"STATUS={_line(text)}")

    def watchdog(self) -> None:
        """Report being well; without this for `watchdog_s` the service is killed and restarted."""
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """Settings are being reread; `ready` ends this state."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Shutdown has begun."""
        self._send("STOPPING=1")

    def extend_timeout(self, seconds: float) -> None:
        """Ask for `seconds` more before systemd treats starting, stopping or running as hung."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def _send(self, *assignments: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_SEND_TIMEOUT_S)
                sender.sendto("\n".join(assignments).encode(), self._address)
        except OSError as error:
            _log.warning("systemd could not be notified of %s: %s", assignments[0], error)


def _line(text: str) -> str:
    """The text in one line, since each line would be an assignment of its own."""
    return printable(" ".join(text.split()))


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Longest time between pings before systemd ends this process; None if there is no watchdog."""
    usec = environment.get("WATCHDOG_USEC", "")
    pid = environment.get("WATCHDOG_PID", str(os.getpid()))
    return (
        int(usec) / 1e6 if usec.isdecimal() and int(usec) > 0 and pid == str(os.getpid()) else None
    )
