"""Log lines written by a separate thread, so that a blocked journal does not hold up the threads
that listen. Knows no line's meaning."""

import logging
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from logging.handlers import QueueHandler

LINES_MAX = 1000  # that wait to be written; more are dropped and counted
_LAST_S_MAX = 0.3  # time to write the last lines at the end
_POLL_S = 0.01

Lines = queue.Queue[logging.LogRecord | None]


class _Beside(QueueHandler):
    """Queues a line, or counts it as lost if the queue is full."""

    def __init__(self, lines: Lines) -> None:
        super().__init__(lines)
        self.lost = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue a record; called by the base class."""
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.lost += 1


@dataclass
class Log:
    """Outcome of writing the log."""

    held: bool = False  # blocked at the end: waiting for it could take forever


@contextmanager
def written_beside(logger: logging.Logger) -> Iterator[Log]:
    """Call the logger's handlers in another thread until the block ends; the outcome is set in the
    yielded object."""
    lines: Lines = queue.Queue(LINES_MAX)
    handlers = list(logger.handlers)
    beside = _Beside(lines)
    reported = 0

    def write() -> None:
        nonlocal reported
        while (record := lines.get()) is not None:
            lost = beside.lost - reported
            if lost:
                reported += lost
                text = "%d log lines were lost: the log was blocked"
                _handle(
                    handlers,
                    logging.LogRecord(__name__, logging.WARNING, "", 0, text, (lost,), None),
                )
            _handle(handlers, record)

    thread = threading.Thread(target=write, name="log", daemon=True)
    thread.start()
    logger.handlers[:] = [beside]
    log = Log()
    try:
        yield log
    finally:
        logger.handlers[:] = handlers
        until = time.monotonic() + _LAST_S_MAX
        while not lines.empty() and time.monotonic() < until:
            time.sleep(_POLL_S)
        with suppress(queue.Full):  # the thread is blocked, and ends with the process
            lines.put_nowait(None)
        thread.join(_LAST_S_MAX)
        log.held = thread.is_alive()


def _handle(handlers: list[logging.Handler], record: logging.LogRecord) -> None:
    for handler in handlers:
        if record.levelno >= handler.level:
            handler.handle(record)
