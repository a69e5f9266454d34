"""What station.yaml says, what of it was changed, and what somebody may have forgotten; and which
program asks."""

import importlib.metadata
import sys
from datetime import datetime, timezone
from pathlib import Path

from edge.check.verdict import CheckResult, Figures
from edge.config import OWN_SETTINGS, SYSTEM_SETTINGS, Config
from edge.contract.strict import parse
from edge.daemon.live import schedule_of
from edge.daemon.reload import changed_keys


def check_program(link: Path = Path("/usr/local/bin/birdstation")) -> list[CheckResult]:
    """Which birdstation this is: what is checked here is worth nothing for another one that is
    installed. `link` is what `make install` leaves for people to type."""
    version = importlib.metadata.version("birdstation")
    folder = Path(__file__).resolve().parents[1]
    found = f"birdstation {version} in {folder}"
    figures: Figures = {"version": version, "folder": str(folder)}
    mine = Path(sys.prefix).resolve()
    installed = link.resolve().parents[1]
    if not link.is_symlink() or (installed == mine and folder.is_relative_to(mine)):
        return [CheckResult("program", "ok", found, figures=figures)]
    advice = (
        f"Type {link} check to check the installed one; sudo make install brings it up to this one."
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
    """Which file, which keys are not at their defaults, and where its paths lead. None: there is no
    file."""
    if path is None:
        found = (
            f"no {OWN_SETTINGS} here and no {SYSTEM_SETTINGS}: all as by default, the record "
            f"in {config.state}"
        )
        advice = (
            "Copy the project's station.yaml, and say who and where the station is: id, "
            "latitude, longitude."
        )
        return [
            CheckResult("settings", "warning", found, advice, figures={"file": None, "set": ""})
        ]
    changed = changed_keys(config, parse(Config, {}, path.resolve().parent))
    found = f"{path.resolve()}; set: {', '.join(changed) or 'nothing, all as by default'}"
    figures: Figures = {"file": str(path.resolve()), "set": ", ".join(changed)}
    if not path.read_bytes().endswith(b"\n"):
        advice = (
            "See whether something is missing behind it; write files anew, whole, then put "
            "them in place (mv)."
        )
        return [
            CheckResult(
                "settings", "warning", f"{found}; its last line has no end", advice, figures=figures
            )
        ]
    return [CheckResult("settings", "ok", found, figures=figures)]


def check_schedule(config: Config) -> list[CheckResult]:
    """When it listens, and when that changes next. Raises ConfigError."""
    schedule = schedule_of(config)
    if not config.schedule:
        return [CheckResult("schedule", "ok", "always listens")]
    now = datetime.now(timezone.utc)
    changes = schedule.changes_after(now)
    is_open = schedule.open_at(now)
    if changes is None and not is_open:
        advice = "Give schedule: periods that come at this place, or [] for always."
        return [CheckResult("schedule", "bad", "will not listen within the next 400 days", advice)]
    at = (
        changes.astimezone(config.zone or timezone.utc).strftime("%Y-%m-%d %H:%M %Z")
        if changes
        else "for ever"
    )
    return [
        CheckResult(
            "schedule",
            "ok",
            f"{len(config.schedule)} periods; {'listens' if is_open else 'rests'} until {at}",
        )
    ]


def check_zone(config: Config) -> list[CheckResult]:
    """Whose days and hours the station counts by."""
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
            "Set station.timezone, e.g. Europe/Berlin; UTC if that is meant.",
        )
    ]
