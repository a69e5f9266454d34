"""station.yaml as frozen dataclasses, read once and checked strictly. Each mistake is reported in
one line with key, expected and found.

Paths in the file are relative to the file. Knows nothing of what the settings are used for.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from math import remainder
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import yaml

from edge.contract.audio import FRAME_HOP, RATE_HZ
from edge.contract.coordinates import check_coordinates
from edge.contract.errors import ConfigError
from edge.contract.rights import whose
from edge.contract.strict import Range, parse
from edge.contract.text import TextError, text_of
from edge.contract.yaml_loader import StrictLoader

HOP_STEP_S = FRAME_HOP / RATE_HZ
_FILE_BYTES_MAX = 262_144  # the shipped file has 6 kB; a site takes 50 bytes
_SHOWN_MAX = 80  # characters shown of a line that is expected
_ENDS_WITH = re.compile(r"^# ends with: (\S.*?)\s*$", re.MULTILINE)  # shows that a file was cut
DEMO_FOLDER = Path(__file__).parent / "demo"  # bundle and soundscapes that ship with birdstation
OWN_SETTINGS = Path("station.yaml")  # in the current folder
SYSTEM_SETTINGS = Path("/etc/birdstation/station.yaml")  # where `make install` puts them

Latitude = Annotated[float, Range(-90, 90)]
Longitude = Annotated[float, Range(-180, 180)]
Score = Annotated[float, Range(0, 1)]
Members = Literal["bag", "student", "cascade"]
# kinds of class that may become detections; human voices never do, for privacy
Reported = Literal["bird", "animal", "sound"]


@dataclass(frozen=True)
class StationSettings:
    """Identity and place of this station."""

    id: str = "station"
    latitude: Latitude | None = None
    longitude: Longitude | None = None
    timezone: str | None = None
    language: str | None = None


@dataclass(frozen=True)
class SiteSettings:
    """Place of a site whose recordings are replayed here."""

    latitude: Latitude
    longitude: Longitude


@dataclass(frozen=True)
class WindowSettings:
    """Cutting of the sound into windows."""

    hop_s: Annotated[float, Range(HOP_STEP_S, 5)] = 2.5


@dataclass(frozen=True)
class DetectSettings:
    """Rules for detections. None: the bundle's own."""

    prior: Literal["auto", "off"] = "auto"
    threshold: Score | None = None
    thresholds: Mapping[str, Score] = field(default_factory=dict)
    kinds: tuple[Reported, ...] = ("bird",)


@dataclass(frozen=True)
class RuntimeSettings:
    """Execution of the networks."""

    engine: Literal["auto", "onnx", "tensorrt"] = "auto"
    threads: Annotated[int, Range(0, 256)] = 0
    batch: Annotated[int, Range(1, 256)] = 16


@dataclass(frozen=True)
class MicrophoneSettings:
    """Sound card to listen to, and its buffer."""

    device: str | None = None
    rate_hz: Annotated[int, Range(8_000, 768_000)] | None = None
    channel: Annotated[int, Range(1, 64)] = 1
    buffer_s: Annotated[float, Range(10, 3600)] = 60.0
    stall_s: Annotated[float, Range(1, 600)] = 10.0


@dataclass(frozen=True)
class FolderSettings:
    """Folder into which another program writes recordings."""

    path: Path | None = None
    settle_s: Annotated[float, Range(0, 3600)] = 5.0


@dataclass(frozen=True)
class ClipSettings:
    """Clips: sound saved around detections."""

    save: bool = True
    of_recordings: bool = False
    before_s: Annotated[float, Range(0, 30)] = 3.0
    after_s: Annotated[float, Range(0, 30)] = 3.0
    seconds_max: Annotated[float, Range(15, 600)] = 60.0
    format: Literal["flac", "wav", "ogg"] = "flac"

    def wanted(self, source: str) -> bool:
        """True if clips are saved of this source: microphone, folder or replay."""
        return self.save and (source == "microphone" or self.of_recordings)


@dataclass(frozen=True)
class RetentionSettings:
    """Removal of clips. None: never for this reason."""

    days: Annotated[int, Range(1, 36_500)] | None = None
    disk_share: Annotated[float, Range(0.01, 0.99)] = 0.9
    hours_left: Annotated[float, Range(0, 8_760)] = 24.0
    per_species: Annotated[int, Range(0, 1_000_000)] = 20


@dataclass(frozen=True)
class PrivacySettings:
    """Treatment of windows in which people speak."""

    human: Literal["off", "clips", "all"] = "clips"
    speech: bool = True
    classes: tuple[str, ...] = ()
    detector: Path | None = None
    threshold: Score = 0.2


@dataclass(frozen=True)
class SensitiveSettings:
    """Species whose locations must not be disclosed."""

    species: tuple[str, ...] = ()
    decimals: Annotated[int, Range(0, 3)] = 1


@dataclass(frozen=True)
class HealthSettings:
    """Health reports: interval and folder."""

    interval_s: Annotated[float, Range(1, 3600)] = 30.0
    folder: Path | None = None


@dataclass(frozen=True)
class TlsSettings:
    """Encryption of the connection to the broker. None: the system's certificate authorities, no
    client certificate."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True)
class MqttSettings:
    """MQTT broker, topics, and limits of the queue of messages."""

    host: str
    port: Annotated[int, Range(1, 65535)] = 1883
    topic: str = "birdstation"
    username: str | None = None
    password_file: Path | None = None
    tls: TlsSettings | None = None
    protocol: Literal["auto", "5", "3.1.1"] = "auto"
    place_decimals: Annotated[int, Range(0, 6)] = 2
    waiting_max: Annotated[int, Range(100, 100_000_000)] = 1_000_000
    attempts_max: Annotated[int, Range(1, 1000)] = 5
    homeassistant: str | None = "homeassistant"


@dataclass(frozen=True)
class Config:
    """All of station.yaml."""

    station: StationSettings = StationSettings()
    bundle: Path | None = None
    state: Path = Path()
    source: Literal["microphone", "folder"] = "microphone"
    microphone: MicrophoneSettings = MicrophoneSettings()
    folder: FolderSettings = FolderSettings()
    schedule: tuple[tuple[str, str], ...] = ()
    windows: WindowSettings = WindowSettings()
    detect: DetectSettings = DetectSettings()
    members: Members = "bag"
    runtime: RuntimeSettings = RuntimeSettings()
    clips: ClipSettings = ClipSettings()
    retention: RetentionSettings = RetentionSettings()
    privacy: PrivacySettings = PrivacySettings()
    sensitive: SensitiveSettings = SensitiveSettings()
    health: HealthSettings = HealthSettings()
    mqtt: MqttSettings | None = None
    sites: Mapping[str, SiteSettings] = field(default_factory=dict)

    @property
    def bundle_folder(self) -> Path:
        return self.bundle or DEMO_FOLDER / "bundle"

    @property
    def database(self) -> Path:
        return self.state / "station.db"

    @property
    def engines_folder(self) -> Path:
        """Folder of the engines that `python -m export trt` compiled for this machine."""
        return self.state / "engines"

    @property
    def clips_folder(self) -> Path:
        return self.state / "clips"

    @property
    def hop_samples(self) -> int:
        return round(self.windows.hop_s * RATE_HZ)

    @property
    def zone(self) -> ZoneInfo | None:
        """Time zone of recorders that do not name theirs, and of local days and hours; None: UTC,
        or the recorder's."""
        return ZoneInfo(self.station.timezone) if self.station.timezone else None


def check_state(state: Path) -> None:
    """Raise ConfigError if something other than a folder has the name of the state folder."""
    if state.exists() and not state.is_dir():
        raise ConfigError(f"state: expected a folder, found a file: {state}")


def find_settings() -> Path | None:
    """Settings file that applies if none is named: that of the current folder, else the system's;
    None: neither exists, so the defaults apply. The program that `make install` installed looks for
    the system's file first."""
    places = [OWN_SETTINGS, SYSTEM_SETTINGS]
    if (Path(sys.prefix) / "share" / "birdstation").is_dir():  # its mark
        places.reverse()
    return next(filter(_is_there, places), None)


def _is_there(path: Path) -> bool:
    """True if the file exists, or if this may not be known: then reading it raises an error, so
    that defaults do not silently take its place."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


@dataclass(frozen=True)
class Settings:
    """A station.yaml that was read: the settings, the keys given in it (`privacy`,
    `privacy.human`), and its bytes."""

    config: Config
    given: frozenset[str] = frozenset()
    content: bytes = b""


def load_config(path: Path | None) -> Config:
    """Read and check a station.yaml; None: the defaults, with the state in the current folder.
    Raises ConfigError with one line: file, key, what was expected and found."""
    return read_settings(path).config


def read_settings(path: Path | None) -> Settings:
    """Read and check a station.yaml, and keep its keys and bytes. A file without station.id is
    refused, since it may have been cut short. Raises ConfigError."""
    return (
        Settings(parse(Config, {}, Path.cwd()))
        if path is None
        else settings_of(path, _content(path))
    )


def settings_of(path: Path, content: bytes) -> Settings:
    """Settings from the bytes of the file `path`. Raises ConfigError."""
    raw = _yaml(path, content)
    if raw is None:
        raise ConfigError(
            f"{path}: expected settings, at least station: {{id: …}}, found nothing in it; was it "
            "cut short? Copy the project's station.yaml and change what differs"
        )
    try:
        config: Config = parse(Config, raw, path.resolve().parent)
        given = _given(raw)
        if "station.id" not in given:
            raise ValueError(
                "station.id: missing; name the station (earlier files without it: id: station), so "
                "that a file that was cut short is not taken for the defaults"
            )
        _check(config)
    except ValueError as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    return Settings(config, given, content)


@contextmanager
def named(path: Path | None) -> Iterator[None]:
    """Add the file's name to errors in settings that only show when the settings are used; other
    errors pass unchanged."""
    try:
        yield
    except ConfigError as error:
        key = re.match(r"\w+", str(error))
        keys = {setting.name for setting in fields(Config)}
        if path is None or key is None or key[0] not in keys:
            raise
        raise ConfigError(f"{path}: {error}") from error


def _given(raw: Mapping[str, Any]) -> frozenset[str]:
    inner = {
        f"{name}.{key}" for name, part in raw.items() if isinstance(part, Mapping) for key in part
    }
    return frozenset(raw) | inner


def _content(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():  # a pipe would block, a device has no end
            raise ConfigError(f"{path}: not a file; give the station.yaml itself")
        with path.open("rb") as file:
            return file.read(_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file; give --config, or copy the project's station.yaml"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{path}: not readable: {error.strerror or error}{whose(path)}"
        ) from error


def _yaml(path: Path, content: bytes) -> Any:
    if len(content) > _FILE_BYTES_MAX:
        raise ConfigError(
            f"{path}: larger than {_FILE_BYTES_MAX // 1024} KiB; are these a station's settings?"
        )
    try:
        text = text_of(content)
        _check_end(path, text)
        return yaml.load(text, StrictLoader)
    except TextError as error:
        raise ConfigError(f"{path}: {error}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(
            f"{path}: {where}not YAML: {' '.join(str(error.problem).split())}"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise ConfigError(
            f"{path}: not YAML that a station understands: nested too deeply"
        ) from None


def _check_end(path: Path, text: str) -> None:
    """Check that a file which announces its last line has it: a file that was cut between two lines
    looks like a choice of defaults. Raises ConfigError."""
    announced = _ENDS_WITH.search(text)
    if announced and announced[1] not in (
        line.rstrip() for line in text[announced.end() :].splitlines()
    ):
        raise ConfigError(
            f"{path}: expected the line {announced[1][:_SHOWN_MAX]!r}, as its head says, found "
            "none; it was cut short: restore the rest, or remove the line 'ends with'"
        )


def _check(config: Config) -> None:
    """Check what depends on several keys, or on more than a type and a range. Raises ValueError."""
    station = config.station
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", station.id):
        raise ValueError(
            f"station.id: expected 1 to 64 of A-Z, a-z, 0-9, _ and -, found {station.id!r}"
        )
    if (station.latitude is None) != (station.longitude is None):
        raise ValueError("station: latitude and longitude go together; give both or neither")
    if station.latitude is not None and station.longitude is not None:
        check_coordinates(station.latitude, station.longitude)
    try:
        ZoneInfo(station.timezone or "UTC")
    except (ValueError, OSError, KeyError):
        raise ValueError(
            "station.timezone: expected a name such as Europe/Berlin or UTC, found "
            f"{station.timezone!r}"
        ) from None
    if abs(remainder(config.windows.hop_s, HOP_STEP_S)) > 1e-9:
        raise ValueError(
            f"windows.hop_s: expected a multiple of {HOP_STEP_S} s, found {config.windows.hop_s}"
        )
    if config.mqtt:
        for key, topic in (
            ("topic", config.mqtt.topic),
            ("homeassistant", config.mqtt.homeassistant),
        ):
            if topic is not None and re.search(r"[#+]|^[/$]|/$", topic):
                raise ValueError(
                    f"mqtt.{key}: expected no #, no +, no $ first, no / at its ends, found "
                    f"{topic!r}"
                )
