"""A stop, and a loss, while the state's disk stands still: a file system in user space that can be
told to hold.

    python -m tests.trials.still_disk [--seconds 60]

Wants /dev/fuse, libfuse2 and `pip install fusepy`. The daemon as it ships with a stand-in for
PortAudio, its state on a file system that passes everything on to a folder and, while told to,
answers nothing. It hears; the disk stands still for so many seconds and goes on; stands still
again, and the daemon is stopped meanwhile; then it is started anew. The kernel lets no process go,
not even a killed one, while a disk owes one of its threads an answer: so of the end is measured how
soon the daemon has said its last word, and how soon it is gone once the disk answers. Prints these,
the longest pause of the watchdog and the gaps. Exits 1 if sound was lost before the stop, the last
word or the end took more than 10 s, or the record is damaged.
"""

import argparse
import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.trials import above_zero
from tests.trials.siege import PROJECT, STOP_S_MAX, WATCHDOG_S, Daemon, until

_HOLD = "hold"  # beside the folder: while it is there nothing is answered


def serve(source: Path, mount: Path) -> None:
    """Show `source` at `mount` until that is unmounted."""
    from fuse import FUSE, FuseOSError, Operations

    hold = source.parent / _HOLD

    class Passing(Operations):  # type: ignore[misc]
        """Everything as the folder has it."""

        def __call__(self, op: str, path: str, *rest: Any) -> Any:
            while hold.exists():
                time.sleep(0.05)
            try:
                return getattr(self, op)(f"{source}{path}", *rest)
            except OSError as error:
                raise FuseOSError(error.errno or errno.EIO) from None

        def getattr(self, path: str, _handle: object = None) -> dict[str, Any]:
            found = os.lstat(path)
            return {
                name: getattr(found, name)
                for name in dir(found)
                if name.startswith("st_") and "_ns" not in name
            }

        def readdir(self, path: str, _handle: object) -> list[str]:
            return [".", "..", *(entry.name for entry in Path(path).iterdir())]

        def open(self, path: str, flags: int) -> int:
            return os.open(path, flags)

        def create(self, path: str, mode: int, _info: object = None) -> int:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

        def read(self, _path: str, size: int, offset: int, handle: int) -> bytes:
            return os.pread(handle, size, offset)

        def write(self, _path: str, data: bytes, offset: int, handle: int) -> int:
            return os.pwrite(handle, data, offset)

        def truncate(self, path: str, length: int, _handle: object = None) -> None:
            os.truncate(path, length)

        def release(self, _path: str, handle: int) -> None:
            os.close(handle)

        def fsync(self, _path: str, _data: int, handle: int) -> None:
            os.fsync(handle)

        def statfs(self, path: str) -> dict[str, Any]:
            found = os.statvfs(path)
            return {
                name: getattr(found, name)
                for name in dir(found)
                if name.startswith("f_") and name != "f_fsid"
            }

        def rename(self, old: str, new: str) -> None:
            Path(old).rename(f"{source}{new}")

        def unlink(self, path: str) -> None:
            Path(path).unlink()

        def mkdir(self, path: str, mode: int) -> None:
            Path(path).mkdir(mode)

        def rmdir(self, path: str) -> None:
            Path(path).rmdir()

        def chmod(self, path: str, mode: int) -> None:
            Path(path).chmod(mode)

        def utimens(self, path: str, times: tuple[float, float] | None = None) -> None:
            os.utime(path, times)

    FUSE(Passing(), str(mount), foreground=True, nothreads=False, big_writes=True)


@contextmanager
def passing(folder: Path) -> Iterator[Path]:
    """A mount of a folder beside it."""
    source = folder / "kept"
    mount = folder / "shown"
    source.mkdir()
    mount.mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.trials.still_disk", "--serve", source, mount], cwd=PROJECT
    ) as own:
        try:
            until(mount.is_mount, "the mount", 20)
            yield mount
        finally:
            subprocess.run(["fusermount", "-uz", str(mount)], check=False)
            own.terminate()


@contextmanager
def still(folder: Path) -> Iterator[None]:
    """The disk stands still as long."""
    (folder / _HOLD).touch()
    try:
        yield
    finally:
        (folder / _HOLD).unlink()


def trial(folder: Path, disk: Path, seconds: float) -> list[str]:
    """What is wrong."""
    daemon = Daemon(folder / "card", "station: {id: still}", state=disk)

    def heard() -> float:
        return float(daemon.rows("SELECT total(analysed_s) FROM effort")[0][0])

    begun = time.monotonic()
    daemon.start("-m", "tests.helpers.stand_in_card")
    until(lambda: heard() > 0, "it hears")
    time.sleep(10)
    with still(folder):
        time.sleep(seconds)
    before = heard()
    until(lambda: heard() > before + seconds - 10, "what waited is stored")
    pause_s = daemon.pause_s(begun)
    lost = daemon.rows("SELECT reason, seconds FROM gaps WHERE reason NOT IN ('off', 'schedule')")
    with still(folder):
        time.sleep(5)
        asked = time.monotonic()
        daemon.process.send_signal(signal.SIGTERM)
        until(lambda: "ended without" in daemon.log.read_text(), "the last word")
        word_s = time.monotonic() - asked
    answers = time.monotonic()
    status = daemon.process.wait(60)
    end_s = time.monotonic() - answers
    print(f"longest without a word to the watchdog: {pause_s:.1f} s")
    print(
        f"last word {word_s:.1f} s after a stop was asked for, gone {end_s:.1f} s after the disk "
        f"answered, {status}"
    )
    daemon.start("-m", "tests.helpers.stand_in_card")
    before = heard()
    until(lambda: heard() > before, "it hears again")
    daemon.stop()
    print(
        "gaps:",
        *(
            f"{reason} {round(s, 1)} s;"
            for reason, s in daemon.rows("SELECT reason, seconds FROM gaps")
        ),
    )
    print(
        *(line for line in daemon.log.read_text().splitlines() if "ended without" in line), sep="\n"
    )
    wrong = [f"sound was lost: {lost}"] if lost else []
    wrong += [] if pause_s < WATCHDOG_S / 2 else [f"the watchdog was not fed for {pause_s:.0f} s"]
    wrong += (
        []
        if max(word_s, end_s) <= STOP_S_MAX
        else [f"the end took {word_s:.1f} s and {end_s:.1f} s"]
    )
    sound = daemon.rows("PRAGMA integrity_check")
    return wrong + ([] if sound == [("ok",)] else [f"the record is damaged: {sound[:3]}"])


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=above_zero, default=60.0)
    parser.add_argument("--serve", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(*arguments.serve)
        return
    if find_spec("fuse") is None or not Path("/dev/fuse").exists():
        sys.exit(
            "expected /dev/fuse, libfuse2 and fusepy; apt-get install libfuse2, pip install fusepy"
        )
    with tempfile.TemporaryDirectory(prefix="still-disk-") as name, passing(Path(name)) as disk:
        wrong = trial(Path(name), disk, arguments.seconds)
    print("\n".join(wrong) or "nothing is wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
