"""The way to a terminal and to a log for whatever the three programs say: one escape for texts of
others, whoever wrote them: names in a bundle or a file, a card's, a broker's reason, an exception's
words.

    screen = Screen()
    screen.print(table)
    say(f"{name}: done")

Knows no text's meaning. What is read is checked where it is read; this is for what nobody could
check.
"""

import logging
from collections.abc import Iterator
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from edge.contract.text import printable


class Screen(Console):
    """rich's Console, whose own colours are all that a terminal obeys."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """As Console's; ends of lines are the layout's."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=_lines(segment.text))


def say(
    *texts: object, sep: str = " ", end: str = "\n", file: TextIO | None = None, flush: bool = False
) -> None:
    """As `print`, each of the texts in one printable line. JSON stays JSON."""
    print(*(printable(str(text)) for text in texts), sep=sep, end=end, file=file, flush=flush)


def say_lines(text: str) -> None:
    """A text of several lines, made here."""
    print(_lines(text))


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


class LogLines(logging.Formatter):
    """A record in one printable line, behind it the lines of its traceback."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """As Formatter's."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        """As Formatter's."""
        return _lines(super().formatException(ei))


class CommandLines(LogLines):
    """For a person: what is no trouble stands alone; the rest says how much of it it is."""

    def format(self, record: logging.LogRecord) -> str:
        """As Formatter's."""
        text = super().format(record)
        return text if record.levelno == logging.INFO else f"{record.levelname} {text}"
