"""Settings that are read again, at a start or under a running station: what they no longer say, and
what changes.

Knows no station: whoever reads them again decides when, and takes them over.
"""

import os
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from edge.config import Settings, read_settings, settings_of
from edge.contract.errors import ConfigError

# What is withheld or kept by them is out, or gone, if they vanish by mistake.
PROTECTIVE = ("schedule", "clips", "retention", "privacy", "sensitive")
LAST = "settings.last.yaml"  # in the state folder: what a station ran with


@dataclass(frozen=True)
class Reload:
    """Settings as they are now."""

    settings: Settings
    changed: tuple[str, ...]  # dotted keys whose values differ from before
    gone: tuple[str, ...]  # those of them that stood in the file before, and do not any more


def read_at_start(path: Path | None) -> Settings:
    """The settings with which a station may start. Raises ConfigError if they are wrong, or no more
    than the beginning of those with which it ran last: such a file was cut at the end of a line,
    and every other change shows."""
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
            f"{path}: expected the settings of the last start, or changed ones, found no more than "
            f"their beginning, "
            f"without {', '.join(lost)}; it was cut short: put the rest back from "
            f"{settings.config.state / LAST}, "
            "or add a comment at its end to have it so"
        )
    return settings


def keep(settings: Settings) -> None:
    """These are good: a station runs with them. What cannot be written is not compared with at the
    next start."""
    state = settings.config.state
    content = settings.content
    part = state / f"{LAST}.part"
    if not content or _last(state) == content:
        return
    with suppress(OSError):
        with os.fdopen(
            os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb"
        ) as file:  # they say places
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
    """The settings as they stand in the file now. Raises ConfigError if they are wrong, or if a
    setting that protects something has vanished: a file may have been cut at the end of a line, so
    it is taken away by writing its default.
    """
    settings = read_settings(path)
    changed = tuple(changed_keys(settings.config, before.config))
    gone = tuple(key for key in changed if _key_in(key, before) and not _key_in(key, settings))
    lost = [key for key in gone if key.partition(".")[0] in PROTECTIVE]
    if lost:
        raise ConfigError(
            f"{path}: {', '.join(lost)}: was set before, found nothing now; was the file cut "
            f"short? "
            "Write it with its default to take it away, or restart the station"
        )
    return Reload(settings, changed, gone)


def _key_in(key: str, settings: Settings) -> bool:
    """Whether it stands in the file, alone or in its section."""
    return ".".join(key.split(".")[:2]) in settings.given


def changed_keys(value: Any, default: Any, at: str = "") -> list[str]:
    """Dotted names of what differs; a section that is there or not counts as one."""
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
