"""A station whose clock says what the test wants: it replays sound and counts today, as the daemon
does."""

import weakref
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edge.analysis.recognizer import Recognizer
from edge.analysis.stretch import Analyst
from edge.clips.maker import ClipMaker
from edge.config import Config, load_config
from edge.daemon.health import Health
from edge.daemon.ledger import Ledger
from edge.daemon.source import Hearing
from edge.daemon.vitals import Vitals
from edge.host.clock import Clock
from edge.replay.archive import recordings_in
from edge.replay.replay import Replay
from edge.store.clips import ClipTable
from tests.conftest import note, write_sound

StationYaml = Callable[..., Path]
UTC = timezone.utc


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class Station:
    """Replays sound into a record and counts today, as the daemon does; its clock stands still."""

    def __init__(self, config: Config, recognizer: Recognizer, now: datetime) -> None:
        self.config = config
        self.now = now
        self.analyst = Analyst(config, recognizer)
        self.ledger = Ledger(config.database, config.station.id, self.analyst.bundle)
        # since Python 3.13 sqlite3 complains of what nobody closed
        weakref.finalize(self, self.ledger.close)
        self.clock = Clock(wall=lambda: self.now.timestamp(), monotonic=lambda: 0.0)
        self.vitals = Vitals(config, self.analyst, 0.0, self.ledger, self.clips(), self.clock)
        self.vitals.prime(self.ledger.store())

    def clips(self) -> ClipMaker:
        return ClipMaker(
            lambda: ClipTable(self.config.database), self.config, self.analyst.bundle.id
        )

    def replay(self, folder: Path) -> None:
        store = self.ledger.store()
        vitals = self.vitals
        replay = Replay(self.analyst, store, self.clips, "folder", vitals.found, vitals.missed)
        assert [outcome.state for outcome in replay.run(*recordings_in(folder))].count(
            "refused"
        ) == 0

    def health(self) -> Health:
        if self.config.source == "folder":
            self.vitals.recount(self.ledger.store())
        hearing = Hearing(True, 0.0, None, 0.0, 0, None, "synced", self.clock.now())
        return self.vitals.say(self.config, hearing, None)

    def today(self) -> tuple[float, float, int]:
        health = self.health()
        return (
            round(health.analysed_today_s, 3),
            round(health.lost_today_s, 3),
            health.detections_today,
        )

    def killed(self) -> "Station":
        """As it is after a kill and a new start."""
        self.ledger.close()
        return Station(self.config, self.analyst.recognizer, self.now)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self.ledger.store().rows(sql)


def station(
    station_yaml: StationYaml, recognizer: Recognizer, zone: str | None, now: datetime, *lines: str
) -> Station:
    settings_ = station_yaml(*lines, station=f"id: porch, timezone: {zone or 'null'}")
    return Station(load_config(settings_), recognizer, now)


def damaged(path: Path, heard_s: float, announced_s: float) -> Path:
    """A WAV that was cut off: its header announces more than there is."""
    size = write_sound(path, note("midtoo", heard_s)).stat().st_size
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    whole = round(announced_s / heard_s * (size - at - 4)) & ~1
    data[at : at + 4], data[4:8] = (
        whole.to_bytes(4, "little"),
        (whole + at - 4).to_bytes(4, "little"),
    )
    path.write_bytes(data)
    return path
