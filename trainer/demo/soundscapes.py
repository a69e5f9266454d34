"""Soundscapes: sites, species and times of singing, the sound of a minute, and labels measured in
that sound.

Quieter, noisier, more distant and recorded with another microphone than the training recordings.
Knows nothing of files.
"""

from dataclasses import dataclass
from datetime import date
from itertools import pairwise

import numpy as np

from edge.contract.audio import RATE_HZ
from trainer.demo.acoustics import (
    FRAME,
    Weather,
    background,
    frame_power,
    sounding_power,
    through_air,
    through_microphone,
)
from trainer.demo.fauna import Atlas, Bird, DemoPlace, local_voice
from trainer.demo.recordings import draw_day
from trainer.demo.seeds import stream
from trainer.demo.song import songs, vary

SOUNDSCAPE_S = 60
ROW_S = 5
ROWS = SOUNDSCAPE_S // ROW_S
COLUMNS = ("row_id", "site", "audio_id", "seconds", "birds")
SITE_COLUMNS = ("id", "place_name", "country", "lat", "lon")
NOCALL = "nocall"
# A species is in a row if its song, in its band, is at least as strong as all non-bird sound for
# this long in the row; gaps between syllables that are shorter than BRIDGE_S count as song.
AUDIBLE_S = 0.4
AUDIBLE_SNR_DB = 0.0
BRIDGE_S = 0.2
_SITES_MAX = 12  # for each of train and test
_BOUTS_MAX = 40
_ANCHORED = 0.6  # minimum share of bouts of the anchor
_TRAIN_YEARS = (2016, 2018)
_TEST_YEARS = (2019, 2020)
_FIRST_ID = {"train": 10_000, "test": 50_000}


@dataclass(frozen=True)
class Site:
    name: str  # three capitals
    place: DemoPlace
    anchor: Bird  # the species for which the site was chosen


@dataclass(frozen=True)
class SoundscapePlan:
    """The plan of one soundscape: `birds` may sing in it, its anchor first; about `busy` of its
    rows contain a song."""

    seed: int
    kind: str  # train or test
    audio_id: int
    site: Site
    day: date
    birds: tuple[Bird, ...]
    busy: float

    @property
    def name(self) -> str:
        return f"{self.audio_id}_{self.site.name}_{self.day:%Y%m%d}"

    @property
    def path(self) -> str:
        return f"{self.kind}_soundscapes/{self.name}.ogg"


@dataclass(frozen=True)
class Song:
    """One song in a soundscape; `snr_db` is measured in the band low_hz..high_hz, while it
    sounds."""

    species: str
    start_s: float
    end_s: float
    snr_db: float
    low_hz: float
    high_hz: float


@dataclass(frozen=True)
class Row:
    """The row of seconds from end_s - ROW_S to end_s, with the audible seconds of every species
    that can be heard at all."""

    end_s: int
    birds: tuple[str, ...]
    audible_s: dict[str, float]


def plan_soundscapes(
    seed: int, atlas: Atlas, birds: list[Bird], count: int
) -> list[SoundscapePlan]:
    """Plan `count` soundscapes for training and `count` for testing, those on other dates and half
    of them at other places."""
    sites = max(1, min(_SITES_MAX, len(birds), -(-count * 2 // 3)))
    train: list[Site] = []
    while len(train) < sites:
        anchor = _next_anchor(atlas, birds, train)
        train.append(_make_site(seed, atlas, birds, len(train), anchor))
    test = [
        site if index % 2 else _make_site(seed, atlas, birds, sites + index, site.anchor)
        for index, site in enumerate(train)
    ]
    plans = []
    for kind, places, years in (("train", train, _TRAIN_YEARS), ("test", test, _TEST_YEARS)):
        spread = stream(seed, "busy", kind, count).permutation(count)
        for number in range(count):
            busy = 0.31 + 0.32 * (spread[number] + 0.5) / count
            site = places[_site_of(number, sites)]
            plans.append(_plan(seed, atlas, birds, kind, number, site, years, busy))
    return plans


def _site_of(number: int, sites: int) -> int:
    """Index of the site of a soundscape: every other one is for the two look-alikes, in turn, which
    only the place distinguishes."""
    if sites <= 2:
        return number % sites
    return number // 2 % 2 if number % 2 == 0 else 2 + number // 2 % (sites - 2)


def render_soundscape(plan: SoundscapePlan) -> tuple[np.ndarray, list[Song], list[Row]]:
    """Samples at RATE_HZ, the songs in them and the labelled rows."""
    rng = stream(plan.seed, "soundscape", plan.name)
    count = SOUNDSCAPE_S * RATE_HZ
    weather = Weather(
        wind=float(rng.uniform(1, 6)),
        rain=float(rng.uniform(0.1, 0.5)) if rng.random() < 0.3 else 0.0,
        insects=float(rng.uniform(0.1, 0.5)) if rng.random() < 0.5 else 0.0,
    )
    scene = background(rng, count, weather)
    noise = scene.copy()
    placed = []
    audible = {bird.code: np.zeros(count // FRAME, dtype=bool) for bird in plan.birds}
    for number, (bird, start_s, end_s) in enumerate(_bouts(plan, rng)):
        least_db = -4.0 if number else 7.0  # the anchor is heard at least once
        for song, samples, frames in _sing(plan, bird, start_s, end_s, least_db, noise, rng):
            first = int(song.start_s * RATE_HZ)
            scene[first : first + len(samples)] += samples
            audible[bird.code][first // FRAME : first // FRAME + len(frames)] |= frames
            placed.append(song)
    scene = through_microphone(scene, rng)
    scene *= np.float32(10 ** (rng.uniform(-34, -26) / 20) / scene.std())
    return (
        np.clip(scene, -0.99, 0.99),
        sorted(placed, key=lambda song: song.start_s),
        _rows(audible),
    )


def label_rows(plan: SoundscapePlan, rows: list[Row]) -> list[dict[str, str]]:
    """Rows of the label file, by COLUMNS."""
    return [
        {
            "row_id": f"{plan.audio_id}_{plan.site.name}_{row.end_s}",
            "site": plan.site.name,
            "audio_id": str(plan.audio_id),
            "seconds": str(row.end_s),
            "birds": " ".join(row.birds) or NOCALL,
        }
        for row in rows
    ]


def site_rows(plans: list[SoundscapePlan]) -> list[dict[str, str]]:
    """Rows of soundscape_sites.csv, by SITE_COLUMNS, each site once."""
    sites = {plan.site.name: plan.site for plan in plans}
    return [
        {
            "id": site.name,
            "place_name": f"Demo site {site.name}",
            "country": "Invented",
            "lat": f"{site.place.latitude:.4f}",
            "lon": f"{site.place.longitude:.4f}",
        }
        for site in sites.values()
    ]


def _next_anchor(atlas: Atlas, birds: list[Bird], sites: list[Site]) -> Bird:
    """The anchor of the next site: first the two look-alikes, then birds that live at none of the
    sites yet."""
    if len(sites) < 2:
        return birds[len(sites)]
    met = {bird.code for site in sites for bird in atlas.living_at(birds, site.place)}
    return next((bird for bird in birds if bird.code not in met), birds[len(sites)])


def _make_site(seed: int, atlas: Atlas, birds: list[Bird], index: int, anchor: Bird) -> Site:
    """Make a site at the place with most species, of a few places where the anchor lives."""
    rng = stream(seed, "site", index)
    places = [atlas.draw(anchor, rng) for _ in range(24)]
    place = max(places, key=lambda place: len(atlas.living_at(birds, place)))
    half = ("N" if place.latitude > 0 else "S") + ("E" if place.longitude > -30 else "W")
    return Site(half + chr(ord("A") + index), place, anchor)


def _plan(
    seed: int,
    atlas: Atlas,
    birds: list[Bird],
    kind: str,
    number: int,
    site: Site,
    years: tuple[int, int],
    busy: float,
) -> SoundscapePlan:
    rng = stream(seed, "soundscape plan", kind, number)
    days = [draw_day(site.anchor, rng, *years) for _ in range(6)]
    day = max(
        days, key=lambda day: len(atlas.singing_at(birds, site.place, day.timetuple().tm_yday))
    )
    singing = atlas.singing_at(birds, site.place, day.timetuple().tm_yday)
    others = tuple(bird for bird in singing if bird is not site.anchor)
    return SoundscapePlan(
        seed, kind, _FIRST_ID[kind] + number, site, day, (site.anchor, *others), busy
    )


def _bouts(plan: SoundscapePlan, rng: np.random.Generator) -> list[tuple[Bird, float, float]]:
    """Bouts of singing (bird, start, end in seconds) that touch about `busy` of the rows; some
    overlap."""
    bouts: list[tuple[Bird, float, float]] = []
    goal = round(plan.busy * ROWS)
    touched = set[int]()
    while len(touched) < goal and len(bouts) < _BOUTS_MAX:
        anchored = not bouts or rng.random() < _ANCHORED
        bird = plan.birds[0] if anchored else plan.birds[int(rng.integers(len(plan.birds)))]
        length_s = float(rng.uniform(3, min(14, 4 + ROW_S * (goal - len(touched)))))
        start_s = float(rng.uniform(0.2, SOUNDSCAPE_S - length_s))
        bouts.append((bird, start_s, start_s + length_s))
        if len(plan.birds) > 1 and rng.random() < 0.4:
            other = plan.birds[int(rng.integers(len(plan.birds)))]
            bouts.append((other, start_s + float(rng.uniform(0, length_s / 2)), start_s + length_s))
        touched |= set(range(int(start_s) // ROW_S, int(start_s + length_s) // ROW_S + 1))
    return bouts


def _sing(
    plan: SoundscapePlan,
    bird: Bird,
    start_s: float,
    end_s: float,
    least_db: float,
    noise: np.ndarray,
    rng: np.random.Generator,
) -> list[tuple[Song, np.ndarray, np.ndarray]]:
    """Songs of one individual from start to end, each with its samples and a mask of the FRAMEs in
    which it is audible."""
    voice = vary(
        local_voice(bird, plan.site.place, plan.seed), rng, pitch_oct=0.035, tempo=0.09, swap=0.25
    )
    snr_db = float(np.clip(rng.normal(9, 4.5), least_db, 20))
    distance_m = float(rng.uniform(30, 110))
    reverberation = float(rng.uniform(0.15, 0.4))
    start = int(start_s * RATE_HZ)
    sung: list[tuple[Song, np.ndarray, np.ndarray]] = []
    for dry in songs(voice, rng):
        start -= start % FRAME
        if (sung and start + len(dry) > end_s * RATE_HZ) or start + len(dry) > len(noise):
            return sung
        samples = through_air(dry, distance_m, reverberation, rng)[: len(noise) - start]
        place = noise[start : start + len(samples)]
        around = frame_power(place, voice.low_hz, voice.high_hz).mean()
        power = frame_power(samples, voice.low_hz, voice.high_hz)
        this_db = snr_db + float(rng.normal(0, 1))
        gain = 10 ** (this_db / 10) * around / sounding_power(power)
        frames = power * gain >= around * 10 ** (AUDIBLE_SNR_DB / 10)
        ends_s = (start + len(dry)) / RATE_HZ
        song = Song(
            bird.code,
            start / RATE_HZ,
            ends_s,
            round(this_db, 1),
            round(voice.low_hz),
            round(voice.high_hz),
        )
        sung.append((song, samples * np.float32(np.sqrt(gain)), frames))
        start += len(dry) + int(voice.pause_s * rng.uniform(0.6, 1.5) * RATE_HZ)
    raise AssertionError("songs() never ends")


def _rows(audible: dict[str, np.ndarray]) -> list[Row]:
    """Labelled rows from the frames in which each species is audible."""
    per_row = ROW_S * RATE_HZ // FRAME
    rows = []
    bridged = {
        code: _bridge(frames, round(BRIDGE_S * RATE_HZ / FRAME)) for code, frames in audible.items()
    }
    for index in range(ROWS):
        here = slice(index * per_row, (index + 1) * per_row)
        seconds = {
            code: float(frames[here].sum()) * FRAME / RATE_HZ
            for code, frames in sorted(bridged.items())
        }
        birds = tuple(code for code, heard_s in seconds.items() if heard_s >= AUDIBLE_S)
        rows.append(
            Row((index + 1) * ROW_S, birds, {c: round(s, 2) for c, s in seconds.items() if s > 0})
        )
    return rows


def _bridge(frames: np.ndarray, longest: int) -> np.ndarray:
    """The frames with gaps of at most `longest` between true ones filled."""
    sounding = np.flatnonzero(frames)
    filled = frames.copy()
    for before, after in pairwise(sounding.tolist()):
        if after - before - 1 <= longest:
            filled[before:after] = True
    return filled
