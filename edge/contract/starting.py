"""Imported first by the three programs: Ctrl-C while they load their libraries ends them, without a traceback.

Python's own answer is a KeyboardInterrupt in the middle of an import. `run_program` takes over once all is loaded.
"""

import signal
import sys
from pathlib import Path

_COMMANDS = frozenset(("birdstation", "edge/__main__.py", "trainer/__main__.py", "export/__main__.py"))


def is_program(argument: str) -> bool:
    """Whether argv[0] is one of the three programs', and not that of somebody who imports their modules."""
    path = Path(argument)
    return path.name in _COMMANDS or f"{path.parent.name}/{path.name}" in _COMMANDS


if is_program(sys.argv[0]) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
