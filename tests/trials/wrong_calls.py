"""What a person mistypes, may not write or stops midway: how each ends, and whether any ends in a
traceback.

    python -m tests.trials.wrong_calls --as nobody [--python PYTHON] [--only TEXT] [--seconds 60]

Makes a small tree in a temporary folder: settings, recordings, a record, and folders of somebody
else. Then types each call of `wrong_call_table.py` in it, as that user: root may everything and
would miss what rights do. Without `--as` it types as oneself, and the folders of somebody else are
one's own with the rights taken away. Interrupted calls get SIGINT as from Ctrl-C, once they are at
work. A line for each: exit status and the last thing that was said. Counted: tracebacks, deaths by
a signal, calls that never end, wrong calls that pass as right, and those that fail without a word.
Exits 1 if there is any. PYTHON must be one that this user can run, with what birdstation needs; the
user sees the checkout by PYTHONPATH, so its folders must be readable, too.
"""

import argparse
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.trials import above_zero
from tests.trials.wrong_call_table import INTERRUPTED, WRONG, Stop

PROJECT = Path(__file__).resolve().parents[2]
_DEMO = PROJECT / "edge" / "demo"
_PROGRAMS = ("edge", "trainer", "export")
# A traceback is any of these, wherever it comes from: Python, a thread of it, a callback, the
# interpreter itself.
_TRACES = ("Traceback (most recent call last)", "Exception ignored", "Fatal Python error")
# said so, or died of it without a word, as programs do that just began
_INTERRUPTED = (130, -signal.SIGINT)
_FAULTS = (
    "traceback",
    "killed by a signal",
    "does not end",
    "passed as right",
    "failed without a word",
)


@dataclass(frozen=True)
class Person:
    """Whom the calls are typed by; None: whoever runs the trial."""

    uid: int | None = None
    gid: int | None = None

    def given(self) -> dict[str, Any]:
        """What subprocess wants to know of it."""
        return {} if self.uid is None else {"user": self.uid, "group": self.gid, "extra_groups": []}


@dataclass(frozen=True)
class Ended:
    """How a call ended."""

    status: int | None  # None: it was still running
    said: str
    tree: Mapping[str, str] = field(default_factory=dict)

    def fault(self, right: tuple[int, ...] = ()) -> str | None:
        """Which of `_FAULTS` it is, if any; `right` are statuses that need no excuse."""
        if any(trace in self.said for trace in _TRACES):
            return "traceback"
        if self.status is None:
            return "does not end"
        if self.status in right:
            return None
        if self.status < 0:
            return "killed by a signal"
        return (
            "passed as right"
            if self.status == 0
            else None
            if self.said.strip()
            else "failed without a word"
        )

    @property
    def last(self) -> str:
        """The last line that says something, without the frame of a usage message, paths as in the
        table."""
        lines = [line.strip(" │╭╮╰╯─└┘┴┌┐┬├┤┼") for line in self.said.splitlines()]
        text = next((line for line in reversed(lines) if line), "")
        for name, path in self.tree.items():
            text = text.replace(path, f"{{{name}}}")
        return text


def tree_in(folder: Path, person: Person) -> dict[str, str]:
    """Fill `folder`; the names that the calls use, with their paths.

    `mine` belongs to the person, `theirs` can be read but not written, `closed` not even looked
    into; `gone` is not there.
    """
    mine, theirs, closed = (folder / name for name in ("mine", "theirs", "closed"))
    for made in (
        mine / "recordings",
        mine / "empty",
        mine / "sorted" / "wren",
        mine / "many",
        theirs,
        closed,
    ):
        made.mkdir(parents=True)
    sounds = sorted((_DEMO / "soundscapes").glob("*.ogg"))
    for sound in sounds[:2]:
        shutil.copy(sound, mine / "recordings")
        shutil.copy(sound, theirs)
    # of other names and other bytes at the end, so each is a recording of its own
    for number in range(150):
        (
            mine / "many" / f"S{number:03}_20260501_{number // 60:02}{number % 60:02}00.ogg"
        ).write_bytes(sounds[number % len(sounds)].read_bytes() + bytes([number]))
    (mine / "recordings" / "page.html").write_text("<html>no sound</html>")
    (mine / "recordings" / "cut.wav").write_bytes(b"RIFF\0\0\0\0WAVE")
    (mine / "labels.csv").write_text("name,bird\nx,y\n")
    (mine / "latin.yaml").write_bytes("station:\n  id: Bäche\n".encode("latin-1"))
    (mine / "colon.yaml").write_text("station:\n  id: a: b\n")
    (mine / "key.yaml").write_text("station:\n  latitud: 52.5\n")
    (mine / "comma.yaml").write_text("station: {id: a, latitude: 52,5, longitude: 13.4}\n")
    (mine / "bundle.yaml").write_text(f"station: {{id: a}}\nbundle: {folder / 'gone'}\n")
    states = {"good": mine, "theirs": theirs, "closed": closed / "state"}
    for name in ("good", "theirs", "closed", "fresh", "new", "first", "one", "two"):
        (mine / f"{name}.yaml").write_text(
            f"station: {{id: a}}\nstate: {states.get(name, mine / name)}\n"
        )
    live = f"station: {{id: a}}\nstate: {mine / 'live'}\n"
    (mine / "folder.yaml").write_text(f"{live}source: folder\nfolder: {{path: {mine / 'many'}}}\n")
    (mine / "record.db").write_text("no database\n")
    (closed / "station.yaml").write_text("station: {id: a}\nstate: .\n")
    (theirs / "station.yaml").write_text("station: {id: a}\nstate: .\n")
    (theirs / "station.db").write_bytes(b"")
    names = {
        "mine": mine,
        "theirs": theirs,
        "closed": closed,
        "gone": folder / "gone",
        "demo": _DEMO,
        "bundle": _DEMO / "bundle",
    }
    _own(folder, mine, theirs, closed, person)
    return {name: str(path) for name, path in names.items()}


def _own(folder: Path, mine: Path, theirs: Path, closed: Path, person: Person) -> None:
    folder.chmod(0o755)
    if person.uid is not None and person.gid is not None:
        for path in (mine, *mine.rglob("*")):
            os.chown(path, person.uid, person.gid)
    theirs.chmod(0o755 if person.uid is not None else 0o555)
    (theirs / "station.db").chmod(0o600 if person.uid is not None else 0)
    next(theirs.glob("*.ogg")).chmod(0o600 if person.uid is not None else 0)
    closed.chmod(0o700 if person.uid is not None else 0)


class Typist:
    """Types calls in `{mine}`, as the person."""

    def __init__(
        self, python: str, tree: Mapping[str, str], person: Person, seconds: float
    ) -> None:
        self._python = python
        self._tree = tree
        self._person = person
        self._seconds = seconds
        path = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
        self._environment = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": tree["mine"],
            "COLUMNS": "200",
            "PYTHONPATH": path,
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def argv(self, call: str) -> list[str]:
        """`edge why 3` as `PYTHON -m edge why 3`, with the tree's paths."""
        program, *rest = shlex.split(call)
        assert program in _PROGRAMS, call
        return [self._python, "-m", program, *(part.format(**self._tree) for part in rest)]

    def typed(self, call: str, full_screen: bool = False) -> Ended:
        """A call to its end; `full_screen`: standard output is a device that is full."""
        with (
            Path("/dev/full").open("w") as full,
            tempfile.TemporaryFile("w+", encoding="utf8", errors="replace") as said,
        ):
            process = self._begin(call, full if full_screen else said, said)
            status = self._wait(process, self._seconds)
            said.seek(0)
            return Ended(status, said.read(), self._tree)

    def interrupted(self, stop: Stop) -> Ended:
        """A call that gets Ctrl-C `stop.times` times, once it has made `stop.begun` or after
        `stop.after_s`."""
        with _page() as said:
            process = self._begin(stop.call, said, said)
            self._until_at_work(process, stop)
            for _ in range(stop.times):
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGINT)
                    time.sleep(0.3)
            status = self._wait(process, self._seconds)
            said.seek(0)
            return Ended(status, said.read(), self._tree)

    def _begin(self, call: str, out: Any, error: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.argv(call),
            cwd=self._tree["mine"],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=error,
            start_new_session=True,
            **self._person.given(),
        )

    def _until_at_work(self, process: subprocess.Popen[bytes], stop: Stop) -> None:
        deadline = time.monotonic() + self._seconds
        while process.poll() is None and time.monotonic() < deadline and not _loads(process.pid):
            time.sleep(0.01)
        while stop.begun and process.poll() is None and time.monotonic() < deadline:
            if next(Path(self._tree["mine"]).glob(stop.begun), None):
                break
            time.sleep(0.05)
        with_patience = time.monotonic() + stop.after_s
        while process.poll() is None and time.monotonic() < with_patience:
            time.sleep(0.02)

    @staticmethod
    def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None


def _loads(pid: int) -> bool:
    """Whether the program loads its libraries, or has: what Python says before that is Python's
    own."""
    try:
        return "-packages/" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return True


def _page() -> IO[str]:
    """Takes all that a call says."""
    return tempfile.TemporaryFile("w+", encoding="utf8", errors="replace")


def _person(name: str | None) -> Person:
    if name is None:
        return Person()
    found = pwd.getpwnam(name)
    return Person(found.pw_uid, found.pw_gid)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--as", dest="user", help="the user who types; wants root")
    parser.add_argument(
        "--python", default=sys.executable, help="an interpreter that this user can run"
    )
    parser.add_argument("--only", default="", help="only calls in which this text is")
    parser.add_argument(
        "--seconds", type=above_zero, default=60, help="after which a call counts as without end"
    )
    return parser.parse_args()


def main() -> int:
    """Type every call; 1 if any ends in one of the faults."""
    given = _arguments()
    person = _person(given.user)
    faults = Counter[str]()
    with tempfile.TemporaryDirectory(prefix="wrong-calls-") as name:
        typist = Typist(given.python, tree_in(Path(name), person), person, given.seconds)
        prepared = typist.typed("edge replay {mine}/recordings/ --config {mine}/good.yaml")
        print(f"a record to ask: {prepared.last}", flush=True)
        count = 0
        for call, right in WRONG.items():
            if given.only in call:
                count += 1
                _tell(
                    call,
                    typist.typed(call.removesuffix(" >/dev/full"), call.endswith(" >/dev/full")),
                    right,
                    faults,
                )
        for stop in INTERRUPTED:
            if given.only in stop.call:
                count += 1
                _tell(
                    f"{stop.call}  {stop.when}",
                    typist.interrupted(stop),
                    (*_INTERRUPTED, *stop.right),
                    faults,
                )
        _unlock(Path(name))
    print(f"{count} calls: " + ", ".join(f"{faults[fault]} {fault}" for fault in _FAULTS))
    return 1 if faults.total() else 0


def _tell(call: str, ended: Ended, right: tuple[int, ...], faults: Counter[str]) -> None:
    fault = ended.fault(right)
    if fault:
        faults[fault] += 1
    print(
        f"{'' if fault is None else fault.upper() + ': '}{call}\n    {ended.status}: {ended.last}",
        flush=True,
    )
    if fault == "traceback":
        print("".join(f"        {line}\n" for line in ended.said.splitlines()[-8:]), flush=True)


def _unlock(folder: Path) -> None:
    for path in folder.iterdir():
        path.chmod(0o755)


if __name__ == "__main__":
    sys.exit(main())
