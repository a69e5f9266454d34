"""Worker processes that never outlive the parent, and one progress bar for whatever they do. Knows no work."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from edge.contract.errors import CorpusError

_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
JOBS_MAX = 16
POLL_S = 0.5  # how often a parent looks at what its workers have written


def default_jobs() -> int:
    """One process per core that this process may use."""
    return max(1, min(len(os.sched_getaffinity(0)), JOBS_MAX))


@contextmanager
def worker_pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """`jobs` spawned processes of one thread each; work not yet begun is dropped when the block is left.

    Spawned, not forked: a forked child of a process with threads (torch, BLAS) can deadlock.
    """
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))  # read when the child imports numpy, before any of our code
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_die_with_parent)
    try:
        _start(pool)
        yield pool
    except BrokenProcessPool as error:
        advice = "most likely for lack of memory; run again with fewer --jobs: it goes on where it stopped"
        raise CorpusError(f"a worker process was killed, {advice}") from error
    except BaseException:  # Ctrl-C too: workers must not train on
        for process in list((pool._processes or {}).values()):  # no public way to stop work that is under way
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _start(pool: ProcessPoolExecutor) -> None:
    """All its processes. A mask is inherited: Ctrl-C is the parent's to answer, also while a child is starting and has
    set up nothing yet."""
    resource_tracker.ensure_running()  # which would let it through again when it starts
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        pool.submit(_nothing)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _nothing() -> None:
    """The first work of a pool."""


def _die_with_parent() -> None:
    """End this process when its parent is gone, even by SIGKILL: idle workers would wait for ever. Ctrl-C is the
    parent's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker is started by worker_pool"

    def watch(join: Callable[[], None]) -> None:
        join()
        os._exit(1)

    threading.Thread(target=watch, args=(parent.join,), daemon=True).start()


def progress_bar(console: Console) -> Progress:
    """A bar with counts and times; on something that is not a terminal only its last state is printed."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )
