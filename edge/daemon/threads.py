"""The daemon's threads: each does one thing and waits for no other; the death of one is noticed at
once.

All are daemon threads, so that a blocked one does not prevent the process from ending. Knows
nothing of what they do.
"""

import logging
import threading
from collections.abc import Callable

from edge.contract.errors import BirdstationError, StopSignal

log = logging.getLogger(__name__)


class Leave(StopSignal):
    """Raised in the middle of a step to end the thread, as requested."""


def _nothing() -> None:
    """Do nothing at the end of a thread."""


class Worker:
    """A thread that repeats `step` until it is told to leave, and then calls `last` to close what
    is open.

    worker = Worker("hearing", source.step, last=source.close)
    worker.start()
    worker.failed   # None, or the error that ended it
    worker.leave()
    worker.join(timeout_s=5)
    """

    def __init__(
        self, name: str, step: Callable[[], object], last: Callable[[], object] = _nothing
    ) -> None:
        self.name = name
        self.failed: BaseException | None = None
        self._step = step
        self._last = last
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread; may be called once."""
        self._thread.start()

    @property
    def leaving(self) -> bool:
        """True if it was told to leave."""
        return self._leaving.is_set()

    def leave(self) -> None:
        """End after the present step."""
        self._leaving.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end; False if it has not ended in time."""
        self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    def _run(self) -> None:
        self._take(self._steps)
        self._take(self._last)

    def _steps(self) -> None:
        while not self._leaving.is_set():
            self._step()

    def _take(self, do: Callable[[], object]) -> None:
        try:
            do()
        except Leave:
            return
        except BirdstationError as error:
            self.failed = self.failed or error
        except BaseException as error:  # unexpected: the station ends in order, and is restarted
            log.exception("%s: ended by an unexpected error", self.name)
            self.failed = self.failed or error


class Errand:
    """A thread that does one thing whenever it is asked to. If asked again while busy, it does it
    once more.

    errand = Errand("health", say)
    errand.start()
    errand.ask()
    errand.wait(timeout_s=0.5)   # until it has nothing to do
    """

    def __init__(self, name: str, do: Callable[[], object]) -> None:
        self._do = do
        self._asked = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._lock = threading.Lock()  # for both events
        self._worker = Worker(name, self._once)

    @property
    def name(self) -> str:
        """Name of its thread."""
        return self._worker.name

    @property
    def failed(self) -> BaseException | None:
        """The error that ended it, if any."""
        return self._worker.failed

    def start(self) -> None:
        """Start the thread, which waits to be asked."""
        self._worker.start()

    def ask(self) -> None:
        """Request the errand. Never waits."""
        with self._lock:
            self._idle.clear()
            self._asked.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait until all requests are done; False if they are not in time."""
        return self._idle.wait(max(0.0, timeout_s))

    def leave(self) -> None:
        """End after the present errand."""
        self._worker.leave()
        self._asked.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end; False if it has not ended in time."""
        return self._worker.join(timeout_s)

    def _once(self) -> None:
        self._asked.wait()
        self._asked.clear()
        if not self._worker.leaving:
            self._do()
        with self._lock:
            if not self._asked.is_set():
                self._idle.set()
