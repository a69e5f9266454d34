"""A watched folder: what is closed comes once, oldest first; what grows, vanishes or cannot be read
stops nothing."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import timezone
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge.capture import folder as watched
from edge.capture.folder import FolderWatch, RecordingQueue
from edge.capture.recording import find_recordings
from tests.conftest import hiss, write_sound

SETTLE_S = 5.0
LONG_AGO_NS = 1_500_000_000 * 10**9


class Times:
    """A monotonic and a wall clock that only go on when told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def wall(self) -> float:
        return 1_600_000_000 + self.now_s

    def stamp(self, path: Path) -> None:
        """The file was written at this moment."""
        os.utime(path, ns=(0, round(self.wall() * 1e9)))


def watch(folder: Path, times: Times, settle_s: float = SETTLE_S) -> FolderWatch:
    return FolderWatch(folder, settle_s, timezone.utc, times.monotonic, times.wall)


def old(path: Path) -> Path:
    """Written long before anybody looked."""
    os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))
    return path


def test_what_a_restart_finds_comes_at_once_oldest_first_and_until_it_is_done(
    tmp_path: Path,
) -> None:
    names = ["B_20240512_060000.wav", "a/C_20240511_060000.wav", "A_20240512_060000.wav"]
    for seconds, name in enumerate(names, start=1):
        old(write_sound(tmp_path / name, hiss(seconds)))
    old(tmp_path / names[2]).touch()  # written to at this moment: not closed, wherever it belongs
    times = Times()
    times.now_s = (tmp_path / names[2]).stat().st_mtime - 1_600_000_000
    look = watch(tmp_path, times)
    first = tmp_path / names[1]
    second = tmp_path / names[0]
    assert look.ready() == [first, second]
    assert look.waiting() == RecordingQueue(2, 3.0)
    assert look.ready() == [first, second], "handed out is not done"
    look.done(first)
    assert look.waiting() == RecordingQueue(1, 1.0)
    times.now_s += SETTLE_S
    third = tmp_path / names[2]
    assert look.ready() == [third, second], "the same start: by name"
    look.done(second)
    look.done(third)
    assert look.ready() == []
    assert look.problem is None
    assert look.waiting() == RecordingQueue(0, 0.0)


def test_a_later_file_with_old_times_settles_like_any_other(tmp_path: Path) -> None:
    """On a share whose server's clock is behind, a file that is being written looks old."""
    times = Times()
    look = watch(tmp_path, times)
    assert look.ready() == []
    path = old(write_sound(tmp_path / "x.wav", hiss(1)))
    assert look.ready() == []
    times.now_s += SETTLE_S
    assert look.ready() == [path]


def test_an_empty_file_is_no_survivor_but_comes_in_the_end(tmp_path: Path) -> None:
    """Some recorders make the file long before they write it; whoever opens it refuses it with the
    reason."""
    path = tmp_path / "empty.wav"
    path.touch()
    old(path)
    times = Times()
    look = watch(tmp_path, times)
    assert look.ready() == []
    times.now_s += SETTLE_S
    assert look.ready() == [path]


def test_another_file_of_the_same_name_size_and_time_comes_anew(tmp_path: Path) -> None:
    """A card that was swapped."""
    times = Times()
    path = old(write_sound(tmp_path / "x.wav", hiss(1)))
    look = watch(tmp_path, times)
    assert look.ready() == [path]
    look.done(path)
    assert look.ready() == []
    before = path.stat()
    old(write_sound(path, hiss(1, seed=1)))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert look.ready() == []
    times.now_s += SETTLE_S
    assert look.ready() == [path]


def test_what_was_added_during_the_analysis_comes_anew(tmp_path: Path) -> None:
    times = Times()
    path = old(write_sound(tmp_path / "x.wav", hiss(1)))
    look = watch(tmp_path, times)
    assert look.ready() == [path]
    with path.open("ab") as file:
        file.write(b"more")
    times.stamp(path)
    assert look.ready() == [], "looked at while it is analysed and grows"
    times.now_s += SETTLE_S
    assert look.ready() == [path], "the new state is closed before the old one is done"
    look.done(path)
    assert look.ready() == [path], "done was the old state"
    look.done(path)
    assert look.ready() == []


def test_the_files_are_those_of_a_replay(tmp_path: Path) -> None:
    for name in (
        "a.wav",
        "b.WAV",
        "c",
        "d.",
        "e.flac",
        "._a.wav",
        ".f/g.wav",
        "h/i.j/k.ogg",
        "notes.txt",
        "l.Part",
    ):
        write_sound(tmp_path / "made.wav", hiss(0.2))
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "made.wav").rename(tmp_path / name)
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "h" / "up").symlink_to(tmp_path)  # a loop of folders
    (tmp_path / "self.wav").symlink_to(tmp_path / "self.wav")  # a loop of one
    (tmp_path / "broken.wav").symlink_to(tmp_path / "nowhere.wav")
    (tmp_path / "linked.wav").symlink_to(tmp_path / "a.wav")
    (tmp_path / os.fsdecode(b"\xff\xfe.wav")).write_bytes(b"no sound")
    look = watch(tmp_path, Times(), settle_s=0)
    found = look.ready()
    assert sorted(found) == find_recordings(tmp_path)
    assert look.waiting().files == len(found) == 8


def test_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old(write_sound(tmp_path / "in" / "x.wav", hiss(1)))
    monkeypatch.chdir(tmp_path)
    for folder in (Path(), Path("in")):
        look = watch(folder, Times())
        assert look.ready() == [Path("in/x.wav")]
        look.done(Path("in/x.wav"))
        assert look.ready() == []


def test_a_disk_that_is_mounted_late_and_taken_away(tmp_path: Path) -> None:
    folder = tmp_path / "usb"
    times = Times()
    look = watch(folder, times)
    assert look.ready() == []
    assert (
        look.problem
        == f"{folder}: cannot be listed: No such file or directory; is the disk mounted?"
    )
    assert not look.readable
    path = old(write_sound(folder / "x.wav", hiss(1)))
    assert look.ready() == [path], "nothing was seen before: it is a survivor"
    assert look.problem is None
    assert look.readable
    folder.rename(tmp_path / "gone")
    assert look.ready() == []
    assert look.problem
    look.done(path)
    folder.write_bytes(b"")
    assert look.ready() == []
    assert look.problem == f"{folder}: cannot be listed: Not a directory"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder to which everybody has a way; pytest's are their owner's alone."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_folders_that_may_not_be_read(open_folder: Path) -> None:
    """Root may read everything, so root looks as nobody here."""
    path = old(write_sound(open_folder / "a.wav", hiss(0.2)))
    for name, mode in (("closed", 0o000), ("shut", 0o000), ("names only", 0o444)):
        write_sound(open_folder / name / "b.wav", hiss(0.2))
        (open_folder / name).chmod(mode)
    user = os.geteuid()
    look = watch(open_folder, Times())
    try:
        os.seteuid(user or 65534)
        found = look.ready()
    finally:
        os.seteuid(user)
        for name in ("closed", "shut", "names only"):
            (open_folder / name).chmod(0o755)
    assert found == [path]
    assert look.problem
    assert look.problem.endswith("Permission denied (and 2 more like it)")
    assert look.readable


def test_headers_of_very_many_files_are_read_in_portions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at the clock takes a second here, so that one look at the folder has time for two
    headers."""
    for number in range(7):
        path = old(write_sound(tmp_path / f"{number}_2024051{9 - number}_060000.wav", hiss(1)))
        os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS + number))
    times = Times()
    opened = []

    def slow() -> float:
        times.now_s += 1
        return times.now_s

    opening = watched.open_recording
    monkeypatch.setattr(
        watched, "open_recording", lambda path: opened.append(path) or opening(path)
    )
    look = FolderWatch(tmp_path, SETTLE_S, timezone.utc, slow, times.wall)
    sizes = [len(look.ready()) for _ in range(4)]
    assert sizes == [2, 4, 6, 7]
    assert look.waiting() == RecordingQueue(7, 7.0)
    assert [path.name[0] for path in look.ready()] == list("6543210")
    assert len(opened) == 7, "each header once"


WRITER = """
import sys
from pathlib import Path
folder = Path(sys.argv[1])
for line in sys.stdin:
    act, name, text = line.split()
    path = folder / name
    if act == "append":
        with path.open("a") as file:
            file.write(text)
    elif act == "overwrite":
        path.write_text(text)
    elif act == "rename":
        path.rename(folder / text)
    print("done", flush=True)
"""


def test_a_writer_in_another_process(tmp_path: Path) -> None:
    """Appends in pieces, renames into place, overwrites; every final content is handed out,
    once."""
    times = Times()
    handed = []
    look = watch(tmp_path, times)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdin
        assert writer.stdout

        def order(*words: str) -> None:
            assert writer.stdin
            assert writer.stdout
            writer.stdin.write(" ".join(words) + "\n")
            writer.stdin.flush()
            assert writer.stdout.readline() == "done\n"

        def poll(seconds: float) -> None:
            times.now_s += seconds
            for path in look.ready():
                handed.append((path.name, path.read_text()))
                look.done(path)

        for piece in range(4):
            order("append", "grows.wav", str(piece))
            order("append", "comes.wav.part", "abc")
            poll(SETTLE_S - 0.1)
        assert handed == []
        order("rename", "comes.wav.part", "comes.wav")
        poll(0.1)
        poll(SETTLE_S)
        assert sorted(handed) == [("comes.wav", "abc" * 4), ("grows.wav", "0123")]
        order("overwrite", "grows.wav", "anew")
        order("append", "grows.wav", "er")
        order("rename", "comes.wav", "stays.wav")
        poll(1)
        assert len(handed) == 2
        poll(SETTLE_S)
        poll(SETTLE_S)
        assert sorted(handed[2:]) == [("grows.wav", "anewer"), ("stays.wav", "abc" * 4)]
        writer.stdin.close()


NAMES = st.sampled_from(["a.wav", "b.flac", "sub/c.ogg"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), NAMES, NAMES),
        st.tuples(st.just("grow"), NAMES, NAMES),
        st.tuples(st.just("rename"), NAMES, NAMES),
        st.tuples(st.just("delete"), NAMES, NAMES),
        st.tuples(st.just("wait 2"), NAMES, NAMES),
        st.tuples(st.just("wait 6"), NAMES, NAMES),
        st.tuples(st.just("poll"), NAMES, NAMES),
        st.tuples(st.just("poll, done later"), NAMES, NAMES),
    ),
    max_size=40,
)


class Story:
    """A folder to which things happen, and what came out of the watch. Times differ at every
    change, as they do."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.times = folder, Times()
        (folder / "sub").mkdir()
        self.look = watch(folder, self.times)
        self.look.ready()  # nothing is a survivor
        self.changed_s: dict[Path, float] = {}
        self.handed: dict[Path, list[bytes]] = {}  # contents, since the path was last away
        self.ever: set[tuple[Path, bytes]] = set()
        self.open: set[Path] = set()  # handed out, not done

    def step(self, act: str, path: Path, other: Path) -> None:
        self.times.now_s += 0.001
        if act in ("write", "grow"):
            with path.open("ab" if act == "grow" else "wb") as file:
                file.write(f"{self.times.now_s:.3f};".encode())
            self.times.stamp(path)
            self.changed_s[path] = self.times.now_s
        elif act == "rename" and path.exists() and path != other:
            path.rename(other)
            self.changed_s[other] = self.changed_s.pop(path)
            self.handed.pop(path, None)
            self.handed.pop(other, None)
        elif act == "delete" and path.exists():
            path.unlink()
            self.handed.pop(path, None)
        elif act.startswith("wait"):
            self.times.now_s += float(act.split()[1])
        elif act.startswith("poll"):
            self.poll(finish=act == "poll")

    def poll(self, finish: bool = True) -> None:
        for path in self.open:
            self.look.done(path)
        self.open.clear()
        for path in self.look.ready():
            assert self.times.now_s - self.changed_s[path] >= SETTLE_S
            contents = self.handed.setdefault(path, [])
            assert path.read_bytes() not in contents, "once per content"
            contents.append(path.read_bytes())
            self.ever.add((path, path.read_bytes()))
            if finish:
                self.look.done(path)
            else:
                self.open.add(path)


@settings(max_examples=150, deadline=None)
@given(STEPS)
# as long as before
@example([(act, "a.wav", "a.wav") for act in ("write", "poll", "wait 6", "poll", "write")])
def test_whatever_happens_each_content_that_stays_comes_exactly_once(
    steps: list[tuple[str, str, str]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        story = Story(Path(folder))
        for act, name, other in steps:
            story.step(act, story.folder / name, story.folder / other)
        for _ in range(3):
            story.poll()
            story.times.now_s += SETTLE_S
        story.poll()
        assert story.look.ready() == []
        left = {(path, path.read_bytes()) for path in find_recordings(story.folder)}
        assert left <= story.ever, "none is lost"
