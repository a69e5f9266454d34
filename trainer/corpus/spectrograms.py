"""Spectrograms: the grey image of every crop, computed once in parallel and kept as one
memory-mapped array.

images.npy (N, 128, 281) uint8 · ranges.npy (N, 2) float32: dB of grey 0 and of grey 255 · index.csv
(recording, primary_label, first, count, sound, images: SHA-256 of the file and of its images) ·
skipped.csv · cache.json. Images of unchanged sound are kept if they are undamaged, also after a
kill. Knows no labels and no networks.
"""

import csv
import hashlib
import io
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import astuple, dataclass, replace
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
from edge.contract.errors import CorpusError
from trainer.corpus.sound import Audio, Recording, probe_audio, read_recordings
from trainer.file_digests import ABSENT, UNREADABLE, Contents
from trainer.files import digest, map_npy, read_csv, read_json, read_npy, write_csv, write_json
from trainer.workers import progress_bar, worker_pool

INDEX = ("recording", "primary_label", "first", "count", "sound", "images")
SKIPPED = ("recording", "reason")
IMAGES = "images.npy"
RANGES = "ranges.npy"
_U1 = "|u1"
_F4 = "<f4"
CROP_BYTES = int(np.prod(IMAGE_SHAPE)) + 2 * np.dtype(np.float32).itemsize
PUBLISHED_CROPS = 380_000  # about, of the 62 874 recordings of BirdCLEF 2021
_JOURNAL = "progress.csv"  # finished recordings, while the cache is being made
_JOURNAL_HEADER = ("recording", "count", "reason", "sound", "images")
_CHUNK = 8  # recordings per task: about a second of work
_SEGMENTS_MAX = 1024  # of one file in a task, which decodes it once for all of them
_CONTENTS = Contents()  # digests of files, in each worker: of many segments a file is read once


@dataclass(frozen=True)
class CacheEntry:
    """The position of a recording's images, and the SHA-256 of its sound and of these images with
    their ranges."""

    recording: str
    primary_label: str
    first: int
    count: int
    sound: str = ""
    images: str = ""

    @property
    def rows(self) -> slice:
        """Its rows in the arrays."""
        return slice(self.first, self.first + self.count)


Plan = list[tuple[CacheEntry, Recording]]


@dataclass(frozen=True)
class _Result:
    """A line of the journal: the result of one recording. `count` is 0 if there is a `reason`."""

    recording: str
    count: int
    reason: str
    sound: str
    images: str


@dataclass(frozen=True)
class CacheSummary:
    """Counts of a finished cache, and the speed of making it."""

    recordings: int
    crops: int
    skipped: int
    crops_per_s: float  # 0 if nothing had to be made

    def projected(self, jobs: int) -> str:
        """Time and size for the published corpus with `jobs` processes on this machine."""
        minutes = PUBLISHED_CROPS / self.crops_per_s / 60
        gigabytes = PUBLISHED_CROPS * CROP_BYTES / 1e9
        return (
            f"{self.crops_per_s:.0f} crops/s, {self.crops_per_s / jobs:.0f} per core; at this "
            f"speed the published corpus (62 874 recordings, about 380 000 crops, {gigabytes:.1f} "
            f"GB) takes {minutes:.0f} min"
        )


def damaged(folder: Path) -> str:
    """The remedy for a cache with an unreadable file."""
    return f"remove {folder} and run: python -m trainer spectrograms"


class Spectrograms:
    """A finished cache. Raises CorpusError on opening if it was made with another front end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        state = read_json(folder / "cache.json")
        _check_constants(folder, state)
        if not state.get("done"):
            raise CorpusError(f"{folder}: not finished; run: python -m trainer spectrograms")
        if not (folder / RANGES).is_file():
            raise CorpusError(f"{folder}: {RANGES} is missing; {damaged(folder)}")
        rows = read_csv(folder / "index.csv", INDEX)
        try:
            self.entries = [_entry(row) for row in rows]
        except ValueError as error:
            raise CorpusError(
                f"{folder / 'index.csv'}: {error}; run: python -m trainer spectrograms"
            ) from None

    @cached_property
    def images(self) -> Image:
        """All images `(N, 128, 281)`, memory-mapped; only rows of an entry are valid."""
        images: Image = map_npy(self.folder / IMAGES, damaged(self.folder))
        return images

    @cached_property
    def ranges(self) -> Ranges:
        """The levels in dB of grey 0 and of grey 255 of every image, `(N, 2)`, in memory."""
        ranges: Ranges = read_npy(self.folder / RANGES, damaged(self.folder))
        return ranges


def crops_max_samples(crops_max: int) -> int:
    """Number of samples from the start of a recording that its crops cover."""
    return CROP_SAMPLES + (crops_max - 1) * CROP_STEP


def crop_count(samples: int, crops_max: int) -> int:
    """Number of crops that `training_crops` cuts from so many samples."""
    return min(crops_max, max(1, (samples - CROP_SAMPLES) // CROP_STEP + 1))


def probe_all(recordings: Sequence[Recording], pool: ProcessPoolExecutor) -> dict[str, Audio]:
    """Headers of all existing recordings, by recording; a path that is not a file has a problem,
    and so has a segment behind the end of its file."""
    paths = [path for path in dict.fromkeys(r.path for r in recordings) if os.path.lexists(path)]
    audios = dict(zip(paths, pool.map(probe_audio, paths, chunksize=256), strict=True))
    return {r.recording: audios[r.path].within(r) for r in recordings if r.path in audios}


def make_spectrograms(
    folder: Path,
    recordings: Sequence[Recording],
    contents: Contents,
    crops_max: int,
    jobs: int,
    console: Console,
) -> CacheSummary:
    """Make or complete the cache. Recordings that cannot be decoded are skipped and listed in
    skipped.csv.

    Raises CorpusError if none can be read, or if one changes meanwhile; OSError if the disk is
    full.
    """
    constants = cache_constants(crops_max)
    with worker_pool(jobs) as pool:
        audios = probe_all(recordings, pool)
        plan, skipped = _plan(recordings, audios, contents, crops_max, console)
        if not plan:
            write_csv(folder / "skipped.csv", SKIPPED, sorted(set(skipped)))
            raise CorpusError(
                f"no recording can be read: {len(skipped)} skipped; see {folder / 'skipped.csv'}"
            )
        _check_disk(folder, plan, console)
        done = _resume(folder, plan, constants)
        seconds = time.monotonic()
        made = _make_images(pool, folder, plan, done, crops_max, console)
    seconds = time.monotonic() - seconds
    for name in (IMAGES, RANGES):
        # On a memory disk, writing to a mapped file leaves its time unchanged.
        os.utime(folder / name)
    found = [(entry, done[entry.recording]) for entry, _ in plan]
    entries = [
        replace(entry, count=result.count, images=result.images)
        for entry, result in found
        if result.count
    ]
    write_csv(folder / "index.csv", INDEX, map(astuple, entries))
    skipped += [(entry.recording, result.reason) for entry, result in found if result.reason]
    write_csv(folder / "skipped.csv", SKIPPED, sorted(set(skipped)))
    write_json(folder / "cache.json", constants | {"plan": _plan_digest(plan), "done": True})
    (folder / _JOURNAL).unlink()
    speed = made / seconds if made else 0.0
    return CacheSummary(len(entries), sum(e.count for e in entries), len(set(skipped)), speed)


def _make_images(
    pool: ProcessPoolExecutor,
    folder: Path,
    plan: Plan,
    done: dict[str, _Result],
    crops_max: int,
    console: Console,
) -> int:
    """Make the images of every recording that is not in `done`; add it there and to the journal.
    Returns the number of crops made."""
    made = 0
    start = time.monotonic()
    todo = [(entry, recording) for entry, recording in plan if entry.recording not in done]
    with (
        progress_bar(console) as progress,
        (folder / _JOURNAL).open("a", newline="", encoding="utf8") as journal,
    ):
        task = progress.add_task("spectrograms", total=len(plan), completed=len(done), note="")
        for results in _results(pool, folder, todo, crops_max):
            for result in results:
                done[result.recording] = result
                made += result.count
                if result.reason:
                    line = f"skipped {result.reason}"
                    progress.console.print(line, markup=False, highlight=False)
            csv.writer(journal, lineterminator="\n").writerows(map(astuple, results))
            journal.flush()
            speed = made / (time.monotonic() - start)
            progress.update(task, advance=len(results), note=f"{speed:.0f} crops/s")
    return made


def cache_constants(crops_max: int) -> dict[str, object]:
    """The parameters of a cache, as recorded in it."""
    return {
        "front_end": front_end(),
        "crops_max": crops_max,
        "ranges": "dB of grey 0 and of grey 255",
    }


def _check_constants(folder: Path, state: Mapping[str, object]) -> None:
    if state.get("front_end") != front_end():
        raise CorpusError(
            f"{folder / 'cache.json'}: made with another front-end; remove {folder} and make it "
            "again"
        )


def _plan(
    recordings: Sequence[Recording],
    audios: Mapping[str, Audio],
    contents: Contents,
    crops_max: int,
    console: Console,
) -> tuple[Plan, list[tuple[str, str]]]:
    """The position of the images of every readable recording, and (recording, reason) of the
    others."""
    plan: Plan = []
    skipped = []
    first = 0
    sounds = contents.of_all([r.path for r in recordings], console, "sound")
    for r, sound in zip(recordings, sounds, strict=True):
        audio = audios.get(r.recording)
        if audio is None or audio.problem or sound in (ABSENT, UNREADABLE):
            unread = f"{r.path.name}: cannot be read"
            skipped.append(
                (r.recording, audio.problem or unread if audio else "audio file missing")
            )
            continue
        count = crop_count(audio.samples, crops_max)
        plan.append((CacheEntry(r.recording, r.primary_label, first, count, sound, ""), r))
        first += count
    return plan, skipped


def _crops(plan: Plan) -> int:
    last, _ = plan[-1]
    return last.first + last.count


def _plan_digest(plan: Plan) -> str:
    """Digest of the positions of images: another plan has other rows."""
    return digest([[entry.recording, entry.first, entry.count] for entry, _ in plan])


def _check_disk(folder: Path, plan: Plan, console: Console) -> None:
    """Print the size of the cache; raise CorpusError if the disk has too little room."""
    folder.mkdir(parents=True, exist_ok=True)
    crops = _crops(plan)
    free = shutil.disk_usage(folder).free
    there = sum(
        (folder / name).stat().st_blocks * 512
        for name in (IMAGES, RANGES)
        if (folder / name).is_file()
    )
    sizes = (
        f"{crops} crops take {crops * CROP_BYTES / 1e9:.2f} GB, {(free + there) / 1e9:.2f} GB are "
        "free"
    )
    if crops * CROP_BYTES > free + there:
        raise CorpusError(
            f"{folder}: {sizes}; choose another --out or fewer spectrograms.crops_max"
        )
    console.print(sizes, highlight=False)


def _resume(folder: Path, plan: Plan, constants: dict[str, object]) -> dict[str, _Result]:
    """Prepare the arrays. Returns the recordings with intact images of the same sound from an
    earlier run, one that was killed or had partly different sound."""
    state = constants | {"plan": _plan_digest(plan), "done": False}
    kept = _intact_results(folder, plan, _earlier_results(folder, state))
    done = kept or {}
    write_json(folder / "cache.json", state)
    if kept is None:
        _allocate(folder / IMAGES, _U1, (_crops(plan), *IMAGE_SHAPE))
        _allocate(folder / RANGES, _F4, (_crops(plan), 2))
    write_csv(folder / _JOURNAL, _JOURNAL_HEADER, map(astuple, done.values()))
    return done


def _earlier_results(folder: Path, state: Mapping[str, object]) -> list[_Result]:
    """Results of earlier runs with the same plan."""
    try:
        found = read_json(folder / "cache.json")
        if {**found, "done": False} != {**state, "done": False}:
            return []
        if not found["done"]:
            return _read_journal(folder)
        rows = [_entry(row) for row in read_csv(folder / "index.csv", INDEX)]
    except (CorpusError, ValueError):
        return []
    return [_Result(entry.recording, entry.count, "", entry.sound, entry.images) for entry in rows]


def _intact_results(
    folder: Path, plan: Plan, there: Sequence[_Result]
) -> dict[str, _Result] | None:
    """Earlier results with the same sound and intact images; None if the arrays must be made
    again."""
    if not there:
        return None
    crops = _crops(plan)
    if not (
        _is_array(folder / IMAGES, _U1, (crops, *IMAGE_SHAPE))
        and _is_array(folder / RANGES, _F4, (crops, 2))
    ):
        return None
    images = np.load(folder / IMAGES, mmap_mode="r", allow_pickle=False)
    ranges = np.load(folder / RANGES, mmap_mode="r", allow_pickle=False)
    found = {done.recording: done for done in there}
    kept = {}
    for entry, _ in plan:
        done = found.get(entry.recording)
        if done is not None and done.sound == entry.sound and done.count <= entry.count:
            rows = slice(entry.first, entry.first + entry.count)
            if _sum_of(images[rows], ranges[rows], done.count) == done.images:
                kept[entry.recording] = done
    return kept


def _is_array(path: Path, dtype: str, shape: tuple[int, ...]) -> bool:
    """True if a file has the size and, byte by byte, the header of such an array."""
    expected = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        expected, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    head = expected.getvalue()
    try:
        with path.open("rb") as file:
            size = len(head) + int(np.prod(shape)) * np.dtype(dtype).itemsize
            return file.read(len(head)) == head and path.stat().st_size == size
    except OSError:
        return False


def _allocate(path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    """Create an array of zeros with its space reserved on disk: writing to a hole on a full disk
    would kill the process. Raises OSError naming the file."""
    path.unlink(missing_ok=True)
    np.lib.format.open_memmap(path, "w+", dtype, shape).flush()
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None


def _sum_of(images: Image, ranges: Ranges, count: int) -> str:
    """SHA-256 of rows of both arrays, of which the first `count` are used."""
    found = hashlib.sha256(f"{count}:".encode() + np.ascontiguousarray(images).tobytes())
    found.update(np.ascontiguousarray(ranges).tobytes())
    return found.hexdigest()


def _entry(row: Mapping[str, str]) -> CacheEntry:
    """An entry from a row of index.csv. Raises ValueError if a number is invalid."""
    return CacheEntry(
        row["recording"],
        row["primary_label"],
        int(row["first"]),
        int(row["count"]),
        row["sound"],
        row["images"],
    )


def _read_journal(folder: Path) -> list[_Result]:
    """Results in the journal, without a line that was cut short by a kill."""
    path = folder / _JOURNAL
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf8")
    _, *rows = csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    return [
        _Result(row[0], int(row[1]), *row[2:]) for row in rows if len(row) == len(_JOURNAL_HEADER)
    ]


def _results(
    pool: ProcessPoolExecutor, folder: Path, todo: Plan, crops_max: int
) -> Iterator[list[_Result]]:
    futures = [pool.submit(_make_chunk, folder, chunk, crops_max) for chunk in _chunks(todo)]
    for future in as_completed(futures):
        yield future.result()


def _chunks(todo: Plan) -> Iterator[Plan]:
    """Tasks of a few recordings each, or of the segments of one file, by their start."""
    of_file: dict[Path, Plan] = {}
    for entry, recording in todo:
        of_file.setdefault(recording.path, []).append((entry, recording))
    single = [own[0] for own in of_file.values() if len(own) == 1]
    for i in range(0, len(single), _CHUNK):
        yield single[i : i + _CHUNK]
    for own in of_file.values():
        own.sort(key=lambda one: one[1].start_s)
        for i in range(0, len(own) if len(own) > 1 else 0, _SEGMENTS_MAX):
            yield own[i : i + _SEGMENTS_MAX]


def _make_chunk(folder: Path, chunk: Plan, crops_max: int) -> list[_Result]:
    """Write the images of some recordings and their ranges into the arrays. Runs in a worker."""
    images = np.lib.format.open_memmap(folder / IMAGES, "r+")
    ranges = np.lib.format.open_memmap(folder / RANGES, "r+")
    results = []
    sounds = read_recordings([recording for _, recording in chunk], crops_max_samples(crops_max))
    for (entry, recording), sound in zip(chunk, sounds, strict=True):
        source = recording.path
        reason = sound if isinstance(sound, str) else ""
        count = 0
        # Clears earlier images, which may have been more.
        images[entry.rows] = 0
        ranges[entry.rows] = 0.0
        if not isinstance(sound, str):
            crops = training_crops(sound, crops_max)
            count = min(entry.count, len(crops))  # fewer than planned if the file is truncated
            rows = slice(entry.first, entry.first + count)
            images[rows], ranges[rows] = mel_images(crops[:count])
        if _CONTENTS.of(source) != entry.sound:
            raise CorpusError(f"{source}: changed while it was read; run the same command again")
        made = _sum_of(images[entry.rows], ranges[entry.rows], count)
        results.append(_Result(entry.recording, count, reason, entry.sound, made))
    images.flush()
    ranges.flush()
    return results
