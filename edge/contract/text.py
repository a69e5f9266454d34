"""Text and tables that people write, from whatever program saved them: UTF-8 with or without a byte
order mark, any line ends. What is in another encoding is named, never read as something else in
silence.

    for line, row in Table(text_of(path.read_bytes()), ("row_id", "birds")):
        ...

Knows no column's meaning and no file: whoever asks adds its name to the NotText.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence

_MARKS = (  # the longer ones first: UTF-32 begins as UTF-16 does
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16 (Excel's Unicode text)"),
    (b"\xfe\xff", "UTF-16"),
)
_SEPARATORS = {";": "semicolons", "\t": "tabs"}
_LOOKED_AT = 1024  # bytes
# What a terminal obeys, what ends a line, what turns the direction of the text around it, and
# halves of characters.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_SHOWN_MAX = 40  # characters


class TextError(ValueError):
    """What is wrong with a text or table: one line with the place, what was expected and what was
    found."""


def text_of(content: bytes) -> str:
    """The text of a file, without a byte order mark. Raises NotText if it is not UTF-8."""
    _check_wide(content)
    try:
        return content.decode("utf8").lstrip("\ufeff")
    except UnicodeDecodeError as error:
        line = len((content[: error.start] + b"x").splitlines())
        shown = _windows(content.splitlines()[line - 1])
        found = f"byte 0x{content[error.start]:02x} ({shown!r}, if it is Windows-1252)"
        raise TextError(f"line {line}: expected UTF-8, found {found}; save it as such") from error


def text_or_guess(content: bytes, guessed: Callable[[int, str], None]) -> str:
    """The same where a damaged name is better than none: a line that is not UTF-8 is taken for
    Windows-1252, and told with its number. Raises NotText for UTF-16 and UTF-32."""
    _check_wide(content)
    try:
        return content.decode("utf8").lstrip("\ufeff")
    except UnicodeDecodeError:
        return "".join(_lines(content, guessed)).lstrip("\ufeff")


def printable(text: str) -> str:
    r"""A text of somebody else's in one line that a terminal, a log and a person can take: what a
    terminal obeys, ends of lines and what turns the direction of text are written \uNNNN. JSON
    stays the same JSON."""
    return _UNPRINTABLE.sub(_escape, text)


def is_printable(text: str) -> bool:
    """Whether it is as it is already."""
    return not _UNPRINTABLE.search(text)


def _escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def lines_of(text: str) -> list[str]:
    """The lines of a text without their ends, as files have them: at a name's U+0085, U+2028 or
    form feed, where str.splitlines breaks it, none ends."""
    return [line.removesuffix("\n") for line in io.StringIO(text, newline=None)]


def _lines(content: bytes, guessed: Callable[[int, str], None]) -> Iterator[str]:
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        try:
            yield line.decode("utf8")
        except UnicodeDecodeError:
            guessed(number, _windows(line))
            yield _as_windows(line)


def _check_wide(content: bytes) -> None:
    for mark, name in _MARKS:
        if content.startswith(mark):
            raise TextError(
                f"line 1: expected UTF-8, found {name}; save it as such (in Excel: CSV UTF-8)"
            )
    start = content[:_LOOKED_AT]
    if start.count(0) > len(start) // 4:
        raise TextError("line 1: expected UTF-8, found zero bytes, as UTF-16 has; save it as such")


def _as_windows(line: bytes) -> str:
    try:
        return line.decode("cp1252")
    except UnicodeDecodeError:  # five bytes mean nothing there
        return line.decode("latin-1")


def _windows(line: bytes) -> str:
    """The words of a line that are not ASCII, as Windows-1252 has them."""
    words = [word for word in _as_windows(line).replace(",", " ").split() if not word.isascii()]
    return " ".join(words)[:_SHOWN_MAX]


Row = (
    dict[str, str] | list[str]
)  # cells by column, or the bare cells of a row that has too few or too many


class Table:
    """The rows of a table with commas, and the line that each ends on. Empty lines, and empty cells
    and columns at the end, as spreadsheets leave them, do not count.

    Names of columns are taken without spaces around them, `columns` and `also` whatever their case.
    Raises NotText if one of `columns` is missing or there twice, and on iteration where the text is
    no table.
    """

    def __init__(self, text: str, columns: Sequence[str], also: Sequence[str] = ()) -> None:
        self._reader = csv.reader(io.StringIO(text, newline=""))
        try:
            header = next((cells for cells in self._reader if not _is_hint(cells)), [])
        except csv.Error as error:
            raise TextError(f"line {self._reader.line_num}: not CSV: {error}") from error
        self.names = _names(header, columns, also)

    def __iter__(self) -> Iterator[tuple[int, Row]]:
        wanted = len(self.names)
        try:
            for cells in self._reader:
                while len(cells) > wanted and not cells[-1].strip():
                    cells.pop()
                if any(cell.strip() for cell in cells):
                    whole = len(cells) == wanted
                    yield (
                        self._reader.line_num,
                        dict(zip(self.names, cells, strict=True)) if whole else cells,
                    )
        except csv.Error as error:
            raise TextError(f"line {self._reader.line_num}: not CSV: {error}") from error


def _is_hint(cells: list[str]) -> bool:
    """Nothing, or what Excel takes as a hint before the header: sep=,"""
    return not any(cells) or (cells[0].lower() == "sep=" and not any(cells[1:]))


def _names(cells: list[str], columns: Sequence[str], also: Sequence[str]) -> list[str]:
    while cells and not cells[-1].strip():
        cells.pop()
    names = [cell.strip() for cell in cells]
    for wanted in (*columns, *also):
        if wanted not in names:
            names = [wanted if name.lower() == wanted.lower() else name for name in names]
    for separator, word in _SEPARATORS.items():
        if any(separator in name for name in names):
            raise TextError(f"line 1: expected cells separated by commas, found {word}")
    missing = [name for name in columns if name not in names]
    if missing:
        raise TextError(f"expected column {', '.join(missing)}, found {', '.join(names) or 'none'}")
    twice = [name for name in (*columns, *also) if names.count(name) > 1]
    if twice:
        raise TextError(f"column {', '.join(twice)} is there twice")
    return names
