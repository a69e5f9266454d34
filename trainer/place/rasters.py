"""Six GeoTIFFs of climate and land cover: values at places, and the compact grid of a station.

Accepts any CRS, resolution, extent, nodata and integer scale. Does not know what the values mean,
nor the model that uses them (metadata.py).
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import rasterio.errors
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.warp import reproject, transform, transform_bounds

from edge.contract.errors import CorpusError
from edge.prior.place import CATEGORY, GRID_STEP_DEG, RASTERS, Grid, Values
from trainer.place.raster_check import RasterExtent, cover_of, impossible

_WGS84 = rasterio.crs.CRS.from_epsg(4326)
_GRID_SHAPE = (int(180 / GRID_STEP_DEG), int(360 / GRID_STEP_DEG))
_CACHE_BYTES = 64 << 20  # for decoded blocks; GDAL's default is a twentieth of the machine's memory
_MEMORY = (
    "not enough memory to read it; free some, or make it coarser: rio warp FILE COARSER --res 0.25 "
    "--resampling average"
)
# The same meridian by other numbers: grids start at -180, -180.375 or 0.
_TURNS = (0.0, 360.0, -360.0)


@dataclass(frozen=True)
class Rasters:
    """A folder with the six layers, each a readable one-band GeoTIFF."""

    folder: Path

    @classmethod
    def open(cls, folder: Path) -> "Rasters":
        """Open a folder of layers. Raises CorpusError naming the first layer that is missing or
        unreadable."""
        if not folder.is_dir():
            raise CorpusError(
                f"{folder}: no such folder; expected one with "
                f"{', '.join(f'{n}.tif' for n in RASTERS)}"
            )
        rasters = cls(folder)
        for name in RASTERS:
            with _layer(rasters.path(name)):
                pass
        return rasters

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.tif"

    def at(self, latitude: Values, longitude: Values) -> dict[str, Values]:
        """Values of each layer at places `(n,)` in degrees WGS84: those of the cells; NaN without
        data."""
        return {name: _sample(self.path(name), latitude, longitude) for name in RASTERS}

    def elevation(self) -> Values:
        """The elevation on the station's grid, to draw land and water on a map."""
        return _warp(self.path("elevation"), "elevation")

    def grid(self) -> Grid:
        """All layers on the station's grid: the category of the nearest cell, the others averaged
        by area."""
        return Grid({name: _warp(self.path(name), name).astype(np.float16) for name in RASTERS})

    def cover(self, grid: Grid, latitude: Values, longitude: Values) -> dict[str, float]:
        """Share of the places `(n,)` in degrees at which each layer of their `grid` has a value.
        Raises CorpusError naming the first layer that does not cover them, and its extent."""
        paths = [self.path(name) for name in grid.layers]
        return cover_of(grid, latitude, longitude, {path: _extent(path) for path in paths})


@contextmanager
def _layer(path: Path) -> Iterator[rasterio.DatasetReader]:
    """Open and check the raster of one layer; errors in reading it become a CorpusError."""
    if not path.is_file():
        raise CorpusError(
            f"{path}: missing; the metadata model needs {', '.join(f'{n}.tif' for n in RASTERS)}"
        )
    try:
        with warnings.catch_warnings():
            # Reported below as an error.
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            opened = rasterio.open(path)
        with rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES), opened as raster:
            if raster.count != 1:
                raise CorpusError(f"{path}: expected a GeoTIFF with one band, found {raster.count}")
            if raster.crs is None:
                raise CorpusError(
                    f"{path}: expected a georeferenced GeoTIFF, found no coordinate reference "
                    "system"
                )
            yield raster
    except MemoryError as error:
        raise CorpusError(f"{path}: {_MEMORY}") from error
    except rasterio.errors.RasterioError as error:
        reason = _MEMORY if _lacks_memory(error) else f"not a readable GeoTIFF: {error}"
        raise CorpusError(f"{path}: {reason}") from error


def _lacks_memory(error: BaseException | None) -> bool:
    """True if GDAL ran out of memory in any of the causes of an error; its class for that is not
    public."""
    while error is not None and type(error).__name__ != "CPLE_OutOfMemoryError":
        error = error.__cause__ or error.__context__
    return error is not None


def _extent(path: Path) -> RasterExtent:
    with _layer(path) as raster:
        return RasterExtent(*transform_bounds(raster.crs, _WGS84, *raster.bounds))


def _nodata(raster: rasterio.DatasetReader) -> float | None:
    if raster.nodata is None and np.issubdtype(raster.dtypes[0], np.floating):
        return float("nan")
    return None if raster.nodata is None else float(raster.nodata)


def _scaled(values: Values, raster: rasterio.DatasetReader) -> Values:
    """Convert stored numbers to values, by the scale and offset of the file (most have none)."""
    return (values * np.float32(raster.scales[0]) + np.float32(raster.offsets[0])).astype(
        np.float32
    )


def _sample(path: Path, latitude: Values, longitude: Values) -> Values:
    values = np.full(len(latitude), np.nan, np.float32)
    if not len(latitude):
        return values
    with _layer(path) as raster:
        places = (np.asarray(v, np.float64) for v in (longitude, latitude))
        x, y = (np.asarray(v, np.float64) for v in transform(_WGS84, raster.crs, *places))
        inverse = ~raster.transform
        for turn in _TURNS if raster.crs.is_geographic else _TURNS[:1]:
            columns = inverse.a * (x + turn) + inverse.b * y + inverse.c
            rows = inverse.d * (x + turn) + inverse.e * y + inverse.f
            with np.errstate(invalid="ignore"):
                inside = np.isnan(values) & (rows >= 0) & (rows < raster.height)
                inside &= (columns >= 0) & (columns < raster.width)
            values[inside] = _cells(raster, rows[inside].astype(int), columns[inside].astype(int))
        return _scaled(values, raster)


def _cells(
    raster: rasterio.DatasetReader, rows: NDArray[np.int_], columns: NDArray[np.int_]
) -> Values:
    """Values of single cells, read in rows of blocks, so that a raster may be larger than the
    memory."""
    values = np.empty(len(rows), np.float32)
    height = max(raster.block_shapes[0][0], 64)
    strips = rows // height
    for strip in np.unique(strips):
        mine = strips == strip
        first = int(columns[mine].min())
        last = int(columns[mine].max()) + 1
        top = int(strip) * height
        window = ((top, min(top + height, raster.height)), (first, last))
        block = raster.read(1, window=window, masked=True).astype(np.float32).filled(np.nan)
        values[mine] = block[rows[mine] - top, columns[mine] - first]
    return values


def _within(first: float, step: float, axis: int, low: float, high: float) -> NDArray[np.bool_]:
    """Mask of the rows (axis 0) or columns (1) of the grid with their centre in the raster: GDAL
    gives a cell that only touches its edge a value from beyond it, without data or from the other
    side of the world."""
    centres = first + step * (np.arange(_GRID_SHAPE[axis]) + 0.5)
    found: NDArray[np.bool_] = (centres >= low) & (centres < high)
    return found


def _warp(path: Path, name: str) -> Values:
    """One layer on the grid. The mean by area of a coarse cell is its value, so nothing is
    interpolated."""
    grid = np.full(_GRID_SHAPE, np.nan, np.float32)
    with _layer(path) as raster:
        for turn in _TURNS if raster.crs.is_geographic else _TURNS[:1]:
            part = np.full(_GRID_SHAPE, np.nan, np.float32)
            reproject(
                rasterio.band(raster, 1),
                part,
                src_nodata=_nodata(raster),
                dst_transform=Affine(GRID_STEP_DEG, 0.0, turn - 180.0, 0.0, -GRID_STEP_DEG, 90.0),
                dst_crs=_WGS84,
                dst_nodata=np.nan,
                resampling=Resampling.nearest if name == CATEGORY else Resampling.average,
            )
            if raster.crs.is_geographic:
                part[
                    :,
                    ~_within(
                        turn - 180.0, GRID_STEP_DEG, 1, raster.bounds.left, raster.bounds.right
                    ),
                ] = np.nan
                part[~_within(90.0, -GRID_STEP_DEG, 0, raster.bounds.bottom, raster.bounds.top)] = (
                    np.nan
                )
            grid = np.where(np.isnan(grid), part, grid)
            if not np.isnan(grid).any():
                break
        values = _scaled(grid, raster)
        wrong = impossible(name, grid, raster.dtypes[0], values)
    if wrong:
        raise CorpusError(f"{path}: {wrong}")
    return values
