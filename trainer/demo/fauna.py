"""The invented birds: names, ranges on the invented Earth, seasons, and song types.

Species 0 and 1 sing the same song and never meet (west and east of North America): only the place
distinguishes them. Knows nothing of recordings; of sound it provides the Voice alone.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from trainer.demo.seeds import stream
from trainer.demo.song import Voice, make_voice, vary
from trainer.demo.world import CELL_DEG, World, cell_centres

SPECIES_MAX = 40
LIVES_AT = 0.2  # minimum share of the suitability of the best place
SINGS_AT = 0.35  # minimum share of the activity on the best day
_DAYS = 365
_ADJECTIVES = (
    *("Amber", "Brindled", "Cobalt", "Dusky", "Elfin", "Fictive", "Gilded", "Hazel", "Indigo"),
    *("Jaunty", "Keen", "Lunar", "Mottled", "Notional", "Ochre", "Pallid", "Quiet", "Russet"),
    *("Sable", "Tawny", "Umber", "Vivid", "Whimsical", "Xeric", "Yonder", "Zebra", "Arcane"),
    *("Bogus", "Copper", "Dapper", "Ember", "Fabled", "Ghostly", "Hollow", "Ivory", "Jolly"),
    *("Kindly", "Lucid"),
)
_KINDS = (
    ("Testwren", "Testornis"),
    ("Mockfinch", "Mockaria"),
    ("Simthrush", "Simulatrix"),
    ("Protowarbler", "Prototypus"),
    ("Draftlark", "Draftula"),
    ("Trialpipit", "Trialis"),
)
_LOOK_ALIKES = (
    ("Westerly Echobird", "Echornis occidens"),
    ("Easterly Echobird", "Echornis oriens"),
)
_FOREST = (1, 2, 3, 4, 5, 6)
_OPEN = (6, 7, 8, 9, 10, 11)


@dataclass(frozen=True)
class SpeciesRange:
    """The range of a species: ellipse in degrees, altitude in metres with its spread, preferred
    cover categories, limits of longitude."""

    longitude: float
    latitude: float
    width_deg: float
    height_deg: float
    altitude_m: float
    altitude_spread_m: float
    cover: tuple[int, ...]
    west_limit: float = -180.0
    east_limit: float = 180.0


@dataclass(frozen=True)
class Bird:
    """One demo species; `peak_day` and `season_days` (standard deviation) define its song
    season."""

    code: str
    common_name: str
    scientific_name: str
    home: SpeciesRange
    peak_day: int
    season_days: float
    voice: Voice
    has_dialects: bool


@dataclass(frozen=True)
class DemoPlace:
    latitude: float
    longitude: float


# The first eight; more are drawn around the same three areas.
_HOMES = (
    (SpeciesRange(-116, 43, 14, 10, 1300, 1500, _FOREST + _OPEN, east_limit=-103), 150),
    (SpeciesRange(-80, 40, 14, 10, 450, 900, _FOREST + _OPEN, west_limit=-92), 150),
    (SpeciesRange(-98, 42, 22, 9, 500, 700, (*_OPEN, 2, 5)), 120),
    (SpeciesRange(-72, -12, 8, 18, 1500, 1200, _FOREST + _OPEN), 330),
    (SpeciesRange(-62, -10, 13, 14, 300, 500, (1, 6, 9, 2)), 10),
    (SpeciesRange(10, 47, 13, 6, 1000, 700, (2, 3, 5)), 165),
    (SpeciesRange(16, 52, 18, 9, 250, 350, (*_OPEN, 2, 5)), 110),
    (SpeciesRange(-74, -2, 16, 14, 800, 900, (1, 2, 6)), 40),
)
_AREAS = ((-98, 43, 20, 9), (-63, -14, 9, 17), (14, 51, 14, 7))


def make_birds(seed: int, count: int) -> list[Bird]:
    """The first `count` species, the same for any count."""
    return [_make_bird(seed, index) for index in range(count)]


def local_voice(bird: Bird, place: DemoPlace, seed: int) -> Voice:
    """The song of a species in the dialect of the region of 20 x 15 degrees around `place`."""
    if not bird.has_dialects:
        return bird.voice
    region = int(place.longitude // 20), int(place.latitude // 15)
    rng = stream(seed, "dialect", bird.code, *region)
    return vary(bird.voice, rng, pitch_oct=0.04, tempo=0.08, swap=0.5)


def activity(bird: Bird, day: int) -> float:
    """Song activity on a day of the year, 1 at its peak."""
    apart = abs(day - bird.peak_day) % _DAYS
    return float(np.exp(-0.5 * (min(apart, _DAYS - apart) / bird.season_days) ** 2))


class Atlas:
    """Distribution of each bird: suitability over the grid, 1 at its best place, and random
    places."""

    def __init__(self, world: World, birds: list[Bird]) -> None:
        self._world = world
        # Excludes the shore, so that coarser rasters have values there too.
        inland = ndimage.binary_erosion(world.land, iterations=3)
        self._maps = {bird.code: _suitability(bird.home, world, inland) for bird in birds}
        latitudes, _ = cell_centres()
        area = np.cos(np.radians(latitudes))
        self._cumulative = {
            code: np.cumsum(np.float64(grid * area)) for code, grid in self._maps.items()
        }

    def suitability(self, bird: Bird, place: DemoPlace) -> float:
        return float(self._maps[bird.code][self._world.cell(place.latitude, place.longitude)])

    def living_at(self, birds: list[Bird], place: DemoPlace) -> list[Bird]:
        return [bird for bird in birds if self.suitability(bird, place) >= LIVES_AT]

    def singing_at(self, birds: list[Bird], place: DemoPlace, day: int) -> list[Bird]:
        return [bird for bird in self.living_at(birds, place) if activity(bird, day) >= SINGS_AT]

    def draw(self, bird: Bird, rng: np.random.Generator) -> DemoPlace:
        """A random place of its range, with probability proportional to suitability, from cells
        where it lives."""
        cumulative = self._cumulative[bird.code]
        cell = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
        row, column = divmod(cell, self._world.land.shape[1])
        north, east = rng.uniform(0.05, 0.95, size=2)
        latitude = 90 - CELL_DEG * (row + north)
        longitude = -180 + CELL_DEG * (column + east)
        return DemoPlace(round(float(latitude), 4), round(float(longitude), 4))


def _suitability(home: SpeciesRange, world: World, inland: np.ndarray) -> np.ndarray:
    latitudes, longitudes = cell_centres()
    east = (longitudes - home.longitude) / home.width_deg
    north = (latitudes - home.latitude) / home.height_deg
    height = (np.nan_to_num(world.elevation_m) - home.altitude_m) / home.altitude_spread_m
    liked = np.where(np.isin(np.nan_to_num(world.cover), home.cover), 1.0, 0.2)
    inside = inland & (longitudes > home.west_limit) & (longitudes < home.east_limit)
    grid = np.where(inside, np.exp(-0.5 * (east**2 + north**2 + height**2)) * liked, 0.0)
    assert grid.max() > 0, "a range without land: world.py and the homes of fauna.py disagree"
    grid = grid / grid.max()
    return np.where(grid >= LIVES_AT, grid, 0.0)


def _make_bird(seed: int, index: int) -> Bird:
    common, scientific = _names(index)
    code = "".join(word[:3] for word in common.split()).lower()
    rng = stream(seed, "bird", index)
    home, peak_day = _home(index, rng)
    slot = max(index - 1, 0)  # species 0 and 1 share song type 0
    voice = make_voice(slot, stream(seed, "voice", slot))
    # Dialects would make the region of a look-alike, and so the species, recognisable by ear.
    return Bird(
        code,
        common,
        scientific,
        home,
        peak_day,
        float(rng.uniform(32, 55)),
        voice,
        has_dialects=index > 1,
    )


def _names(index: int) -> tuple[str, str]:
    if index < len(_LOOK_ALIKES):
        return _LOOK_ALIKES[index]
    adjective = _ADJECTIVES[index - len(_LOOK_ALIKES)]
    common, genus = _KINDS[index % len(_KINDS)]
    return f"{adjective} {common}", f"{genus} {adjective.lower()}ensis"


def _home(index: int, rng: np.random.Generator) -> tuple[SpeciesRange, int]:
    if index < len(_HOMES):
        return _HOMES[index]
    lon, lat, width, height = _AREAS[index % len(_AREAS)]
    altitude_m = float(rng.choice([250, 600, 1200]))
    cover = (_FOREST, _OPEN)[int(rng.integers(2))]
    centre = lon + rng.uniform(-0.5, 0.5) * width, lat + rng.uniform(-0.5, 0.5) * height
    home = SpeciesRange(*centre, width * 0.8, height * 0.8, altitude_m, 500 + altitude_m / 2, cover)
    return home, int((120 if lat > 0 else 300) + rng.integers(-35, 90)) % _DAYS + 1
