"""Rasters of all makes give the same values, and the station's grid gives them again."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from edge.contract.errors import CorpusError
from edge.prior.place import GRID_STEP_DEG, RASTERS, Grid
from tests.helpers.trainer_run import make_rasters, write_raster
from trainer.place.raster_check import RasterExtent
from trainer.place.rasters import Rasters

Layer = Callable[[np.ndarray, np.ndarray], np.ndarray]
PLACES = np.array(
    [(10.12, -84.51), (47.3, 8.6), (-33.9, 151.2), (0.1, 179.9), (64.1, -179.9)], np.float32
)


def plane(latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """A tilted plane that goes over the date line without a step."""
    return np.asarray(latitude + 30 * np.cos(np.radians(longitude)))


def test_values_are_those_of_the_cell(tmp_path: Path) -> None:
    rasters = Rasters.open(make_rasters(tmp_path / "r"))
    found = rasters.at(PLACES[:, 0], PLACES[:, 1])
    cells = np.floor(PLACES) + 0.5
    assert set(found) == set(RASTERS)
    assert np.allclose(found["bio1"], 10 + cells[:, 0] / 10 + cells[:, 1] / 100, atol=1e-4)
    assert found["forest_type"].tolist() == [3, 5, 5, 5, 3]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cell": 0.75, "west": -180.375, "north": 90.375, "rows": 241},
        {"cell": 0.5, "west": 0.0, "rows": 360},
        {"cell": 0.5, "rows": 300, "north": 84.0},
        {"cell": 0.25, "rows": 720, "dtype": "int16", "nodata": -32768},
        {"cell": 0.125, "rows": 1440},
    ],
    ids=[
        "one degree",
        "starts at -180.375",
        "starts at 0",
        "no poles",
        "integers",
        "finer than the grid",
    ],
)
def test_grid_equals_raster_away_from_cell_borders(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    folder = make_rasters(tmp_path / "r")
    write_raster(folder / "bio1.tif", plane, **changes)
    rasters = Rasters.open(folder)
    grid = rasters.grid()
    cell = float(changes.get("cell", 1.0))  # type: ignore[arg-type]
    coarse = max(cell, GRID_STEP_DEG)
    west, north = (float(changes.get(k, d)) for k, d in (("west", -180.0), ("north", 90.0)))  # type: ignore[arg-type]
    rows, columns = np.meshgrid(
        np.arange(40, 200, 7), np.arange(0, 360 / coarse, 11), indexing="ij"
    )
    latitude = (north - coarse * (rows.ravel() + 0.5)).astype(np.float32)
    longitude = (west + coarse * (columns.ravel() + 0.5) + 180) % 360 - 180
    inside = (np.abs(latitude) < 60) & (np.abs(longitude) < 179.5)
    latitude = latitude[inside]
    longitude = longitude[inside].astype(np.float32)
    raster = rasters.at(latitude, longitude)["bio1"]
    found = grid.at(latitude, longitude)["bio1"]
    assert len(raster) > 100
    assert not np.isnan(raster).any()
    # of finer cells the grid has the mean; else only float16 differs
    step = 0.2 if cell < GRID_STEP_DEG else 0.04
    assert np.abs(raster - found).max() < step


def test_both_sides_of_the_date_line_have_data(tmp_path: Path) -> None:
    folder = make_rasters(tmp_path / "r")
    write_raster(folder / "bio1.tif", plane, cell=0.75, west=-180.375, north=90.375, rows=241)
    rasters = Rasters.open(folder)
    layer = rasters.grid().layers["bio1"].astype(np.float32)
    assert not np.isnan(layer).any()
    assert np.abs(layer[:, 0] - layer[:, -1]).max() < 0.1
    edge = np.array([179.99, -179.99], np.float32)
    assert not np.isnan(rasters.at(np.zeros(2, np.float32), edge)["bio1"]).any()


@pytest.mark.parametrize(
    "shape",
    [
        {"cell": 1.0},
        {"cell": 0.5, "rows": 360},
        {"cell": 0.25, "rows": 720, "dtype": "int16", "nodata": -9999},
        {"cell": 1.0, "west": 0.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("east", [True, False])
def test_a_cell_without_data_takes_nothing_from_across_the_date_line(
    tmp_path: Path, shape: dict[str, object], east: bool
) -> None:
    empty = shape.get("nodata", np.nan)
    folder = make_rasters(tmp_path / "r")
    side = 1 if east else -1  # the one that has no data
    value = lambda _, lon: np.where(side * ((lon + 180) % 360 - 180) > 0, empty, 5)  # noqa: E731
    write_raster(folder / "bio1.tif", value, **shape)
    layer = Rasters.open(folder).grid().layers["bio1"]
    half = layer.shape[1] // 2
    with_data, without = (
        (layer[:, :half], layer[:, half:]) if east else (layer[:, half:], layer[:, :half])
    )
    assert np.isnan(without).all()
    assert (with_data == 5).all()


def test_nodata_is_nan_in_both(tmp_path: Path) -> None:
    folder = make_rasters(tmp_path / "r")
    write_raster(
        folder / "elevation.tif",
        lambda _, lon: np.where(lon < 0, -9999, 100),
        dtype="int16",
        nodata=-9999,
    )
    write_raster(folder / "bio12.tif", lambda _, lon: np.where(lon < 0, np.nan, 7.0))
    rasters = Rasters.open(folder)
    latitude = np.zeros(2, np.float32)
    longitude = np.array([-50.0, 50.0], np.float32)
    for found in (rasters.at(latitude, longitude), rasters.grid().at(latitude, longitude)):
        for name, value in (("elevation", 100.0), ("bio12", 7.0)):
            assert np.isnan(found[name][0])
            assert found[name][1] == value


def test_projected_raster_covers_its_part_only(tmp_path: Path) -> None:
    """bio15 in an equal-area projection around Costa Rica (EPSG:6933, metres)."""
    folder = make_rasters(tmp_path / "r")
    with rasterio.open(
        folder / "bio15.tif",
        "w",
        driver="GTiff",
        height=100,
        width=100,
        count=1,
        dtype="float32",
        crs="EPSG:6933",
        transform=Affine(10_000, 0, -8_650_000, 0, -10_000, 1_800_000),
        nodata=-1.0,
    ) as raster:
        raster.write(np.full((100, 100), 42.0, np.float32), 1)
    rasters = Rasters.open(folder)
    for found in (
        rasters.at(PLACES[:2, 0], PLACES[:2, 1]),
        rasters.grid().at(PLACES[:2, 0], PLACES[:2, 1]),
    ):
        assert found["bio15"][0] == 42.0
        assert np.isnan(found["bio15"][1])


def test_scale_of_the_file_is_applied(tmp_path: Path) -> None:
    folder = make_rasters(tmp_path / "r")
    write_raster(folder / "bio1.tif", lambda _, lon: 251 + 0 * lon, dtype="int16")
    with rasterio.open(folder / "bio1.tif", "r+") as raster:
        raster.scales = (0.1,)
    rasters = Rasters.open(folder)
    here = np.zeros(1, np.float32)
    assert np.isclose(rasters.at(here, here)["bio1"][0], 25.1)
    assert np.isclose(rasters.grid().at(here, here)["bio1"][0], 25.1, atol=0.02)


def test_integers_with_scale_offset_and_nodata(tmp_path: Path) -> None:
    """Tenths of a kelvin, as some archives keep them: the nodata value is no temperature, whatever
    its scale."""
    folder = make_rasters(tmp_path / "r")
    tenths = {
        "dtype": "int16",
        "nodata": -32768,
        "cell": 0.75,
        "west": -180.375,
        "north": 90.375,
        "rows": 241,
    }
    write_raster(folder / "bio1.tif", lambda _, lon: np.where(lon < 0, -32768, 2981), **tenths)
    with rasterio.open(folder / "bio1.tif", "r+") as raster:
        raster.scales = (0.1,)
        raster.offsets = (-273.15,)
    rasters = Rasters.open(folder)
    latitude = np.zeros(2, np.float32)
    longitude = np.array([-50.0, 50.0], np.float32)
    for found in (
        rasters.at(latitude, longitude)["bio1"],
        rasters.grid().at(latitude, longitude)["bio1"],
    ):
        assert np.isnan(found[0])
        assert np.isclose(found[1], 24.95, atol=0.02)


def test_grid_file_reads_back(tmp_path: Path) -> None:
    grid = Rasters.open(make_rasters(tmp_path / "r")).grid()
    grid.write(tmp_path / "grid.npz")
    again = Grid.read(tmp_path / "grid.npz")
    assert all(
        np.array_equal(again.layers[name], grid.layers[name], equal_nan=True) for name in RASTERS
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "elevation.tif: missing"),
        (
            lambda path: path.write_bytes(b"II*\0 not a picture"),
            "elevation.tif: not a readable GeoTIFF",
        ),
        (
            lambda path: write_raster(path, plane, crs=None),
            "elevation.tif: expected a georeferenced GeoTIFF",
        ),
    ],
    ids=["missing", "broken", "not georeferenced"],
)
def test_a_layer_that_cannot_be_used_is_named(tmp_path: Path, spoil, message: str) -> None:  # type: ignore[no-untyped-def]
    folder = make_rasters(tmp_path / "r")
    spoil(folder / "elevation.tif")
    with pytest.raises(CorpusError, match=message) as error:
        Rasters.open(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "dtype", "nodata", "message"),
    [
        (
            "bio12",
            -3.4e38,
            "float32",
            None,
            "expected values of -100 to 65504, found -3.4e+38 (nodata not declared?)",
        ),
        (
            "bio1",
            np.inf,
            "float32",
            None,
            "expected values of -700 to 3500, found inf (nodata not declared?)",
        ),
        (
            "bio1",
            -9999,
            "float32",
            None,
            "found -9999 in 50.0% of its cells; if that is nodata, declare it: rio edit",
        ),
        ("elevation", -9999, "int16", -32768, "found -9999 in 50.0% of its cells"),
        ("elevation", -32768, "int16", None, "found -32768 in 50.0% of its cells"),
        ("bio15", 65535, "uint16", None, "found 65535 in 50.0% of its cells"),
        ("grass_cover", 255, "uint8", None, "found 255 in 50.0% of its cells"),
        ("elevation", 255, "uint8", 0, "found 255 in 50.0% of its cells"),
    ],
)
def test_nodata_that_nobody_declared_is_refused(
    tmp_path: Path, name: str, value: float, dtype: str, nodata: float | None, message: str
) -> None:
    """Also where another mark is declared."""
    folder = make_rasters(tmp_path / "r")
    west = lambda _, lon: np.where(lon < 0, value, 50)  # noqa: E731
    write_raster(folder / f"{name}.tif", west, dtype=dtype, nodata=nodata)
    with pytest.raises(CorpusError) as refused:
        Rasters.open(folder).grid()
    assert str(refused.value).startswith(f"{folder / name}.tif: ")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "dtype"),
    [
        ("elevation", lambda lat, lon: np.where(lon < 0, -9999 + lat, 100 * lat), "float32"),
        ("bio1", lambda lat, lon: 2731 + lat + 0 * lon, "int16"),
        ("grass_cover", lambda lat, lon: np.clip(180 + lat + lon, 0, 255), "uint8"),
        ("forest_type", lambda _, lon: np.where(lon < 0, 255, 3), "uint8"),
    ],
    ids=["sea floor", "tenths of a kelvin", "of 255", "a kind of forest"],
)
def test_values_that_places_have_are_taken(
    tmp_path: Path, name: str, value: Layer, dtype: str
) -> None:
    folder = make_rasters(tmp_path / "r")
    write_raster(folder / f"{name}.tif", value, dtype=dtype)
    assert not np.isnan(Rasters.open(folder).grid().layers[name]).any()


def test_layers_that_miss_the_recordings_are_refused(tmp_path: Path) -> None:
    """Of another part of the world, empty, or all of them without a value there, each with its
    extent. A single one may have none where it reaches."""
    folder = make_rasters(tmp_path / "r")
    rasters = Rasters.open(folder)
    here = np.array([10.0, 12.0], np.float32)
    there = np.array([-80.0, -70.0], np.float32)
    cover = lambda: rasters.cover(rasters.grid(), here, there)  # noqa: E731
    assert cover() == dict.fromkeys(RASTERS, 1.0)
    where = (
        "expected values where the recordings are (latitude 10.0 to 12.0, longitude -80.0 to "
        "-70.0), found"
    )
    world = "(latitude -90.0 to 90.0, longitude -180.0 to 180.0)"

    def refused() -> str:
        with pytest.raises(CorpusError) as error:
            cover()
        return str(error.value).removeprefix(f"{folder}/")

    write_raster(folder / "bio15.tif", lambda lat, _: np.where(lat > 11, np.nan, 5))
    write_raster(folder / "bio12.tif", lambda _, lon: np.where(lon < 0, np.nan, 5))
    write_raster(
        folder / "forest_type.tif", lambda _, lon: np.where(lon < 0, 0, 5), dtype="uint8", nodata=0
    )
    assert cover() == dict.fromkeys(RASTERS, 1.0) | {"bio15": 0.5, "bio12": 0.0, "forest_type": 0.0}
    write_raster(folder / "bio12.tif", lambda *_: np.array(np.nan))
    assert refused().startswith(
        f"bio12.tif {world}: {where} not a single value; give --rasters that cover them"
    )
    write_raster(folder / "bio12.tif", lambda *_: np.array(5), north=0.0, rows=40)
    assert refused().startswith(
        f"bio12.tif (latitude -40.0 to 0.0, longitude -180.0 to 180.0): {where} none; give"
    )
    for name in RASTERS:
        write_raster(folder / f"{name}.tif", lambda _, lon: np.where(lon < 0, np.nan, 5))
    assert refused().startswith(
        f"bio1.tif {world}: {where} none; give --rasters that cover them, or none"
    )


def test_an_extent_knows_a_meridian_by_its_other_names() -> None:
    west = np.array([-75.0], np.float32)
    east = np.array([150.0], np.float32)
    zero = np.zeros(1, np.float32)
    full = RasterExtent(0, -90, 360, 90)
    america = RasterExtent(260, -20, 300, 20)
    assert full.holds_any(zero, west)
    assert america.holds_any(zero, west)
    assert not america.holds_any(zero, east)
    assert not america.holds_any(zero + 30, west)


_LITTLE = """
import resource, sys
from pathlib import Path
from trainer.place.rasters import Rasters
rasters = Rasters(Path(sys.argv[1]))
status = open("/proc/self/status")
before = next(int(line.split()[1]) for line in status if line.startswith("VmData"))
limit = (before << 10) + (int(sys.argv[2]) << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
print(float(rasters.elevation().max()))
"""


def test_a_layer_larger_than_the_memory_is_read_and_a_lack_of_it_is_said(tmp_path: Path) -> None:
    """256 MB of cells in 200 MB; in 40 MB GDAL cannot even warp a block."""
    with rasterio.open(
        tmp_path / "elevation.tif",
        "w",
        driver="GTiff",
        height=8_000,
        width=16_000,
        count=1,
        dtype="int16",
        crs="EPSG:4326",
        transform=Affine(0.0225, 0, -180, 0, -0.0225, 90),
        tiled=True,
        blockxsize=512,
        blockysize=512,
        compress="deflate",
        sparse_ok=True,
    ) as raster:
        raster.write(np.full((512, 512), 7, np.int16), 1, window=((512, 1024), (512, 1024)))
    command = [sys.executable, "-c", _LITTLE, str(tmp_path)]
    done = subprocess.run([*command, "200"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "7.0\n"), done.stderr
    done = subprocess.run([*command, "40"], capture_output=True, text=True)
    assert (
        "elevation.tif: not enough memory to read it; free some, or make it coarser: rio warp"
        in done.stderr
    )


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such folder"):
        Rasters.open(tmp_path / "nowhere")
