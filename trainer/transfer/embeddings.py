"""The cache of embeddings: what the backbone makes of every window, as it is and mixed over
backgrounds.

One file for each recording, named by the digest of all that it is made from, so that a kill costs
one recording and an unchanged recording is never heard twice. Knows no training.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from edge.contract.audio import Samples
from edge.contract.bundle import file_sha256
from edge.contract.errors import CorpusError
from edge.contract.taxonomy import Taxonomy
from trainer.corpus.sound import Recording, read_recordings
from trainer.file_digests import ABSENT, UNREADABLE, Contents
from trainer.files import digest, map_npy, read_csv, read_npz, replacing, write_csv, write_npz
from trainer.recipe import Recipe
from trainer.transfer.backbone import Backbone, backbone_in
from trainer.transfer.sounds import (
    as_samples,
    background_windows,
    mixed_copy,
    samples_max,
    windows_in,
)
from trainer.workers import progress_bar, worker_pool

FOLDER = "embeddings"
INDEX = ("recording", "primary_label", "first", "count", "file")
SKIPPED = ("recording", "reason")
BACKGROUNDS = "backgrounds.npz"
_SOUND = ".backgrounds.npy"  # their windows while copies are mixed
_PARTS = "parts"
_ARRAYS = ("embedding", "own")
_BACKGROUND_ARRAYS = ("embedding", "own", "origin")
_REMEDY = "remove it and run: python -m trainer embeddings"
# Of the constants and code that the arrays depend on; a change makes all embeddings again.
_VERSION = 1


@dataclass(frozen=True)
class EmbeddedRecording:
    """A line of index.csv: a recording, the position of its windows and the file that has them."""

    recording: str
    primary_label: str
    first: int
    count: int
    file: str


@dataclass(frozen=True)
class EmbeddedWindows:
    """Windows as the backbone hears them: view 0 as they are, then their mixed copies."""

    embedding: NDArray[np.float32]  # (views, n, stretches, width)
    # (views, n, classes) the backbone's own scores of the species that it knows
    own: NDArray[np.float32]


@dataclass(frozen=True)
class EmbeddedBackgrounds:
    """Windows without birds as the backbone hears them."""

    embedding: NDArray[np.float32]  # (n, stretches, width)
    own: NDArray[np.float32]  # (n, classes)
    origin: NDArray[np.int64]  # (n,) number of its file


@dataclass(frozen=True)
class EmbeddingSummary:
    """Counts of a finished cache."""

    recordings: int
    windows: int
    skipped: int


@dataclass(frozen=True)
class MixedCopies:
    """How many windows of a recording are heard, and their copies."""

    windows_max: int
    copies: int  # of each window, over a background
    snr_db: tuple[float, float]
    seed: int

    @classmethod
    def of(cls, recipe: Recipe) -> "MixedCopies":
        """Those of a recipe with transfer."""
        assert recipe.transfer is not None
        of = recipe.transfer
        return cls(recipe.spectrograms.crops_max, of.copies, of.snr_db, recipe.seed)


@dataclass(frozen=True)
class _Unheard:
    """A recording whose file of embeddings is missing, with the key of all that goes into it."""

    recording: Recording
    key: str
    part: Path


@dataclass(frozen=True)
class _Task:
    """The recordings of one sound file to hear, by their start, as sent to a worker."""

    recordings: tuple[_Unheard, ...]
    backbone: Path
    classes: tuple[int, ...]
    backgrounds: Path
    copies: MixedCopies


def known_classes(taxonomy: Taxonomy, backbone: Taxonomy) -> dict[str, int]:
    """The classes of the backbone that stand for species of the corpus, by the corpus's codes: the
    same code, else the same scientific name."""
    by_name = {s.scientific_name.casefold(): i for i, s in enumerate(backbone) if s.scientific_name}
    found = {}
    for species in taxonomy:
        if species.code in backbone:
            found[species.code] = backbone.index(species.code)
        elif species.scientific_name.casefold() in by_name:
            found[species.code] = by_name[species.scientific_name.casefold()]
    return found


def make_embeddings(
    folder: Path,
    recordings: Sequence[Recording],
    contents: Contents,
    backbone: Backbone,
    classes: Sequence[int],
    quiet: Sequence[Recording],
    source: str,
    copies: MixedCopies,
    jobs: int,
    console: Console,
) -> EmbeddingSummary:
    """Make or complete the cache. `classes` are those of the backbone whose own scores are kept,
    `quiet` are the files without birds, `source` their digest. Recordings that cannot be decoded
    are skipped and listed in skipped.csv. Raises CorpusError if none can be read; OSError if the
    disk is full."""
    (folder / _PARTS).mkdir(parents=True, exist_ok=True)
    heard_by = digest(_VERSION, backbone.bundle.id, list(classes), source)
    sounds = contents.of_all([r.path for r in recordings], console, "sound")
    skipped = [
        (r.recording, "audio file missing" if sound == ABSENT else f"{r.path.name}: cannot be read")
        for r, sound in zip(recordings, sounds, strict=True)
        if sound in (ABSENT, UNREADABLE)
    ]
    planned: dict[str, _Unheard] = {}
    for r, sound in zip(recordings, sounds, strict=True):
        if sound not in (ABSENT, UNREADABLE):
            key = digest(heard_by, astuple(copies), sound, *_span(r))
            planned[r.recording] = _Unheard(r, key, folder / _PARTS / f"{key[:32]}.npz")
    _make_backgrounds(folder, quiet, heard_by, backbone, classes, console)
    with worker_pool(jobs) as pool:
        where = (backbone.bundle.folder, tuple(classes), folder / _SOUND, copies)
        reasons = _hear_all(pool, planned, where, console)
    (folder / _SOUND).unlink(missing_ok=True)
    entries = []
    first = 0
    for r in recordings:
        if r.recording not in planned or r.recording in reasons:
            continue
        part = planned[r.recording].part
        count = len(_calls_in(part))
        name = f"{_PARTS}/{part.name}"
        entries.append(EmbeddedRecording(r.recording, r.primary_label, first, count, name))
        first += count
    skipped += list(reasons.items())
    write_csv(folder / "skipped.csv", SKIPPED, sorted(set(skipped)))
    if not entries:
        raise CorpusError(
            f"no recording can be read: {len(skipped)} skipped; see {folder / 'skipped.csv'}"
        )
    write_csv(folder / "index.csv", INDEX, map(astuple, entries))
    kept = {entry.file for entry in entries}
    for part in (folder / _PARTS).iterdir():
        if part.suffix == ".npz" and f"{_PARTS}/{part.name}" not in kept:
            part.unlink()  # of another corpus or recipe
    return EmbeddingSummary(len(entries), first, len(set(skipped)))


def _span(recording: Recording) -> list[float]:
    """The part of its file that a recording is, for its key; empty if it is all of it."""
    if not recording.is_segment:
        return []
    return [recording.start_s, -1.0 if recording.end_s is None else recording.end_s]


def _hear_all(
    pool: ProcessPoolExecutor, planned: dict[str, _Unheard], where: Any, console: Console
) -> dict[str, str]:
    """Hear every recording whose file is not there yet. Returns the reasons of those that cannot be
    read, by recording."""
    reasons: dict[str, str] = {}
    missing = [one for one in planned.values() if not one.part.is_file()]
    missing.sort(key=lambda one: (one.recording.source, one.recording.start_s))
    files = [
        _Task(tuple(group), *where)
        for _, group in groupby(missing, key=lambda one: one.recording.source)
    ]
    with progress_bar(console) as progress:
        bar = progress.add_task(
            "embeddings", total=len(planned), completed=len(planned) - len(missing), note=""
        )
        for task, found in zip(files, pool.map(_hear, files), strict=True):
            for one, reason in zip(task.recordings, found, strict=True):
                if reason:
                    reasons[one.recording.recording] = reason
                    progress.console.print(f"skipped {reason}", markup=False, highlight=False)
            progress.update(bar, advance=len(found))
    return reasons


def _hear(task: _Task) -> list[str]:
    """Hear the recordings of one file and write a file for each. Returns for each the reason if it
    cannot be read. Runs in a worker."""
    own = [one.recording for one in task.recordings]
    reasons = []
    for one, sound in zip(
        task.recordings, read_recordings(own, samples_max(task.copies.windows_max)), strict=True
    ):
        if isinstance(sound, str):
            reasons.append(sound)
        else:
            write_npz(one.part, _heard(task, one.key, sound))
            reasons.append("")
    return reasons


def _heard(task: _Task, key: str, sound: Samples) -> dict[str, Any]:
    """The arrays of one recording."""
    copies = task.copies
    windows = windows_in(sound, copies.windows_max)
    backbone = backbone_in(task.backbone)
    backgrounds = map_npy(task.backgrounds, _REMEDY)
    mixed = (
        mixed_copy(windows, key, copy, backgrounds, copies.snr_db) for copy in range(copies.copies)
    )
    heard = [backbone.hear(view) for view in (windows, *mixed)]
    return {
        "embedding": np.stack([one.embedding for one in heard]).astype(np.float16),
        "own": np.stack([one.scores[:, list(task.classes)] for one in heard]),
        "call": _calls(backbone, heard[0].scores),
    }


def _calls(backbone: Backbone, scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """The highest score of any bird or animal, `(n,)`."""
    alive = backbone.bundle.taxonomy.of_kind(("bird", "animal"))
    best: NDArray[np.float32] = scores[:, alive].max(axis=1)
    return best


def _make_backgrounds(
    folder: Path,
    quiet: Sequence[Recording],
    source: str,
    backbone: Backbone,
    classes: Sequence[int],
    console: Console,
) -> None:
    """Write backgrounds.npz unless it is there from the same `source`, and the sound of all for the
    copies."""
    found = background_windows(quiet)
    for line in found.unreadable:
        console.print(f"skipped {line}", markup=False, highlight=False)
    with replacing(folder / _SOUND) as temporary, temporary.open("wb") as file:
        np.save(file, found.windows)
    path = folder / BACKGROUNDS
    if path.is_file():
        try:
            if str(read_npz(path, ("source",), _REMEDY)["source"]) == source:
                return
        except CorpusError:
            pass  # damaged: made again
    heard = backbone.hear(as_samples(found.windows))
    arrays: dict[str, Any] = {
        "embedding": heard.embedding.astype(np.float16),
        "own": heard.scores[:, list(classes)],
        "origin": found.origin,
        "source": np.array(source),
    }
    write_npz(path, arrays)
    files = len(set(found.origin[: found.real].tolist()))
    console.print(
        f"backgrounds: {found.real} windows of {files} files; "
        f"{len(found.windows) - found.real} of pink noise",
        highlight=False,
    )


def _calls_in(path: Path) -> NDArray[np.float32]:
    """The backbone's highest score of any animal in each window of one recording."""
    calls: NDArray[np.float32] = read_npz(path, ("call",), _REMEDY)["call"]
    return calls


def _read(path: Path) -> EmbeddedWindows:
    """The windows of one recording. Raises CorpusError naming the file."""
    file = read_npz(path, _ARRAYS, _REMEDY)
    return EmbeddedWindows(
        file["embedding"].astype(np.float32),
        file["own"].astype(np.float32),
    )


class Embeddings:
    """A finished cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rows = read_csv(folder / "index.csv", INDEX)
        try:
            self.entries = [
                EmbeddedRecording(
                    row["recording"],
                    row["primary_label"],
                    int(row["first"]),
                    int(row["count"]),
                    row["file"],
                )
                for row in rows
            ]
        except ValueError as error:
            raise CorpusError(f"{folder / 'index.csv'}: {error}; {_REMEDY}") from None

    @property
    def windows(self) -> int:
        """Number of windows of all recordings."""
        return sum(entry.count for entry in self.entries)

    @property
    def files(self) -> list[str]:
        """All files, by their names in the run."""
        parts = {f"{FOLDER}/{entry.file}" for entry in self.entries}
        return [f"{FOLDER}/{name}" for name in ("index.csv", "skipped.csv", BACKGROUNDS)] + sorted(
            parts
        )

    def digest(self) -> str:
        """Digest of all that heads are trained on."""
        return digest(
            self.folder / "index.csv",
            file_sha256(self.folder / BACKGROUNDS),
            [entry.file for entry in self.entries],
        )

    def read(self) -> EmbeddedWindows:
        """All windows of all recordings, in the order of the index."""
        parts = [_read(self.folder / entry.file) for entry in self.entries]
        return EmbeddedWindows(
            np.concatenate([part.embedding for part in parts], axis=1),
            np.concatenate([part.own for part in parts], axis=1),
        )

    def calls(self) -> NDArray[np.float32]:
        """The backbone's highest score of any bird or animal, of each window `(n,)`."""
        parts = [_calls_in(self.folder / entry.file) for entry in self.entries]
        return np.concatenate(parts)

    def backgrounds(self) -> EmbeddedBackgrounds:
        """The windows without birds."""
        file = read_npz(self.folder / BACKGROUNDS, _BACKGROUND_ARRAYS, _REMEDY)
        return EmbeddedBackgrounds(
            file["embedding"].astype(np.float32),
            file["own"].astype(np.float32),
            file["origin"].astype(np.int64),
        )
