"""station.yaml: read once, checked strictly, frozen. Every mistake is one line with key, found and allowed.

Paths in the file are relative to the file. Knows nothing of what the settings are used for.
"""

import dataclasses
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import remainder
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints
from zoneinfo import ZoneInfo

import yaml

from edge.contract.audio import FRAME_HOP, RATE_HZ
from edge.contract.errors import ConfigError
from edge.contract.place import check_place

HOP_STEP_S = FRAME_HOP / RATE_HZ
DEMO_FOLDER = Path(__file__).parent / "demo"  # bundle and soundscapes that ship with birdstation


@dataclass(frozen=True)
class Range:
    """Allowed values of a number, both ends included."""

    low: float
    high: float


Latitude = Annotated[float, Range(-90, 90)]
Longitude = Annotated[float, Range(-180, 180)]
Score = Annotated[float, Range(0, 1)]


@dataclass(frozen=True)
class StationSettings:
    """Who and where this station is."""

    id: str = "station"
    latitude: Latitude | None = None
    longitude: Longitude | None = None
    timezone: str | None = None


@dataclass(frozen=True)
class SiteSettings:
    """Place of a site whose recordings are replayed here."""

    latitude: Latitude
    longitude: Longitude


@dataclass(frozen=True)
class WindowSettings:
    """How the sound is cut."""

    hop_s: Annotated[float, Range(HOP_STEP_S, 5)] = 2.5


@dataclass(frozen=True)
class DetectSettings:
    """What counts as heard. None: as the bundle says."""

    prior: Literal["auto", "off"] = "auto"
    threshold: Score | None = None
    thresholds: Mapping[str, Score] = field(default_factory=dict)


@dataclass(frozen=True)
class RuntimeSettings:
    """How the networks are run."""

    threads: Annotated[int, Range(0, 256)] = 0
    batch: Annotated[int, Range(1, 256)] = 16


@dataclass(frozen=True)
class MqttSettings:
    """Where messages go."""

    host: str
    port: Annotated[int, Range(1, 65535)] = 1883
    topic: str = "birdstation"
    username: str | None = None
    password_file: Path | None = None


@dataclass(frozen=True)
class Config:
    """All of station.yaml. `folder` is where the file lies."""

    folder: Path
    station: StationSettings = StationSettings()
    bundle: Path | None = None
    state: Path = Path()
    windows: WindowSettings = WindowSettings()
    detect: DetectSettings = DetectSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    mqtt: MqttSettings | None = None
    sites: Mapping[str, SiteSettings] = field(default_factory=dict)

    @property
    def bundle_folder(self) -> Path:
        return self.bundle or DEMO_FOLDER / "bundle"

    @property
    def database(self) -> Path:
        return self.state / "station.db"

    @property
    def hop_samples(self) -> int:
        return round(self.windows.hop_s * RATE_HZ)

    @property
    def zone(self) -> ZoneInfo | None:
        """Zone of recorders that do not say theirs; None: UTC is assumed."""
        return ZoneInfo(self.station.timezone) if self.station.timezone else None


class _UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key given twice; plain YAML lets the last one win in silence."""


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.MarkedYAMLError(problem=f"key {key!r} is given twice", problem_mark=node.start_mark)
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def load_config(path: Path) -> Config:
    """Read and check a station.yaml. Raises ConfigError with one line: file, key, what was found, what is allowed."""
    try:
        with path.open(encoding="utf8") as file:
            raw = yaml.load(file, _UniqueKeys)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give --config, or copy the station.yaml of the project") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable: {error}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{path}: {where}not YAML: {' '.join(str(error.problem).split())}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    try:
        config: Config = _build(Config, {} if raw is None else raw, "", {"folder": path.resolve().parent})
        _check(config)
    except ValueError as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    return config


def _check(config: Config) -> None:
    """What no single key can say."""
    station = config.station
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", station.id):
        raise ValueError(f"station.id: found {station.id!r}; 1 to 64 of A-Z, a-z, 0-9, _ and - are allowed")
    if (station.latitude is None) != (station.longitude is None):
        raise ValueError("station: latitude and longitude go together; give both or neither")
    if station.latitude is not None and station.longitude is not None:
        check_place(station.latitude, station.longitude)
    try:
        ZoneInfo(station.timezone or "UTC")
    except (ValueError, OSError, KeyError):
        raise ValueError(f"station.timezone: found {station.timezone!r}; a name such as Europe/Berlin or UTC") from None
    if abs(remainder(config.windows.hop_s, HOP_STEP_S)) > 1e-9:
        raise ValueError(f"windows.hop_s: found {config.windows.hop_s}; a multiple of {HOP_STEP_S} s is wanted")
    if config.mqtt and re.search(r"[#+\0]|^/|/$|^$", config.mqtt.topic):
        raise ValueError(f"mqtt.topic: found {config.mqtt.topic!r}; no #, no +, no / at its ends")


def _build(kind: Any, raw: Any, at: str, given: Mapping[str, Any]) -> Any:
    """A mapping of YAML to a dataclass; `given` are fields that do not come from the file."""
    if not isinstance(raw, dict):
        raise ValueError(f"{at or 'top level'}: found {_show(raw)}; keys and values are wanted")
    hints = get_type_hints(kind, include_extras=True)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.name not in given}
    for key in raw:
        if key not in fields:
            raise ValueError(f"{_join(at, key)}: unknown key; allowed here: {', '.join(fields)}")
    for name, spec in fields.items():
        required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        if required and name not in raw:
            raise ValueError(f"{_join(at, name)}: missing")
    folder: Path = given.get("folder") or given["_folder"]
    values = {key: _value(hints[key], value, _join(at, key), folder) for key, value in raw.items()}
    values |= {key: value for key, value in given.items() if not key.startswith("_")}
    for name, spec in fields.items():
        if hints[name] is Path and name not in values:
            values[name] = folder / str(spec.default)
    return kind(**values)


def _join(at: str, key: object) -> str:
    return f"{at}.{key}" if at else str(key)


def _show(value: object) -> str:
    text = {None: "nothing", True: "yes/true", False: "no/false"}.get(value) if isinstance(value, bool | None) else None
    return text or f"{value!r}"[:60]


def _value(kind: Any, raw: Any, at: str, folder: Any) -> Any:
    """One YAML value to the annotated type, or ValueError."""
    limits = None
    if get_origin(kind) is Annotated:
        kind, limits = get_args(kind)
    origin = get_origin(kind)
    if origin in (types.UnionType, Union):  # Annotated | None is the latter
        inner = next(k for k in get_args(kind) if k is not type(None))
        return None if raw is None else _value(inner, raw, at, folder)
    if dataclasses.is_dataclass(kind):
        return _build(kind, raw, at, {"_folder": folder})
    if origin is Mapping:
        if not isinstance(raw, dict):
            raise ValueError(f"{at}: found {_show(raw)}; keys and values are wanted")
        return {_text(key, at): _value(get_args(kind)[1], value, _join(at, key), folder) for key, value in raw.items()}
    if origin is Literal:
        return _choice(raw, get_args(kind), at)
    if kind is Path:
        return folder / Path(_text(raw, at)).expanduser()
    if kind is str:
        return _text(raw, at)
    return _number(kind, raw, at, limits)


def _choice(raw: Any, allowed: tuple[str, ...], at: str) -> str:
    if raw is False and "off" in allowed:  # YAML 1.1 reads a bare off as false
        return "off"
    if raw not in allowed:
        raise ValueError(f"{at}: found {_show(raw)}; allowed: {', '.join(allowed)}")
    return str(raw)


def _text(raw: Any, at: str) -> str:
    if not isinstance(raw, str):
        hint = '; put it in quotes ("NO")' if isinstance(raw, bool) else "; put it in quotes"
        raise ValueError(f"{at}: found {_show(raw)}; text is wanted{hint}")
    if not raw.strip():
        raise ValueError(f"{at}: found an empty text; give a value or leave the key out")
    return raw


def _number(kind: type, raw: Any, at: str, limits: Range | None) -> float:
    name = "a whole number" if kind is int else "a number"
    if isinstance(raw, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", raw):
        raise ValueError(f"{at}: found {raw!r}, which YAML reads as text; write {float(raw)!r}")
    if isinstance(raw, bool) or not isinstance(raw, int | float) or (kind is int and not isinstance(raw, int)):
        raise ValueError(f"{at}: found {_show(raw)}; {name} is wanted")
    if limits and not limits.low <= raw <= limits.high:  # also refuses .nan
        raise ValueError(f"{at}: found {raw}; {limits.low:g} to {limits.high:g} is allowed")
    return kind(raw)  # type: ignore[no-any-return]
