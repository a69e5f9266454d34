"""How each of the three programs ends: one line for what a person must mend, and the same words for
Ctrl-C."""

import codecs
import errno
import io
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from edge.contract.errors import BirdstationError, UsageError
from edge.contract.rights import whose
from edge.contract.screen import LogLines, say
from edge.contract.starting import EXIT_INTERRUPTED, INTERRUPTED, end_at_once

EXIT_CANNOT_CREATE = 73  # sysexits.h
EXIT_BROKEN_PIPE = 141  # as a shell reports it
# What folders, disks and permissions can be like, and nothing that the program itself did wrong.
OUTSIDE = frozenset(
    (
        *(
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EIO,
            errno.ELOOP,
        ),
        *(errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EFBIG),
        *(
            errno.EBUSY,
            errno.ENOTEMPTY,
            errno.EXDEV,
            errno.ESTALE,
            errno.ENODEV,
            errno.ETIMEDOUT,
            errno.ENOTCONN,
        ),
    )
)
_UNNAMED = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
)  # a write into an open file does not say which it was


class Interrupt(BaseException):
    """Ctrl-C. Not a KeyboardInterrupt, which Typer answers by itself, with a word that does not say
    what to do."""


class Commands(TyperGroup):
    """A group of commands whose wrong values are told as everything else is:
    typer.Typer(cls=Commands)."""

    def invoke(self, ctx: Any) -> Any:
        """As Typer's own."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = _expected(error)
            raise


def _expected(error: typer.BadParameter) -> str:
    """What was expected and found; its own words where they do not come of a check that is known
    here."""
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
    """Run a program's commands; ends the process with a line instead of a traceback for what a
    person must mend."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started it
            nothing = Path(os.devnull).open("w", encoding="utf8")  # noqa: SIM115 - for good
            setattr(sys, name, nothing)
    if isinstance(sys.stdout, io.TextIOWrapper) and not codecs.lookup(
        sys.stdout.encoding
    ).name.startswith("utf"):
        sys.stdout.reconfigure(
            errors="replace"
        )  # a terminal without our dashes and dots gets question marks
    if logging.lastResort:  # what is logged where nobody set a log up
        logging.lastResort.setFormatter(LogLines())
    signal.signal(
        signal.SIGINT, _interrupt
    )  # the daemon takes it over: there Ctrl-C is a stop like any other
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # while it can still be said that it could not be written
    except BirdstationError as error:
        say(f"error: {error}{error.remedy}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `| head` has seen enough
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
    """What standard output did not take, the interpreter would try again at its end, and complain
    in its own way."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _hint(error: OSError) -> str:
    named = isinstance(error.filename, str) and error.errno in (errno.EACCES, errno.EPERM)
    return whose(Path(error.filename)) if named else ""


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(
        signal.SIGINT, end_at_once
    )  # a second one ends what the first is still tidying up
    raise Interrupt
