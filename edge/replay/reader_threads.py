"""Threads that read recordings side by side. Knows no recording: reader.py defines the events."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import cast

from edge.capture.pulsed_file import Pulse
from edge.contract.errors import StopSignal
from edge.replay.reader import Event, Events, RecordingTask

# per thread, waiting to be stored: bounds the memory while the disk is slow
_EVENTS_MAX = 16
# time for which a thread offers an event before it checks whether the caller has gone
_PATIENCE_S = 0.5


@dataclass
class _Failed:
    """An unexpected error in a thread."""

    error: BaseException


_OVER = object()  # marks the end of a thread's work


class Readers:
    """Threads that read recordings side by side. They share the networks; decoding, images and
    networks run without Python's lock.

    for event in Readers(replay.reading, threads=4).events(tasks): ...
    """

    def __init__(
        self, read: Callable[[Iterable[RecordingTask], Pulse], Events], threads: int
    ) -> None:
        self._read = read
        self._count = threads
        self._tasks: queue.Queue[RecordingTask | None] = queue.Queue()
        self._events: queue.Queue[object] = queue.Queue(_EVENTS_MAX * threads)
        self._left = threading.Event()

    def events(self, tasks: Iterable[RecordingTask]) -> Events:
        """Read the tasks; may be called once. Events come as they happen, those of one recording in
        order. Tasks are requested in the caller's thread, a few ahead. If the caller leaves early,
        the threads stop at the next piece that they read."""
        names = (f"reader-{number}" for number in range(self._count))
        threads = [threading.Thread(target=self._run, name=name, daemon=True) for name in names]
        for thread in threads:
            thread.start()
        try:
            yield from self._until_over(iter(tasks))
        finally:
            self._left.set()
            self._end_tasks()
            for thread in threads:
                thread.join()

    def _until_over(self, coming: Iterator[RecordingTask]) -> Events:
        all_given = False
        running = self._count
        while running:
            while not all_given and self._tasks.qsize() < self._count:
                task = next(coming, None)
                if task is None:
                    all_given = True
                    self._end_tasks()
                else:
                    self._tasks.put(task)
            event = self._events.get()
            if isinstance(event, _Failed):
                raise event.error
            if event is _OVER:
                running -= 1
            else:
                yield cast(Event, event)

    def _end_tasks(self) -> None:
        """Tell all threads that there are no more tasks."""
        for _ in range(self._count):
            self._tasks.put(None)

    def _run(self) -> None:
        try:
            for event in self._read(iter(self._tasks.get, None), self._pulse):
                if not self._hand_over(event):
                    return
        except BaseException as error:  # handed over, to be raised in the caller's thread
            self._hand_over(_Failed(error))
        else:
            self._hand_over(_OVER)

    def _pulse(self) -> None:
        """Raise StopSignal if the caller has left; called before each piece of a file."""
        if self._left.is_set():
            raise StopSignal

    def _hand_over(self, event: object) -> bool:
        """Queue an event for the caller; False if the caller has left."""
        while not self._left.is_set():
            try:
                self._events.put(event, timeout=_PATIENCE_S)
            except queue.Full:
                continue
            return True
        return False
