"""Training recordings: the plan of one (place, date, quality, other species), its metadata row, and
its sound.

Knows nothing of other recordings, of malformed rows (corpus.py adds those) or of processes.
"""

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from edge.contract.audio import RATE_HZ
from trainer.demo.acoustics import Weather, background, frame_power, sounding_power, through_air
from trainer.demo.fauna import Atlas, Bird, DemoPlace, activity, local_voice
from trainer.demo.seeds import stream
from trainer.demo.song import Voice, songs, vary

COLUMNS = (
    *("primary_label", "secondary_labels", "type", "latitude", "longitude"),
    *("scientific_name", "common_name"),
    *("author", "date", "filename", "license", "rating", "time", "url"),
)
SHORTEST_S = 8.0
LONGEST_S = 25.0
LICENSE = "CC0 1.0 (synthetic)"
_AUTHORS = (
    "Ada Demonstrator",
    "Bo Placeholder",
    "Cy Example",
    "Di Specimen",
    "Ed Dummy",
    "Flo Fixture",
)


@dataclass(frozen=True)
class RecordingPlan:
    """The plan of one training recording. `quality` is 0..1; secondary birds have a level in dB."""

    seed: int
    filename: str
    bird: Bird
    secondary: tuple[tuple[Bird, float], ...]
    place: DemoPlace
    day: date
    quality: float
    duration_s: float

    @property
    def path(self) -> str:
        return f"train_short_audio/{self.bird.code}/{self.filename}"


def plan_recording(
    seed: int, atlas: Atlas, birds: list[Bird], species: int, number: int
) -> RecordingPlan:
    """Plan recording `number` of `species`. In a larger corpus, only its secondary species may
    differ."""
    filename = f"XC9{species:02d}{number:04d}.ogg"
    bird = birds[species]
    rng = stream(seed, "plan", filename)
    place = atlas.draw(bird, rng)
    day = draw_day(bird, rng, 2005, 2020)
    quality = float(rng.uniform())
    duration_s = SHORTEST_S + (LONGEST_S - SHORTEST_S) * float(rng.beta(1.5, 2.75))
    company = [
        other
        for other in atlas.singing_at(birds, place, day.timetuple().tm_yday)
        if other is not bird
    ]
    chosen = rng.permutation(len(company))[: int(rng.choice([0, 1, 2], p=[0.65, 0.27, 0.08]))]
    secondary = tuple((company[int(index)], float(rng.uniform(-16, -8))) for index in chosen)
    return RecordingPlan(seed, filename, bird, secondary, place, day, quality, round(duration_s, 2))


def draw_day(bird: Bird, rng: np.random.Generator, first_year: int, last_year: int) -> date:
    """A random day of the bird's song season, in one of the years from first to last."""
    start = date(int(rng.integers(first_year, last_year + 1)), 1, 1)
    while True:
        offset = int(rng.integers(365))
        if rng.random() < max(activity(bird, offset + 1), 0.02):
            return start + timedelta(days=offset)


def metadata_row(plan: RecordingPlan) -> dict[str, str]:
    """The row of train_metadata.csv, by COLUMNS."""
    rng = stream(plan.seed, "row", plan.filename)
    stem = plan.filename.removesuffix(".ogg")
    rating = (
        0.0
        if rng.random() < 0.05
        else round(2 * float(np.clip(5 * plan.quality + rng.normal(0, 0.5), 0.5, 5))) / 2
    )
    kinds = ("['song']", "['call']", "['male', 'song']", "['call', 'song']")
    return {
        "primary_label": plan.bird.code,
        "secondary_labels": str([bird.code for bird, _ in plan.secondary]),
        "type": kinds[int(rng.choice(4, p=[0.6, 0.15, 0.15, 0.1]))],
        "latitude": f"{plan.place.latitude:.4f}",
        "longitude": f"{plan.place.longitude:.4f}",
        "scientific_name": plan.bird.scientific_name,
        "common_name": plan.bird.common_name,
        "author": _AUTHORS[int(rng.integers(len(_AUTHORS)))],
        "date": plan.day.isoformat(),
        "filename": plan.filename,
        "license": LICENSE,
        "rating": f"{rating:.1f}",
        "time": f"{int(rng.choice([5, 6, 7, 8, 9, 18, 19])):02d}:{int(rng.integers(12)) * 5:02d}",
        "url": f"https://example.org/birdstation-demo/{stem}",
    }


def render_recording(plan: RecordingPlan) -> np.ndarray:
    """Sound of a recording, float32 at RATE_HZ. In its band the song is 4 dB (quality 0) to 32 dB
    (1) above the background."""
    rng = stream(plan.seed, "sound", plan.filename)
    count = int(plan.duration_s * RATE_HZ)
    weather = Weather(
        wind=float(rng.uniform(0, 4)) if rng.random() < 0.5 else 0.0,
        rain=float(rng.uniform(0.1, 0.6)) if rng.random() < 0.15 else 0.0,
        insects=float(rng.uniform(0.05, 0.5)) if rng.random() < 0.3 else 0.0,
    )
    scene = background(rng, count, weather)
    voice = local_voice(plan.bird, plan.place, plan.seed)
    noise_power = float(frame_power(scene, voice.low_hz, voice.high_hz).mean())
    song_power = noise_power * 10 ** ((4 + 28 * plan.quality) / 10)
    scene += _singer(voice, rng, count, song_power, distance_m=float(60 - 52 * plan.quality))
    for bird, level_db in plan.secondary:
        other = local_voice(bird, plan.place, plan.seed)
        scene += _singer(other, rng, count, song_power * 10 ** (level_db / 10), distance_m=90.0)
    return scene * np.float32(rng.uniform(0.3, 0.9) / np.abs(scene).max())


def _singer(
    voice: Voice, rng: np.random.Generator, count: int, power: float, distance_m: float
) -> np.ndarray:
    """Song of one individual over `count` samples, with mean square `power` in its own band."""
    own = vary(voice, rng, pitch_oct=0.035, tempo=0.09, swap=0.25)
    track = np.zeros(count, dtype=np.float32)
    start = int(rng.uniform(0, 1.2) * RATE_HZ)
    for song in songs(own, rng):
        end = min(start + len(song), count)
        track[start:end] += song[: end - start] * np.float32(rng.uniform(0.8, 1.0))
        silence_s = own.pause_s * rng.uniform(0.6, 1.5) + (3.0 if rng.random() < 0.12 else 0.0)
        start += len(song) + int(silence_s * RATE_HZ)
        if start > count - RATE_HZ // 4:
            break
    heard = through_air(track, distance_m, float(rng.uniform(0.05, 0.25)), rng)[:count]
    level = np.sqrt(power / sounding_power(frame_power(heard, own.low_hz, own.high_hz)))
    return heard * np.float32(level)
