"""station.yaml: read once, checked strictly, frozen. Every mistake is one line with key, found and allowed.

Paths in the file are relative to the file. Knows nothing of what the settings are used for.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import remainder
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import yaml

from edge.contract.audio import FRAME_HOP, RATE_HZ
from edge.contract.errors import ConfigError
from edge.contract.place import check_place
from edge.contract.strict import Range, parse

HOP_STEP_S = FRAME_HOP / RATE_HZ
DEMO_FOLDER = Path(__file__).parent / "demo"  # bundle and soundscapes that ship with birdstation


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
    """All of station.yaml."""

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
        config: Config = parse(Config, {} if raw is None else raw, path.resolve().parent)
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
