"""State of this machine: disk, temperature, memory, open files. None means unknown."""

import getpass
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PLAUSIBLE_C = (-40.0, 130.0)  # disabled sensors give -273, or 200 and more


@dataclass(frozen=True)
class DiskStatus:
    """Space that this user may still write, and total size, in MB of 10⁶ bytes."""

    free_mb: float
    total_mb: float


def disk(path: Path) -> DiskStatus | None:
    """The disk that holds a folder; None if it cannot be queried."""
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return None
    return DiskStatus(usage.free / 1e6, usage.total / 1e6)


def this_process() -> str:
    """Identity of this process, unique within this boot, unlike a process number."""
    return f"{os.getpid()} {_began(os.getpid()) or ''}".rstrip()


def runs(process: str) -> bool:
    """True if the process with this identity is running."""
    number, _, began = process.partition(" ")
    return _began(int(number)) == began if began else Path("/proc", number).exists()


def _began(process: int) -> str | None:
    """Start of a process in ticks of this boot; None if it does not run, or on systems without
    /proc."""
    try:
        said = Path(f"/proc/{process}/stat").read_text(encoding="utf8", errors="replace")
    except OSError:
        return None
    fields = said.rpartition(")")[2].split()  # behind the process name, which may contain anything
    return fields[19] if fields[0] not in ("Z", "X") else None


def temperature_c(root: Path = Path("/")) -> float | None:
    """The hottest plausible sensor of the machine in °C; None if there is none. `root` is the file
    system."""
    found = []
    for file in (root / "sys/class/thermal").glob("thermal_zone*/temp"):
        with suppress(OSError, ValueError):  # a disabled sensor, or one without a value
            found.append(int(file.read_text()) / 1000)
    return max(
        (celsius for celsius in found if _PLAUSIBLE_C[0] <= celsius <= _PLAUSIBLE_C[1]),
        default=None,
    )


def user_name() -> str:
    """Name of this process's user; a number if there is none, as in containers."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"user {os.getuid()}"


def rss_mb() -> float | None:
    """Resident memory of this process, in MB of 10⁶ bytes; None if unknown."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files() -> int | None:
    """Number of files, sockets and pipes that this process has open; None if unknown."""
    try:
        # one is the listing itself
        return sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1
    except OSError:
        return None
