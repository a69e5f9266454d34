"""Numbers of messages and what is handed out: nothing goes back, whatever is put back, and whenever
the power goes."""

import os
import shutil
import time
from pathlib import Path

import pytest

from edge.contract.errors import StoreError
from edge.store.backup import backup
from edge.store.message_numbers import Numbers
from edge.store.outbox import OutboxTable
from tests.helpers.brokers import counts, fill, numbered, publisher_of, until


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "station.db"


def sent(database: Path) -> list[int]:
    """Hand out everything that waits, as to a broker that takes it all; their numbers."""
    with OutboxTable(database) as outbox:
        seqs = [message.seq for message in outbox.waiting(0, 1000)]
        outbox.mark_sent(seqs)
    return seqs


def put_back(copy: Path, database: Path) -> None:
    """As docs/install.md has it."""
    shutil.copy(copy, database)
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)


@pytest.mark.parametrize("lost", ["nothing", "numbers", "folder"])
def test_a_copy_that_is_put_back_numbers_on(
    database: Path, bundle_folder: Path, tmp_path: Path, lost: str
) -> None:
    """Beside the file of numbers, without it, and on another machine, to which that was copied as
    well."""
    fill(database, bundle_folder, numbered(range(5)))
    seen = sent(database)
    assert seen == [1, 2, 3, 4, 5], "a new station begins at 1"
    fill(database, bundle_folder, numbered(range(5, 7)))  # wait in the copy
    copy = backup(database, tmp_path / "copies", keep=2, station="porch")
    fill(database, bundle_folder, numbered(range(7, 20)))
    seen += sent(database)
    assert seen == list(range(1, 21)), "no number is left out"
    if lost == "numbers":
        database.with_name("station.db.seq").unlink()
    if lost == "folder":
        other = tmp_path / "other"
        other.mkdir()
        shutil.copy2(database.with_name("station.db.seq"), other)
        database = other / "station.db"
    put_back(copy, database)
    fill(database, bundle_folder, numbered(range(100, 110)))
    again = sent(database)
    assert again[:2] == [6, 7], "the same messages as before"
    assert min(again[2:]) > 20
    assert max(again) < 1 << 53
    fill(database, bundle_folder, numbered(range(110, 113)))
    assert sent(database) == list(range(max(again) + 1, max(again) + 4)), "and go on from there"


def test_a_database_that_was_deleted_numbers_on(database: Path, bundle_folder: Path) -> None:
    fill(database, bundle_folder, numbered(range(5)))
    assert sent(database)[-1] == 5
    for suffix in ("", "-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    fill(database, bundle_folder, numbered(range(5)))
    assert sent(database) == [6, 7, 8, 9, 10]


def test_a_clock_that_is_wrong_is_no_way_back(
    database: Path, bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database, bundle_folder, numbered(range(5)))
    sent(database)
    copy = backup(database, tmp_path / "copies", keep=2, station="porch")
    fill(database, bundle_folder, numbered(range(5, 9)))
    sent(database)
    database.with_name("station.db.seq").unlink()
    put_back(copy, database)
    monkeypatch.setattr(time, "time_ns", lambda: 5_000_000)  # 1970
    fill(database, bundle_folder, numbered(range(20, 23)))
    assert min(sent(database)) > 9


@pytest.mark.parametrize("content", [b"", b"garbage", b"9" * 60, b"-5 7\n", b"\xff\x00"])
def test_a_file_of_numbers_that_is_none_is_begun_anew(
    database: Path, bundle_folder: Path, content: bytes
) -> None:
    fill(database, bundle_folder, numbered(range(5)))
    sent(database)
    database.with_name("station.db.seq").write_bytes(content)
    fill(database, bundle_folder, numbered(range(5, 8)))
    again = sent(database)
    assert min(again) > 5
    assert Numbers(database).highest() == max(again)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_file_of_numbers_belongs_to_whom_the_record_does(
    database: Path, bundle_folder: Path
) -> None:
    """A replay by root, then the service as its own user: it must be able to go on."""
    fill(database, bundle_folder, numbered(range(5)))
    os.chown(database, 12_345, 12_346)
    database.chmod(0o660)
    sent(database)
    file = database.with_name("station.db.seq").stat()
    assert (file.st_uid, file.st_gid, file.st_mode & 0o777) == (12_345, 12_346, 0o660)


def test_a_record_of_before_is_taken_as_it_is(database: Path, bundle_folder: Path) -> None:
    """It was sent from, and has no file of numbers."""
    fill(database, bundle_folder, numbered(range(5)))
    with OutboxTable(database) as outbox:
        outbox.mark_sent([1, 2, 3])
    fill(database, bundle_folder, numbered(range(5, 8)))
    assert sent(database) == [4, 5, 6, 7, 8]


def test_nothing_is_handed_out_that_is_not_on_the_disk(
    database: Path, bundle_folder: Path, mosquitto: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay commits without waiting for the disk; what the disk does not take is not
    published."""
    forced = []
    really = os.fsync

    def fsync(handle: int) -> None:
        if str(Path(f"/proc/self/fd/{handle}").readlink()).endswith("-wal"):
            forced.append(handle)
            if len(forced) < 4:
                raise OSError(5, "Input/output error")
        really(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    fill(database, bundle_folder, numbered(range(5)))
    with (
        OutboxTable(database) as outbox,
        pytest.raises(StoreError, match=r"station\.db: .*Input/output error"),
    ):
        outbox.waiting(0, 10)
    with publisher_of(database, mosquitto) as publisher:
        assert until(lambda: "Input/output" in publisher.state().last_error)
        assert counts(database)["waiting"] == 5
        assert any(publisher.drain(5.0) for _ in range(200))
    assert counts(database)["sent"] == 5
    assert len(forced) >= 4


def test_another_file_of_that_name_is_gone_on_with(
    database: Path, bundle_folder: Path, tmp_path: Path, mosquitto: int
) -> None:
    """While it runs somebody puts a copy in place; what waits in that is sent, too."""
    fill(database, bundle_folder, numbered(range(3)))
    copy = backup(database, tmp_path / "copies", keep=2, station="porch")
    fill(database, bundle_folder, numbered(range(3, 30)))
    with publisher_of(database, mosquitto) as publisher:
        assert any(publisher.drain(5.0) for _ in range(200))
        shutil.copy(copy, tmp_path / "put")
        for suffix in ("-wal", "-shm"):
            database.with_name(database.name + suffix).unlink(missing_ok=True)
        (tmp_path / "put").replace(database)
        assert until(lambda: counts(database)["sent"] == 3)
        fill(database, bundle_folder, numbered(range(50, 53)))
        assert until(lambda: counts(database)["sent"] == 6)
    with OutboxTable(database) as outbox:
        assert outbox.rows("SELECT max(seq) FROM outbox") == [(33,)]
