"""Clips as vectors: the embedding of the stretch of each clip in which the network finds most, kept
by the contents of the file.

Of the stretches of all windows of a clip counts the one with the longest embedding: silence and
noise leave an embedding short, and the mean over a clip would mix the bird with what surrounds it.
Groups are made in groups.py.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.contract.audio import RATE_HZ, WAVEFORM, WINDOW_SAMPLES, Samples, WindowCutter
from edge.contract.bundle import file_sha256
from edge.contract.errors import CorpusError, RecordingError
from trainer.corpus.recordings import read_sound
from trainer.discover.clips import Clip
from trainer.files import read_npz, write_npz
from trainer.transfer.backbone import backbone_in
from trainer.workers import worker_pool

READ_S = 60  # of a clip at most
_PART = 64  # clips whose vectors are written at once: what a kill costs
_ARRAYS = ("backbone", "digests", "vectors", "starts")


@dataclass(frozen=True)
class ClipVector:
    """The embedding `(width,)` of a clip's fullest stretch, and the start of its window."""

    vector: NDArray[np.float32]
    start_s: float


@dataclass(frozen=True)
class _Answer:
    digest: str
    found: ClipVector | None
    reason: str = ""


class VectorStore:
    """Vectors of one backbone in a folder, in parts of `_PART`; a damaged part is made again."""

    def __init__(self, folder: Path, backbone: str) -> None:
        self._folder = folder
        self._backbone = backbone
        self.kept: dict[str, ClipVector] = {}
        for path in sorted(folder.glob("part-*.npz")):
            try:
                arrays = read_npz(path, _ARRAYS, "")
                rows = zip(
                    arrays["digests"].tolist(), arrays["vectors"], arrays["starts"], strict=True
                )
                if arrays["backbone"].item() == backbone:
                    self.kept |= {name: ClipVector(row, float(at)) for name, row, at in rows}
            except (CorpusError, ValueError, AttributeError):
                path.unlink(missing_ok=True)

    def add(self, found: dict[str, ClipVector]) -> None:
        """Write another part."""
        if not found:
            return
        self.kept |= found
        taken = {path.name for path in self._folder.glob("part-*.npz")}
        names = (f"part-{number:05}.npz" for number in itertools.count(1))
        path = self._folder / next(name for name in names if name not in taken)
        arrays = {
            "backbone": np.array(self._backbone),
            "digests": np.array(list(found)),
            "vectors": np.stack([one.vector for one in found.values()]),
            "starts": np.array([one.start_s for one in found.values()], np.float32),
        }
        write_npz(path, arrays)


def vectors_of(
    clips: Sequence[Clip],
    bundle: Path,
    store: VectorStore,
    jobs: int,
    tell: Callable[[str], None],
    progress: Callable[[int], None],
) -> list[ClipVector | None]:
    """The vector of each clip, or None; files that cannot be read go to `tell`, in a line each.
    `progress` is called with the number of clips done."""
    answers: list[ClipVector | None] = []
    with _mapping(min(jobs, len(clips))) as spread:
        digests = spread(_digest, [clip.path for clip in clips])
        for batch in _batches(list(zip(clips, digests, strict=True))):
            fresh = {
                digest: clip.path
                for clip, digest in batch
                if digest is not None and digest not in store.kept
            }
            heard = list(spread(functools.partial(_hear, bundle), fresh, fresh.values()))
            store.add({one.digest: one.found for one in heard if one.found is not None})
            reasons = {one.digest: one.reason for one in heard}
            for clip, digest in batch:
                found = None if digest is None else store.kept.get(digest)
                if found is None:
                    tell(f"{clip.path}: {reasons.get(digest or '', 'cannot be opened')}")
                answers.append(found)
                progress(len(answers))
    return answers


@contextmanager
def _mapping(jobs: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """A map over worker processes; for one job in this process, which need not start another."""
    if jobs == 1:
        yield map
        return
    with worker_pool(jobs) as pool:
        yield functools.partial(pool.map, chunksize=4)


def _batches(rows: list[tuple[Clip, str | None]]) -> Iterator[list[tuple[Clip, str | None]]]:
    for at in range(0, len(rows), _PART):
        yield rows[at : at + _PART]


def _digest(path: Path) -> str | None:
    """The digest of a file's contents; None if it cannot be read."""
    try:
        return file_sha256(path)
    except OSError:
        return None


def _hear(bundle: Path, digest: str, path: Path) -> _Answer:
    """Runs in a worker."""
    try:
        sound = read_sound(path, READ_S * RATE_HZ)
    except RecordingError as error:
        return _Answer(digest, None, " ".join(error.reason.split()))
    windows, starts = windows_of(sound)
    embedded = backbone_in(bundle).embed(windows)
    lengths = np.linalg.norm(embedded, axis=-1)
    window, stretch = np.unravel_index(int(lengths.argmax()), lengths.shape)
    return _Answer(digest, ClipVector(embedded[window, stretch], float(starts[window] / RATE_HZ)))


def windows_of(sound: Samples) -> tuple[Samples, NDArray[np.int64]]:
    """Windows `(n, 160000)` of a clip and their first samples `(n,)`; the last ends with the sound,
    a shorter clip is padded with zeros."""
    cutter = WindowCutter(WINDOW_SAMPLES, "zeros", front=WAVEFORM)
    windows = [*cutter.push(sound), *cutter.close()]
    starts = [
        min(k * WINDOW_SAMPLES, max(0, len(sound) - WINDOW_SAMPLES)) for k in range(len(windows))
    ]
    return np.stack([window.input for window in windows]), np.array(starts, np.int64)
