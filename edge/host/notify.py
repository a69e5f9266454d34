"""What the service manager is told of this process, by sd_notify's protocol: datagrams over a Unix
socket.

Knows nothing of what the station does. Without a service manager nothing happens.
"""

import logging
import os
import socket
import time
from collections.abc import Mapping

from edge.contract.text import printable

_SEND_TIMEOUT_S = 1.0  # the manager's queue may be full; hearing goes on without it
_log = logging.getLogger(__name__)


class Notifier:
    """Tells systemd how the service is; silent where there is none.

    notifier = Notifier()
    notifier.ready("listening")
    if notifier.watchdog_s:  # ping at half of it, and only while all is well
        notifier.watchdog()
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # A name that begins with @ is not in the file system; the kernel writes it with a zero
        # byte.
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
        """Whether a service manager has started this process."""
        return self._address is not None

    def ready(self, status: str = "") -> None:
        """Start or reload is finished."""
        self._send("READY=1", f"STATUS={_line(status)}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={_line(text)}")

    def watchdog(self) -> None:
        """Still well; when this stays away for `watchdog_s`, the service is killed and started
        again."""
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """Settings are being read anew; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1")

    def extend_timeout(self, seconds: float) -> None:
        """Start, stop or run may take so much longer from now on, before systemd calls it hung."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def _send(self, *assignments: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_SEND_TIMEOUT_S)
                sender.sendto("\n".join(assignments).encode(), self._address)
        except OSError as error:
            _log.warning("systemd was not told %s: %s", assignments[0], error)


def _line(text: str) -> str:
    """Of several lines each would be an assignment of its own."""
    return printable(" ".join(text.split()))


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Seconds between pings after which systemd gives this process up; None: nobody waits for
    one."""
    usec = environment.get("WATCHDOG_USEC", "")
    pid = environment.get("WATCHDOG_PID", str(os.getpid()))
    return (
        int(usec) / 1e6 if usec.isdecimal() and int(usec) > 0 and pid == str(os.getpid()) else None
    )
