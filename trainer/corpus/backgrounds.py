"""Backgrounds for training: sounds without the species of the corpus, from a folder and from the
corpus itself, and pink noise.

Kept in one file of images and ranges, written atomically; augment.py mixes them in. Knows no labels
and no networks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from edge.contract.audio import (
    CROP_SAMPLES,
    CROPS_MAX,
    IMAGE_SHAPE,
    RATE_HZ,
    Image,
    Ranges,
    Samples,
    front_end,
    mel_images,
    training_crops,
)
from edge.contract.errors import ConfigError, RecordingError
from edge.contract.folders import files_under
from edge.contract.taxonomy import NOCALL
from trainer.corpus.sound import Recording, read_sound
from trainer.corpus.spectrograms import crops_max_samples
from trainer.file_digests import Contents, sums_of
from trainer.files import digest, read_npz, write_npz
from trainer.recipe import Recipe
from trainer.workers import progress_bar, worker_pool

FILE = "backgrounds.npz"
OWN = "own:"
PINK_CROPS = 64
_PINK_LEVEL = 0.05  # root mean square; arbitrary, since it is mixed in by SNR
_PINK_LOW_HZ = 20.0  # below, 1/f would put most of the power at inaudible frequencies
_TEXT_SUFFIXES = (".csv", ".json", ".md", ".txt", ".yaml", ".yml")


@dataclass(frozen=True)
class BackgroundSet:
    """Images and ranges of backgrounds, real ones first, then pink noise."""

    images: Image  # (n, 128, 281)
    ranges: Ranges  # (n, 2) dB of grey 0 and of grey 255
    real: int  # how many are from the folder
    source: str  # digest of their inputs


def wants_folder(recipe: Recipe) -> str:
    """The setting of the recipe that needs --nocall; empty if there is none."""
    if recipe.labels.call_probability:
        return "labels.call_probability is true"
    kinds = [m.kind for m in recipe.members if m.augment.nocall or m.augment.empty]
    return f"augment of {kinds[0]} mixes backgrounds" if kinds else ""


def wants_backgrounds(recipe: Recipe) -> bool:
    """True if the recipe needs backgrounds of any kind."""
    return recipe.labels.call_probability or any(m.augment.backgrounds for m in recipe.members)


def check_folder(
    recipe: Recipe, folder: Path | None, path: Path, own: Sequence[Recording] = ()
) -> str:
    """A warning if pink noise replaces the real backgrounds that the recipe needs, because there is
    neither a folder of them nor any in the corpus (`own`) nor, at `path`, a file of an earlier
    start; else an empty text. Raises ConfigError if pink noise cannot replace them: to recognise
    calls, real backgrounds are needed."""
    wants = wants_folder(recipe)
    if folder is not None:
        background_files(folder)
    elif wants and not own and not path.is_file():
        if recipe.labels.call_probability:
            raise ConfigError(
                f"recipe {recipe.name}: {wants}: it needs a folder of sounds without birds: "
                "--nocall DIR"
            )
        return f"recipe {recipe.name}: {wants}; without --nocall DIR pink noise is used"
    return ""


def background_source(
    folder: Path | None, contents: Contents, own: Sequence[Recording] = ()
) -> str:
    """Digest of the inputs of the backgrounds: the files of a folder, the corpus's own, and pink
    noise. It begins with OWN if there is no folder, but backgrounds in the corpus."""
    files = [] if folder is None else background_files(folder)
    found = [] if folder is None else sums_of(contents, files, folder)
    mine = [(r.recording, contents.of(r.path)) for r in own]
    made_of = digest(found, PINK_CROPS, front_end(), *([mine] if mine else []))
    return f"{OWN}{made_of}" if mine and folder is None else made_of


def background_files(folder: Path) -> list[Path]:
    """All files below a folder except texts and files of the operating system. Raises ConfigError
    if there is none."""
    files = [p for p in files_under(folder) if p.suffix.lower() not in _TEXT_SUFFIXES]
    if not files:
        raise ConfigError(
            f"--nocall {folder}: expected recordings without birds, found no sound file in it"
        )
    return files


def background_recordings(folder: Path | None, own: Sequence[Recording]) -> list[Recording]:
    """The backgrounds of a folder and a corpus's own, as recordings of no species."""
    files = [] if folder is None else background_files(folder)
    nowhere = (None, None, None, 0.0, "", "")
    whole = [Recording(path.name, path, NOCALL, (), *nowhere) for path in files]
    return [*whole, *own]


def pink_noise(seed: int, samples: int = CROP_SAMPLES) -> Samples:
    """Noise of equal power in every octave: white noise weighted by 1 / sqrt(f)."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(samples))
    hz = np.fft.rfftfreq(samples, 1.0 / RATE_HZ)
    sound = np.fft.irfft(spectrum / np.sqrt(np.maximum(hz, _PINK_LOW_HZ)), samples)
    pink: Samples = (sound * (_PINK_LEVEL / sound.std())).astype(np.float32)
    return pink


def background_crops(sound: Samples) -> Samples:
    """Crops `(n, 224000)` of a background. One that is shorter than a crop is continued by its
    mirror image: padded with silence, it would be a background that stops."""
    if len(sound) < CROP_SAMPLES:
        sound = np.pad(sound, (0, CROP_SAMPLES - len(sound)), mode="symmetric")
    return training_crops(sound)


def _read(recording: Recording) -> tuple[Image, Ranges, str]:
    """Images and ranges of one background, or empty arrays and the reason. Runs in a worker."""
    samples_max = crops_max_samples(CROPS_MAX)
    try:
        sound = read_sound(recording.path, samples_max, recording.start_s, recording.end_s)
    except RecordingError as error:
        return (
            np.empty((0, *IMAGE_SHAPE), np.uint8),
            np.empty((0, 2), np.float32),
            " ".join(error.reason.split()),
        )
    images, ranges = mel_images(background_crops(sound))
    sounding = ranges[:, 1] > ranges[:, 0]  # silence cannot be mixed in at any SNR
    return images[sounding], ranges[sounding], "" if sounding.any() else "silence"


def make_backgrounds(
    path: Path,
    folder: Path | None,
    source: str,
    jobs: int,
    console: Console,
    own: Sequence[Recording] = (),
) -> BackgroundSet:
    """Make the file at `path` unless it exists and is from the same `source`: of the sounds of a
    folder, of the corpus's `own`, and of pink noise. Files that cannot be read are named and
    counted. Raises ConfigError if none of a folder can be read."""
    if path.is_file() and (there := read_backgrounds(path)).source == source:
        return there
    files = background_recordings(folder, own)
    images = []
    ranges = []
    skipped = 0
    with worker_pool(jobs) as pool, progress_bar(console) as progress:
        task = progress.add_task("backgrounds", total=len(files), note="")
        for file, (image, span, reason) in zip(
            files, pool.map(_read, files, chunksize=4), strict=True
        ):
            images.append(image)
            ranges.append(span)
            if reason:
                skipped += 1
                skip = f"skipped {file.path}: {reason}"
                progress.console.print(skip, markup=False, highlight=False)
            progress.update(task, advance=1)
    real = sum(map(len, images))
    if folder and not real:
        raise ConfigError(f"--nocall {folder}: none of {len(files)} files can be read as sound")
    pink, pink_ranges = mel_images(np.stack([pink_noise(seed) for seed in range(PINK_CROPS)]))
    made = BackgroundSet(
        np.concatenate([*images, pink]), np.concatenate([*ranges, pink_ranges]), real, source
    )
    write_npz(path, vars(made))
    sizes = f"backgrounds: {real} crops of {len(files) - skipped} files, {skipped} skipped"
    console.print(f"{sizes}; {PINK_CROPS} of pink noise", highlight=False)
    return made


def read_backgrounds(path: Path) -> BackgroundSet:
    """The backgrounds of a run. Raises CorpusError naming the file."""
    file = read_npz(
        path,
        ("images", "ranges", "real", "source"),
        "remove it and run: python -m trainer spectrograms",
    )
    return BackgroundSet(file["images"], file["ranges"], int(file["real"]), str(file["source"]))
