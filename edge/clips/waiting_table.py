"""Table of clips that waits for other writers of the record. Knows no sound and no file."""

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from typing import TypeVar

from edge.clips.maker import Clips
from edge.contract.errors import StoreError
from edge.types import ClipRow

Answer = TypeVar("Answer")


class PatientClips:
    """Repeats a failed call as long as `wait`, called with the error, returns True;
    edge.clips.maker.Clips."""

    def __init__(self, open_table: Callable[[], Clips], wait: Callable[[StoreError], bool]) -> None:
        self._open_table = open_table
        self._wait = wait
        self._opened = ExitStack()
        self._table: Clips | None = None

    def __enter__(self) -> "PatientClips":
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def add(
        self,
        clip: ClipRow,
        detections: Sequence[str],
        put: Callable[[], None],
        undo: Callable[[], None],
    ) -> str | None:
        """As ClipTable does."""
        return self._patiently(lambda table: table.add(clip, detections, put, undo))

    def take_away(
        self, remove: Callable[[str], bool], paths: Collection[str] | None = None
    ) -> None:
        """As ClipTable does."""
        self._patiently(lambda table: table.take_away(remove, paths))

    def _patiently(self, ask: Callable[[Clips], Answer]) -> Answer:
        while True:
            try:
                if self._table is None:
                    self._table = self._opened.enter_context(self._open_table())
                return ask(self._table)
            except StoreError as error:
                if not self._wait(error):
                    raise
