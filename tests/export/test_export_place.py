"""Where a bundle is put: killed at every step, two at once, links, mounts and folders of other
things in its way."""

import errno
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from edge.contract.bundle import read_bundle
from edge.contract.errors import UsageError
from edge.contract.folders import files_under
from export import place_bundle
from export.place_bundle import bundle_place, check_out, probe_place
from tests.conftest import make_bundle
from tests.helpers.clip_station import in_child, on_small_disk
from tests.project.test_foreign_folders import snapshot

# that change a folder
_STEPS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.link")


def export(out: Path, source: Path) -> None:
    """What `export onnx` does with its folder, the bundle ready made."""
    with bundle_place(out) as work:
        for path in files_under(source):
            (work / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            os.link(path, work / path.relative_to(source))


def kill_everywhere(older: Path, newer: Path, ground: Path) -> None:
    """Export in a fork that is killed before its n-th change of a folder, for every n; then export
    again."""
    names = snapshot(newer).keys()
    step = 0
    killed = True
    while killed:
        out = ground / str(step) / "out"
        out.parent.mkdir()
        theirs = set[str]()
        if older.is_dir():
            shutil.copytree(older, out)
            theirs = {".DS_Store", "members/._x"}
            for name in theirs:
                (out / name).write_text("a Mac's")
        child = os.fork()
        if not child:
            _export_and_be_killed(out, newer, step)
        killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        left = (out, out.parent / ".birdstation-export-out" / "old")
        assert not theirs or any((folder / "SHA256SUMS").is_file() for folder in left), step
        for _ in range(2):
            export(out, newer)
            assert read_bundle(out).id == read_bundle(newer).id, step
            assert [path.name for path in out.parent.iterdir()] == ["out"], step
            assert snapshot(out).keys() == names | theirs, step
        shutil.rmtree(out.parent)
        step += 1
    assert step > 10


def _export_and_be_killed(out: Path, newer: Path, step: int) -> NoReturn:
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        changes = event in _STEPS and str(out.parent) in str(arguments[0])
        if event == "open":
            changes = changes and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
        count += changes
        if changes and count > step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    export(out, newer)
    os._exit(0)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return make_bundle(folder / "a"), make_bundle(folder / "b", has_prior=False)


@pytest.mark.parametrize("begin", ["nothing", "older"])
def test_killed_at_any_step_the_next_leaves_one_whole_bundle(
    begin: str, bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    older, newer = bundles
    given = older if begin == "older" else tmp_path / "none"
    done = in_child(
        "tests.export.test_export_place.kill_everywhere", given, newer, tmp_path, before="pass"
    )
    assert done.returncode == 0, done.stderr


def test_two_at_once_are_one_and_a_line(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with bundle_place(tmp_path / "out") as work:
        (work / "manifest.json").write_text("{}")
        for name in ("out", "link"):
            with pytest.raises(UsageError, match="in use by another export; wait for it"):
                export(tmp_path / name, bundles[0])
        assert (work / "manifest.json").is_file()
        export(tmp_path / "other", bundles[0])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.json"]


def fail(out: Path, failure: type[BaseException]) -> None:
    with bundle_place(out) as work:
        (work / "members").mkdir()
        (work / "members" / "half.onnx").touch()
        raise failure


def test_a_failure_leaves_the_older_bundle_and_nothing_else(
    bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    out = shutil.copytree(bundles[0], tmp_path / "out")
    before = snapshot(out)
    for failure in (KeyboardInterrupt, ValueError):
        with pytest.raises(failure):
            fail(out, failure)
        assert snapshot(tmp_path) == {f"out/{name}": kept for name, kept in before.items()}


def test_an_older_bundle_comes_back_if_the_new_one_cannot_take_its_place(
    bundles: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(bundles[0], tmp_path / "out")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(errno.EIO, "Input/output error", str(self), None, str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="Input/output error") as told:
        export(out, bundles[1])
    assert told.value.filename == str(out)
    assert read_bundle(out).id == read_bundle(bundles[0]).id
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def _in_the_way(place: Path, kind: str) -> None:
    if kind == "file":
        place.write_text("theirs")
    elif kind == "link":
        (place.parent / "theirs").mkdir()
        (place.parent / "theirs" / "a.onnx").write_text("theirs")
        place.symlink_to(place.parent / "theirs")
    elif kind == "folder":
        (place / "new" / "members").mkdir(parents=True)
        (place / "new" / "members" / "a.onnx").write_text("theirs")
    else:  # one of a killed export, where a person has put something
        (place / "new").mkdir(parents=True)
        (place / "export.json").touch()
        (place / "new" / "manifest.json").write_text("half")
        (place / ("new" if kind == "note in new" else ".") / "notes.txt").write_text("theirs")


@pytest.mark.parametrize("kind", ["file", "link", "folder", "note", "note in new"])
def test_what_no_export_made_is_left_where_it_is(
    kind: str, bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    place = tmp_path / ".birdstation-export-out"
    _in_the_way(place, kind)
    theirs = [
        path for path in tmp_path.rglob("*") if path.is_file() and path.read_text() == "theirs"
    ]
    for _ in range(2):
        with pytest.raises(
            UsageError,
            match=r"\.birdstation-export-out: .*(no export made|not made by an export); move it",
        ):
            export(tmp_path / "out", bundles[0])
    assert all(path.read_text() == "theirs" for path in theirs)
    assert not (tmp_path / "out").exists()
    shutil.move(tmp_path / ".birdstation-export-out", tmp_path / "moved")
    export(tmp_path / "out", bundles[0])
    assert read_bundle(tmp_path / "out").id == read_bundle(bundles[0]).id


def test_a_folder_of_a_killed_export_may_be_moved_or_named_again(
    bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    """Its mark says nothing of whom it belongs to but what it replaces, which may name nothing
    outside."""
    (tmp_path / "thesis.txt").write_text("years")
    place = tmp_path / ".birdstation-export-out"
    shutil.copytree(bundles[0], place / "old")
    (place / "export.json").write_text(
        '{"replaces": ["../../thesis.txt", "/etc/hostname", "manifest.json", "members"]}'
    )
    shutil.copytree(bundles[0], tmp_path / "out")
    export(tmp_path / "out", bundles[1])
    assert (tmp_path / "thesis.txt").read_text() == "years"
    assert read_bundle(tmp_path / "out").id == read_bundle(bundles[1]).id


def test_a_mounted_folder_is_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    out = tmp_path / "my bundle"
    out.mkdir()
    escaped = str(out).replace(" ", r"\040")
    line = f"2 1 8:2 / {escaped} rw - ext4 /dev/sdb rw"
    mounts.write_text(f"1 0 8:1 / / rw - ext4 /dev/sda rw\n{line}\n")
    monkeypatch.setattr(place_bundle, "_MOUNTS", mounts)
    with pytest.raises(UsageError, match=r"a disk is mounted there, .*choose a folder in it"):
        check_out(out)
    assert check_out(out / "bundle") == (out / "bundle", [])
    monkeypatch.setattr(place_bundle, "_MOUNTS", tmp_path / "none")
    assert check_out(out) == (out, [])


def mounted(disk: Path) -> None:
    """A real mount: refused itself, served below; full, it says so and leaves the older bundle."""
    with pytest.raises(UsageError, match="a disk is mounted there"):
        probe_place(disk)
    source = make_bundle(disk.parent / "source")
    export_copy(disk / "bundle", source)
    before = snapshot(disk / "bundle")
    (disk / "ballast").write_bytes(bytes(max(0, shutil.disk_usage(disk).free - 8192)))
    with pytest.raises(OSError, match="No space left") as told:
        export_copy(disk / "bundle", source)
    with (
        pytest.raises(OSError, match="No space left") as copied,
        bundle_place(disk / "bundle") as work,
    ):
        # names its source, and then what it could not write
        shutil.copyfile(source / "probe.npz", work / "probe.npz")
    assert copied.value.filename == str(disk / "bundle")
    assert (told.value.errno, told.value.filename) == (errno.ENOSPC, str(disk / "bundle"))
    assert snapshot(disk / "bundle") == before
    assert sorted(path.name for path in disk.iterdir()) == ["ballast", "bundle"]
    assert os.system(f"mount -o remount,ro {disk}") == 0
    with pytest.raises(OSError, match="Read-only file system") as told:
        probe_place(disk / "bundle")
    assert told.value.filename == str(disk)


def export_copy(out: Path, source: Path) -> None:
    with bundle_place(out) as work:
        shutil.copytree(source, work, dirs_exist_ok=True)


def test_on_a_disk_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    on_small_disk("tests.export.test_export_place.mounted", tmp_path / "disk", 30)


@pytest.fixture
def other_user(tmp_path: Path) -> Iterator[Path]:
    """A folder that may not be written, for those who are not root."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_said_before_any_work(other_user: Path) -> None:
    with pytest.raises(OSError, match="cannot be written: Permission denied") as told:
        probe_place(other_user / "bundle")
    assert told.value.filename == str(other_user)
    assert list(other_user.iterdir()) == []


def test_probing_leaves_nothing(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    out = shutil.copytree(bundles[0], tmp_path / "out")
    before = snapshot(tmp_path)
    probe_place(out)
    probe_place(tmp_path / "new")
    assert snapshot(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(OSError, match="File name too long"):
        probe_place(tmp_path / ("x" * 250))
    with pytest.raises(UsageError):
        probe_place(Path("/"))
