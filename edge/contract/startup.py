"""Ctrl-C while the three programs load their libraries: one line and no traceback. Imported first.

Python's default is a KeyboardInterrupt in the middle of an import. `run_program` takes over once
everything is loaded.
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
INTERRUPTED = "interrupted; run the same command again to continue"
_COMMANDS = frozenset(
    ("birdstation", "edge/__main__.py", "trainer/__main__.py", "export/__main__.py")
)


def is_program(argument: str) -> bool:
    """True if argv[0] is one of the three programs, rather than another program that imports their
    modules."""
    path = Path(argument)
    return path.name in _COMMANDS or f"{path.parent.name}/{path.name}" in _COMMANDS


def end_at_once(_number: int, _frame: FrameType | None) -> NoReturn:
    """Signal handler: print the line and end the process without the interpreter's own shutdown.

    In that, libraries that are half loaded, or have threads at work, abort the process.
    """
    # stderr may have been replaced or closed
    with suppress(AttributeError, OSError, ValueError):
        os.write(sys.stderr.fileno(), f"{INTERRUPTED}\n".encode())
    os._exit(EXIT_INTERRUPTED)


if is_program(sys.argv[0]) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, end_at_once)
    # At the end of its shutdown Python restores the system's default handler, for some tenths of a
    # second.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
