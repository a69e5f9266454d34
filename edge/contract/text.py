"""Text and tables that people write, saved by any program: UTF-8 with or without a byte order mark,
any line ends.

    for line, row in Table(text_of(path.read_bytes()), ("row_id", "birds")):
        ...

Another encoding is reported, never silently misread. Knows no column's meaning and no file: the
caller adds its name to the TextError.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence

# The longer ones first: UTF-32's mark begins like UTF-16's.
_MARKS = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16 (Excel's Unicode text)"),
    (b"\xfe\xff", "UTF-16"),
)
_SEPARATORS = {";": "semicolons", "\t": "tabs"}
_LOOKED_AT = 1024  # bytes searched for zeros
# Control characters, line ends, characters that change the direction of text, and halves of
# surrogate pairs.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_SHOWN_MAX = 40  # characters


class TextError(ValueError):
    """An error in a text or table: one line with the place, what was expected and what was
    found."""


def text_of(content: bytes) -> str:
    """The text of a file, without a byte order mark. Raises TextError if it is not UTF-8."""
    _check_wide(content)
    try:
        return content.decode("utf8").lstrip("\ufeff")
    except UnicodeDecodeError as error:
        line = len((content[: error.start] + b"x").splitlines())
        shown = _windows(content.splitlines()[line - 1])
        found = f"byte 0x{content[error.start]:02x} ({shown!r}, if it is Windows-1252)"
        raise TextError(f"line {line}: expected UTF-8, found {found}; save it as UTF-8") from error


def text_or_guess(content: bytes, guessed: Callable[[int, str], None]) -> str:
    """The text of a file in which a damaged name is better than none.

    A line that is not UTF-8 is read as Windows-1252, and passed to `guessed` with its number.
    Raises TextError for UTF-16 and UTF-32.
    """
    _check_wide(content)
    try:
        return content.decode("utf8").lstrip("\ufeff")
    except UnicodeDecodeError:
        return "".join(_lines(content, guessed)).lstrip("\ufeff")


def printable(text: str) -> str:
    r"""A foreign text as one line that is safe for a terminal, a log and a reader.

    Control characters, line ends and characters that change the direction of text are written
    \uNNNN. JSON stays the same JSON.
    """
    return _UNPRINTABLE.sub(_escape, text)


def is_printable(text: str) -> bool:
    """True if `printable` would not change the text."""
    return not _UNPRINTABLE.search(text)


def _escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def lines_of(text: str) -> list[str]:
    """The lines of a text without their ends, as files have them.

    U+0085, U+2028 and form feeds, which a name may contain, end no line here, unlike in
    str.splitlines.
    """
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
                f"line 1: expected UTF-8, found {name}; save it as UTF-8 (in Excel: CSV UTF-8)"
            )
    start = content[:_LOOKED_AT]
    if start.count(0) > len(start) // 4:
        raise TextError("line 1: expected UTF-8, found zero bytes, as in UTF-16; save it as UTF-8")


def _as_windows(line: bytes) -> str:
    try:
        return line.decode("cp1252")
    except UnicodeDecodeError:  # five bytes are undefined in Windows-1252
        return line.decode("latin-1")


def _windows(line: bytes) -> str:
    """The non-ASCII words of a line, read as Windows-1252."""
    words = [word for word in _as_windows(line).replace(",", " ").split() if not word.isascii()]
    return " ".join(words)[:_SHOWN_MAX]


# Cells by column, or the plain cells of a row that has too few or too many.
Row = dict[str, str] | list[str]


class Table:
    """The rows of a table with commas, each with the number of its last line.

    Empty lines, and empty cells and columns at the end, as spreadsheets leave them, are ignored.
    Column names are read without surrounding spaces, and those in `columns` and `also` in any case.
    Raises TextError if one of `columns` is missing or occurs twice, and on iteration if the text is
    not a table.
    """

    def __init__(self, text: str, columns: Sequence[str], also: Sequence[str] = ()) -> None:
        self._reader = csv.reader(io.StringIO(text, newline=""))
        try:
            header = next((cells for cells in self._reader if not _is_hint(cells)), [])
        except csv.Error as error:
            raise TextError(f"line {self._reader.line_num}: not CSV: {error}") from error
        self.names = _names(header, columns, also)

    def __iter__(self) -> Iterator[tuple[int, Row]]:
        columns = len(self.names)
        try:
            for cells in self._reader:
                while len(cells) > columns and not cells[-1].strip():
                    cells.pop()
                if any(cell.strip() for cell in cells):
                    whole = len(cells) == columns
                    yield (
                        self._reader.line_num,
                        dict(zip(self.names, cells, strict=True)) if whole else cells,
                    )
        except csv.Error as error:
            raise TextError(f"line {self._reader.line_num}: not CSV: {error}") from error


def _is_hint(cells: list[str]) -> bool:
    """True for an empty row, or Excel's hint before the header: sep=,"""
    return not any(cells) or (cells[0].lower() == "sep=" and not any(cells[1:]))


def _names(cells: list[str], columns: Sequence[str], also: Sequence[str]) -> list[str]:
    while cells and not cells[-1].strip():
        cells.pop()
    names = [cell.strip() for cell in cells]
    for column in (*columns, *also):
        if column not in names:
            names = [column if name.lower() == column.lower() else name for name in names]
    for separator, word in _SEPARATORS.items():
        if any(separator in name for name in names):
            raise TextError(f"line 1: expected cells separated by commas, found {word}")
    missing = [name for name in columns if name not in names]
    if missing:
        raise TextError(f"expected column {', '.join(missing)}, found {', '.join(names) or 'none'}")
    twice = [name for name in (*columns, *also) if names.count(name) > 1]
    if twice:
        raise TextError(f"column {', '.join(twice)} occurs twice")
    return names
