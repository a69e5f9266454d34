"""What is remembered of files: never the digest of what they were before."""

import os
from pathlib import Path

import pytest

from edge.contract.bundle import file_sha256
from trainer import file_digests as contents
from trainer.file_digests import ABSENT, UNREADABLE, Contents, sums_of

OLD_S = 100.0  # seconds ago: what is older than a few is remembered


def aged(path: Path) -> Path:
    """Dated back; nobody can set the time of the last change of any kind."""
    seconds = path.stat().st_mtime - OLD_S
    os.utime(path, (seconds, seconds))
    return path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are remembered at once, so that what is remembered is put to the proof."""
    monkeypatch.setattr(contents, "_YOUNG_S", 0.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    return aged(path)


@pytest.mark.usefixtures("quick")
def test_other_bytes_of_the_same_size_and_time_are_noticed(tmp_path: Path, file: Path) -> None:
    memory = tmp_path / "memory"
    first = Contents(memory)
    assert first.of(file) == file_sha256(file)
    first.save()
    before = file.stat()
    with file.open("r+b") as opened:
        opened.write(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    for found in (first, Contents(memory)):
        assert found.of(file) == file_sha256(file)


@pytest.mark.usefixtures("quick")
def test_a_file_put_in_its_place_is_noticed(tmp_path: Path, file: Path) -> None:
    found = Contents()
    found.of(file)
    before = file.stat()
    other = tmp_path / "other"
    other.write_bytes(b"two")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)
    assert found.of(file) == file_sha256(file)


@pytest.mark.usefixtures("quick")
def test_what_is_known_is_not_read_again(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "memory"
    first = Contents(memory)
    sha256 = first.of(file)
    first.save()

    def never(_: Path) -> str:
        raise AssertionError("read again")

    monkeypatch.setattr(contents, "file_sha256", never)
    assert Contents(memory).of(file) == sha256


@pytest.mark.parametrize("ahead_s", [0.0, 1e9, -1e9])
def test_a_young_file_is_not_remembered_whatever_its_date(file: Path, ahead_s: float) -> None:
    """It may change again within a tick of the clock."""
    seconds = file.stat().st_mtime + ahead_s
    os.utime(file, (seconds, seconds))
    found = Contents()
    found.of(file)
    assert not found._known


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("damage", ["turned", "cut", "empty", "not text"])
def test_a_damaged_memory_is_no_memory(tmp_path: Path, file: Path, damage: str) -> None:
    memory = tmp_path / "memory"
    first = Contents(memory)
    first.of(file)
    first.save()
    kept = memory.read_bytes()
    at = len(kept) - 80
    memory.write_bytes(
        {
            "turned": kept[:at] + bytes([kept[at] ^ 1]) + kept[at + 1 :],
            "cut": kept[: len(kept) // 2],
            "empty": b"",
            "not text": b"\xff" * 99,
        }[damage]
    )
    assert not Contents(memory)._known
    assert Contents(memory).of(file) == file_sha256(file)


@pytest.mark.usefixtures("quick")
def test_what_is_not_asked_for_is_forgotten(tmp_path: Path, file: Path) -> None:
    memory = tmp_path / "memory"
    other = tmp_path / "other"
    other.write_bytes(b"other")
    first = Contents(memory)
    first.of(file)
    first.of(other)
    first.save()
    second = Contents(memory)
    second.of(other)
    second.save()
    assert len(Contents(memory)._known) == 1


def test_what_is_not_there_and_what_cannot_be_read(tmp_path: Path) -> None:
    assert Contents().of(tmp_path / "nothing") == ABSENT
    assert Contents().of(tmp_path) == UNREADABLE
    assert Contents().of(tmp_path / "nothing" / "below") == ABSENT


def test_changed_while_it_is_read_it_has_no_digest(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(path: Path) -> str:
        found = file_sha256(path)
        path.write_bytes(b"longer than before")
        return found

    monkeypatch.setattr(contents, "file_sha256", meanwhile)
    found = Contents()
    assert found.of(file) == UNREADABLE
    assert not found._known


def test_names_below_a_folder_go_in_order(tmp_path: Path) -> None:
    for name in ("b", "a", "c/a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    paths = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [name for name, _ in sums_of(Contents(), paths, tmp_path)] == ["a", "b", "c/a"]
