"""Input of the metadata model for a place and a day: nine features, and the compact grid that holds
six of them.

Knows no GeoTIFF (trainer/place/rasters.py reads those) and no model.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.contract.arrays import ArraysError, read_arrays
from edge.contract.errors import BundleError

Values = NDArray[np.float32]

RASTERS = ("bio1", "bio12", "bio15", "forest_type", "grass_cover", "elevation")
CATEGORY = "forest_type"
NUMERIC = (
    "bio1",
    "bio12",
    "bio15",
    "grass_cover",
    "day_of_year",
    "longitude",
    "latitude",
    "elevation",
)
GRID_STEP_DEG = 0.25


@dataclass(frozen=True)
class FeatureSpec:
    """Statistics of the training features: for z-scores of the numeric ones, and the known values
    of the category."""

    mean: tuple[float, ...]  # in the order of NUMERIC
    std: tuple[float, ...]
    categories: tuple[int, ...]  # values of forest_type that have a column of their own
    classes: tuple[str, ...]  # species codes in the order of the model's output

    @property
    def names(self) -> list[str]:
        """Columns of `encode`."""
        return [*NUMERIC, *(f"{CATEGORY}={value}" for value in self.categories)]

    def encode(self, columns: Mapping[str, Values]) -> Values:
        """Named columns `(n,)` of NUMERIC and CATEGORY as the model's input `(n, features)`.

        Numeric: z-scored; unknown (NaN) becomes the mean, 0. Category: a column of 0 or 1 for each
        known value.
        """
        numeric = np.stack([np.asarray(columns[name], np.float64) for name in NUMERIC], axis=1)
        z = (numeric - np.asarray(self.mean)) / np.asarray(self.std)
        kind = np.asarray(columns[CATEGORY], np.float64)
        one_hot = kind[:, None] == np.asarray(self.categories, np.float64)[None, :]
        return np.concatenate([np.nan_to_num(z, nan=0.0), one_hot], axis=1).astype(np.float32)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf8")

    @classmethod
    def read(cls, path: Path) -> "FeatureSpec":
        try:
            raw = json.loads(path.read_text(encoding="utf8"))
            spec = cls(*(tuple(raw[key]) for key in ("mean", "std", "categories", "classes")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BundleError(f"{path}: not the statistics of a metadata model: {error}") from error
        if len(spec.mean) != len(NUMERIC) or len(spec.std) != len(NUMERIC):
            raise BundleError(
                f"{path}: expected {len(NUMERIC)} means and deviations, found {len(spec.mean)}"
            )
        return spec


@dataclass(frozen=True)
class Grid:
    """Six rasters on one global grid of GRID_STEP_DEG cells, `(rows, columns)` from 90°N, 180°W;
    NaN means no data."""

    layers: Mapping[str, NDArray[np.float16]]

    def at(self, latitude: Values, longitude: Values) -> dict[str, Values]:
        """Values of all layers at places `(n,)` in degrees, from the cell that contains each
        place."""
        rows, columns = next(iter(self.layers.values())).shape
        row = np.clip(
            ((90.0 - np.asarray(latitude, np.float64)) / GRID_STEP_DEG).astype(int), 0, rows - 1
        )
        column = ((np.asarray(longitude, np.float64) + 180.0) / GRID_STEP_DEG).astype(int) % columns
        return {name: layer[row, column].astype(np.float32) for name, layer in self.layers.items()}

    def write(self, path: Path) -> None:
        arrays: dict[str, Any] = {
            name: np.asarray(layer, np.float16) for name, layer in self.layers.items()
        }
        np.savez_compressed(path, **arrays)

    @classmethod
    def read(cls, path: Path) -> "Grid":
        shape = (int(180 / GRID_STEP_DEG), int(360 / GRID_STEP_DEG))
        try:
            layers = read_arrays(path, RASTERS)
        except ArraysError as error:
            raise BundleError(f"{path}: not a grid of {', '.join(RASTERS)}: {error}") from error
        for name, layer in layers.items():
            if layer.shape != shape:
                raise BundleError(
                    f"{path}: layer {name}: expected shape {shape}, found {layer.shape}"
                )
        return cls(layers)


def place_columns(
    grid: Grid, latitude: Values, longitude: Values, day_of_year: Values
) -> dict[str, Values]:
    """The columns for `FeatureSpec.encode`, with layers taken from the grid. Days count from 1."""
    columns = grid.at(latitude, longitude)
    columns |= {"latitude": latitude, "longitude": longitude, "day_of_year": day_of_year}
    return columns
