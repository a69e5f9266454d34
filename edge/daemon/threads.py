"""The daemon's threads: each does one thing, waits for no other, and one that dies is seen at once.

All are daemon threads: one that a disk holds does not hold the end of the process. Knows nothing of
what they do.
"""

import logging
import threading
from collections.abc import Callable

from edge.contract.errors import BirdstationError, StopSignal

log = logging.getLogger(__name__)


class Leave(StopSignal):
    """Raised in the middle of a step by one that was told to leave."""


def _nothing() -> None:
    """What is done where nothing is left to do."""


class Worker:
    """A thread that takes one step after the other until it is told to leave; `last` closes what it
    has open.

    worker = Worker("hearing", source.step, last=source.close)
    worker.start()
    worker.failed   # None, or what ended it
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
        """Begin; once."""
        self._thread.start()

    @property
    def leaving(self) -> bool:
        """Whether it was told to leave."""
        return self._leaving.is_set()

    def leave(self) -> None:
        """End after the present step."""
        self._leaving.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for its end; False if it has not come in time."""
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
        except (
            BaseException
        ) as error:  # nobody foresaw it: the station ends in order, and starts again
            log.exception("%s: ended by an error that nobody foresaw", self.name)
            self.failed = self.failed or error


class Errand:
    """A thread that does one thing whenever it is asked to. Asked again while it is at it, it does
    it once more.

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
        self._lock = threading.Lock()  # of both
        self._worker = Worker(name, self._once)

    @property
    def name(self) -> str:
        """Of its thread."""
        return self._worker.name

    @property
    def failed(self) -> BaseException | None:
        """What ended it."""
        return self._worker.failed

    def start(self) -> None:
        """Wait to be asked."""
        self._worker.start()

    def ask(self) -> None:
        """Have it done, soon. Never waits."""
        with self._lock:
            self._idle.clear()
            self._asked.set()

    def wait(self, timeout_s: float) -> bool:
        """Until what was asked for is done; False if it is not in time."""
        return self._idle.wait(max(0.0, timeout_s))

    def leave(self) -> None:
        """End, after what it is at."""
        self._worker.leave()
        self._asked.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for its end; False if it has not come in time."""
        return self._worker.join(timeout_s)

    def _once(self) -> None:
        self._asked.wait()
        self._asked.clear()
        if not self._worker.leaving:
            self._do()
        with self._lock:
            if not self._asked.is_set():
                self._idle.set()
