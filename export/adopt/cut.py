"""The classes of a model for a region: by its geo model around a place, or by a list of the
user."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge.contract.errors import UsageError
from edge.contract.taxonomy import Species
from edge.contract.text import TextError, lines_of, text_of

WEEKS = 48
_EARTH_KM = 6371.0
# Sample points: the place itself, and points on circles at thirds of the radius.
_RINGS = 3
_BEARINGS = 12


def points_around(latitude: float, longitude: float, radius_km: float) -> NDArray[np.float64]:
    """Points `(37, 2)` in degrees: the place, and twelve points on each of three circles around it.

    Great circles on a sphere: Snyder (1987), Map Projections: A Working Manual, equations 5-5 and
    5-6.
    """
    start = np.radians(latitude)
    bearing = np.radians(np.arange(_BEARINGS) * 360.0 / _BEARINGS)
    points = [np.array([[latitude, longitude]])]
    for ring in range(1, _RINGS + 1):
        angle = ring / _RINGS * radius_km / _EARTH_KM
        sine = np.sin(start) * np.cos(angle) + np.cos(start) * np.sin(angle) * np.cos(bearing)
        east = np.sin(angle) * np.sin(bearing)
        turned = np.arctan2(
            east, np.cos(start) * np.cos(angle) - np.sin(start) * np.sin(angle) * np.cos(bearing)
        )
        around = (longitude + np.degrees(turned) + 180.0) % 360.0 - 180.0
        points.append(np.stack([np.degrees(np.arcsin(np.clip(sine, -1, 1))), around], axis=1))
    return np.concatenate(points)


def most_likely(geo: bytes, points: NDArray[np.float64]) -> NDArray[np.float32]:
    """The highest probability of each class `(classes,)` by a geo model (ONNX), over all points and
    weeks."""
    session = ort.InferenceSession(geo, providers=["CPUExecutionProvider"])
    weeks = np.arange(1, WEEKS + 1)
    highest = np.float32(0)
    for latitude, longitude in points:
        places = np.stack(
            [np.full(WEEKS, latitude), np.full(WEEKS, longitude), weeks], axis=1
        ).astype(np.float32)
        highest = np.maximum(
            highest, session.run(["probabilities"], {"place": places})[0].max(axis=0)
        )
    return np.asarray(highest, np.float32)


def listed(path: Path, species: Sequence[Species]) -> set[int]:
    """The classes listed in a file, one code or scientific name per line, or both names as in
    BirdNET's own lists (Turdus merula_Eurasian Blackbird). Raises UsageError naming unknown
    lines."""
    try:
        lines = [line.strip() for line in lines_of(text_of(path.read_bytes()))]
    except (OSError, TextError) as error:
        raise UsageError(f"--species {path}: {error}") from error
    by_name = {s.scientific_name.lower(): i for i, s in enumerate(species)} | {
        s.code: i for i, s in enumerate(species)
    }
    names = {
        line: by_name.get(line.lower(), by_name.get(line.partition("_")[0].lower()))
        for line in lines
        if line
    }
    unknown = [line for line, index in names.items() if index is None]
    if unknown:
        shown = ", ".join(unknown[:5]) + (
            f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        )
        raise UsageError(
            f"--species {path}: neither a code nor a scientific name of the model: {shown}"
        )
    return {index for index in names.values() if index is not None}


def with_what_is_no_bird(kept: set[int], species: Sequence[Species]) -> NDArray[np.int64]:
    """These classes and all classes of people and other sounds, in the order of the model."""
    always = {index for index, one in enumerate(species) if one.kind in ("human", "sound")}
    return np.array(sorted(kept | always), np.int64)
