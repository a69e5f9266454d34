"""When, and as far as the file says where, a recording began.

Reads what recorders write: GUANO, AudioMoth's comment, bext, the file name; else the file's own time.
Does not decode sound and knows no station: a clock that does not name its zone is read in the caller's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Literal

from edge.capture.container import riff_chunks
from edge.contract.errors import RecordingError

Source = Literal["guano", "audiomoth", "bext", "name", "mtime"]
ZoneSource = Literal["recorded", "config", "assumed_utc"]

YEAR_MIN = 1990  # clocks that were never set say 1970 or 1980
AHEAD_MAX = timedelta(days=2)  # clocks of another zone may be ahead, broken ones are by years
CHUNK_BYTES_MAX = 65_536  # read of any chunk
SUBCHUNKS_MAX = 100  # of one LIST


@dataclass(frozen=True)
class StartTime:
    """The first sample's time, the place where the file names one, and where both come from."""

    start_utc: datetime  # aware
    source: Source
    zone_source: ZoneSource  # who named the zone: the recorder, the caller, or nobody
    utc_offset_minutes: int  # of the recorder's clock; of the caller's zone where only an instant is known
    date_only: bool = False  # the day is known, the hour is not: 00:00 in the zone stands for it
    site: str | None = None  # of BirdCLEF names <id>_<SITE>_<YYYYMMDD>
    latitude: float | None = None  # degrees north, WGS84; with longitude or not at all
    longitude: float | None = None

    @property
    def offset_known(self) -> bool:
        return self.zone_source == "recorded"


@dataclass(frozen=True)
class _Stamp:
    """A time as it was written: without tzinfo if the writer did not name a zone."""

    time: datetime
    date_only: bool = False
    is_instant: bool = False  # seconds since 1970: says nothing about the recorder's zone


def start_of(
    path: Path, *, zone: tzinfo | None, duration_s: float | None = None, now: datetime | None = None
) -> StartTime:
    """The start of a recording from the first source that gives a plausible time.

    In this order: GUANO, AudioMoth's comment, bext, the file name, the file's modification time. Times before
    1990 or more than two days after `now` are passed over. A clock that does not name its zone is read in
    `zone`, in UTC without one; of an hour that daylight saving repeats, the first is meant. A name with a day
    only stands for 00:00 of that day in `zone`. The modification time is when a recording *ended*: give its
    `duration_s`.

    RecordingError only if the file cannot be found. A place at exactly 0, 0 is a receiver without a fix.

    >>> start_of(Path("S4A03895_20190522_063000.wav"), zone=ZoneInfo("Europe/Vilnius")).start_utc
    datetime.datetime(2019, 5, 22, 3, 30, tzinfo=datetime.timezone.utc)
    """
    limit = (now or datetime.now(timezone.utc)) + AHEAD_MAX
    texts = _read_texts(path)
    guano = _guano_fields(texts.get("guano", b""))
    latitude, longitude = _place(guano.get("Loc Position", "")) or _place_of_name(path.stem) or (None, None)
    site = _SITE.fullmatch(path.stem)
    candidates: tuple[tuple[Source, _Stamp | None], ...] = (
        ("guano", _iso_time(guano.get("Timestamp", ""))),
        ("audiomoth", _audiomoth_time(texts.get("audiomoth", b""))),
        ("bext", _bext_time(texts.get("bext", b""))),
        ("name", _name_time(path.stem, limit)),
        ("mtime", _file_time(path, duration_s)),
    )
    for source, stamp in candidates:
        if stamp is not None and (source == "mtime" or _plausible(stamp, limit)):
            start, zone_source, offset = _in_utc(stamp, zone)
            return StartTime(
                start_utc=start,
                source=source,
                zone_source=zone_source,
                utc_offset_minutes=offset,
                date_only=stamp.date_only,
                site=site.group(1) if site else None,
                latitude=latitude,
                longitude=longitude,
            )
    raise AssertionError("the modification time is always a candidate")


def _in_utc(stamp: _Stamp, zone: tzinfo | None) -> tuple[datetime, ZoneSource, int]:
    """The instant, who named the zone, the offset in minutes."""
    recorded = stamp.time.tzinfo is not None
    aware = stamp.time if recorded else stamp.time.replace(tzinfo=zone or timezone.utc)
    local = aware.astimezone(zone) if stamp.is_instant and zone else aware
    offset = local.utcoffset() or timedelta(0)
    source: ZoneSource = "recorded" if recorded else "config" if zone else "assumed_utc"
    return aware.astimezone(timezone.utc), source, round(offset.total_seconds() / 60)


def _plausible(stamp: _Stamp, limit: datetime) -> bool:
    aware = stamp.time if stamp.time.tzinfo else stamp.time.replace(tzinfo=timezone.utc)
    return stamp.time.year >= YEAR_MIN and aware <= limit


# The file's own words


def _read_texts(path: Path) -> dict[str, bytes]:
    """GUANO, AudioMoth's comment and bext, as far as the file has them; never more than 64 KiB of each."""
    texts: dict[str, bytes] = {}
    try:
        if not path.is_file():
            raise RecordingError(path, "no such file")
        with path.open("rb") as file:
            for chunk in riff_chunks(file):
                read = min(chunk.size, CHUNK_BYTES_MAX)
                file.seek(chunk.offset)
                if chunk.id == b"guan":
                    texts.setdefault("guano", file.read(read))
                elif chunk.id == b"bext":
                    texts.setdefault("bext", file.read(read))
                elif chunk.id == b"LIST":
                    for comment in _comments(file.read(read)):
                        texts.setdefault("audiomoth", comment)
    except OSError:
        pass  # whoever decodes it will say so; the name may still tell the time
    return texts


def _comments(info: bytes) -> Iterator[bytes]:
    """The ICMT fields of a LIST chunk of type INFO."""
    at = 4
    for _ in range(SUBCHUNKS_MAX):
        if info[:4] != b"INFO" or at + 8 > len(info):
            return
        size = int.from_bytes(info[at + 4 : at + 8], "little")
        if info[at : at + 4] == b"ICMT":
            yield info[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def _guano_fields(text: bytes) -> dict[str, str]:
    lines = text.decode("utf-8", "replace").lstrip("\ufeff").splitlines()
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip(" \t\0") for key, colon, value in pairs if colon}


def _audiomoth_time(comment: bytes) -> _Stamp | None:
    """`Recorded at 03:45:00 12/05/2024 (UTC+1) by AudioMoth 24F3...`; firmware 1.0 meant UTC, unsaid."""
    match = _AUDIOMOTH.search(comment.decode("latin-1"))
    if match is None:
        return None
    hour, minute, second, day, month, year, offset = match.groups()
    return _stamp(f"{year}{month}{day}", f"{hour}{minute}{second}", offset or "Z")


def _bext_time(bext: bytes) -> _Stamp | None:
    """OriginationDate and OriginationTime: `2024-05-12`, `03-45-00` with any separators, in no named zone."""
    match = _BEXT.fullmatch(bext[320:338].decode("latin-1"))
    return _stamp("".join(match.group(1, 2, 3)), "".join(match.group(4, 5, 6))) if match else None


def _place(text: str) -> tuple[float, float] | None:
    """`47.61 -122.33`, in degrees."""
    match = _DEGREES.fullmatch(text)
    if match is None:
        return None
    latitude, longitude = float(match.group(1)), float(match.group(2))
    if abs(latitude) > 90 or abs(longitude) > 180 or latitude == longitude == 0:
        return None
    return latitude, longitude


# The file's name


def _name_time(stem: str, limit: datetime) -> _Stamp | None:
    """The first plausible time in a file name without its suffix, as the recorders listed below write it."""
    for pattern in _NAMES:
        for match in pattern.finditer(stem):
            parts = match.groupdict()
            stamp = _stamp(
                re.sub(r"\D", "", parts["date"]),
                re.sub(r"\D", "", parts.get("clock") or ""),
                parts.get("offset") or "",
                parts.get("fraction") or "",
            )
            if stamp is not None and _plausible(stamp, limit):
                return stamp
    if _HEX_EPOCH.fullmatch(stem):
        time = datetime.fromtimestamp(int(stem[:8], 16), timezone.utc)
        return _Stamp(time, is_instant=True) if _plausible(_Stamp(time), limit) else None
    return None


def _place_of_name(stem: str) -> tuple[float, float] | None:
    """Frontier Labs writes `[-27.3866 152.8761]` into names."""
    match = re.search(r"\[([-+.\d]+ [-+.\d]+)\]", stem)
    return _place(match.group(1)) if match else None


def _iso_time(text: str) -> _Stamp | None:
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    date, hour, minute, second, fraction, offset = match.groups()
    return _stamp(date.replace("-", ""), f"{hour}{minute}{second or '00'}", offset or "", fraction or "")


def _file_time(path: Path, duration_s: float | None) -> _Stamp:
    """The modification time less the duration."""
    try:
        ended_s = path.stat().st_mtime
    except OSError as error:
        raise RecordingError(path, f"cannot be opened: {error.strerror}") from None
    start_s = min(max(ended_s - (duration_s or 0.0), 0.0), 2.0**32)  # file systems hold any nonsense
    return _Stamp(datetime.fromtimestamp(start_s, timezone.utc), is_instant=True)


def _stamp(date: str, clock: str, offset: str = "", fraction: str = "") -> _Stamp | None:
    """From `20240512`, `034500` or nothing, `Z` or `+0130` or nothing, and the digits after the second."""
    try:
        day = datetime(int(date[:4]), int(date[4:6]), int(date[6:8]))
        if not clock:
            return _Stamp(day, date_only=True)
        micros = int(fraction[:6].ljust(6, "0")) if fraction else 0
        time = day.replace(hour=int(clock[:2]), minute=int(clock[2:4]), second=int(clock[4:6]), microsecond=micros)
        return _Stamp(time.replace(tzinfo=_offset(offset)) if offset else time)
    except ValueError:
        return None


def _offset(text: str) -> timezone:
    """`Z`, `+1`, `+0130`, `+01:30`; ValueError beyond 14 hours or 59 minutes."""
    if text in ("Z", "z"):
        return timezone.utc
    digits = text[1:].replace(":", "")
    hours, minutes = (int(digits[:-2]), int(digits[-2:])) if len(digits) > 2 else (int(digits), 0)
    if hours > 14 or minutes > 59:
        raise ValueError(text)
    ahead = timedelta(hours=hours, minutes=minutes)
    return timezone(-ahead if text[0] == "-" else ahead)


_AUDIOMOTH = re.compile(
    r"Recorded at (\d\d):(\d\d):(\d\d)(?:\.\d+)? (\d\d)/(\d\d)/(\d{4})(?: \(UTC([+-]\d{1,2}(?::?\d\d)?)?\))?"
)
_BEXT = re.compile(r"(\d{4}).(\d\d).(\d\d)(\d\d).(\d\d).(\d\d)", re.DOTALL)
_DEGREES = re.compile(r"([-+]?\d{1,3}(?:\.\d{1,12})?)(?:\s*,\s*|\s+)([-+]?\d{1,3}(?:\.\d{1,12})?)")
_ISO = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,12}))?)?\s*(Z|z|[-+]\d\d(?::?\d\d)?)?",
    re.ASCII,
)
_SITE = re.compile(r"\d+_([A-Z][A-Z0-9]{1,7})_\d{8}", re.ASCII)
_HEX_EPOCH = re.compile(r"[0-9A-F]{8}", re.IGNORECASE)  # AudioMoth 1.0: 5AFCD4F4.WAV, seconds since 1970

# From the most to the least telling. Offsets only where a name has a T: elsewhere -0700 may be a serial.
_NAMES = tuple(
    re.compile(pattern, re.ASCII)
    for pattern in (
        # Frontier Labs 20240512T034500+1000_REC, also 034500.123456Z and S20240512T034500_E20240512T044500
        r"(?<!\d)(?P<date>\d{8})T(?P<clock>\d{6})(?:[.,](?P<fraction>\d{1,6}))?"
        r"(?P<offset>Z|[-+]\d{4}(?!\d)|[-+]\d\d:\d\d)?(?!\d)",
        # Wildlife Acoustics SITE_20240512_034500, SITE_0+1_20240512_034500_123, SITE$20240512$034500;
        # AudioMoth 20240512_034500T; 20240512034500
        r"(?<!\d)(?P<date>\d{8})[_$ -]?(?P<clock>\d{6})(?:[_.](?P<fraction>\d{3}))?(?!\d)",
        # 2024-05-12_03-45-00, 2024-05-12-birdnet-03:45:00
        r"(?<!\d)(?P<date>\d{4}([-_.])\d\d\2\d\d)[-_ T]{1,3}(?:[A-Za-z]{1,20}[-_])?"
        r"(?P<clock>\d\d[-_:.h]\d\d[-_:.m]\d\d)(?!\d)",
        # BirdCLEF 7019_COR_20190904; 2019-07-08_piper
        r"(?<![0-9A-Za-z])(?P<date>\d{8})(?![0-9A-Za-z])",
        r"(?<![0-9A-Za-z])(?P<date>\d{4}([-_.])\d\d\2\d\d)(?![0-9A-Za-z])",
    )
)
