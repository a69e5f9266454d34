"""Time and place of a recording as its file name gives them. Knows no file, no zone and no
clock.

A time is a date followed by a clock time, to the minute at least; a date alone is a day without an
hour. Digits that may just as well be a counter are not a clock time. Where day and month could be
swapped, or the clock time is impossible, there is no result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta, timezone, tzinfo

from edge.capture.notation import Degrees, Stamp, checked_place, place, stamp

Plausible = Callable[[Stamp], bool]

YEAR_MIN = 1990  # clocks that were never set show 1970 or 1980


def name_time(stem: str, plausible: Plausible) -> Stamp | None:
    """The first plausible time in a file name without its suffix; else the first date that no clock
    time follows."""
    stem = _tidy(stem)
    for patterns in (_TIMES, _SHORT_TIMES):
        found, clock_seen = _first_time(stem, patterns, plausible)
        if found or clock_seen:
            return found
    days = (_day(match) for pattern in _DAYS for match in pattern.finditer(stem))
    return next((day for day in days if day and plausible(day)), None) or _seconds_since_1970(
        stem, plausible
    )


def name_place(stem: str) -> Degrees | None:
    """Latitude and longitude in a file name: `[-27.3866 152.8761]` as Frontier Labs writes it, or
    ISO 6709 as in `_-12.34567+78.98102`."""
    stem = _tidy(stem)
    for match in _BRACKETS.finditer(stem):
        if found := place(match.group(1) or match.group(2)):
            return found
    for match in _SIGNED.finditer(stem):
        north, latitude, east, longitude = match.groups()
        found = checked_place(
            float(latitude) * (-1 if north in "-S" else 1),
            float(longitude) * (-1 if east in "-W" else 1),
        )
        if found:
            return found
    return None


def place_spans(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each part of a text that `name_place` would read as a place."""
    tidy = text.translate(LOOKALIKES)
    for pattern in (_BRACKETS, _SIGNED):
        for match in pattern.finditer(tidy):
            yield match.span()


def name_site(stem: str) -> str | None:
    """The site in BirdCLEF names `<id>_<SITE>_<YYYYMMDD>`."""
    match = _SITE.fullmatch(stem)
    return match.group(1) if match else None


def told_by_name(stem: str) -> str:
    """Time and place of a file name in a canonical form: equal for all names that say the same, ""
    if there is neither.

    A time is given as written, with an offset only if the name has one, so that no setting affects
    it. Text around time and place does not count.

    >>> told_by_name("dawn 20240512_060000"), told_by_name("20240512T0600+0200_REC")
    ('2024-05-12T06:00:00', '2024-05-12T06:00:00+02:00')
    >>> told_by_name("10_COR_20190904")
    '2019-09-04 COR'
    """
    parts = []
    if time := name_time(stem, lambda found: found.time.year >= YEAR_MIN):
        parts.append(time.time.date().isoformat() if time.date_only else time.time.isoformat())
    if where := name_place(stem):
        parts.append(f"{where[0]:.6f} {where[1]:.6f}")
    if site := name_site(stem):
        parts.append(site)
    return " ".join(parts)


def told_agree(told: str, other: str, zone: tzinfo | None) -> bool:
    """True if two results of `told_by_name` may describe one recording: everything that both give
    is equal.

    A clock time without an offset is read in `zone`, or in UTC without one.

    >>> told_agree("2024-05-12T04:00:00", "2024-05-12T04:00:00+00:00 52.100000 13.400000", None)
    True
    """
    time, *rest = _parts(told)
    other_time, *other_rest = _parts(other)
    same_rest = all(
        part == its or not part or not its for part, its in zip(rest, other_rest, strict=True)
    )
    return same_rest and (not time or not other_time or _same_time(time, other_time, zone))


def tells_more(told: str, other: str) -> bool:
    """True if, of two results that agree, the first says more: the hour, or everything in the other
    and a place as well."""
    time, *rest = _parts(told)
    other_time, *other_rest = _parts(other)
    if len(time) != len(other_time) and not (len(time) > 10 and len(other_time) > 10):
        return len(time) > len(other_time)
    known = [(bool(part), bool(its)) for part, its in zip(rest, other_rest, strict=True)]
    return all(part >= its for part, its in known) and any(part > its for part, its in known)


def _parts(told: str) -> tuple[str, str, str]:
    """Time, place and site."""
    match = _TOLD.fullmatch(told)
    assert match is not None, told
    time, where, site = match.groups()
    return time or "", where or "", site or ""


def _same_time(time: str, other: str, zone: tzinfo | None) -> bool:
    moments = [datetime.fromisoformat(text) for text in (time, other)]
    if len(time) > 10 and len(other) > 10:
        one, two = (m if m.tzinfo else m.replace(tzinfo=zone or timezone.utc) for m in moments)
        return one - two == timedelta(0)  # neither overflows nor depends on repeated hours
    days = [{m.date()} for m in moments]
    with suppress(OverflowError):  # the year 9999
        days = [
            day | {m.astimezone(zone).date()} if m.tzinfo and zone else day
            for day, m in zip(days, moments, strict=True)
        ]
    # a date alone may be by the clock of the name's own offset or by the station's
    return bool(days[0] & days[1])


def _tidy(stem: str) -> str:
    """The name with plain spaces, colons and hyphens instead of their look-alikes. Some Frontier
    Labs recorders wrote ` 7T` for `07T`, which is corrected."""
    return re.sub(
        r"(?<!\d)(\d{6}) (\dT\d{4})", r"\g<1>0\2", stem.translate(LOOKALIKES), flags=re.ASCII
    )


def _first_time(
    stem: str, patterns: Iterable[re.Pattern[str]], plausible: Plausible
) -> tuple[Stamp | None, bool]:
    """The first plausible time, and whether a plausible date is followed by anything like a clock
    time."""
    times: list[tuple[int, Stamp]] = []
    clock_seen = False
    for pattern in patterns:
        for match in pattern.finditer(stem):
            day = _day(match)
            clock = _clock(match)
            if day is None or not clock or not plausible(day):
                continue
            clock_seen = True
            found = _time(day, clock, match)
            if found and plausible(found):
                times.append((match.start(), found))
    return min(times, key=lambda time: time[0])[1] if times else None, clock_seen


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def _day(match: re.Match[str]) -> Stamp | None:
    date = match["date"]
    digits = _digits(date)
    if len(digits) == 6:
        return stamp("20" + digits, "")
    if not date[2].isdigit():
        return _day_first(int(digits[:2]), int(digits[2:4]), digits[4:], dots=date[2] == ".")
    return stamp(digits, "")


def _day_first(first: int, second: int, year: str, dots: bool) -> Stamp | None:
    """`12.05.2024` is 12 May. With other separators it could be 5 December as well, so that only
    days after the 12th are accepted."""
    if dots or first > 12 or first == second:
        return stamp(f"{year}{second:02}{first:02}", "")
    return stamp(f"{year}{first:02}{second:02}", "") if second > 12 else None


def _clock(match: re.Match[str]) -> str:
    """The clock time as four or six digits; "" where the digits are something else, as in
    20240512_1500Hz or 2024-05-12_6.23."""
    clock = _digits(match["clock"])
    if len(clock) == 3 and match["clock"][1] == "." and not match["half"]:
        return ""
    behind = match.string[match.end() : match.end() + 1]
    if len(clock) < 5 and behind.isalnum() and behind != "T":  # AudioMoth's T may follow any time
        return ""
    return clock.zfill(len(clock) + len(clock) % 2)


def _time(day: Stamp, clock: str, match: re.Match[str]) -> Stamp | None:
    short = len(_digits(match["date"])) == 6
    if short and len(clock) == 4 and clock[:2] == "00":  # Tascam's counter: 240512_0001
        return None
    hour = int(clock[:2])
    half = (match["half"] or "").upper()
    if half:
        if (half == "A" and hour > 12) or (half == "P" and hour == 0):
            return None
        hour = hour if hour > 12 else hour % 12 + (12 if half == "P" else 0)
    fraction = (match["fraction"] or "") if len(clock) == 6 else ""
    return stamp(day.time.strftime("%Y%m%d"), f"{hour:02}{clock[2:]:0<4}", _offset(match), fraction)


def _offset(match: re.Match[str]) -> str:
    """`Z`, `+0200` or "". A minus directly behind the clock time is a sign only if a T precedes the
    clock time: elsewhere -0700 may be a serial number."""
    written = match["zone"] or ""
    if written[:1] == "-" and match["between"] != "T":
        return ""
    sign = re.search(r"[-+]", written)
    return f"{sign.group()}{_digits(written)}" if sign else "Z" if written else ""


def _seconds_since_1970(stem: str, plausible: Plausible) -> Stamp | None:
    """The time of a name that is nothing but Unix seconds: AudioMoth 1.0 wrote 5AFCD4F4.WAV,
    programs write ten digits, or 13 with milliseconds."""
    if _HEX_SECONDS.fullmatch(stem):
        time = datetime.fromtimestamp(int(stem, 16), timezone.utc)
    elif _SECONDS.fullmatch(stem):
        time = datetime.fromtimestamp(int(stem[:10]), timezone.utc) + timedelta(
            milliseconds=int(stem[10:] or 0)
        )
    else:
        return None
    found = Stamp(time, is_instant=True)
    return found if plausible(found) else None


LOOKALIKES = {ord(sign): " " for sign in "\u00a0\u2007\u2009\u202f\u3000"}
LOOKALIKES |= {ord(sign): "-" for sign in "\u2010\u2011\u2012\u2013\u2212"}
LOOKALIKES |= {ord(sign): ":" for sign in "\uff1a\ua789\u2236"}

_TOLD = re.compile(r"(\d{4}-\d\d-\d\d(?:T\S+)?)? ?(-?\d+\.\d+ -?\d+\.\d+)? ?([A-Z]\w*)?", re.ASCII)
_SITE = re.compile(r"\d+_([A-Z][A-Z0-9]{1,7})_\d{8}", re.ASCII)
_HEX_SECONDS = re.compile(r"[0-9A-F]{8}", re.IGNORECASE)
_SECONDS = re.compile(r"1\d{9}(?:\d{3})?", re.ASCII)
_BRACKETS = re.compile(
    r"\[([-+.\d]{1,20}[ ,][-+.\d]{1,20})\]|(?<![^_ ])(-?\d{1,2}\.\d{3,12} "
    r"-?\d{1,3}\.\d{3,12})(?![^_ ])",
    re.ASCII,
)
# Also N40.20361E075.00417; numbers with fewer decimals are usually something else.
_SIGNED = re.compile(
    r"(?<![A-Za-z.])([-+NS])(\d{1,2}\.\d{2,12})[ _,]?([-+EW])(\d{1,3}\.\d{2,12})(?!\d)", re.ASCII
)

_COMPACT = r"(?<!\d)(?P<date>\d{8})"
_PARTED = r"(?<!\d)(?P<date>\d{4}(?P<sign>[-_. ])\d\d(?P=sign)\d\d)"
_DAY_FIRST = r"(?<!\d)(?P<date>\d\d(?P<sign>[-_.])\d\d(?P=sign)(?:19|20)\d\d)"
_BETWEEN = r"(?P<between>T|[ _$.,(-]{1,3}|[ _-]at[ _-])"
# 062300, 0623 where no other date follows, 06-23-00, 06h23, 6.23.00
_CLOCK = (
    r"(?P<clock>\d{6}|\d{4}(?![-_.]\d\d[-_.]\d\d)"
    r"|\d\d[-_.:h ]\d\d(?:[-_.:m ]\d\ds?|m)?|\d[.:h]\d\d(?:[.:m]\d\ds?)?)(?!\d)"
)
# Fraction of a second (.982648, or _123 by Wildlife Acoustics), AM or PM, and the zone.
_REST = (
    r"(?:(?:[.,]|_(?=\d{3}(?!\d)))(?P<fraction>\d{1,6})(?!\d))?"
    r"(?:[ _]?(?P<half>[AaPp])\.?[Mm]\.?(?![A-Za-z]))?"
    r"(?P<zone>[Zz](?![0-9A-Za-z])|[ _]?\(?(?i:UTC|GMT)(?:[-+]\d{1,2}(?::?\d\d)?)?(?![0-9A-Za-z])"
    r"|(?:\+\d\d[:-]?\d\d|\+\d\d|(?:-|[ _][-+])[01]\d[:-]?(?:00|15|30|45))(?!\d|\.\d))?"
)


def _compiled(*patterns: str) -> Sequence[re.Pattern[str]]:
    return tuple(re.compile(pattern, re.ASCII) for pattern in patterns)


_TIMES = _compiled(
    # Wildlife Acoustics SITE_0+1_20240512_034500_123, SITE$20240512$034500; Frontier Labs
    # 20240512T034500+1000_REC and S20240512T034500.982648+1000_E20240512T044500...; AudioMoth
    # 20240512_034500T; SwiftOne_20240512_034500_-0400
    _COMPACT + _BETWEEN + _CLOCK + _REST,
    _COMPACT + r"(?P<between>)(?P<clock>\d{6})(?!\d)" + _REST,
    r"(?<![0-9A-Za-z])(?<!\d\.)(?P<date>(?:19|20)\d{6})(?P<between>)(?P<clock>\d{4})(?!\d)" + _REST,
    # 2024-05-12_03-45-00; telephones: 2024-05-12 at 3.45.00 PM
    _PARTED + _BETWEEN + _CLOCK + _REST,
    # BirdNET-Pi 2024-05-12-birdnet-03:45:00, 2024-05-12-birdnet-RTSP_1-03:45:00
    _PARTED
    + r"(?P<between>[ _-]{1,3}[A-Za-z][\w-]{0,30}?[ _-])(?P<clock>\d\d[-_.:h]\d\d[-_.:m]\d\d)(?!\d)"
    + _REST,
    _DAY_FIRST + _BETWEEN + _CLOCK + _REST,
)
_SHORT_TIMES = _compiled(
    # Sony 240512_0345, Voice 240512_034500; SoundTrap 671629352.240512034500. A date alone is not
    # accepted: six digits may be anything.
    r"(?<![0-9A-Za-z])(?P<date>\d{6})(?P<between>[ _T-])(?P<clock>\d{6}|\d{4})(?!\d)" + _REST,
    r"^\d{3,12}\.(?P<date>\d{6})(?P<between>)(?P<clock>\d{6})(?!\d)" + _REST,
)
# BirdCLEF 7019_COR_20190904; 2019-07-08_piper; 8.7.2019 is too short to be certain.
_DAYS = _compiled(
    *(
        r"(?<![0-9A-Za-z])" + date.removeprefix(r"(?<!\d)") + r"(?![0-9A-Za-z])"
        for date in (_COMPACT, _PARTED, _DAY_FIRST)
    )
)
