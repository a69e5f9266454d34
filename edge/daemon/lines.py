"""Lines of the log, written by a thread of their own: where nobody takes them, as a journal whose
disk stands still, those who hear do not wait for it. Knows no line's meaning.
"""

import logging
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from logging.handlers import QueueHandler

LINES_MAX = 1000  # that wait; what is said beyond is counted
_LAST_S_MAX = 0.3  # for the last of them
_POLL_S = 0.01

Lines = queue.Queue[logging.LogRecord | None]


class _Beside(QueueHandler):
    """Lays a line aside, or counts it where no more can wait."""

    def __init__(self, lines: Lines) -> None:
        super().__init__(lines)
        self.lost = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        """As its base asks for it."""
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.lost += 1


@dataclass
class Log:
    """How the log does."""

    held: bool = False  # at the end nobody took its lines: whoever waits for them waits for ever


@contextmanager
def written_beside(logger: logging.Logger) -> Iterator[Log]:
    """Until the block ends its handlers are called by another thread; what it gives says at the end
    how that went."""
    lines: Lines = queue.Queue(LINES_MAX)
    handlers = list(logger.handlers)
    beside = _Beside(lines)
    told = 0

    def write() -> None:
        nonlocal told
        while (record := lines.get()) is not None:
            lost = beside.lost - told
            if lost:
                told += lost
                text = "%d lines of the log could not be written: nobody took them"
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
        with suppress(queue.Full):  # it stands still, and ends with the process
            lines.put_nowait(None)
        thread.join(_LAST_S_MAX)
        log.held = thread.is_alive()


def _handle(handlers: list[logging.Handler], record: logging.LogRecord) -> None:
    for handler in handlers:
        if record.levelno >= handler.level:
            handler.handle(record)
