"""Checks of a layer of climate or land cover: undeclared nodata, impossible values, no values at
the recordings. Knows no file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge.contract.errors import CorpusError
from edge.prior.place import CATEGORY, Grid, Values

# Share of the recordings with a value of a layer below which to warn; coasts alone stay above it.
COVER_LOW = 0.9
_FLOAT16_MAX = float(np.finfo(np.float16).max)
# Usual nodata values of programs; no layer has any of them often.
_MARKS = (-32768.0, -9999.0, -999.0, 32767.0, 65535.0)
_OFTEN = 0.001  # of the cells
# Limits for any unit in use: degrees or kelvin, or tenths of them; millimetres; percent or less;
# metres or feet.
_POSSIBLE = {
    "bio1": (-700.0, 3500.0),
    "bio12": (-100.0, _FLOAT16_MAX),
    "bio15": (-100.0, _FLOAT16_MAX),
    "grass_cover": (-100.0, _FLOAT16_MAX),
    "elevation": (-12_000.0, 30_000.0),
    CATEGORY: (-_FLOAT16_MAX, _FLOAT16_MAX),
}


def impossible(name: str, stored: Values, dtype: str, values: Values) -> str:
    """The problem of a layer on the grid, or an empty text: `stored` are the numbers of type
    `dtype` in its file, `values` those numbers by its scale. A mark counts as nodata if it is
    frequent and set apart from other values."""
    known = stored[~np.isnan(stored)]
    for mark in () if name == CATEGORY else _MARKS:
        share = float(np.isclose(known, mark, rtol=1e-5).mean()) if len(known) else 0.0
        if share > _OFTEN:
            return _undeclared(mark, share)
    if dtype == "uint8" and name != CATEGORY and len(known):
        full = float((known > 254.5).mean())
        near = float(((known > 200) & (known <= 254.5)).mean())
        if full > _OFTEN and near < full / 10:  # cells at edges of nodata are means of both sides
            return _undeclared(255.0, full)
    low, high = _POSSIBLE[name]
    good = np.isnan(values) | ((values >= low) & (values <= high))
    if not good.all():
        found = float(values[~good][0])
        return f"expected values of {low:g} to {high:g}, found {found:g} (nodata not declared?)"
    return ""


def _undeclared(mark: float, share: float) -> str:
    return (
        f"expected values, or nodata that is declared, found {mark:g} in {share:.1%} of its cells; "
        f"if that is nodata, declare it: rio edit-info --nodata {mark:g} FILE"
    )


@dataclass(frozen=True)
class RasterExtent:
    """The extent of a file in degrees WGS84."""

    west: float
    south: float
    east: float
    north: float

    def __str__(self) -> str:
        span = (
            f"latitude {self.south:.1f} to {self.north:.1f}, longitude {self.west:.1f} to "
            f"{self.east:.1f}"
        )
        return f"({span})"

    def holds_any(self, latitude: Values, longitude: Values) -> bool:
        """True if it contains any of the places `(n,)`, whatever range its longitudes have: -180 to
        180, 0 to 360 or another."""
        inside = (latitude >= self.south) & (latitude <= self.north)
        across = [
            (longitude + turn >= self.west) & (longitude + turn <= self.east)
            for turn in (0, 360, -360)
        ]
        return bool((inside & np.logical_or.reduce(across)).any())


def cover_of(
    grid: Grid, latitude: Values, longitude: Values, extents: Mapping[Path, RasterExtent]
) -> dict[str, float]:
    """Share of the places `(n,)` in degrees at which each layer has a value; `extents` are those of
    the files, in the same order.

    Raises CorpusError naming the first layer that covers another part of the world or is empty, or
    the first of all if none has any value there. A single layer may lack values within its extent,
    for example at sea.
    """
    found = grid.at(latitude, longitude)
    cover = {name: round(float((~np.isnan(values)).mean()), 4) for name, values in found.items()}
    here = RasterExtent(longitude.min(), latitude.min(), longitude.max(), latitude.max())
    for (name, share), (path, extent) in zip(cover.items(), extents.items(), strict=True):
        empty = bool(np.isnan(grid.layers[name]).all())
        if share or not (
            empty or not any(cover.values()) or not extent.holds_any(latitude, longitude)
        ):
            continue
        raise CorpusError(
            f"{path} {extent}: expected values where the recordings are {here}, found "
            f"{'not a single value' if empty else 'none'}; give --rasters that cover them, or none"
        )
    return cover
