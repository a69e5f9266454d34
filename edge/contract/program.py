"""Ends of the three programs: one line for errors that a person must fix, and the same message for
Ctrl-C."""

import codecs
import errno
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from edge.contract.errors import BirdstationError, UsageError
from edge.contract.rights import whose
from edge.contract.screen import LogLines, say
from edge.contract.startup import EXIT_INTERRUPTED, INTERRUPTED, end_at_once

EXIT_CANNOT_CREATE = 73  # sysexits.h
EXIT_BROKEN_PIPE = 141  # as a shell reports it
# Errors of folders, disks and permissions, as opposed to errors of the program itself.
OUTSIDE = frozenset(
    (
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
        errno.ELOOP,
        errno.EEXIST,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.ENAMETOOLONG,
        errno.EFBIG,
        errno.EBUSY,
        errno.ENOTEMPTY,
        errno.EXDEV,
        errno.ESTALE,
        errno.ENODEV,
        errno.ETIMEDOUT,
        errno.ENOTCONN,
    )
)
# Errors of a write to an open file, which do not name it.
_UNNAMED = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


_AGAIN_S = 0.02  # until a Ctrl-C is delivered again that came inside a callback


class Interrupt(BaseException):
    """Ctrl-C. Not a KeyboardInterrupt, which Typer handles itself, with a message that does not say
    what to do."""


class Commands(TyperGroup):
    """A group of commands that reports wrong values like all other errors:
    typer.Typer(cls=Commands)."""

    def invoke(self, ctx: Any) -> Any:
        """Like Typer's."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = _expected(error)
            raise


def _expected(error: typer.BadParameter) -> str:
    """The error as expected and found; the original text if it does not come from a known check."""
    errors = getattr(error.__cause__, "errors", None)  # pydantic's, by which Typer checks values
    first = errors()[0] if callable(errors) else {}
    kind = first.get("type", "")
    limits = first.get("ctx", {})
    what = {"float_parsing": "a number", "int_parsing": "a whole number"}.get(kind)
    for limit, words in (("le", "at most"), ("ge", "at least")):
        what = f"{words} {limits[limit]:g}" if limit in limits else what
    return (
        f"expected {what}, found {first['input']!r}"
        if what
        else error.message.removeprefix("Value error, ")
    )


def run_program(app: Callable[[], object]) -> None:
    """Run a program's commands; errors that a person must fix end it with one line instead of a
    traceback."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started it
            nothing = Path(os.devnull).open("w", encoding="utf8")  # noqa: SIM115 - for good
            setattr(sys, name, nothing)
    if isinstance(sys.stdout, io.TextIOWrapper) and not codecs.lookup(
        sys.stdout.encoding
    ).name.startswith("utf"):
        # a terminal without our dashes and dots shows question marks
        sys.stdout.reconfigure(errors="replace")
    if logging.lastResort:  # used if no logging is set up
        logging.lastResort.setFormatter(LogLines())
    # the daemon replaces this handler: there Ctrl-C is a normal stop
    signal.signal(signal.SIGINT, _interrupt)
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # now, while a failure can still be reported
    except BirdstationError as error:
        say(f"error: {error}{error.remedy}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # e.g. `| head` has ended
        _stop_writing()
        sys.exit(EXIT_BROKEN_PIPE)
    except OSError as error:
        if error.errno not in (OUTSIDE if error.filename is not None else _UNNAMED):
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        say(f"error: {where}{error.strerror}{_hint(error)}", file=sys.stderr)
        _stop_writing()
        sys.exit(EXIT_CANNOT_CREATE)
    except UnicodeEncodeError as error:
        if not any("\udc80" <= sign <= "\udcff" for sign in error.object):
            raise
        say(
            f"error: expected text in UTF-8, found the bytes {os.fsencode(error.object)!r}",
            file=sys.stderr,
        )
        sys.exit(UsageError.exit_code)
    except Interrupt:
        say(INTERRUPTED, file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def _stop_writing() -> None:
    """Discard pending output that cannot be written, which the interpreter would try again at exit,
    with its own message."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _hint(error: OSError) -> str:
    named = isinstance(error.filename, str) and error.errno in (errno.EACCES, errno.EPERM)
    return whose(Path(error.filename)) if named else ""


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _is_in_callback(frame):
        again = threading.Timer(_AGAIN_S, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()
        return
    # a second Ctrl-C ends the clean-up after the first
    signal.signal(signal.SIGINT, end_at_once)
    raise Interrupt


def _is_in_callback(frame: FrameType | None) -> bool:
    """True inside soundfile's callbacks from libsndfile (`vio_read` and so on): cffi prints what is
    raised there and goes on."""
    while frame is not None:
        if frame.f_code.co_name.startswith("vio_"):
            return True
        frame = frame.f_back
    return False
