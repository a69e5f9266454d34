"""Imported first by the three programs: Ctrl-C while they load their libraries ends them with a
line, no traceback.

Python's own answer is a KeyboardInterrupt in the middle of an import. `run_program` takes over once
all is loaded.
"""

import atexit
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

EXIT_INTERRUPTED = 130  # as a shell reports it
INTERRUPTED = "interrupted; run the same command again to go on"
_COMMANDS = frozenset(
    ("birdstation", "edge/__main__.py", "trainer/__main__.py", "export/__main__.py")
)


def is_program(argument: str) -> bool:
    """Whether argv[0] is one of the three programs', and not that of somebody who imports their
    modules."""
    path = Path(argument)
    return path.name in _COMMANDS or f"{path.parent.name}/{path.name}" in _COMMANDS


def end_at_once(_number: int, _frame: FrameType | None) -> NoReturn:
    """Answer to a signal: the line, and the end without the interpreter's own, in which libraries
    that are half loaded, or whose threads are at work, abort the process."""
    with suppress(
        AttributeError, OSError, ValueError
    ):  # a program may have put something before stderr, or closed it
        os.write(sys.stderr.fileno(), f"{INTERRUPTED}\n".encode())
    os._exit(EXIT_INTERRUPTED)


if is_program(sys.argv[0]) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, end_at_once)
    # When all is tidied up, what Python does last would put the system's own answer back, for some
    # tenths of a second.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
