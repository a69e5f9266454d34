"""Settings read again, at a start or while the station runs: finds changed keys and keys lost by
accident.

Knows no station: the caller decides when to read, and applies the settings.
"""

import os
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from edge.config import Settings, read_settings, settings_of
from edge.contract.errors import ConfigError

# sections whose accidental loss would disclose or delete something
PROTECTIVE = ("schedule", "clips", "retention", "privacy", "sensitive")
LAST = "settings.last.yaml"  # in the state folder: the settings of the last run


@dataclass(frozen=True)
class Reload:
    """Settings as read again."""

    settings: Settings
    changed: tuple[str, ...]  # dotted keys whose values differ from before
    gone: tuple[str, ...]  # changed keys that are no longer in the file


def read_at_start(path: Path | None) -> Settings:
    """The settings for a start. Raises ConfigError if they are wrong, or if they are only the
    beginning of the settings of the last run and values are lost: then the file was cut short at
    the end of a line."""
    settings = read_settings(path)
    last = _last(settings.config.state)
    if path is None or not last.startswith(settings.content):
        return settings
    try:
        lost = list(changed_keys(settings.config, settings_of(path, last).config))
    except ConfigError:  # of another version
        return settings
    if lost:
        raise ConfigError(
            f"{path}: expected complete settings, found only the beginning of those of the last "
            f"start, without {', '.join(lost)}; the file was cut short: restore the rest from "
            f"{settings.config.state / LAST}, or, if this is intended, add a comment at its end"
        )
    return settings


def keep(settings: Settings) -> None:
    """Keep a copy of the settings that the station runs with, for `read_at_start`. Errors are
    ignored; then the next start has nothing to compare with."""
    state = settings.config.state
    content = settings.content
    part = state / f"{LAST}.part"
    if not content or _last(state) == content:
        return
    with suppress(OSError):
        # readable for the owner only, since they contain places
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(state / LAST)


def _last(state: Path) -> bytes:
    try:
        return (state / LAST).read_bytes()
    except OSError:
        return b""


def read_again(path: Path | None, before: Settings) -> Reload:
    """Read the settings file again. Raises ConfigError if the settings are wrong, or if a
    protective setting has vanished from the file, which may have been cut short; to remove such a
    setting, its default must be written."""
    settings = read_settings(path)
    changed = tuple(changed_keys(settings.config, before.config))
    gone = tuple(key for key in changed if _key_in(key, before) and not _key_in(key, settings))
    lost = [key for key in gone if key.partition(".")[0] in PROTECTIVE]
    if lost:
        raise ConfigError(
            f"{path}: {', '.join(lost)}: set before, now missing; was the file cut short? To "
            "remove a setting, write its default value, or restart the station"
        )
    return Reload(settings, changed, gone)


def _key_in(key: str, settings: Settings) -> bool:
    """True if the key is in the file, alone or in its section."""
    return ".".join(key.split(".")[:2]) in settings.given


def changed_keys(value: Any, default: Any, at: str = "") -> list[str]:
    """Dotted keys that differ. An optional section that only one side has counts as one key."""
    changed = []
    for field in fields(value):
        name = f"{at}{field.name}"
        one = getattr(value, field.name)
        other = getattr(default, field.name)
        if is_dataclass(one) and is_dataclass(other):
            changed += changed_keys(one, other, f"{name}.")
        elif one != other:
            changed.append(name)
    return changed
