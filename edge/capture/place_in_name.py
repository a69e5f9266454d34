"""Removal of places from names: what file_name.py reads as a place, and other common notations.

Removes too much rather than too little: a name may lose a number that was not a place. Words (the
name of a field) stay; they cannot be told from other words. Knows no file and no settings.
"""

import re
import unicodedata

from edge.capture.file_name import LOOKALIKES, place_spans

UNNAMED = "recording"
_PRIMES = {ord(sign): "'" for sign in "\u2019\u2032\u00b4\u02b9"}
_PRIMES |= {ord(sign): '"' for sign in "\u201d\u2033\u02ba"}
_PRIMES |= {ord(sign): "\u00b0" for sign in "\u00ba\u02da"}
_EDGES = " _-,;+~=/"
_SUFFIX = re.compile(r"\.(?=[0-9]*[A-Za-z])[A-Za-z0-9]{1,5}$", re.ASCII)

_FREE = r"(?<![\d.,])"  # not within a longer number
_DECIMAL = r"\d{1,3}[.,]\d+(?!\d|[.,]\d)"
_BEFORE = r"(?<![A-Za-z0-9])"
_BETWEEN = r"[ _,;/|x-]{0,3}"
_NOT_A_DATE = r"(?!(?:19|20)\d{6}(?!\d))"
_DEGREES = rf"{_FREE}[-+]?\d{{1,3}} ?(?:\u00b0|deg|d) ?\d{{1,2}}"  # 52\u00b007'24.4"N, 52d07m24s
_MINUTES = r"(?:[.,]\d+)? ?(?:'|min|m)? ?(?:\d{1,2}(?:[.,]\d+)? ?(?:\"|''|sec|s)?)? ?[NSEWO]?"
_SIXTIETHS = r"\d{1,3}[-_ ]\d{1,2}(?:[.,]\d+)?(?:[-_ ]\d{1,2}(?:[.,]\d+)?)?"  # 52-07-24
_PLUS_CODE = "[23456789CFGHJMPQRVWX]"

_PLACES = tuple(
    re.compile(pattern, re.ASCII | re.IGNORECASE)
    for pattern in (
        rf"{_DEGREES}{_MINUTES}",
        rf"{_BEFORE}[NSEWO][ _:]?{_SIXTIETHS}(?![\d])",  # N52-07-24
        rf"(?<!\d)(?<!\d[-_ .]){_SIXTIETHS}[-_ ]?[NSEWO](?![A-Za-z0-9])",
        r"(?<![A-Za-z])(?:lat(?:itude)?|lon(?:g(?:itude)?)?|lng)[ _=:-]{0,2}[-+]?"
        r"(?:\d{1,3}(?:[.,]\d+)?(?!\d)|\d{5,9}(?!\d|[T_ -]\d))(?: ?\u00b0)?(?: "
        r"?[NSEWO](?![A-Za-z]))?",
        rf"{_BEFORE}[NSEWO][ _:]?[-+]?{_DECIMAL}",  # N52.1
        rf"{_FREE}[-+]?{_DECIMAL}[ _]?\u00b0?[ _]?[NSEWO](?![A-Za-z])",  # 52.1N
        rf"{_FREE}[-+]?{_DECIMAL}[ _]?\u00b0?{_BETWEEN}[-+]?{_DECIMAL}",  # 52.1,13.7
        # a separating comma, not a decimal one
        rf"{_FREE}[-+]?\d{{1,3}}\.\d+,[-+]?\d{{1,3}}\.\d+(?!\d|[.,]\d)",
        # a number with more decimals than others have
        r"(?<![\d.,:T])[-+]?\d{1,3}[.,]\d{3,}(?!\d|[.,]\d)\u00b0?",
        rf"{_BEFORE}[NS]\d{{2,8}}{_BETWEEN}[EWO]\d{{2,9}}(?!\d|T)",  # N5207E01339
        rf"{_BEFORE}\d{{2,8}}[NS]{_BETWEEN}\d{{2,9}}[EWO](?![A-Za-z0-9])",  # 5207N_01339E
        rf"{_BEFORE}[EW]\d{{5,7}}{_BETWEEN}[NS]\d{{6,8}}(?!\d|T)",
        # millionths of a degree
        rf"(?<!\d)[-+]?{_NOT_A_DATE}\d{{7,9}}[ _,-]{{1,2}}{_NOT_A_DATE}\d{{7,9}}(?!\d)",
        # UTM
        rf"{_BEFORE}\d{{1,2}}[C-HJ-NP-X][ _-]{{0,2}}\d{{5,7}}(?:[.,]\d+)?[ "
        rf"_,-]{{1,3}}\d{{6,8}}(?!\d)",
        r"(?<!\d)\d{6}(?:[.,]\d+)?[ _,;-]{1,2}\d{7}(?!\d)",  # UTM without its zone
        rf"{_BEFORE}\d{{1,2}}[C-HJ-NP-X][ _]?[A-HJ-NP-Z][A-HJ-NP-V][ _]?"  # MGRS
        r"(?:\d{2,5}[ _]\d{2,5}|\d{4,10})(?!\d)",
        rf"{_BEFORE}{_PLUS_CODE}{{4,8}}\+{_PLUS_CODE}{{2,7}}(?![A-Za-z0-9])",  # Open Location Code
    )
)


def without_places(name: str) -> str:
    """A path, or any text with paths in it, with all places removed; unchanged if there are none.

    >>> without_places("20240512T040000+0000_REC [52.123456 13.654321].ogg")
    '20240512T040000+0000_REC.ogg'
    >>> without_places("52.123456N_13.654321E/a_20240512_050000.ogg")
    'a_20240512_050000.ogg'
    """
    cut = _cut(name)
    if cut == name:
        return name
    parts = [_tidy(part) for part in cut.split("/")]
    last = parts.pop()
    suffix = _SUFFIX.search(last)
    stem = last[: suffix.start()].rstrip(_EDGES) if suffix else last
    last = f"{stem or UNNAMED}{suffix.group() if suffix else ''}"
    root = "/" if name.startswith("/") else ""
    return root + "/".join([part for part in parts if part] + [last])


def _cut(text: str) -> str:
    """The text without all spans that are places, repeated until removal has joined no new one."""
    while spans := sorted(_spans(text)):
        kept = []
        at = 0
        for start, stop in spans:
            kept.append(text[at:start] if start > at else "")
            at = max(at, stop)
        text = "".join(kept) + text[at:]
    return text


def _spans(text: str) -> list[tuple[int, int]]:
    plain = "".join(map(_plain, text)).translate(LOOKALIKES)
    return [
        *place_spans(plain),
        *(match.span() for pattern in _PLACES for match in pattern.finditer(plain)),
    ]


def _plain(sign: str) -> str:
    """A digit, full stop or prime of another script as its ASCII form; length is preserved."""
    if sign.isascii() or ord(sign) in _PRIMES:
        return _PRIMES.get(ord(sign), sign)
    digit = unicodedata.decimal(sign, None)
    if digit is not None:
        return str(digit)
    same = unicodedata.normalize("NFKC", sign)
    return same if len(same) == 1 and same.isascii() else sign


def _tidy(part: str) -> str:
    part = re.sub(r"\[[ _,;-]*\]|\([ _,;-]*\)|\{[ _,;-]*\}", "", part)
    part = re.sub(r"([ _,;-])[ _,;-]+", r"\1", part)
    return part.strip(_EDGES)
