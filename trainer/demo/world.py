"""An invented Earth: land, relief, climate and cover on one grid, modelled on the real continents.

Knows nothing of files (layers.py) or of birds (fauna.py). Rows run southwards, columns from 180 W
eastwards.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import fft, ndimage

from trainer.demo.seeds import stream

CELL_DEG = 0.25
ROWS = int(180 / CELL_DEG)
COLUMNS = int(360 / CELL_DEG)

# lon, lat, half-width and half-height in degrees
_CONTINENTS = [
    (-102, 47, 27, 17),
    (-115, 62, 34, 9),
    (-84, 37, 11, 9),
    (-103, 24, 9, 8),
    (-88, 14, 7, 4),
    (-61, -8, 18, 15),
    (-65, -28, 9, 17),
    (-70, -46, 4, 9),
    (-76, 4, 6, 7),
    (9, 49, 14, 7),
    (-4, 40, 6, 5),
    (16, 63, 9, 7),
    (33, 54, 20, 12),
    (20, 43, 9, 6),
    (85, 56, 55, 15),
    (105, 33, 18, 12),
    (78, 22, 8, 11),
    (47, 29, 14, 10),
    (125, 60, 30, 10),
    (6, 19, 22, 13),
    (25, -8, 13, 25),
    (134, -25, 18, 10),
    (-42, 73, 13, 9),
]

# height in metres, then the ridge as lon, lat pairs
_RANGES: list[tuple[float, list[tuple[float, float]]]] = [
    (2900, [(-150, 63), (-128, 57), (-117, 50), (-110, 43), (-106, 36), (-104, 26), (-99, 19)]),
    (2400, [(-122, 48), (-120, 40), (-118, 36)]),
    (1000, [(-84, 34), (-79, 39), (-74, 44)]),
    (4300, [(-75, 8), (-78, -1), (-76, -10), (-68, -18), (-68, -28), (-70, -37), (-72, -46)]),
    (1100, [(-43, -22), (-45, -15)]),
    (2700, [(5, 45), (10, 46.5), (15, 47)]),
    (1700, [(-1, 42.5), (2, 42.5)]),
    (1500, [(8, 60), (14, 65), (20, 69)]),
    (1600, [(20, 49), (25, 46)]),
    (5500, [(72, 36), (82, 31), (94, 30), (102, 33)]),
    (2300, [(38, 8), (36, -2), (34, -12), (29, -28)]),
]


@dataclass(frozen=True)
class World:
    """Fields of the world as arrays of ROWS x COLUMNS, float32 with NaN over the sea, and the mask
    `land`."""

    land: np.ndarray
    elevation_m: np.ndarray
    temperature_c: np.ndarray
    rain_mm: np.ndarray
    rain_cv: np.ndarray
    cover: np.ndarray  # category 1..20, the legend of the global land cover map
    grass_percent: np.ndarray

    def cell(self, latitude: float, longitude: float) -> tuple[int, int]:
        row = int((90.0 - latitude) / CELL_DEG)
        return min(row, ROWS - 1), int((longitude + 180.0) / CELL_DEG) % COLUMNS


def cell_centres() -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of cell centres in degrees: latitudes as a column, longitudes as a row."""
    latitudes = 90.0 - CELL_DEG * (np.arange(ROWS) + 0.5)
    longitudes = -180.0 + CELL_DEG * (np.arange(COLUMNS) + 0.5)
    return latitudes[:, None].astype(np.float32), longitudes[None, :].astype(np.float32)


def make_world(seed: int) -> World:
    latitudes, _ = cell_centres()
    rough = _fractal(seed, "relief", 3.2)
    patchy = _fractal(seed, "climate", 2.8)
    shore = _continents() + 0.22 * rough
    land = (shore > 0) & (latitudes > -60)
    elevation = np.where(land, _relief(shore, rough), 0).astype(np.float32)
    temperature = (
        27.5 - 40 * np.abs(np.sin(np.radians(latitudes))) ** 2.2 - 0.0058 * elevation + 1.2 * patchy
    )
    rain = _rain(land, elevation, latitudes, patchy)
    cv = (
        28
        + 75 * np.exp(-(((np.abs(latitudes) - 16) / 8) ** 2))
        + 12 * patchy
        + 25 * np.exp(-rain / 300)
    )
    cv = np.clip(cv, 5, 160)
    cover = _cover(temperature, rain, _fractal(seed, "fields", 1.8))
    grass = 85 * np.exp(-(((rain - 560) / 420) ** 2)) * (temperature > -4) + 8 * rough
    grass = np.clip(np.where(np.isin(cover, (1, 2, 3, 4, 5)), 0.35 * grass, grass), 0, 100)
    layers = (elevation, temperature, rain, cv, cover, grass)
    return World(land, *(np.where(land, layer, np.nan).astype(np.float32) for layer in layers))


def _fractal(seed: int, name: str, slope: float) -> np.ndarray:
    """Noise of zero mean and unit deviation, with a power-law spectrum."""
    white = stream(seed, "world", name).standard_normal((ROWS, COLUMNS), dtype=np.float32)
    rows = fft.fftfreq(ROWS) * ROWS / 2
    columns = fft.rfftfreq(COLUMNS) * COLUMNS / 2
    waves = np.maximum(np.hypot(rows[:, None], columns[None, :]), 2.0)
    field = fft.irfft2(fft.rfft2(white) * waves.astype(np.float32) ** (-slope / 2), s=white.shape)
    return np.asarray((field - field.mean()) / field.std(), dtype=np.float32)


def _continents() -> np.ndarray:
    """A field that is positive on land, about 1 in the middle of a continent, and falls to -1 in
    the open sea."""
    latitudes, longitudes = cell_centres()
    shore = np.full((ROWS, COLUMNS), -1.0, dtype=np.float32)
    for lon, lat, width, height in _CONTINENTS:
        shore = np.maximum(
            shore, 1 - np.hypot((longitudes - lon) / width, (latitudes - lat) / height)
        )
    return np.asarray(shore)


def _relief(shore: np.ndarray, rough: np.ndarray) -> np.ndarray:
    latitudes, longitudes = cell_centres()
    relief = 40 + 350 * np.clip(shore, 0, 1) + 220 * np.abs(rough)
    for height_m, ridge in _RANGES:
        distance = np.full((ROWS, COLUMNS), np.inf, dtype=np.float32)
        for (lon0, lat0), (lon1, lat1) in pairwise(ridge):
            along = ((longitudes - lon0) * (lon1 - lon0) + (latitudes - lat0) * (lat1 - lat0)) / (
                (lon1 - lon0) ** 2 + (lat1 - lat0) ** 2
            )
            along = np.clip(along, 0, 1)
            east = longitudes - lon0 - along * (lon1 - lon0)
            north = latitudes - lat0 - along * (lat1 - lat0)
            distance = np.minimum(distance, np.hypot(east, north))
        relief = relief + height_m * np.exp(-((distance / 3.2) ** 2)) * np.clip(
            0.75 + 0.3 * rough, 0.2, 1.4
        )
    return np.asarray(np.clip(relief, 1, 7500))


def _rain(
    land: np.ndarray, elevation: np.ndarray, latitudes: np.ndarray, patchy: np.ndarray
) -> np.ndarray:
    """Annual rain: belts by latitude, drier inland, wetter on western slopes."""
    belts = (
        90
        + 2300 * np.exp(-((latitudes / 11) ** 2))
        + 850 * np.exp(-(((np.abs(latitudes) - 47) / 13) ** 2))
    )
    inland = ndimage.gaussian_filter(land.astype(np.float32), 24, mode=("nearest", "wrap"))
    windward = (
        ndimage.sobel(ndimage.gaussian_filter(elevation, 3, mode=("nearest", "wrap")), axis=1) / 800
    )
    rain = belts * (1.25 - 0.55 * inland) * np.exp(0.3 * patchy) * np.clip(1 + windward, 0.5, 2.0)
    return np.asarray(np.clip(rain, 2, 9000))


def _cover(temperature: np.ndarray, rain: np.ndarray, fields: np.ndarray) -> np.ndarray:
    """Land-cover category from climate; the first rule that applies wins."""
    rules = [
        (temperature < -11, 19),
        (rain < 110, 17),
        (rain < 220, 10),
        (temperature < -8, 8),
        ((fields > 1.7) & (temperature > 4), 11),
        ((temperature > 19) & (rain > 1350), 1),
        ((temperature > 19) & (rain > 800), 6),
        ((temperature > 17) & (rain > 420), 9),
        (temperature > 17, 7),
        (rain < 420, 8),
        (temperature > 8, 2),
        (temperature > 3, 5),
        (temperature > -5, 3),
    ]
    return np.select(
        [condition for condition, _ in rules], [category for _, category in rules], default=4
    )
