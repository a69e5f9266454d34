"""What is said when a worker is ended from outside, and of the errors that it raises itself."""

import errno
import os
import signal
import time
from pathlib import Path

import pytest

from edge.contract.errors import BirdstationError, CorpusError, RecordingError
from trainer.files import write_json
from trainer.workers import worker_pool


def end(number: int) -> None:
    """In a worker: what the system does to one."""
    os.kill(os.getpid(), number)
    time.sleep(60)


def leave() -> None:
    os._exit(3)


def write(path: Path) -> None:
    write_json(path, {"a": 1})


def blocked() -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        (
            signal.SIGBUS,
            OSError,
            r"SIGBUS\): the disk is full, or fails; make room and run the same command again",
        ),
        (
            signal.SIGKILL,
            CorpusError,
            "because memory ran out; with fewer --jobs, run the same command again",
        ),
        (signal.SIGABRT, CorpusError, "ended by SIGABRT; run the same command again"),
        (signal.SIGTERM, CorpusError, "ended before its work was done; run the same command again"),
    ],
)
def test_the_end_of_a_worker_is_told_by_its_signal(
    number: int, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said) as told, worker_pool(2) as pool:
        pool.submit(end, number).result()
    assert not isinstance(told.value, OSError) or told.value.errno == errno.ENOSPC


def test_one_that_leaves_is_told() -> None:
    with pytest.raises(CorpusError, match="ended before its work was done"), worker_pool(1) as pool:
        pool.submit(leave).result()


def test_its_errors_of_the_disk_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "a.json"
    with (
        pytest.raises(OSError, match="cannot be written: File exists") as told,
        worker_pool(1) as pool,
    ):
        pool.submit(write, path).result()
    assert (told.value.errno, told.value.filename) == (errno.EEXIST, str(path.parent))


def fail(path: Path) -> None:
    raise RecordingError(path, "no sound")


def test_its_own_errors_arrive_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(BirdstationError, match="no sound"), worker_pool(1) as pool:
        pool.submit(fail, tmp_path / "a.wav").result()


def test_all_processes_are_started_deaf_to_ctrl_c() -> None:
    with worker_pool(3) as pool:
        assert len(pool._processes) == 3
        assert all(pool.submit(blocked).result() for _ in range(6))
