"""Strict conversion of plain data (YAML, JSON) into frozen dataclasses by their annotations.

    @dataclass(frozen=True)
    class Window:
        hop_s: Annotated[float, Range(0.025, 5)] = 2.5

    parse(Window, {"hop_s": 9})    # SchemaError: hop_s: expected 0.025 to 5, found 9

Knows no file and no meaning.
"""

import dataclasses
import re
import reprlib
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from edge.contract.text import is_printable, printable

_SCIENTIFIC = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
_COMMA = re.compile(r"[-+]?\d+,\d+")
_TOLD_MAX = 5  # mistakes reported of one mapping
_FOUND_MAX = 60  # characters shown of a wrong value
_TEXT_MAX = 4096  # characters; the longest possible path
_NUMBER_MAX = 1e300
_brief = reprlib.Repr()  # ten lines of YAML can expand to gigabytes
_brief.maxlevel = 3
_brief.maxstring = _FOUND_MAX
_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    Path: "a path",
}


@dataclass(frozen=True)
class Range:
    """Allowed values of a number, both ends included; for use in `Annotated`."""

    low: float
    high: float


class SchemaError(ValueError):
    """A value that the schema does not accept; one line: key path, what was expected and what was
    found."""


def parse(kind: Any, raw: Any, folder: Path | None = None) -> Any:
    """`raw` as the dataclass `kind`. Relative paths, including defaults, are taken from `folder`.

    Raises SchemaError, with all mistakes in one line, for unknown and missing keys, wrong types,
    values out of range, and if the dataclass itself raises ValueError("key: …").
    """
    return _Parser(folder).dataclass(kind, raw, "")


def _join(at: str, key: object) -> str:
    name = printable((key if isinstance(key, str) else _show(key))[:_FOUND_MAX])
    return f"{at}.{name}" if at else name


def _show(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "yes/true", False: "no/false"}[value]
    if isinstance(value, int) and abs(value) > _NUMBER_MAX:
        return hex(value)[:_FOUND_MAX]  # Python refuses to print so many decimal digits
    return _brief.repr(value)[:_FOUND_MAX]


def _refused(at: str, found: object, expected: str, remedy: str = "") -> SchemaError:
    return SchemaError(f"{at or 'top level'}: expected {expected}, found {_show(found)}{remedy}")


def _as_yaml(number: float) -> str:
    """The number as YAML reads it as one: with a point before its exponent."""
    shown = repr(number)
    return shown if "." in shown else shown.replace("e", ".0e")


def _decimal(found: object) -> str:
    """Advice for a number like 52,5."""
    return (
        f"; write {found.replace(',', '.')}"
        if isinstance(found, str) and _COMMA.fullmatch(found)
        else ""
    )


def _after_comma(raw: Mapping[Any, Any], key: object) -> str:
    """Advice if YAML took the digits after a comma as a key: {latitude: 52,5}."""
    return (
        "; write decimals with a point: 52.5" if isinstance(key, int) and raw[key] is None else ""
    )


class _Parser:
    def __init__(self, folder: Path | None) -> None:
        self._folder = folder or Path()

    def dataclass(self, kind: Any, raw: Any, at: str) -> Any:
        if not isinstance(raw, Mapping):
            raise _refused(at, raw, "keys and values")
        hints = get_type_hints(kind, include_extras=True)
        known = {f.name: f for f in dataclasses.fields(kind)}
        problems = [
            f"{_join(at, key)}: unknown key; allowed here: "
            f"{', '.join(known)}{_after_comma(raw, key)}"
            for key in islice((key for key in raw if key not in known), _TOLD_MAX)
        ]
        for name, item in known.items():
            if name not in raw and item.default is MISSING and item.default_factory is MISSING:
                problems.append(f"{_join(at, name)}: missing")
        values = {}
        for name in known:
            if name in raw:
                try:
                    values[name] = self.value(hints[name], raw[name], _join(at, name))
                except SchemaError as error:
                    problems.append(str(error))
        if problems:
            raise SchemaError("; also ".join(problems[:_TOLD_MAX]))
        for name, item in known.items():
            if hints[name] is Path and name not in values:
                values[name] = self._folder / str(item.default)
        try:
            return kind(**values)
        except ValueError as error:
            raise SchemaError(f"{at}.{error}" if at else str(error)) from None

    def value(self, kind: Any, raw: Any, at: str) -> Any:
        """One value as the annotated type. Raises SchemaError."""
        limits = None
        if get_origin(kind) is Annotated:
            kind, limits = get_args(kind)
        origin = get_origin(kind)
        args = get_args(kind)
        if kind is Any:
            return raw
        if dataclasses.is_dataclass(kind):
            return self.dataclass(kind, raw, at)
        if origin in (types.UnionType, Union):  # Annotated | None is the latter
            return self.union(args, raw, at)
        if origin is Literal:
            return self.choice(args, raw, at)
        if origin is Mapping:
            if not isinstance(raw, Mapping):
                raise _refused(at, raw, "keys and values")
            return {self.text(k, at): self.value(args[1], v, _join(at, k)) for k, v in raw.items()}
        if origin is tuple:
            return self.items(args, raw, at)
        if kind is Path:
            return self.path(raw, at)
        return self.text(raw, at) if kind is str else self.number(kind, raw, at, limits)

    def union(self, kinds: tuple[Any, ...], raw: Any, at: str) -> Any:
        """The first of the types that accepts the value; for one type and None, that type's own
        error."""
        if raw is None and type(None) in kinds:
            return None
        kinds = tuple(kind for kind in kinds if kind is not type(None))
        for kind in kinds:
            try:
                return self.value(kind, raw, at)
            except SchemaError:
                if len(kinds) == 1:
                    raise
        names = [
            text
            for kind in kinds
            for text in ([_NAMES[kind]] if kind in _NAMES else map(str, get_args(kind)))
        ]
        raise _refused(at, raw, " or ".join(names))

    def choice(self, allowed: tuple[Any, ...], raw: Any, at: str) -> Any:
        if raw is False and "off" in allowed:  # YAML 1.1 reads a bare off as false
            return "off"
        if isinstance(raw, bool) or raw not in allowed:
            raise _refused(at, raw, f"one of {', '.join(map(str, allowed))}")
        return raw

    def items(self, kinds: tuple[Any, ...], raw: Any, at: str) -> tuple[Any, ...]:
        if not isinstance(raw, list):
            raise _refused(at, raw, "a list")
        if kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(raw)
        if len(raw) != len(kinds):
            raise _refused(at, raw, f"a list of {len(kinds)}")
        return tuple(
            self.value(k, item, f"{at}[{i}]")
            for i, (k, item) in enumerate(zip(kinds, raw, strict=True))
        )

    def path(self, raw: Any, at: str) -> Path:
        try:
            return self._folder / Path(self.text(raw, at)).expanduser()
        except RuntimeError:  # ~somebody
            raise _refused(
                at, raw, "a path", "; no user of that name has a home folder here"
            ) from None

    def text(self, raw: Any, at: str) -> str:
        if not isinstance(raw, str):
            hint = (
                f'; put it in quotes ("{"yes" if raw else "no"}")'
                if isinstance(raw, bool)
                else "; put it in quotes"
            )
            raise _refused(at, raw, "text", hint)
        if not raw.strip():
            raise SchemaError(
                f"{at}: expected a value, found an empty text; enter one or remove the key"
            )
        # a path, a topic or a row could not hold more
        if len(raw) > _TEXT_MAX or not is_printable(raw):
            raise _refused(at, raw, f"printable text of at most {_TEXT_MAX} characters")
        return raw

    def number(self, kind: Any, raw: Any, at: str, limits: Range | None) -> Any:
        if kind is bool:
            if isinstance(raw, bool):
                return raw
            raise _refused(at, raw, _NAMES[bool])
        if isinstance(raw, str) and _SCIENTIFIC.fullmatch(raw):
            raise SchemaError(
                f"{at}: expected a number, found {raw!r}, which YAML reads as text; write "
                f"{_as_yaml(float(raw))}"
            )
        if (
            isinstance(raw, bool)
            or not isinstance(raw, int | float)
            or (kind is int and not isinstance(raw, int))
        ):
            raise _refused(at, raw, _NAMES[kind], _decimal(raw))
        if limits and not limits.low <= raw <= limits.high:  # also refuses .nan
            raise _refused(at, raw, f"{limits.low:g} to {limits.high:g}")
        if not abs(raw) <= _NUMBER_MAX:
            raise _refused(at, raw, "a finite number")
        return kind(raw)
