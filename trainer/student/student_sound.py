"""The sound that a student learns from: the crops of the run and folders of unlabelled recordings,
as one sequence of crops.

Some recordings, always the same ones, are held out for evaluation. Knows no networks and no labels.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from edge.contract.audio import Ranges
from edge.contract.errors import ConfigError
from edge.contract.folders import files_under
from trainer.corpus.recordings import AUDIO, Recording
from trainer.corpus.spectrograms import Spectrograms, cache_constants, make_spectrograms
from trainer.file_digests import Contents
from trainer.files import digest, read_json, write_json
from trainer.training.dataset import Images, Ints, open_images

FOLDER = "sound"  # in the folder of the student, with the images of unlabelled recordings
_HELD_OUT_MIN = 4  # recordings
_SOURCE = "source.json"  # inputs of the images; written last


@dataclass(frozen=True)
class StudentSound:
    """Crops of one or two caches of images, with consecutive indices."""

    caches: tuple[Path, ...]
    first: Ints  # (recordings,) index of its first crop
    count: Ints
    held_out: NDArray[np.bool_]  # (recordings,)
    unlabelled: int  # recordings
    unreadable: int

    @property
    def ranges(self) -> Ranges:
        """Levels in dB of grey 0 and of grey 255 of every crop, `(crops, 2)`."""
        return np.concatenate([Spectrograms(cache).ranges for cache in self.caches])

    def rows(self, held_out: bool) -> tuple[Ints, Ints]:
        """Indices of crops `(n,)` and of their recordings `(n,)`."""
        chosen = np.flatnonzero(self.held_out == held_out)
        recording = np.repeat(chosen, self.count[chosen])
        before = np.cumsum(self.count[chosen]) - self.count[chosen]
        turn = np.arange(len(recording)) - np.repeat(before, self.count[chosen])
        return self.first[recording] + turn, recording


class SoundImages:
    """The images of a StudentSound, from all its caches."""

    def __init__(self, sound: StudentSound, device: torch.device) -> None:
        images = [Spectrograms(cache).images for cache in sound.caches]
        self._images: list[Images] = [open_images(array, device) for array in images]
        self._ends = np.cumsum([len(array) for array in images])

    def batch(self, rows: Ints) -> Tensor:
        """Images uint8 `(n, 1, 128, 281)` on the device for crops `(n,)` in ascending order."""
        parts = np.split(rows, np.searchsorted(rows, self._ends[:-1]))
        starts = [0, *self._ends[:-1]]
        found = [
            images.place(images.gather(part[:, None] - start))
            for images, part, start in zip(self._images, parts, starts, strict=True)
            if len(part)
        ]
        return found[0] if len(found) == 1 else torch.cat(found)


def gather_sound(
    run: Path,
    student: Path,
    folders: Sequence[Path],
    *,
    crops_max: int,
    held_out: float,
    spared: set[Path],
    jobs: int,
    console: Console,
) -> tuple[StudentSound, str]:
    """The crops of a run and of unlabelled `folders`, and a digest of both. Missing images are
    made. Recordings in `spared` are not used; unreadable ones are counted and left out.

    Raises ConfigError if a folder has no sound file, CorpusError if none can be read.
    """
    own = Spectrograms(run / "spectrograms")
    caches = [own]
    source = digest(*(own.folder / name for name in ("index.csv", "cache.json")))
    unlabelled = _recordings(folders, spared)
    unreadable = 0
    if unlabelled:
        contents = Contents(student / FOLDER / ".contents")
        sounds = contents.of_all([r.path for r in unlabelled], console, "sound")
        names = [r.recording for r in unlabelled]
        made_of = digest(list(zip(names, sounds, strict=True)), cache_constants(crops_max))
        unreadable = _make(
            student / FOLDER, unlabelled, contents, made_of, crops_max, jobs, console
        )
        contents.save()
        caches.append(Spectrograms(student / FOLDER))
        source = digest(source, made_of)
    names = list[str]()
    first = list[int]()
    count = list[int]()
    before = 0
    for cache in caches:
        names += [entry.recording for entry in cache.entries]
        first += [before + entry.first for entry in cache.entries]
        count += [entry.count for entry in cache.entries]
        before += len(cache.images)
    draw = np.array([_draw(name) for name in names])
    held = draw < held_out
    held[np.argsort(draw)[:_HELD_OUT_MIN]] = True
    if held.all():
        raise ConfigError(
            f"{run}: {len(names)} recordings are too few to train on some and evaluate on others"
        )
    sound = StudentSound(
        caches=tuple(cache.folder.resolve() for cache in caches),
        first=np.array(first, np.int64),
        count=np.array(count, np.int64),
        held_out=held,
        unlabelled=len(unlabelled) - unreadable,
        unreadable=unreadable,
    )
    return sound, source


def _make(
    folder: Path,
    recordings: list[Recording],
    contents: Contents,
    made_of: str,
    crops_max: int,
    jobs: int,
    console: Console,
) -> int:
    """Make or complete the images of unlabelled recordings. Returns the number of unreadable
    ones."""
    path = folder / _SOURCE
    if not path.is_file() or read_json(path).get("made_of") != made_of:
        path.unlink(missing_ok=True)
        made = make_spectrograms(folder, recordings, contents, crops_max, jobs, console)
        write_json(path, {"made_of": made_of, "skipped": made.skipped})
    skipped = int(read_json(path)["skipped"])
    if skipped:
        console.print(
            f"[yellow]{skipped} of {len(recordings)} unlabelled recordings cannot be "
            f"read[/yellow]: {folder / 'skipped.csv'}",
            highlight=False,
        )
    return skipped


def _recordings(folders: Sequence[Path], spared: set[Path]) -> list[Recording]:
    """The sound files below folders, as recordings without species; a file that is in two of them
    counts once."""
    found: dict[Path, Recording] = {}
    for folder in folders:
        files = [p for p in files_under(folder) if p.suffix.lower() in AUDIO]
        if not files:
            raise ConfigError(
                f"--sound {folder}: expected a folder of recordings, found no sound file in it"
            )
        for path in files:
            name = f"{folder.name}/{path.relative_to(folder).as_posix()}"
            found.setdefault(
                path.resolve(), Recording(name, path, "", (), None, None, None, 0.0, "", "")
            )
    return [recording for path, recording in found.items() if path not in spared]


def _draw(name: str) -> float:
    """A pseudo-random number from 0 to 1 that depends only on the name of a recording."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) / 2**48
