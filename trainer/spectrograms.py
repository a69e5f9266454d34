"""Spectrograms: every crop's grey image, made once in parallel, kept as one memory-mapped array.

images.npy (N, 128, 281) uint8 · ranges.npy (N, 2) float32: dB of grey 0 and of grey 255 · index.csv (recording,
primary_label, first, count) · skipped.csv · cache.json. A killed run goes on where it stopped; a cache of other
constants is refused. Knows no labels and no networks.
"""

import csv
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from rich.console import Console

from edge.contract.audio import (
    CROP_SAMPLES,
    CROP_STEP,
    IMAGE_SHAPE,
    Image,
    Ranges,
    front_end,
    mel_images,
    training_crops,
)
from edge.contract.errors import CorpusError, RecordingError
from trainer.corpus import Audio, Recording, probe_audio, read_sound
from trainer.files import read_csv, read_json, write_csv, write_json
from trainer.workers import progress_bar, worker_pool

INDEX = ("recording", "primary_label", "first", "count")
SKIPPED = ("recording", "reason")
IMAGES, RANGES = "images.npy", "ranges.npy"
CROP_BYTES = int(np.prod(IMAGE_SHAPE)) + 2 * np.dtype(np.float32).itemsize
PUBLISHED_CROPS = 380_000  # about, of the 62 874 recordings of BirdCLEF 2021
_JOURNAL = "progress.csv"  # recordings done, while the cache is being made
_CHUNK = 8  # recordings per task: about a second of work


@dataclass(frozen=True)
class Entry:
    """Where the images of a recording lie."""

    recording: str
    primary_label: str
    first: int
    count: int


@dataclass(frozen=True)
class Made:
    """What making the cache gave."""

    recordings: int
    crops: int
    skipped: int
    crops_per_s: float  # 0 if all was there already

    def projected(self, jobs: int) -> str:
        """What the published corpus would take with so many processes on this machine."""
        minutes, gigabytes = PUBLISHED_CROPS / self.crops_per_s / 60, PUBLISHED_CROPS * CROP_BYTES / 1e9
        return (
            f"{self.crops_per_s:.0f} crops/s, {self.crops_per_s / jobs:.0f} per core; at this speed the published "
            f"corpus (62 874 recordings, about 380 000 crops, {gigabytes:.1f} GB) takes {minutes:.0f} min"
        )


class Spectrograms:
    """A finished cache. Opening it checks that it was made with this front-end. Raises CorpusError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        state = read_json(folder / "cache.json")
        _check_constants(folder, state)
        if not state.get("done"):
            raise CorpusError(f"{folder}: not finished; run: python -m trainer spectrograms")
        if not (folder / RANGES).is_file():
            raise CorpusError(f"{folder}: {RANGES} is missing; remove {folder} and run: python -m trainer spectrograms")
        rows = read_csv(folder / "index.csv", INDEX)
        self.entries = [Entry(r["recording"], r["primary_label"], int(r["first"]), int(r["count"])) for r in rows]

    @cached_property
    def images(self) -> Image:
        """All images `(N, 128, 281)`, memory-mapped; only rows that an entry names are meant to be read."""
        images: Image = np.load(self.folder / IMAGES, mmap_mode="r", allow_pickle=False)
        return images

    @cached_property
    def ranges(self) -> Ranges:
        """The dB of grey 0 and of grey 255 of every image, `(N, 2)`, in memory."""
        ranges: Ranges = np.load(self.folder / RANGES, allow_pickle=False)
        return ranges


def crops_max_samples(crops_max: int) -> int:
    """Samples from the start of a recording that its crops cover."""
    return CROP_SAMPLES + (crops_max - 1) * CROP_STEP


def crop_count(samples: int, crops_max: int) -> int:
    """How many crops `training_crops` will cut out of so many samples."""
    return min(crops_max, max(1, (samples - CROP_SAMPLES) // CROP_STEP + 1))


def probe_all(recordings: Sequence[Recording], pool: ProcessPoolExecutor) -> dict[str, Audio]:
    """Headers of all files that exist, by recording."""
    there = [r for r in recordings if r.path.is_file()]
    audios = pool.map(probe_audio, [r.path for r in there], chunksize=256)
    return {r.recording: audio for r, audio in zip(there, audios, strict=True)}


def make_spectrograms(
    folder: Path, recordings: Sequence[Recording], crops_max: int, jobs: int, console: Console
) -> Made:
    """Make or complete the cache. Recordings that cannot be decoded are skipped and listed in skipped.csv."""
    constants = cache_constants(crops_max)
    with worker_pool(jobs) as pool:
        audios = probe_all(recordings, pool)
        plan, skipped = _plan(recordings, audios, crops_max)
        if not plan:
            raise CorpusError(f"no recording can be read: {len(skipped)} skipped; see {folder / 'skipped.csv'}")
        _check_disk(folder, plan, console)
        done = _resume(folder, plan, constants, console)
        counts = dict(done)
        made, seconds = 0, time.monotonic()
        todo = [(entry, path) for entry, path in plan if entry.recording not in done]
        with progress_bar(console) as progress, (folder / _JOURNAL).open("a", newline="", encoding="utf8") as journal:
            task = progress.add_task("spectrograms", total=len(plan), completed=len(done), note="")
            for results in _work(pool, folder, todo, crops_max):
                for recording, count, reason in results:
                    counts[recording] = count
                    made += count
                    if reason:
                        skipped.append((recording, reason))
                        progress.console.print(f"skipped {reason}", markup=False, highlight=False)
                csv.writer(journal).writerows(results)
                journal.flush()
                speed = made / (time.monotonic() - seconds)
                progress.update(task, advance=len(results), note=f"{speed:.0f} crops/s")
    seconds = time.monotonic() - seconds
    entries = [Entry(e.recording, e.primary_label, e.first, counts[e.recording]) for e, _ in plan]
    entries = [e for e in entries if e.count]
    write_csv(folder / "index.csv", INDEX, ([getattr(e, name) for name in INDEX] for e in entries))
    skipped += [(recording, reason) for recording, _, reason in _read_journal(folder) if reason]
    write_csv(folder / "skipped.csv", SKIPPED, sorted(set(skipped)))
    write_json(folder / "cache.json", constants | {"done": True})
    (folder / _JOURNAL).unlink()
    speed = made / seconds if made else 0.0
    return Made(len(entries), sum(e.count for e in entries), len(set(skipped)), speed)


def cache_constants(crops_max: int) -> dict[str, object]:
    """What a cache is made with, as it records it."""
    return {"front_end": front_end(), "crops_max": crops_max, "ranges": "dB of grey 0 and of grey 255"}


def _check_constants(folder: Path, state: Mapping[str, object]) -> None:
    if state.get("front_end") != front_end():
        raise CorpusError(f"{folder / 'cache.json'}: made with another front-end; remove {folder} and make it again")


Plan = list[tuple[Entry, Path]]


def _plan(
    recordings: Sequence[Recording], audios: Mapping[str, Audio], crops_max: int
) -> tuple[Plan, list[tuple[str, str]]]:
    """Where every readable recording's images go, and (recording, reason) of the others."""
    plan: Plan = []
    skipped = []
    first = 0
    for r in recordings:
        audio = audios.get(r.recording)
        if audio is None or audio.problem:
            skipped.append((r.recording, audio.problem if audio else "audio file missing"))
            continue
        count = crop_count(audio.samples, crops_max)
        plan.append((Entry(r.recording, r.primary_label, first, count), r.path))
        first += count
    return plan, skipped


def _crops(plan: Plan) -> int:
    last, _ = plan[-1]
    return last.first + last.count


def _check_disk(folder: Path, plan: Plan, console: Console) -> None:
    """Say what the cache will take; raise CorpusError if the disk has not got it."""
    folder.mkdir(parents=True, exist_ok=True)
    crops, free = _crops(plan), shutil.disk_usage(folder).free
    there = sum((folder / name).stat().st_blocks * 512 for name in (IMAGES, RANGES) if (folder / name).is_file())
    sizes = f"{crops} crops take {crops * CROP_BYTES / 1e9:.2f} GB, {(free + there) / 1e9:.2f} GB are free"
    if crops * CROP_BYTES > free + there:
        raise CorpusError(f"{folder}: {sizes}; choose another --out or fewer spectrograms.crops_max")
    console.print(sizes, highlight=False)


def _resume(folder: Path, plan: Plan, constants: dict[str, object], console: Console) -> dict[str, int]:
    """Prepare the arrays; return the crops of every recording that an earlier, killed run has finished."""
    layout = [[e.recording, e.first, e.count] for e, _ in plan]
    state = json.loads(json.dumps(constants | {"done": False, "plan": layout}))
    if (folder / "cache.json").is_file() and (folder / IMAGES).is_file():
        found = read_json(folder / "cache.json")
        _check_constants(folder, found)
        if not (folder / RANGES).is_file():
            console.print(f"{folder}: {RANGES} is missing; all images are made again", markup=False, highlight=False)
        elif found == state:
            return {recording: count for recording, count, _ in _read_journal(folder)}
    (folder / _JOURNAL).unlink(missing_ok=True)
    np.lib.format.open_memmap(folder / IMAGES, "w+", np.uint8, (_crops(plan), *IMAGE_SHAPE)).flush()
    np.lib.format.open_memmap(folder / RANGES, "w+", np.float32, (_crops(plan), 2)).flush()
    write_json(folder / "cache.json", state)
    return {}


def _read_journal(folder: Path) -> list[tuple[str, int, str]]:
    """(recording, crops, reason) of finished ones; a line that a kill cut short is left out."""
    if not (folder / _JOURNAL).is_file():
        return []
    text = (folder / _JOURNAL).read_text(encoding="utf8")
    rows = csv.reader(text[: text.rfind("\n") + 1].splitlines())
    return [(row[0], int(row[1]), row[2]) for row in rows]


Result = tuple[str, int, str]


def _work(pool: ProcessPoolExecutor, folder: Path, todo: Plan, crops_max: int) -> Iterator[list[Result]]:
    chunks = [todo[i : i + _CHUNK] for i in range(0, len(todo), _CHUNK)]
    futures = [pool.submit(_make_chunk, folder, chunk, crops_max) for chunk in chunks]
    for future in as_completed(futures):
        yield future.result()


def _make_chunk(folder: Path, chunk: Plan, crops_max: int) -> list[Result]:
    """Write the images of some recordings and their ranges into the arrays; in a worker."""
    images = np.lib.format.open_memmap(folder / IMAGES, "r+")
    ranges = np.lib.format.open_memmap(folder / RANGES, "r+")
    results = []
    for entry, source in chunk:
        try:
            sound = read_sound(source, crops_max_samples(crops_max))
        except RecordingError as error:
            results.append((entry.recording, 0, " ".join(str(error).split())))
            continue
        crops = training_crops(sound, crops_max)[: entry.count]  # fewer than planned if the file breaks off
        rows = slice(entry.first, entry.first + len(crops))
        images[rows], ranges[rows] = mel_images(crops)
        results.append((entry.recording, len(crops), ""))
    images.flush()
    ranges.flush()
    return results
