"""The six rasters of the metadata model as GeoTIFF, with names, units, types and quirks of the real
ones.

Knows nothing of how the world was made. Grids and extents differ between layers, as they really do.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio

from trainer.demo.world import World
from trainer.files import make_folder

_OWNER_TAG = "BIRDSTATION_DEMO_SEED"


@dataclass(frozen=True)
class RasterLayer:
    """One GeoTIFF: a field of the world, with grid (degrees), data type and value at sea."""

    name: str
    field: str
    unit: str
    cell_deg: float
    west: float
    north: float
    south: float
    dtype: str
    nodata: float


LAYERS = (
    RasterLayer(
        "bio1",
        "temperature_c",
        "degree Celsius",
        0.75,
        -180.375,
        90.375,
        -90.375,
        "float32",
        -9999.0,
    ),
    RasterLayer("bio12", "rain_mm", "mm a year", 0.5, -180.0, 90.0, -90.0, "float32", -9999.0),
    RasterLayer(
        "bio15",
        "rain_cv",
        "coefficient of variation, %",
        0.5,
        -180.0,
        90.0,
        -60.0,
        "float32",
        -9999.0,
    ),
    RasterLayer("elevation", "elevation_m", "m", 0.25, -180.0, 90.0, -90.0, "int16", -32768),
    RasterLayer("forest_type", "cover", "category 1..20", 0.5, -180.0, 84.0, -60.0, "uint8", 0),
    RasterLayer("grass_cover", "grass_percent", "%", 0.5, -180.0, 84.0, -60.0, "uint8", 255),
)


def check_rasters(folder: Path, seed: int) -> bool:
    """True if all six exist for this seed. Raises ValueError if one is of another seed or not the
    demo's."""
    paths = [folder / f"{layer.name}.tif" for layer in LAYERS]
    # A list, so that every file is checked.
    ready = [path.exists() and _made_here(path, seed) for path in paths]
    return all(ready)


def write_rasters(folder: Path, world: World, seed: int) -> None:
    make_folder(folder)
    for layer in LAYERS:
        _write_layer(folder / f"{layer.name}.tif", layer, world, seed)


def _made_here(path: Path, seed: int) -> bool:
    try:
        with rasterio.open(path) as raster:
            owner = raster.tags().get(_OWNER_TAG)
    except rasterio.RasterioIOError:
        owner = None
    if owner is None:
        raise ValueError(
            f"{path} is not a raster of the demo and is left alone: name another folder"
        )
    if owner != str(seed):
        raise ValueError(f"{path} belongs to a demo corpus of seed {owner}: name another folder")
    return True


def _write_layer(path: Path, layer: RasterLayer, world: World, seed: int) -> None:
    values = _on_grid(getattr(world, layer.field), world, layer)
    if np.issubdtype(np.dtype(layer.dtype), np.integer):
        values = np.rint(values)
    values = np.where(np.isnan(values), layer.nodata, values).astype(layer.dtype)
    part = path.with_name(f".{path.name}.part")
    with rasterio.open(
        part,
        "w",
        driver="GTiff",
        height=values.shape[0],
        width=values.shape[1],
        count=1,
        dtype=layer.dtype,
        crs="EPSG:4326",
        nodata=layer.nodata,
        compress="deflate",
        transform=rasterio.Affine(layer.cell_deg, 0, layer.west, 0, -layer.cell_deg, layer.north),
    ) as raster:
        raster.write(values, 1)
        raster.update_tags(**{_OWNER_TAG: str(seed), "UNIT": layer.unit, "SYNTHETIC": "yes"})
    part.replace(path)


def _on_grid(field: np.ndarray, world: World, layer: RasterLayer) -> np.ndarray:
    """The field at the cell centres of a layer, by nearest neighbour."""
    rows = round((layer.north - layer.south) / layer.cell_deg)
    columns = round(360 / layer.cell_deg)
    latitudes = np.clip(layer.north - layer.cell_deg * (np.arange(rows) + 0.5), -90, 90)
    longitudes = layer.west + layer.cell_deg * (np.arange(columns) + 0.5)
    row_of = [world.cell(latitude, 0.0)[0] for latitude in latitudes]
    column_of = [world.cell(0.0, longitude)[1] for longitude in longitudes]
    return field[np.ix_(row_of, column_of)]
