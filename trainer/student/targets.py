"""Distillation targets: scores of the bag for augmented crops.

The student must imitate the bag on the *same* image, with all its noise and mixing; with the scores
of the clean crop it would learn the labels again, not the bag. Scoring with the bag in every step
is cheap for tiny members but too expensive for ten large ones. So the bag scores `views`
differently augmented versions of every crop, and epochs take these views in turn: the number of
views trades cost for fidelity. Images are not stored but drawn again from view and step; the scores
are stored (student/views/*.npy). A killed run resumes with the missing views. Knows no student.
"""

from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from edge.contract.audio import (
    CONTEXT_SAMPLES,
    FRAME_HOP,
    GREY_MAX,
    IMAGE_SHAPE,
    TOP_DB,
    WINDOW_SAMPLES,
    Padding,
)
from edge.contract.blend import Scores, acoustic_scores
from trainer.corpus.backgrounds import read_backgrounds
from trainer.files import replacing
from trainer.networks.model import load_network
from trainer.networks.precision import autocast, choose_precision
from trainer.recipe import Augment
from trainer.run import Run, TrainingPrecision
from trainer.student.student_sound import SoundImages, StudentSound
from trainer.training.augment import Backgrounds, Dice, augment, stretch
from trainer.training.dataset import Ints, to_device
from trainer.workers import progress_bar, worker_pool

_FRAMES = WINDOW_SAMPLES // FRAME_HOP + 1  # frames with their centre in a window
_BEFORE = CONTEXT_SAMPLES // FRAME_HOP
_PURPOSE = 7_001  # separates these random numbers from those of the members


@dataclass(frozen=True)
class Lessons:
    """The inputs of a distillation, the same for the bag and for the student."""

    run: Path
    sound: StudentSound
    padding: Padding
    augment: Augment
    backgrounds: Path
    views: int
    batch: int
    seed: int
    device: str


class Views:
    """Augmented crops, determined by the numbers of view and step alone."""

    def __init__(self, lessons: Lessons) -> None:
        self._lessons = lessons
        self.device = torch.device(lessons.device)
        self._images = SoundImages(lessons.sound, self.device)
        ranges = lessons.sound.ranges
        self._ranges = torch.from_numpy(ranges).to(self.device)
        self._backgrounds: Backgrounds | None = None
        if lessons.augment.backgrounds:
            self._backgrounds = Backgrounds(
                read_backgrounds(lessons.backgrounds), ranges, self.device
            )
        self._crops, _ = lessons.sound.rows(held_out=False)
        self.size = min(lessons.batch, len(self._crops))
        # The remainder, different in each view, is left out.
        self.steps = len(self._crops) // self.size
        # The order of the last view.
        self._order = self._crops
        self._ordered = -1

    def rows(self, view: int, step: int) -> Ints:
        """The crops `(size,)` of a batch, in ascending order."""
        if self._ordered != view:
            self._order = np.random.default_rng([_PURPOSE, self._lessons.seed, view]).permutation(
                self._crops
            )
            self._ordered = view
        return np.sort(self._order[step * self.size : (step + 1) * self.size])

    def batch(self, view: int, step: int) -> Tensor:
        """Grey levels `(size, 1, 128, 281)`, float32, of windows as the station cuts them,
        augmented."""
        lessons = self._lessons
        rows = self.rows(view, step)
        rng = np.random.default_rng([_PURPOSE, lessons.seed, view, step])
        dice = Dice(rng, torch.Generator(self.device).manual_seed(int(rng.integers(2**63))))
        grey = self._images.batch(rows)
        db = self._db(grey, rows)
        if self._backgrounds is not None:
            at, _, mixed = self._backgrounds.mix(grey, rows[:, None], lessons.augment, dice)
            db = db.index_copy(0, at, mixed)
        nothing = torch.zeros((len(rows), 1), device=self.device)  # the targets come from the bag
        image, _ = augment(as_window(db, lessons.padding), nothing, lessons.augment, dice)
        return image

    def plain(self, rows: Ints) -> Tensor:
        """The same without augmentation, for crops `(n,)` in ascending order."""
        return as_window(self._db(self._images.batch(rows), rows), self._lessons.padding)

    def _db(self, grey: Tensor, rows: Ints) -> Tensor:
        low, high = self._ranges[to_device(rows, self.device)].T[..., None, None, None]
        db: Tensor = low + grey.float() * ((high - low) / GREY_MAX)
        return db


def as_window(db: Tensor, padding: Padding) -> Tensor:
    """Crops of 7 s, in dB `(n, 1, 128, 281)`, to the grey levels of a window of 5 s in them, padded
    as on the station, so that the student learns on the kind of images that it will get."""
    if padding == "context":
        return stretch(db)
    if padding == "image":
        image = torch.zeros_like(db)
        image[..., _BEFORE : _BEFORE + _FRAMES] = stretch(db[..., _BEFORE : _BEFORE + _FRAMES])
        return image
    # Silence follows, so the dynamic range is always full.
    floor = db[..., :_FRAMES].amax(dim=(2, 3), keepdim=True) - TOP_DB
    sound = torch.where(torch.arange(IMAGE_SHAPE[1], device=db.device) < _FRAMES, db, floor)
    return stretch(torch.maximum(sound, floor))


class EnsembleNetworks:
    """The networks of a run's bag, on a device; bf16 is the precision of their training, at a third
    of the cost."""

    def __init__(
        self, run: Run, device: torch.device, precision: TrainingPrecision = "fp32"
    ) -> None:
        members = run.bag()
        self.kinds = [member.kind for member in members]
        networks = [load_network(run, member.name).to(device) for member in members]
        self.networks = [network.to(memory_format=torch.channels_last) for network in networks]
        self._blend = run.tuning().blend
        self._precision = precision

    def scores(self, grey: Tensor) -> Scores:
        """Acoustic scores `(n, species)` for grey levels `(n, 1, 128, 281)`."""
        with autocast(self._precision, grey.device):
            scores = np.stack([sigmoid(network, grey) for network in self.networks])
        return acoustic_scores(scores, self.kinds, self._blend)


@torch.inference_mode()
def sigmoid(network: nn.Module, grey: Tensor) -> NDArray[np.float32]:
    """Scores of one network, `(n, species)`."""
    return np.asarray(torch.sigmoid(network(grey).float()).cpu().numpy())


def ask_bag(lessons: Lessons, folder: Path, jobs: int, console: Console) -> None:
    """Write the bag's scores for every view that is missing in `folder`: `(steps · batch,
    species)`, float16."""
    missing = [view for view in range(lessons.views) if not view_file(folder, view).is_file()]
    with worker_pool(jobs) as pool, progress_bar(console) as progress:
        bar = progress.add_task(
            "bag", total=lessons.views, completed=lessons.views - len(missing), note="views"
        )
        asked = [pool.submit(_ask, lessons, folder, view) for view in missing]
        for done in as_completed(asked):
            done.result()
            progress.update(bar, advance=1)


def view_file(folder: Path, view: int) -> Path:
    return folder / f"{view:03}.npy"


def _ask(lessons: Lessons, folder: Path, view: int) -> None:
    """Score one view with the bag. Runs in a worker."""
    torch.set_num_threads(1)
    views = Views(lessons)
    bag = EnsembleNetworks(Run(lessons.run), views.device, choose_precision(views.device))
    answers = np.concatenate([bag.scores(views.batch(view, step)) for step in range(views.steps)])
    with replacing(view_file(folder, view)) as temporary:
        np.save(temporary, answers.astype(np.float16))
