"""What passes is not final: errors of this machine, files that change while they are read,
processes that die."""

import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile

from edge.analysis.recognizer import Recognizer
from edge.analysis.stretch import Analyst
from edge.capture import pulsed_file as opened
from edge.capture.pulsed_file import PulsedFile
from edge.capture.recording import Decoder
from edge.config import Config, load_config
from edge.contract.audio import RATE_HZ
from edge.contract.bundle import file_sha256, read_bundle
from edge.contract.errors import StopSignal, UnreadError
from edge.daemon.ledger import Ledger
from edge.daemon.watched_folder import WatchedFolder
from edge.replay.archive import recordings_in
from edge.replay.replay import Replay
from edge.store.record import Store
from edge.types import Outcome
from tests import unmeasured
from tests.conftest import hiss, note, write_sound
from tests.helpers.records import differences, dump

StationYaml = Callable[..., Path]
PROJECT = Path(__file__).parents[2]
NAME = "a_20190601_053000.wav"
PATIENCE_S = 240.0
PASSING = [
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EIO,
    errno.ESTALE,
    errno.ENOENT,
    errno.EACCES,
    errno.ENOTCONN,
    errno.ETIMEDOUT,
    errno.ENOSPC,
]


@pytest.fixture
def config(station_yaml: StationYaml) -> Config:
    return load_config(station_yaml("runtime: {batch: 2, threads: 1}"))


@pytest.fixture(scope="module")
def recognizer(bundle_folder: Path) -> Recognizer:
    return Recognizer(read_bundle(bundle_folder), threads=1)


def replay(
    config: Config, recognizer: Recognizer, folder: Path, pulse: Callable[[], None] = lambda: None
) -> list[Any]:
    with Store(config.database) as store:
        run = Replay(Analyst(config, recognizer), store, pulse=pulse)
        return sorted(run.run(*recordings_in(folder)), key=lambda outcome: outcome.path)


def rows(config: Config, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(config.database)) as db:
        return db.execute(sql).fetchall()


def song(path: Path, seconds: float = 12.0, code: str = "midtoo") -> Path:
    return write_sound(path, note(code, seconds) + hiss(seconds))


class Disk:
    """The one through which recordings are read: it fails where and as often as it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails: Callable[[int], Exception | None] = lambda _at: None
        plain = os.pread

        def pread(handle: int, count: int, at: int) -> bytes:
            if (error := self.fails(at)) is not None:
                raise error
            return plain(handle, count, at)

        monkeypatch.setattr(opened.os, "pread", pread)

    def is_whole(self) -> None:
        self.fails = lambda _at: None


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def behind(file: Path, number: int) -> Callable[[int], Exception | None]:
    """The second half cannot be read."""
    half = file.stat().st_size // 2
    return lambda at: OSError(number, os.strerror(number)) if at >= half else None


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3", "aiff", "caf", "au", "w64", "rf64"])
def test_a_disk_that_fails_in_the_middle_says_nothing_of_the_sound(
    tmp_path: Path, disk: Disk, kind: str
) -> None:
    """Neither at the header, which some formats look for at the end, nor in the middle of the
    sound."""
    path = tmp_path / f"a.{'wav' if kind == 'rf64' else kind}"
    with soundfile.SoundFile(path, "w", RATE_HZ, 1, format=kind.upper()) as file:
        for _ in range(20):
            file.write(note("midtoo", 1.0))
    disk.fails = behind(path, errno.EIO)
    with (
        pytest.raises(UnreadError, match="cannot be read: Input/output error"),
        Decoder(path) as decoder,
    ):
        list(decoder)
    disk.is_whole()
    with Decoder(path) as decoder:
        list(decoder)
        assert decoder.decoded_s == pytest.approx(20, abs=0.1)
        assert decoder.warning is None


@pytest.mark.parametrize("number", PASSING)
def test_an_error_of_this_machine_is_tried_again(
    tmp_path: Path, config: Config, recognizer: Recognizer, disk: Disk, number: int
) -> None:
    folder = tmp_path / "in"
    path = song(folder / NAME)
    disk.fails = behind(path, number)
    outcome = replay(config, recognizer, folder)[0]
    assert (outcome.state, outcome.recording) == ("refused", None)
    assert outcome.reason == f"cannot be read: {os.strerror(number)}"
    assert rows(config, "SELECT state FROM recordings WHERE state <> 'started'") == []
    disk.is_whole()
    assert [one.state for one in replay(config, recognizer, folder)] == ["analysed"]
    assert rows(config, "SELECT state, reason, audio_s FROM recordings") == [
        ("analysed", None, 12.0)
    ]
    assert rows(config, "SELECT count(*) FROM gaps") == [(0,)]


@pytest.mark.parametrize("at_call", [0, 1, 3, 9, 25, 60])
def test_whichever_read_fails_the_rows_are_those_of_a_quiet_day(
    tmp_path: Path,
    config: Config,
    station_yaml: StationYaml,
    recognizer: Recognizer,
    disk: Disk,
    at_call: int,
) -> None:
    """Also the reads of texts, of which the start hangs, and of samples of other files."""
    folder = tmp_path / "in"
    song(folder / NAME)
    song(folder / "b_20190601_063000.wav", 8, "higtoo")
    calls = iter(range(1_000_000))
    disk.fails = lambda _at: (
        OSError(errno.ESTALE, "Stale file handle") if next(calls) == at_call else None
    )
    replay(config, recognizer, folder)
    disk.is_whole()
    replay(config, recognizer, folder)
    quiet = load_config(station_yaml("runtime: {batch: 2, threads: 1}", name="quiet"))
    replay(quiet, recognizer, folder)
    assert differences(dump(config.database), dump(quiet.database)) == []


def test_memory_that_is_short_is_no_fault_of_a_recording(
    tmp_path: Path, config: Config, recognizer: Recognizer, disk: Disk
) -> None:
    folder = tmp_path / "in"
    path = song(folder / NAME)
    half = path.stat().st_size // 2
    disk.fails = lambda at: MemoryError() if at >= half else None
    assert replay(config, recognizer, folder)[0].reason == "cannot be read: Cannot allocate memory"
    disk.is_whole()
    assert replay(config, recognizer, folder)[0].state == "analysed"


@pytest.mark.slow
def test_few_open_files(tmp_path: Path, station_yaml: StationYaml) -> None:
    """Many readers under a limit that the least of them fit: what could not be opened is analysed
    by the next run."""
    folder = tmp_path / "in"
    for number in range(16):
        song(folder / f"a_20190601_05{number:02d}00.wav", 6)
    arguments = ["replay", str(folder), "--config", str(station_yaml()), "--jobs", "12"]
    limit = "import resource, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, (28, 28));"
    limited = [
        sys.executable,
        "-c",
        limit + "runpy.run_module('edge', run_name='__main__')",
        *arguments,
    ]
    command = [sys.executable, "-m", "edge", *arguments]
    first = subprocess.run(
        limited, env=unmeasured(), capture_output=True, text=True, cwd=PROJECT, timeout=PATIENCE_S
    )
    assert "Traceback" not in first.stderr
    assert first.returncode in (0, 1, 3)
    again = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, timeout=PATIENCE_S)
    assert again.returncode == 0, again.stdout + again.stderr


# Files that become others


@contextmanager
def when_read(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> Iterator[None]:
    """Once, between digest and decoding."""
    import edge.replay.reader

    plain = edge.replay.reader.read_once
    left = [change]

    def read_once(*arguments: Any) -> Any:
        digest = plain(*arguments)
        if left:
            left.pop()()
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(edge.replay.reader, "read_once", read_once)
        yield


def put_over(path: Path, other: Path) -> None:
    other.replace(path)


def write_into(path: Path, other: Path) -> None:
    """The same file, another content, and the times of before."""
    stat = path.stat()
    path.write_bytes(other.read_bytes())
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def cut(path: Path, _other: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def append(path: Path, _other: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(64_000) + path.read_bytes()[1000:200_000])


@pytest.mark.parametrize("change", [put_over, write_into, cut, append])
def test_a_row_is_of_one_content(
    tmp_path: Path,
    config: Config,
    station_yaml: StationYaml,
    recognizer: Recognizer,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path, Path], None],
) -> None:
    folder = tmp_path / "in"
    path = song(folder / NAME)
    other = song(tmp_path / "other.wav", 12, "higtoo")
    heard: dict[str, list[tuple[Any, ...]]] = {}

    def alone(number: int) -> None:
        mine = load_config(station_yaml("runtime: {batch: 2, threads: 1}", name=f"alone{number}"))
        replay(mine, recognizer, folder)
        heard[file_sha256(path)] = rows(
            mine, "SELECT species, offset_s, score FROM detections ORDER BY 2, 1"
        )

    alone(0)
    with when_read(monkeypatch, lambda: change(path, other)):
        replay(config, recognizer, folder)
    alone(1)
    replay(config, recognizer, folder)
    assert len(heard) == 2
    found = rows(config, "SELECT sha256, id FROM recordings WHERE state = 'analysed'")
    assert file_sha256(path) in {sha256 for sha256, _ in found}
    for sha256, id_ in found:
        of_it = (
            f"SELECT species, offset_s, score FROM detections WHERE recording = '{id_}' ORDER BY "
            "2, 1"
        )
        assert rows(config, of_it) == heard[sha256]
    gone = "SELECT id FROM recordings WHERE state <> 'analysed'"
    assert rows(config, f"SELECT 1 FROM detections WHERE recording IN ({gone})") == []
    assert rows(config, f"SELECT 1 FROM effort WHERE recording IN ({gone})") == []


# What dies, and what is left


_DIES = """
import os, runpy, sys
from edge.capture.recording import Decoder
import edge.__main__
name, signals, sys.argv = sys.argv[1], sys.argv[2].split(","), ["edge", *sys.argv[3:]]
pieces = Decoder._pieces
for signal in signals:
    if os.fork():
        print(os.waitstatus_to_exitcode(os.wait()[1]))
        continue
    def dies(self):
        for piece in pieces(self):
            if name in self.recording.path.name:
                os.kill(os.getpid(), int(signal))
            yield piece
    Decoder._pieces = dies
    sys.stdout = open(os.devnull, "w")
    runpy.run_module("edge", run_name="__main__")
"""


def ends(name: str, signals: list[int], *arguments: object) -> list[int]:
    """How processes of the program end, one after the other, that get these signals where a block
    of this file is decoded; 0: none."""
    command = [
        sys.executable,
        "-c",
        _DIES,
        name,
        ",".join(str(int(one)) for one in signals),
        *map(str, arguments),
    ]
    done = subprocess.run(command, cwd=PROJECT, timeout=PATIENCE_S, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.split()]


@pytest.mark.slow
def test_a_recording_at_which_the_program_dies_is_refused_at_last(
    tmp_path: Path, station_yaml: StationYaml
) -> None:
    """Several are read at once, and only the one dies of it that does it."""
    folder = tmp_path / "in"
    path = station_yaml()
    song(folder / "bad_20190601_040000.wav", 6)
    for number in range(3):
        song(folder / f"good{number}_20190601_05{number:02d}00.wav", 6)
    arguments = ("replay", folder, "--config", path, "--jobs", "2")
    assert ends("bad", [signal.SIGKILL] * 4, *arguments) == [-signal.SIGKILL] * 3 + [3]
    config = load_config(path)
    assert rows(config, "SELECT path, state, reason FROM recordings WHERE path LIKE 'bad%'") == [
        ("bad_20190601_040000.wav", "refused", "the program ended while reading it, 3 times")
    ]
    assert rows(
        config, "SELECT count(*) FROM recordings WHERE state = 'analysed' AND reason IS NULL"
    ) == [(3,)]
    assert rows(config, "SELECT * FROM attempts") == []


@pytest.mark.slow
def test_a_stop_is_no_death(tmp_path: Path, station_yaml: StationYaml) -> None:
    """As often as somebody asks for it, by either signal."""
    folder = tmp_path / "in"
    path = station_yaml()
    song(folder / NAME, 6)
    arguments = ("replay", folder, "--config", path, "--jobs", "1")
    signals: list[int] = [signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGTERM]
    assert ends(NAME, signals, *arguments) == [128 + number for number in signals]
    config = load_config(path)
    assert rows(config, "SELECT deaths, stops, process FROM attempts") == [(0, 4, None)]
    assert ends(NAME, [0], *arguments) == [0]


class Desk:
    """A watched folder in this process, a step at a time."""

    def __init__(
        self, config: Config, recognizer: Recognizer, pulse: Callable[[], None] = lambda: None
    ) -> None:
        self.ledger = Ledger(config.database, config.station.id, recognizer.bundle)
        self.watched = WatchedFolder(
            config,
            Analyst(config, recognizer),
            self.ledger,
            None,
            lambda _f: None,
            lambda _g, _s: None,
            alive=pulse,
        )

    def until(self, condition: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if condition():
                return True
            self.watched._looked_at = float("-inf")
            self.watched.step()
        return False


@pytest.fixture
def watching(tmp_path: Path, station_yaml: StationYaml) -> Config:
    (tmp_path / "in").mkdir()
    lines = (
        "source: folder",
        f"folder: {{path: {tmp_path / 'in'}, settle_s: 0}}",
        "runtime: {batch: 2, threads: 1}",
    )
    return load_config(station_yaml(*lines, name="watching"))


_DIES_WATCHING = """
import os, signal, sys
from pathlib import Path
from edge.capture.recording import Decoder
from edge.config import load_config
from edge.contract.bundle import read_bundle
from edge.analysis.recognizer import Recognizer
from tests.edge.test_passing_errors import Desk
config, method = load_config(Path(sys.argv[1])), sys.argv[2]
plain = getattr(Decoder, method)
def dies(self, *arguments, **options):
    path = arguments[0] if arguments else self.recording.path
    if path.name.startswith("bad"):
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, *arguments, **options)
for number in range(4):
    if os.fork():
        print(os.waitstatus_to_exitcode(os.wait()[1]))
        if method == "_pieces":  # a tool that keeps folders alike
            [bad] = config.folder.path.glob("bad*")
            os.utime(bad, (1.7e9 + number, 1.7e9 + number))
        continue
    setattr(Decoder, method, dies)
    desk = Desk(config, Recognizer(read_bundle(config.bundle_folder), threads=1))
    for _ in range(8):
        desk.watched._looked_at = float("-inf")
        desk.watched.step()
    os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["__init__", "_pieces"])
def test_a_watched_folder_gets_past_what_kills_it(
    tmp_path: Path, watching: Config, method: str
) -> None:
    """Whether in its sound, though somebody touches it between two deaths, or already at its
    header, at which all are looked at for their order."""
    song(tmp_path / "in" / "bad_20190601_040000.wav", 6)
    for number in range(3):
        song(tmp_path / "in" / f"good{number}_20190601_05{number:02d}00.wav", 6)
    command = [sys.executable, "-c", _DIES_WATCHING, str(watching.state / "station.yaml"), method]
    done = subprocess.run(command, cwd=PROJECT, timeout=PATIENCE_S, capture_output=True, text=True)
    assert done.stdout.split() == [str(-signal.SIGKILL)] * 3 + ["0"], done.stderr
    reason = "the program ended while reading it, 3 times"
    assert rows(
        watching, "SELECT substr(path, 1, 4), state, reason FROM recordings ORDER BY path"
    ) == [
        ("bad_", "refused", reason),
        *([("good", "analysed", None)] * 3),
    ]
    assert rows(watching, "SELECT * FROM attempts") == []


def test_power_cuts_are_no_deaths(tmp_path: Path, watching: Config, recognizer: Recognizer) -> None:
    """What another boot was reading, however often, is read as ever; what this boot died of counts,
    at once."""
    path = song(tmp_path / "in" / NAME, 6)
    with Store(watching.database) as store:
        from edge.replay.reader import RecordingTask

        task = RecordingTask.of(path, NAME, "folder")
        for _ in range(5):
            store.attempt("porch", NAME, task.file, "another boot", "1 1")
            store.process_gone("porch", "another boot", "1 1", died=False)
        store.attempt("porch", NAME, task.file, "another boot", "1 1")
    desk = Desk(watching, recognizer)
    assert desk.until(
        lambda: bool(rows(watching, "SELECT 1 FROM recordings WHERE state = 'analysed'"))
    )
    assert rows(watching, "SELECT * FROM attempts") == []


def test_who_touches_a_file_makes_no_other_of_it(tmp_path: Path, watching: Config) -> None:
    """A tool that keeps folders alike may set times between two deaths: they are counted by
    content."""
    path = song(tmp_path / "in" / NAME, 6)
    with Store(watching.database) as store:
        from edge.replay.reader import RecordingTask

        for number in range(3):
            os.utime(path, (1.7e9 + number, 1.7e9 + number))
            file = RecordingTask.of(path, NAME, "folder").file
            assert store.deaths("porch", NAME, file) == number
            if not number:  # its content is not known then; headers of suspects are not looked at
                store.look("porch", [(NAME, file.bytes, file.mtime_ns)], "boot", "1 1")
            store.attempt("porch", NAME, file, "boot", "1 1")
            store.process_gone("porch", "boot", "1 1", died=True)
        assert store.deaths("porch", NAME, file) == 3
        assert store.deaths("porch", NAME, replace(file, sample="another")) == 0
        store.attempt("porch", NAME, replace(file, sample="another"), "boot", "1 1")
        assert store.tried("porch") == {}


def test_what_nobody_foresaw_counts_too(
    tmp_path: Path, watching: Config, recognizer: Recognizer
) -> None:
    """An error of our own ends the process: it is left in the book until it has gone; another file
    is none of it."""
    song(tmp_path / "in" / NAME, 6)

    pieces: list[int] = []

    def broken() -> None:
        pieces.append(1)
        if len(pieces) > 20:
            raise ZeroDivisionError

    desk = Desk(watching, recognizer, broken)
    with pytest.raises(ZeroDivisionError):
        desk.until(lambda: False)
    assert rows(watching, "SELECT deaths, process IS NOT NULL FROM attempts") == [(0, 1)]
    song(tmp_path / "in" / NAME, 7)
    assert Desk(watching, recognizer).until(
        lambda: bool(rows(watching, "SELECT 1 FROM recordings WHERE state = 'analysed'"))
    )
    assert rows(watching, "SELECT * FROM attempts") == []


def test_files_that_wait_are_counted_and_stop_nobody(
    tmp_path: Path, watching: Config, recognizer: Recognizer, disk: Disk
) -> None:
    bad = song(tmp_path / "in" / NAME, 6)
    song(tmp_path / "in" / "b_20190602_053000.wav", 7)
    half = bad.stat().st_size - 4096
    disk.fails = lambda at: OSError(errno.EIO, "Input/output error") if at == half else None
    desk = Desk(watching, recognizer)
    assert desk.until(lambda: desk.watched.files_wait == 1)
    assert desk.until(
        lambda: bool(rows(watching, "SELECT 1 FROM recordings WHERE state = 'analysed'"))
    )
    assert desk.watched.problem == f"1 file waits, for example {NAME}: Input/output error"
    disk.is_whole()
    desk.watched._later.clear()
    assert desk.until(
        lambda: rows(watching, "SELECT count(*) FROM recordings WHERE state = 'analysed'") == [(2,)]
    )
    assert (desk.watched.files_wait, desk.watched.problem) == (0, None)


@pytest.mark.parametrize("where", ["digest", "sound"])
def test_a_stop_leaves_a_file_between_two_pieces(
    tmp_path: Path, watching: Config, recognizer: Recognizer, where: str
) -> None:
    """Also one that is longer than anybody waits: not a byte more is read than a piece."""
    path = song(tmp_path / "in" / NAME, 40)
    pieces: list[int] = []

    def pulse() -> None:
        pieces.append(1)
        if len(pieces) == (6 if where == "digest" else 60):
            raise StopSignal

    desk = Desk(watching, recognizer, pulse)
    with pytest.raises(StopSignal):
        desk.until(lambda: False)
    assert len(pieces) == (6 if where == "digest" else 60)
    assert rows(watching, "SELECT count(*) FROM recordings WHERE state <> 'started'") == [(0,)]
    assert rows(watching, "SELECT deaths, stops FROM attempts") == [(0, 1)]
    assert path.exists()
    assert Desk(watching, recognizer).until(
        lambda: bool(rows(watching, "SELECT 1 FROM recordings WHERE state = 'analysed'"))
    )


def test_threads_leave_a_file_between_two_pieces(tmp_path: Path) -> None:
    """Left in the middle of a digest, readers do not read it to its end."""
    from edge.capture.file_states import read_once, state_of_opened
    from edge.replay.reader_threads import Readers

    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(64 << 30)  # sparse: it would take minutes
    begun = threading.Event()

    def read(_tasks: object, pulse: Callable[[], None]) -> Iterator[Any]:
        with PulsedFile(path, pulse) as file:
            begun.set()
            yield "begun"
            read_once(file, state_of_opened(file))

    events = Readers(read, 2).events([])
    next(events)
    assert begun.wait(PATIENCE_S)
    events.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reader-")]


def test_what_an_earlier_version_refused_for_an_error_of_the_machine(
    tmp_path: Path, config: Config, recognizer: Recognizer
) -> None:
    folder = tmp_path / "in"
    for number in range(5):
        song(folder / f"a{number}_20190601_05{number:02d}00.wav", 6)
    (folder / "bad_20190601_060000.flac").write_bytes(b"fLaC and no more")
    replay(config, recognizer, folder)
    said = [
        "cannot be opened: Stale file handle",
        "damaged or of an unknown codec: Too many open files",
        "not audio, or damaged: System error",
    ]
    with closing(sqlite3.connect(config.database)) as db, db:
        for number, reason in enumerate(said):
            db.execute(
                "UPDATE recordings SET state = 'refused', reason = ? WHERE path LIKE ?",
                (reason, f"a{number}%"),
            )
        db.execute(
            "UPDATE recordings SET reason = 'damaged (System error): 3.0 s could be read' WHERE "
            "path LIKE 'a3%'"
        )
        db.execute("DROP TABLE attempts")
        db.execute("DELETE FROM _sqlite_migrations WHERE name = 'recording_attempts'")
    outcomes: list[Outcome] = replay(config, recognizer, folder)
    assert [one.path[:2] for one in outcomes if not one.earlier] == ["a0", "a1", "a2", "a3"]
    assert rows(
        config, "SELECT count(*) FROM recordings WHERE state = 'analysed' AND reason IS NULL"
    ) == [(5,)]
    assert all(one.earlier for one in replay(config, recognizer, folder))


def test_a_copy_of_what_is_read(tmp_path: Path, config: Config, recognizer: Recognizer) -> None:
    """A file that is the same recording leaves nothing in the book of attempts."""
    folder = tmp_path / "in"
    shutil.copy(song(folder / NAME, 6), folder / "copy_20190601_053000.wav")
    replay(config, recognizer, folder)
    assert rows(config, "SELECT * FROM attempts") == []
