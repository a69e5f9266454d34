"""station.yaml: read once, checked strictly, frozen. Every mistake is one line with key, expected
and found.

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
_ENDS_WITH = re.compile(r"^# ends with: (\S.*?)\s*$", re.MULTILINE)  # so a cut is known
DEMO_FOLDER = Path(__file__).parent / "demo"  # bundle and soundscapes that ship with birdstation
OWN_SETTINGS = Path("station.yaml")  # in the current folder
SYSTEM_SETTINGS = Path("/etc/birdstation/station.yaml")  # where `make install` puts them

Latitude = Annotated[float, Range(-90, 90)]
Longitude = Annotated[float, Range(-180, 180)]
Score = Annotated[float, Range(0, 1)]
Members = Literal["bag", "student", "cascade"]
Reported = Literal[
    "bird", "animal", "sound"
]  # kinds of class that may be detections; voices are a matter of privacy


@dataclass(frozen=True)
class StationSettings:
    """Who and where this station is."""

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
    """How the sound is cut."""

    hop_s: Annotated[float, Range(HOP_STEP_S, 5)] = 2.5


@dataclass(frozen=True)
class DetectSettings:
    """What counts as heard. None: as the bundle says."""

    prior: Literal["auto", "off"] = "auto"
    threshold: Score | None = None
    thresholds: Mapping[str, Score] = field(default_factory=dict)
    kinds: tuple[Reported, ...] = ("bird",)


@dataclass(frozen=True)
class RuntimeSettings:
    """How the networks are run."""

    engine: Literal["auto", "onnx", "tensorrt"] = "auto"
    threads: Annotated[int, Range(0, 256)] = 0
    batch: Annotated[int, Range(1, 256)] = 16


@dataclass(frozen=True)
class MicrophoneSettings:
    """Which sound card is heard, and how."""

    device: str | None = None
    rate_hz: Annotated[int, Range(8_000, 768_000)] | None = None
    channel: Annotated[int, Range(1, 64)] = 1
    buffer_s: Annotated[float, Range(10, 3600)] = 60.0
    stall_s: Annotated[float, Range(1, 600)] = 10.0


@dataclass(frozen=True)
class FolderSettings:
    """A folder into which something else writes recordings."""

    path: Path | None = None
    settle_s: Annotated[float, Range(0, 3600)] = 5.0


@dataclass(frozen=True)
class ClipSettings:
    """Sound saved around detections."""

    save: bool = True
    of_recordings: bool = False
    before_s: Annotated[float, Range(0, 30)] = 3.0
    after_s: Annotated[float, Range(0, 30)] = 3.0
    seconds_max: Annotated[float, Range(15, 600)] = 60.0
    format: Literal["flac", "wav", "ogg"] = "flac"

    def wanted(self, source: str) -> bool:
        """Whether clips are saved of sound from there: microphone, folder or replay."""
        return self.save and (source == "microphone" or self.of_recordings)


@dataclass(frozen=True)
class RetentionSettings:
    """Which clips go when, sooner or later. None: never for this reason."""

    days: Annotated[int, Range(1, 36_500)] | None = None
    disk_share: Annotated[float, Range(0.01, 0.99)] = 0.9
    hours_left: Annotated[float, Range(0, 8_760)] = 24.0
    per_species: Annotated[int, Range(0, 1_000_000)] = 20


@dataclass(frozen=True)
class PrivacySettings:
    """What becomes of windows in which people speak."""

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
    """How often the station says how it is."""

    interval_s: Annotated[float, Range(1, 3600)] = 30.0
    folder: Path | None = None


@dataclass(frozen=True)
class TlsSettings:
    """Encryption of the connection to the broker. None: the system's authorities, no certificate of
    our own."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True)
class MqttSettings:
    """Where messages go, and how many may wait."""

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
        """Where `python -m export trt` leaves what it compiled for this machine."""
        return self.state / "engines"

    @property
    def clips_folder(self) -> Path:
        return self.state / "clips"

    @property
    def hop_samples(self) -> int:
        return round(self.windows.hop_s * RATE_HZ)

    @property
    def zone(self) -> ZoneInfo | None:
        """Zone of recorders that do not say theirs, and of local days and hours; None: UTC, or the
        recorder's."""
        return ZoneInfo(self.station.timezone) if self.station.timezone else None


def find_settings() -> Path | None:
    """The settings that hold where none are named: those of the current folder, else the system's;
    None: neither are there, so the defaults hold. The program that `make install` installed takes
    the system's first."""
    places = [OWN_SETTINGS, SYSTEM_SETTINGS]
    if (Path(sys.prefix) / "share" / "birdstation").is_dir():  # its mark
        places.reverse()
    return next(filter(_is_there, places), None)


def _is_there(path: Path) -> bool:
    """Also true of what may not be looked at: reading it says so, and defaults do not quietly take
    its place."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


@dataclass(frozen=True)
class Settings:
    """A station.yaml as it was read: what it comes to, the keys in it (`privacy`, `privacy.human`),
    and its bytes."""

    config: Config
    given: frozenset[str] = frozenset()
    content: bytes = b""


def load_config(path: Path | None) -> Config:
    """Read and check a station.yaml; None: the defaults, with the state in the current folder.
    Raises ConfigError with one line: file, key, what was expected and found."""
    return read_settings(path).config


def read_settings(path: Path | None) -> Settings:
    """The same with the keys that stand in it. A file that names no station is refused: nothing is
    no choice."""
    return (
        Settings(parse(Config, {}, Path.cwd()))
        if path is None
        else settings_of(path, _content(path))
    )


def settings_of(path: Path, content: bytes) -> Settings:
    """What these bytes come to as the file `path`. Raises ConfigError."""
    raw = _yaml(path, content)
    if raw is None:
        raise ConfigError(
            f"{path}: expected settings, at least station: {{id: …}}, found nothing in it; was it "
            f"cut short? "
            "Copy the station.yaml of the project and say what differs"
        )
    try:
        config: Config = parse(Config, raw, path.resolve().parent)
        given = _given(raw)
        if "station.id" not in given:
            raise ValueError(
                "station.id: missing; say which station this is (of files without it: id: "
                "station), so that one that "
                "was cut short is not taken for the defaults"
            )
        _check(config)
    except ValueError as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    return Settings(config, given, content)


@contextmanager
def named(path: Path | None) -> Iterator[None]:
    """A mistake in settings that only shows when they are used names their file, too; one in other
    things does not."""
    try:
        yield
    except ConfigError as error:
        key = re.match(r"\w+", str(error))
        if (
            path is None
            or key is None
            or key[0] not in {setting.name for setting in fields(Config)}
        ):
            raise
        raise ConfigError(f"{path}: {error}") from error


def _given(raw: Mapping[str, Any]) -> frozenset[str]:
    inner = {
        f"{name}.{key}" for name, part in raw.items() if isinstance(part, Mapping) for key in part
    }
    return frozenset(raw) | inner


def _content(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():  # a pipe would block, a device never end
            raise ConfigError(f"{path}: not a file; give the station.yaml itself")
        with path.open("rb") as file:
            return file.read(_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file; give --config, or copy the station.yaml of the project"
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
    """A file that says how it ends has that line: one that was cut at the end of a line looks like
    a choice."""
    announced = _ENDS_WITH.search(text)
    if announced and announced[1] not in (
        line.rstrip() for line in text[announced.end() :].splitlines()
    ):
        raise ConfigError(
            f"{path}: expected the line {announced[1]!r}, as its head says, found none; it was cut "
            f"short: put the rest "
            "back, or take the line 'ends with' out"
        )


def _check(config: Config) -> None:
    """What no single key can say."""
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
            f"station.timezone: expected a name such as Europe/Berlin or UTC, found "
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
