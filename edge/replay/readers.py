"""Threads that read recordings side by side. Knows no recording: what comes of one is reader.py's
to say."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import cast

from edge.capture.opened import Pulse
from edge.contract.errors import StopSignal
from edge.replay.reader import Event, Events, RecordingTask

_EVENTS_MAX = (
    16  # that wait to be stored, for each thread: memory does not grow while the disk is slow
)
_PATIENCE_S = (
    0.5  # of a thread that cannot hand over its event, before it asks whether anybody still listens
)


@dataclass
class _Failed:
    """A thread met what nobody foresaw."""

    error: BaseException


_OVER = object()  # a thread has nothing more to do


class Readers:
    """Threads that read recordings side by side: they share the networks, and decoding, images and
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
        """Read the tasks, once; events come as they happen, those of one recording in order. Tasks
        are asked for in the thread of the caller, a few ahead. Left early, the threads stop at the
        next piece that they read."""
        names = (f"reader-{number}" for number in range(self._count))
        threads = [threading.Thread(target=self._run, name=name, daemon=True) for name in names]
        for thread in threads:
            thread.start()
        try:
            yield from self._until_over(iter(tasks))
        finally:
            self._left.set()
            self._tell_all()
            for thread in threads:
                thread.join()

    def _until_over(self, coming: Iterator[RecordingTask]) -> Events:
        told_all = False
        running = self._count
        while running:
            while not told_all and self._tasks.qsize() < self._count:
                task = next(coming, None)
                if task is None:
                    told_all = True
                    self._tell_all()
                else:
                    self._tasks.put(task)
            event = self._events.get()
            if isinstance(event, _Failed):
                raise event.error
            if event is _OVER:
                running -= 1
            else:
                yield cast(Event, event)

    def _tell_all(self) -> None:
        """Nothing more comes."""
        for _ in range(self._count):
            self._tasks.put(None)

    def _run(self) -> None:
        try:
            for event in self._read(iter(self._tasks.get, None), self._pulse):
                if not self._hand_over(event):
                    return
        except BaseException as error:  # handed over, to be raised where it is heard
            self._hand_over(_Failed(error))
        else:
            self._hand_over(_OVER)

    def _pulse(self) -> None:
        """Before each piece of a file: whether anybody still listens."""
        if self._left.is_set():
            raise StopSignal

    def _hand_over(self, event: object) -> bool:
        """False if nobody listens any more."""
        while not self._left.is_set():
            try:
                self._events.put(event, timeout=_PATIENCE_S)
            except queue.Full:
                continue
            return True
        return False
