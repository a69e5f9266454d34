"""`python -m tests.trials.kill_steps N …`: `python -m edge …`, killed at its Nth step on the disk.

A step is the moment before or after a commit, and before or after a file is put in place: moments
that a clock seldom hits. The program itself has no switch for this.
"""

import os
import signal
import sqlite3
import sys
import threading
from typing import Any

from edge.__main__ import main


class Steps:
    """Counts down in all threads."""

    def __init__(self, left: int) -> None:
        self._left, self._lock = left, threading.Lock()

    def step(self) -> None:
        """SIGKILL when it is time: nothing is closed, nothing is written any more."""
        with self._lock:
            self._left -= 1
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


def watch(steps: Steps) -> None:
    """Every connection and every rename of this process counts from now on."""
    connect = sqlite3.connect
    replace = os.replace

    class Counted(sqlite3.Connection):
        def commit(self) -> None:
            steps.step()
            super().commit()
            steps.step()

    def counted_connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        return connect(*arguments, **options, factory=Counted)

    def counted_replace(source: Any, target: Any) -> None:
        steps.step()
        replace(source, target)
        steps.step()

    sqlite3.connect = counted_connect
    os.replace = counted_replace


if __name__ == "__main__":
    if len(sys.argv) < 2 or not sys.argv[1].isdecimal():
        sys.exit(
            "usage: python -m tests.trials.kill_steps N COMMAND …: expected the number of a step "
            "first"
        )
    watch(Steps(int(sys.argv.pop(1))))
    main()
