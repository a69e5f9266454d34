"""Checks of station.yaml: keys that differ from their defaults and keys that may have been
forgotten; and of the program that runs the check."""

import importlib.metadata
import sys
from datetime import datetime, timezone
from pathlib import Path

from edge.check.verdict import CheckResult, Figures
from edge.config import OWN_SETTINGS, SYSTEM_SETTINGS, Config
from edge.contract.strict import parse
from edge.daemon.live_microphone import schedule_of
from edge.daemon.reload import changed_keys


def check_program(link: Path = Path("/usr/local/bin/birdstation")) -> list[CheckResult]:
    """Version and folder of this program; a warning if another one is installed, since the check
    does not cover that one. `link`: the command that `make install` leaves."""
    version = importlib.metadata.version("birdstation")
    folder = Path(__file__).resolve().parents[1]
    found = f"birdstation {version} in {folder}"
    figures: Figures = {"version": version, "folder": str(folder)}
    mine = Path(sys.prefix).resolve()
    installed = link.resolve().parents[1]
    if not link.is_symlink() or (installed == mine and folder.is_relative_to(mine)):
        return [CheckResult("program", "ok", found, figures=figures)]
    advice = (
        f"Type {link} check to check the installed one; sudo make install replaces it by this one."
    )
    return [
        CheckResult(
            "program",
            "warning",
            f"{found}; the installed one is in {installed}",
            advice,
            figures=figures,
        )
    ]


def check_settings(path: Path | None, config: Config) -> list[CheckResult]:
    """The file and its keys that are not at their defaults; None: there is no file."""
    if path is None:
        found = (
            f"no {OWN_SETTINGS} here and no {SYSTEM_SETTINGS}: all settings at their defaults, the "
            f"record in {config.state}"
        )
        advice = (
            "Copy the project's station.yaml and set the station's id, latitude and longitude in "
            "it."
        )
        return [
            CheckResult("settings", "warning", found, advice, figures={"file": None, "set": ""})
        ]
    changed = changed_keys(config, parse(Config, {}, path.resolve().parent))
    found = f"{path.resolve()}; set: {', '.join(changed) or 'nothing, all at their defaults'}"
    figures: Figures = {"file": str(path.resolve()), "set": ", ".join(changed)}
    if not path.read_bytes().endswith(b"\n"):
        advice = (
            "Check that nothing is missing at its end; write a complete new file, then put it in "
            "place (mv)."
        )
        found += "; its last line is not terminated"
        return [CheckResult("settings", "warning", found, advice, figures=figures)]
    return [CheckResult("settings", "ok", found, figures=figures)]


def check_schedule(config: Config) -> list[CheckResult]:
    """Listening periods and the next change. Raises ConfigError."""
    schedule = schedule_of(config)
    if not config.schedule:
        return [CheckResult("schedule", "ok", "always listens")]
    now = datetime.now(timezone.utc)
    changes = schedule.changes_after(now)
    is_open = schedule.open_at(now)
    if changes is None and not is_open:
        advice = "Set schedule: to periods that occur at this place, or to [] for always."
        return [CheckResult("schedule", "bad", "will not listen within the next 400 days", advice)]
    at = (
        changes.astimezone(config.zone or timezone.utc).strftime("%Y-%m-%d %H:%M %Z")
        if changes
        else "stopped"
    )
    return [
        CheckResult(
            "schedule",
            "ok",
            f"{len(config.schedule)} periods; {'listens' if is_open else 'rests'} until {at}",
        )
    ]


def check_zone(config: Config) -> list[CheckResult]:
    """Time zone of the station's days and hours."""
    zone = config.station.timezone
    if zone is not None:
        return [
            CheckResult(
                "time zone", "ok", f"{zone}, now {datetime.now(config.zone):%Y-%m-%d %H:%M %Z}"
            )
        ]
    found = "none: days, and recorders that do not say their zone, count as UTC"
    return [
        CheckResult(
            "time zone",
            "warning",
            found,
            "Set station.timezone, e.g. Europe/Berlin; to UTC if that is intended.",
        )
    ]
