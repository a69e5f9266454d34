"""The precision of places, and of names that contain them, in everything that leaves this station.
Applied wherever something leaves.

With `sensitive.species` set, no message, clip or page gives a place finer than
`sensitive.decimals`, for any species: a reader of all of them could infer the place from the
others. The record and messages waiting for the broker are exact; the limit is applied on sending,
so that a change of the settings also affects earlier messages.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.capture.place_in_name import without_places
from edge.config import Config
from edge.contract.errors import ConfigError
from edge.types import Place

_EXACT = 6  # decimals of a degree: 0.1 m
_DEGREES = ("latitude", "longitude")
# Text fields of messages that the station itself fills; all others may contain names of files.
_OURS = {
    "schema",
    "id",
    "station",
    "start",
    "end",
    "species_code",
    "scientific_name",
    "common_name",
    "bundle",
    "rule",
    "source",
    "time_source",
    "clock_state",
    "decided_by",
    "version",
    "started",
    "state",
    "runtime",
    "members",
    "time_utc",
    "last_sound_utc",
    "last_detection_utc",
}


def check_sensitive(config: Config, known: Collection[str], database: Path) -> None:
    """Check the codes of sensitive species against those `known` to the record, if it knows any: a
    typing mistake would publish the sound of a protected species. Raises ConfigError."""
    unknown = sorted(set(config.sensitive.species) - set(known))
    if known and unknown:
        raise ConfigError(
            f"sensitive.species: expected codes of the species in {database}, found "
            f"{', '.join(unknown)}; `birdstation species` lists them"
        )


@dataclass(frozen=True)
class Disclosure:
    """Limits under one configuration; by default the strictest."""

    hides: bool = True  # sensitive species may live here
    message_decimals: int = 0  # of degrees
    clip_decimals: int = 0

    @classmethod
    def of(cls, config: Config) -> "Disclosure":
        """The limits of these settings."""
        hides = bool(config.sensitive.species)
        coarse = config.sensitive.decimals
        usual = config.mqtt.place_decimals if config.mqtt else 0
        return cls(hides, min(usual, coarse) if hides else usual, coarse if hides else _EXACT)

    def name(self, name: str) -> str:
        """A path, or a text with paths in it, as it may be disclosed."""
        return without_places(name) if self.hides else name

    def place(self, place: Place | None) -> tuple[float | None, float | None]:
        """Latitude and longitude as messages may give them."""
        if place is None:
            return None, None
        return round(place.latitude, self.message_decimals), round(
            place.longitude, self.message_decimals
        )

    def clip_place(self, place: Place) -> str:
        """Latitude and longitude as a clip may give them."""
        return f"{place.latitude:.{self.clip_decimals}f} {place.longitude:.{self.clip_decimals}f}"

    def payload(self, text: str) -> str:
        """A message of the station as it may leave, whenever and with whatever precision it was
        made.

        Text that is not an object with a schema of ours stays unchanged.
        """
        try:
            payload: Any = json.loads(text)
        except ValueError:
            return text
        if not isinstance(payload, dict) or "schema" not in payload:
            return text
        disclosed = self._disclosed("", payload)
        return text if disclosed == payload else json.dumps(disclosed, ensure_ascii=text.isascii())

    def _disclosed(self, key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self._disclosed(name, part) for name, part in value.items()}
        if isinstance(value, list):
            return [self._disclosed(key, part) for part in value]
        if key in _DEGREES and isinstance(value, float):
            return round(value, self.message_decimals)
        return self.name(value) if isinstance(value, str) and key not in _OURS else value
