"""Output of the three programs to terminals and logs, with one escape for foreign texts: names in a
bundle, a file or a sound card, a broker's reason, an exception's message.

    screen = Screen()
    screen.print(table)
    say(f"{name}: done")

Knows no text's meaning. Input is checked where it is read; this is for texts that could
not be checked.
"""

import logging
from collections.abc import Iterator
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from edge.contract.text import printable


class Screen(Console):
    """rich's Console, with escapes in which only its own control sequences reach the terminal."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Like Console's; line ends are the layout's."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=_lines(segment.text))


def say(
    *texts: object, sep: str = " ", end: str = "\n", file: TextIO | None = None, flush: bool = False
) -> None:
    """Like `print`, with each text in one printable line. JSON stays valid JSON."""
    print(*(printable(str(text)) for text in texts), sep=sep, end=end, file=file, flush=flush)


def say_lines(text: str) -> None:
    """Print a text of several lines that this program made."""
    print(_lines(text))


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


class LogLines(logging.Formatter):
    """A record as one printable line, followed by the lines of its traceback."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Like Formatter's."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        """Like Formatter's."""
        return _lines(super().formatException(ei))


class CommandLines(LogLines):
    """Log lines for a person at a terminal: INFO is shown without its level."""

    def format(self, record: logging.LogRecord) -> str:
        """Like Formatter's."""
        text = super().format(record)
        return text if record.levelno == logging.INFO else f"{record.levelname} {text}"
