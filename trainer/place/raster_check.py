"""What a layer of climate and land cover cannot be: nodata that nobody declared, values that no
place on earth has, none where the recordings are. Knows no file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge.contract.errors import CorpusError
from edge.prior.place import CATEGORY, Grid, Values

# of the recordings have a value of a layer: with less it is said; coasts alone cost less
COVER_LOW = 0.9
_FLOAT16_MAX = float(np.finfo(np.float16).max)
_MARKS = (
    -32768.0,
    -9999.0,
    -999.0,
    32767.0,
    65535.0,
)  # programs' usual nodata; no layer has one of them often
_OFTEN = 0.001  # of the cells
# In whatever unit layers come: degrees or kelvin, or tenths of them; millimetres; percent or less;
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
    """What is wrong with a layer on the grid: as `stored` in its file as numbers of `dtype`, and as
    `values` by its scale; empty if nothing. A mark is nodata if it is often there and a number of
    its own."""
    known = stored[~np.isnan(stored)]
    for mark in () if name == CATEGORY else _MARKS:
        share = float(np.isclose(known, mark, rtol=1e-5).mean()) if len(known) else 0.0
        if share > _OFTEN:
            return _undeclared(mark, share)
    if dtype == "uint8" and name != CATEGORY and len(known):
        full = float((known > 254.5).mean())
        near = float(((known > 200) & (known <= 254.5)).mean())
        if full > _OFTEN and near < full / 10:  # cells at its edges are means of both sides
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
    """What a file covers, degrees WGS84."""

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
        """Whether it reaches any of the places `(n,)`, its longitudes being -180 to 180, 0 to 360
        or what they are."""
        inside = (latitude >= self.south) & (latitude <= self.north)
        across = [
            (longitude + turn >= self.west) & (longitude + turn <= self.east)
            for turn in (0, 360, -360)
        ]
        return bool((inside & np.logical_or.reduce(across)).any())


def cover_of(
    grid: Grid, latitude: Values, longitude: Values, extents: Mapping[Path, RasterExtent]
) -> dict[str, float]:
    """Share of the places `(n,)` in degrees at which each layer has a value; `extents` are the
    files', in that order.

    Raises CorpusError naming the first layer that is of another part of the world or empty, or the
    first of all if none has any value there. A single one may have none where it reaches: no forest
    stands there, or the sea begins.
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
