"""What this machine says of itself: disk, temperature, memory, open files. None is "it does not
tell"."""

import getpass
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PLAUSIBLE_C = (-40.0, 130.0)  # sensors that are switched off say -273 or 200 and more


@dataclass(frozen=True)
class DiskStatus:
    """What this user may still write, and how much there is, in MB of 10⁶ bytes."""

    free_mb: float
    total_mb: float


def disk(path: Path) -> DiskStatus | None:
    """The disk that a folder is on; None if it cannot be asked."""
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return None
    return DiskStatus(usage.free / 1e6, usage.total / 1e6)


def this_process() -> str:
    """This process, told from every other of this boot: a number is given away again."""
    return f"{os.getpid()} {_began(os.getpid()) or ''}".rstrip()


def runs(process: str) -> bool:
    """Whether the process that called itself so is there."""
    number, _, began = process.partition(" ")
    return _began(int(number)) == began if began else Path("/proc", number).exists()


def _began(process: int) -> str | None:
    """When it was started, in ticks of this boot; None if it is not there, or a system does not
    tell."""
    try:
        said = Path(f"/proc/{process}/stat").read_text(encoding="utf8", errors="replace")
    except OSError:
        return None
    fields = said.rpartition(")")[2].split()  # behind its name, which may hold anything
    return fields[19] if fields[0] not in ("Z", "X") else None


def temperature_c(root: Path = Path("/")) -> float | None:
    """The hottest plausible sensor of the machine in °C; None where there is none. `root` is the
    file system."""
    found = []
    for file in (root / "sys/class/thermal").glob("thermal_zone*/temp"):
        with suppress(OSError, ValueError):  # a sensor that is switched off, or has nothing to say
            found.append(int(file.read_text()) / 1000)
    return max(
        (celsius for celsius in found if _PLAUSIBLE_C[0] <= celsius <= _PLAUSIBLE_C[1]),
        default=None,
    )


def user_name() -> str:
    """Name of the user whose process this is; a number, as in containers, where there is none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"user {os.getuid()}"


def rss_mb() -> float | None:
    """Memory in use by this process at this moment, in MB of 10⁶ bytes; None where the kernel does
    not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files() -> int | None:
    """Files, sockets and pipes that this process holds open; None where the kernel does not
    tell."""
    try:
        return sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1  # one is the listing itself
    except OSError:
        return None
