"""Worker processes that never outlive their parent, and a progress bar for them. Knows no work."""

import errno
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from edge.contract.errors import CorpusError

_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
JOBS_MAX = 16
POLL_S = 0.5  # interval at which a parent reads what its workers have written


def default_jobs() -> int:
    """One process per core that this process may use."""
    return max(1, min(len(os.sched_getaffinity(0)), JOBS_MAX))


@contextmanager
def worker_pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of `jobs` processes of one thread each. Work that has not started is dropped when the
    block is left.

    The processes are spawned, not forked: a forked child of a process with threads (torch, BLAS)
    can deadlock.
    """
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    # Read when the child imports numpy, before any of our code runs.
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    pool = ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_die_with_parent
    )
    processes: list[BaseProcess] = []
    try:
        _start(pool, jobs)
        # There is no public way to stop running work, or to see how it ended.
        processes = list(pool._processes.values())
        yield pool
    except BrokenProcessPool as error:
        pool.shutdown(cancel_futures=True)  # waits for all of them to end
        raise _death_of_worker([process.exitcode for process in processes]) from error
    except BaseException:  # Ctrl-C too: workers must not go on training
        for process in processes:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _death_of_worker(exit_codes: Sequence[int | None]) -> Exception:
    """The error for a worker that died, by its exit code; the pool ends the others with SIGTERM."""
    died = [
        -code for code in exit_codes if code is not None and code < 0 and -code != signal.SIGTERM
    ]
    again = "run the same command again: it resumes where it stopped"
    if signal.SIGBUS in died:  # a memory-mapped file has holes that the full disk cannot fill
        words = (
            f"a worker process could not write its file ({signal.SIGBUS.name}): the disk is full, "
            "or fails"
        )
        return OSError(errno.ENOSPC, f"{words}; make room and {again}")
    if signal.SIGKILL in died:
        return CorpusError(
            "a worker process was killed, most likely because memory ran out; with fewer --jobs, "
            f"{again}"
        )
    ended = f"by {signal.Signals(died[0]).name}" if died else "before its work was done"
    return CorpusError(f"a worker process was ended {ended}; {again}")


def _start(pool: ProcessPoolExecutor, jobs: int) -> None:
    """Start all processes of the pool at once; a pool starts one for each task while none is idle.
    They inherit the signal mask, so that only the parent handles Ctrl-C, even while a child is
    still starting."""
    resource_tracker.ensure_running()  # its own start would unblock the signal
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        while len(pool._processes) < jobs:
            pool.submit(_nothing)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _nothing() -> None:
    """Do nothing: the first task of a process."""


def _die_with_parent() -> None:
    """End this process when its parent dies, even by SIGKILL: an idle worker would wait forever.
    Ignore Ctrl-C, which the parent handles."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker is started by worker_pool"

    def watch(join: Callable[[], None]) -> None:
        join()
        os._exit(1)

    threading.Thread(target=watch, args=(parent.join,), daemon=True).start()


def progress_bar(console: Console) -> Progress:
    """A bar with counts and times; without a terminal, only its last state is printed."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )
