"""Health of the station at one moment: its state and problems, as health.json, as health.prom, and
as the same JSON over MQTT.

Has the rules from facts to "ok", "degraded" or "failing". Does not know where the facts come from:
vitals.py gathers them. docs/health.md describes every key.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from edge.config import Config, Members
from edge.types import ClockState, LoadLevel, utc_text

# silence allowed while the station should hear; reopening a sound card takes a few seconds
SILENT_S_MAX = 30.0
BROKER_AWAY_S_MAX = 600.0
DISK_FREE_MB_MIN = 200.0
STORE_ADVICE = "make room on the disk or let the station write to its state folder"

State = Literal["ok", "degraded", "failing"]
STATES: tuple[State, ...] = ("ok", "degraded", "failing")


@dataclass(frozen=True)
class Mqtt:
    """State of the connection to the broker. Counts are since the database was created, except
    `waiting` and `dead`, which are present numbers."""

    connected: bool
    waiting: int
    dropped: int
    dead: int  # set aside, since the broker refused them
    sent: int
    created: int
    last_error: str


@dataclass(frozen=True, kw_only=True)
class Health:
    """Health at one moment. `assess` fills `state` and `problems`; None is "not known" or "not
    yet"."""

    schema: str = "health/1"
    station: str
    time_utc: datetime
    state: State = "ok"
    problems: tuple[str, ...] = ()
    source: str
    hearing: bool
    level_dbfs: float | None
    lag_s: float | None
    waiting_s: float
    shed: LoadLevel
    lost_today_s: float
    analysed_today_s: float
    detections_today: int
    last_sound_utc: datetime | None
    last_detection_utc: datetime | None
    clock_state: ClockState
    disk_free_mb: float | None
    disk_hours_left: float | None
    temperature_c: float | None
    mqtt: Mqtt | None
    runtime: str
    members: Members
    bag_share: float | None  # of the windows since the start
    bundle: str
    licence: str | None  # of the networks, with attribution; None: trained with birdstation
    notice: str | None  # a warning about the model: its birds are invented
    probe: float
    suppressed_today: int
    uptime_s: float
    rss_mb: float | None
    version: str

    def to_json(self) -> str:
        """One line of ASCII. Numbers that are not finite become null."""
        return json.dumps(_plain(asdict(self)), allow_nan=False)

    def to_prometheus(self) -> str:
        """Prometheus' text exposition format 0.0.4."""
        return "".join(_exposition(self))


@dataclass(frozen=True)
class Facts:
    """Other facts that the state depends on. A text is the system's own error message; None: no
    error."""

    # time without sound while the station should hear; 0: there is sound, or it rests by schedule
    silent_s: float = 0.0
    # a network or a person has given the time in this boot, whatever the state of the clock
    time_known: bool = False
    source_problem: str | None = None  # of the microphone or the watched folder
    store_problem: str | None = None
    store_advice: str = ""  # what the user can do about it
    # of a record that can be written, but was damaged or replaced
    record_problem: str | None = None
    clips_problem: str | None = None
    card_problem: str | None = None  # of a sound card that delivers sound
    privacy_problem: str | None = None  # of the user's own speech network
    networks_problem: str | None = None  # of the scores of the bundle's networks
    # reason why a slower runtime than this machine could have is used
    runtime_problem: str | None = None
    prior_problem: str | None = None  # reason why there is no table of place and season
    broker_away_s: float = 0.0  # time without acknowledgement while messages were under way
    publisher_ended: bool = False  # its thread has ended
    lost_hour_s: float = 0.0
    # use of the disk above retention.disk_share when no more clips may be removed
    disk_short_mb: float = 0.0


# The rule


def assess(health: Health, facts: Facts) -> Health:
    """The same health with its state and its problems, the worst first, each with what to do about
    it."""
    failing = tuple(_failing(health, facts))
    degraded = tuple(_degraded(health, facts))
    state: State = "failing" if failing else "degraded" if degraded else "ok"
    return replace(health, state=state, problems=failing + degraded)


def _failing(health: Health, facts: Facts) -> Iterator[str]:
    """Problems because of which nothing is heard or stored: somebody has to visit the station."""
    why = f" ({facts.source_problem})" if facts.source_problem else ""
    if facts.silent_s > SILENT_S_MAX and health.source == "folder":
        yield (
            f"The folder of recordings cannot be read{why}: is its disk plugged in and mounted? "
            "The station keeps retrying."
        )
    elif facts.silent_s > SILENT_S_MAX:
        yield (
            f"No sound for {_span(facts.silent_s)}{why}: check the microphone and its cable; "
            "`birdstation check` lists the sound cards. The station keeps retrying."
        )
    if facts.store_problem:
        yield (
            f"Detections cannot be stored ({facts.store_problem}): "
            f"{facts.store_advice or STORE_ADVICE}. Listening continues; sound that cannot be "
            "stored is counted as lost."
        )


def _degraded(health: Health, facts: Facts) -> Iterator[str]:
    """Problems with which recording continues, with reduced quality or at risk."""
    if health.source == "folder" and facts.source_problem and facts.silent_s <= SILENT_S_MAX:
        yield (
            f"Part of the folder of recordings cannot be read ({facts.source_problem}): check its "
            "permissions and disk."
        )
    if facts.card_problem:
        yield (
            f"The sound card does not keep its sample rate ({facts.card_problem}): set another "
            "rate or use another card. Surplus samples are resampled to fit, missing ones count "
            "as lost."
        )
    if facts.privacy_problem:
        yield (
            f"The speech network fails ({facts.privacy_problem}): fix it, or remove it from the "
            "settings."
        )
    if facts.networks_problem:
        yield (
            f"Scores are missing ({facts.networks_problem}): export the bundle again, or use "
            "another one."
        )
    if health.shed > 0:
        yield (
            "Sound arrives faster than this machine can analyse it, so windows overlap less or "
            "fewer networks are used: choose a larger windows.hop_s, members: cascade or a smaller "
            "bundle, and check whether the machine is too hot or too busy."
        )
    if facts.lost_hour_s > 0:
        yield (
            f"Lost in the last hour: {_span(facts.lost_hour_s)} of sound. The table gaps of "
            "station.db gives the reasons; check the microphone's cable, and whether this machine "
            "is too slow."
        )
    if health.clock_state == "unsynced" and not facts.time_known:
        yield (
            "The clock has not been set since the station started, so times may be wrong: connect "
            "a network, GPS or a battery-backed clock; `birdstation clock fix` corrects the rows "
            "afterwards."
        )
    if facts.record_problem:
        yield f"The record: {facts.record_problem}."
    yield from _disk_problems(health, facts)
    if health.mqtt:
        yield from _mqtt_problems(health.mqtt, facts)
    if facts.runtime_problem:
        yield (
            f"The networks run on {health.runtime}, not on the best runtime of this machine "
            f"({facts.runtime_problem}): detections are the same, but slower; `birdstation check` "
            "shows what is missing."
        )
    if facts.prior_problem:
        without = (
            "recordings wait for it"
            if health.source == "folder"
            else "until it is, sound alone decides"
        )
        yield f"The table of place and season is not available ({facts.prior_problem}): {without}."


def _disk_problems(health: Health, facts: Facts) -> Iterator[str]:
    free_mb = health.disk_free_mb
    if free_mb is not None and free_mb < DISK_FREE_MB_MIN:
        yield (
            f"Only {free_mb:.0f} MB are free on the disk: move or delete files that do not belong "
            "to the station."
        )
    elif facts.disk_short_mb > 0:
        yield (
            f"The disk stays {facts.disk_short_mb:.0f} MB above retention.disk_share: the "
            "remaining clips are protected. Move some away, keep fewer (retention.per_species), "
            "or delete files that do not belong to the station."
        )
    if facts.clips_problem:
        yield (
            f"Clips cannot be saved ({facts.clips_problem}): make room on the disk or fix the "
            "permissions of clips/."
        )


def _mqtt_problems(mqtt: Mqtt, facts: Facts) -> Iterator[str]:
    if facts.publisher_ended:
        yield (
            f"Messages are no longer sent ({mqtt.last_error or 'the publisher has stopped'}); "
            f"{mqtt.waiting} are waiting: restart the service, and report this."
        )
    elif facts.broker_away_s > BROKER_AWAY_S_MAX:
        why = f" ({mqtt.last_error})" if mqtt.last_error else ""
        yield (
            f"The broker has not answered for {_span(facts.broker_away_s)}{why}; {mqtt.waiting} "
            "messages are waiting: check the network, and mqtt: in station.yaml."
        )
    if mqtt.dead:
        yield (
            f"The broker permanently refused {mqtt.dead} messages "
            f"({mqtt.last_error or 'the outbox has the reasons'}): check what this station may "
            "publish, and how large a message may be; the rows are in the outbox of station.db, "
            "state 'dead'."
        )


def _span(seconds: float) -> str:
    """`40 s`, `12 min`, `5 h`, `3 days`."""
    for unit_s, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{max(1, round(seconds))} s"


# The two files


def health_folder(config: Config, environment: Mapping[str, str] = os.environ) -> Path:
    """Folder for health.json and health.prom: the configured one, else the service's run folder,
    else the state folder."""
    service = environment.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return config.health.folder or (Path(service) if service else config.state)


def write_health(health: Health, folder: Path) -> str | None:
    """Write health.json and health.prom atomically and readable for everybody; return an error
    message if that fails.

    They are not forced to the disk, as they are useless after a power cut.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _put(folder / "health.json", health.to_json() + "\n")
        _put(folder / "health.prom", health.to_prometheus())
    except OSError as error:
        return f"{folder}: health cannot be written: {error.strerror or error}"
    return None


def _put(path: Path, text: str) -> None:
    """Write under a hidden name first and then rename, so that nobody ever reads half a file."""
    other = path.with_name(f".{path.name}.new")
    try:
        other.write_text(text, encoding="utf8", errors="replace")
        other.chmod(0o644)  # the service's umask keeps its other files to itself
        other.replace(path)
    except OSError:
        with suppress(OSError):  # give its bytes back to a full disk
            other.unlink()
        raise


def _plain(value: object) -> object:
    """Convert to what JSON can hold: times as text, floats rounded to six decimals, null for
    numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, datetime):
        return utc_text(value)
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


# Prometheus: name, HELP text, value. A name that ends in _total is a counter, the others are
# gauges.

_STATION: tuple[tuple[str, str, Callable[[Health], float | None]], ...] = (
    (
        "written_timestamp_seconds",
        "When this was written, Unix time.",
        lambda h: h.time_utc.timestamp(),
    ),
    (
        "problems",
        "Number of problems; health.json has their texts.",
        lambda h: len(h.problems),
    ),
    ("hearing", "1 while sound comes in.", lambda h: h.hearing),
    ("level_dbfs", "Level of the latest sound, dB relative to full scale.", lambda h: h.level_dbfs),
    ("lag_seconds", "From the latest analysed sound to now.", lambda h: h.lag_s),
    ("waiting_seconds", "Sound that waits to be analysed.", lambda h: h.waiting_s),
    (
        "shed",
        "Work left out because sound arrives too fast: 0 none, 1 overlap, 2 also networks.",
        lambda h: h.shed,
    ),
    ("lost_today_seconds", "Sound lost since local midnight.", lambda h: h.lost_today_s),
    (
        "analysed_today_seconds",
        "Sound analysed since local midnight.",
        lambda h: h.analysed_today_s,
    ),
    ("detections_today", "Detections since local midnight.", lambda h: h.detections_today),
    (
        "suppressed_today",
        "Windows since local midnight in which somebody spoke.",
        lambda h: h.suppressed_today,
    ),
    (
        "last_sound_timestamp_seconds",
        "End of the latest sound, Unix time.",
        lambda h: _unix(h.last_sound_utc),
    ),
    (
        "last_detection_timestamp_seconds",
        "The latest detection, Unix time.",
        lambda h: _unix(h.last_detection_utc),
    ),
    (
        "disk_free_bytes",
        "Free on the disk of the state folder.",
        lambda h: _times(h.disk_free_mb, 1e6),
    ),
    (
        "disk_left_seconds",
        "Until retention.disk_share is reached at the present rate.",
        lambda h: _times(h.disk_hours_left, 3600),
    ),
    ("temperature_celsius", "The hottest sensor of the machine.", lambda h: h.temperature_c),
    (
        "bag_share",
        "Share of the windows since the start that all networks decided, not the student alone.",
        lambda h: h.bag_share,
    ),
    (
        "probe_difference",
        "Largest difference of a score of the bundle's probe at start.",
        lambda h: h.probe,
    ),
    ("uptime_seconds", "Since the station started.", lambda h: h.uptime_s),
    ("resident_memory_bytes", "Memory in use by the station.", lambda h: _times(h.rss_mb, 1e6)),
)
_MQTT: tuple[tuple[str, str, Callable[[Mqtt], float]], ...] = (
    ("mqtt_connected", "1 while the broker answers.", lambda m: m.connected),
    ("mqtt_waiting_messages", "Messages that no broker has acknowledged.", lambda m: m.waiting),
    ("mqtt_dead_messages", "Messages set aside after the broker refused them.", lambda m: m.dead),
    (
        "mqtt_dropped_messages_total",
        "Messages dropped because too many waited.",
        lambda m: m.dropped,
    ),
    ("mqtt_sent_messages_total", "Messages acknowledged by the broker.", lambda m: m.sent),
    ("mqtt_created_messages_total", "Messages made.", lambda m: m.created),
)


def _exposition(health: Health) -> Iterator[str]:
    where = {"station": health.station, "source": health.source}
    runs = {
        key: getattr(health, key)
        for key in ("version", "runtime", "members", "bundle", "clock_state")
    }
    yield from _family("info", "What runs here, as labels.", [(where | runs, 1)])
    states = [(where | {"state": state}, float(state == health.state)) for state in STATES]
    yield from _family("state", "1 for the present state, 0 for the others.", states)
    for name, text, value in _STATION:
        yield from _family(name, text, [(where, value(health))])
    if health.mqtt:
        for name, text, count in _MQTT:
            yield from _family(name, text, [(where, count(health.mqtt))])


def _family(
    name: str, text: str, samples: Sequence[tuple[Mapping[str, str], float | None]]
) -> Iterator[str]:
    """HELP, TYPE and the samples that have a value; nothing if none has."""
    lines = [
        f"birdstation_{name}{{{_labels(labels)}}} {float(value)!r}\n"
        for labels, value in samples
        if value is not None and math.isfinite(value)
    ]
    if lines:
        yield f"# HELP birdstation_{name} {text}\n"
        yield f"# TYPE birdstation_{name} {'counter' if name.endswith('_total') else 'gauge'}\n"
        yield from lines


def _labels(labels: Mapping[str, str]) -> str:
    escapes = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
    return ",".join(f'{name}="{value.translate(escapes)}"' for name, value in labels.items())


def _unix(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else round(value * factor)
