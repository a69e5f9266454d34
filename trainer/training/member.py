"""A member: one network trained on all folds but one, epoch by epoch, resumable after a kill. Runs
in a worker.

The training loop is `Member.epoch`. Knows no sound and no corpus: crops and labels come as a
CropSet.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, AdamW, Optimizer

from edge.contract.audio import CROPS_MAX
from edge.contract.bundle import file_sha256
from edge.contract.errors import ConfigError
from trainer.book import versions
from trainer.corpus.backgrounds import FILE as BACKGROUNDS
from trainer.corpus.backgrounds import read_backgrounds
from trainer.corpus.spectrograms import Spectrograms
from trainer.files import digest, replacing, write_csv, write_json
from trainer.networks.checkpoint import FILE as CHECKPOINT
from trainer.networks.checkpoint import (
    read_checkpoint,
    read_weights,
    write_checkpoint,
    write_weights,
)
from trainer.networks.model import NetworkSpec, build_network
from trainer.networks.precision import autocast, choose_precision, prepare
from trainer.recipe import MemberRecipe, OptimiserRecipe
from trainer.run import CALLS, SCORES, WEIGHTS, MemberInfo, Run, TrainingPrecision, member_name
from trainer.run import HISTORY as HISTORY_FILE
from trainer.training.augment import Backgrounds, Dice, augment
from trainer.training.batches import Batch, Batches
from trainer.training.calls import read_calls
from trainer.training.dataset import (
    CropSet,
    Images,
    Ints,
    epoch_crops,
    first_crops,
    on_host,
    open_images,
    targets,
    to_device,
)
from trainer.training.history import HISTORY, Epoch, read_history
from trainer.training.validation import micro_f1, micro_f1_low
from trainer.tuning.row_images import FILE as ROW_IMAGES
from trainer.tuning.row_images import read_row_images

_VALID_BATCH = 128
_NAMED_MAX = 8  # recordings of a batch, in an error


@dataclass(frozen=True)
class MemberTask:
    """One member to train, as sent to a worker."""

    run: Path
    kind: MemberRecipe
    fold: int
    seed: int
    crops: CropSet
    inputs: str  # digest of its training inputs
    device: str
    threads: int
    weights: Path | None  # folder of ImageNet weights

    @property
    def name(self) -> str:
        return member_name(self.kind.kind, self.fold, self.seed)

    @property
    def made_under(self) -> str:
        """Digest of everything that its weights depend on, including the kind of device and the
        versions of libraries."""
        threads = self.threads if self.device == "cpu" else 0
        return digest(self.inputs, self.device.split(":")[0], threads, versions())


@dataclass(frozen=True)
class MemberScores:
    """Scores of a network for crops."""

    rows: Ints  # (n,) index into images.npy
    recordings: Ints  # (n,) index of the recording
    primary: Ints  # (n,) index of the species
    scores: NDArray[np.float32]  # (n, species)
    loss: float


def member_line(info: MemberInfo, details: bool = False) -> str:
    """One line about a finished member."""
    line = f"F1 {info.valid_f1:.3f}, {info.seconds:.0f} s"
    if not details:
        return line
    held = "images on disk" if info.images == "disk" else f"images in {info.images}"
    waited = f"{info.epochs} epochs, {info.data_wait:.1%} of the time waiting for images"
    return f"{line} ({info.name}, {waited}; {info.precision}, {held})"


def fit_member(task: MemberTask) -> MemberInfo:
    """Train one member, resuming it if an earlier run was killed. Runs in a worker."""
    torch.set_num_threads(task.threads)
    run = Run(task.run)
    folder = run.member_folder(task.name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "member.json").unlink(missing_ok=True)  # made from other inputs
    member = Member(run, task)
    member.resume()
    while len(member.history) < task.kind.epochs:
        member.epoch()
        if run.recipe.keep == "last" or member.best() == len(member.history):
            write_weights(folder / WEIGHTS, member.network)
        write_csv(
            folder / HISTORY_FILE,
            HISTORY,
            ([getattr(e, n) for n in HISTORY] for e in member.history),
        )
        write_checkpoint(
            folder, member.network, member.optimiser, len(member.history), task.made_under
        )
    return _finish(run, member)


class Member:
    """A network in training: one instance per worker task."""

    def __init__(self, run: Run, task: MemberTask) -> None:
        self.task = task
        self.recipe = run.recipe
        self.folder = run.member_folder(task.name)
        self.device = torch.device(task.device)
        self.history: list[Epoch] = []
        self.train = task.crops.where(task.crops.fold != task.fold)
        self.valid = task.crops.where(task.crops.fold == task.fold)
        spectrograms = Spectrograms(run.folder / "spectrograms")
        self.images: Images = open_images(spectrograms.images, self.device)
        self.backgrounds: Backgrounds | None = None
        if task.kind.augment.backgrounds:
            found = read_backgrounds(run.folder / BACKGROUNDS)
            self.backgrounds = Backgrounds(found, spectrograms.ranges, self.device)
        self.calls = read_calls(run.folder / CALLS) if self.recipe.labels.call_probability else None
        self.soundscapes = (
            read_row_images(run.folder / ROW_IMAGES) if self.recipe.keep == "soundscapes" else None
        )
        torch.manual_seed(int(self._random(0).integers(2**63)))
        kind = task.kind
        spec = NetworkSpec(kind.architecture, task.crops.classes, kind.stem_pool, kind.normalise)
        pretrained = (task.weights or True) if self.recipe.pretrained else False
        network = build_network(spec, pretrained)
        self.precision: TrainingPrecision = choose_precision(self.device)
        self.network = prepare(network, self.precision, self.device)
        self.optimiser = make_optimiser(self.network, self.recipe.optimiser)

    def _random(self, epoch: int) -> np.random.Generator:
        return np.random.default_rng([self.recipe.seed, self.task.seed, self.task.fold, epoch])

    def resume(self) -> None:
        """Resume after the last complete epoch of an earlier run, if there is one."""
        epochs = read_checkpoint(self.folder, self.network, self.optimiser, self.task.made_under)
        self.history = read_history(self.folder)[:epochs]

    def best(self) -> int:
        """Number of the best epoch, counted from 1; the later of equal ones."""
        by = "soundscape_f1" if self.recipe.keep == "soundscapes" else "valid_f1_low"
        return max(self.history, key=lambda e: (getattr(e, by), e.epoch)).epoch

    def epoch(self) -> None:
        """Train one epoch and score the validation fold."""
        number = len(self.history) + 1
        begin = time.monotonic()
        rng = self._random(number)
        torch.manual_seed(int(rng.integers(2**63)))  # dropout draws from the global generator
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**63)))
        train_loss, waited_s = self._train(number, rng, Dice(rng, generator))
        valid = self.score(self.recipe.sampling.crops_per_recording)
        f1 = f1_low = micro_f1(valid.scores, valid.primary)
        if draws := self.recipe.validation.bootstrap:
            f1_low = micro_f1_low(
                valid.scores, valid.primary, valid.recordings, draws, self.recipe.seed
            )
        rows_f1 = self._score_soundscapes()
        seconds = time.monotonic() - begin
        self.history.append(
            Epoch(
                number,
                train_loss,
                valid.loss,
                f1,
                f1_low,
                rows_f1,
                seconds,
                round(waited_s / seconds, 5),
            )
        )

    def _train(self, number: int, rng: np.random.Generator, dice: Dice) -> tuple[float, float]:
        """Train one epoch. Returns its mean loss, and the seconds waited for batches. No step waits
        for the device: the loss is summed there and read once."""
        recipe = self.recipe
        augmented = self.task.kind.augment
        recordings, rows = epoch_crops(self.train, recipe.sampling, rng, self.task.kind.clip_crops)
        size = min(recipe.optimiser.batch, len(rows))
        # All batches have one size: the remainder, different in each epoch, is left out.
        steps = len(rows) // size

        def make(step: int) -> Batch:
            chosen = slice(step * size, (step + 1) * size)
            return self._batch(self.train, recordings[chosen], rows[chosen])

        self.network.train()
        total = torch.zeros((), device=self.device)
        losses = torch.zeros(steps, device=self.device)
        batches = Batches(make, steps, self.device)
        for step, batch in enumerate(batches):
            grey = self.images.place(batch.images)
            target = self._place(batch.target)
            if self.backgrounds is not None:
                nothing = recipe.labels.other
                grey, target = self.backgrounds.add(
                    grey, target, batch.rows, augmented, nothing, dice
                )
            grey, target = augment(grey, target, augmented, dice)
            set_rate(
                self.optimiser,
                recipe.optimiser,
                (number - 1 + step / steps) / self.task.kind.epochs,
            )
            with autocast(self.precision, self.device):
                logits = self.network(grey)
            loss = functional.binary_cross_entropy_with_logits(
                logits.float(), target, reduction="none"
            ).mean(dim=1)
            if recipe.loss.rating_weight:
                loss = loss * self._place(batch.weight)
            self.optimiser.zero_grad(set_to_none=True)
            loss.mean().backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            losses[step] = loss.detach().mean()
            total += losses[step]
        mean = float(total / steps)
        if not math.isfinite(mean):
            step = int(torch.isfinite(losses).logical_not().nonzero()[0])
            raise ConfigError(self._not_finite(number, rows[step * size : (step + 1) * size]))
        return mean, batches.waited_s

    def _not_finite(self, number: int, rows: Ints) -> str:
        """The error for the first batch, of images `(n, c)`, with a loss that is not finite."""
        entries = Spectrograms(self.folder.parent.parent / "spectrograms").entries
        at = np.searchsorted([entry.first for entry in entries], rows[:, 0], side="right") - 1
        names = [entries[i].recording for i in at]
        shown = ", ".join(names[:_NAMED_MAX]) + (", …" if len(names) > _NAMED_MAX else "")
        return (
            f"{self.task.name}: loss of epoch {number} is not finite, first for a batch of "
            f"{shown}; lower optimiser.learning_rate, or check these recordings"
        )

    def _batch(self, crops: CropSet, recordings: Ints, rows: Ints) -> Batch:
        """Samples `(n, c)` of recordings `(n,)`, on the host. The probability of a call in a sample
        is that of its best crop."""
        calls = None if self.calls is None else self.calls[rows].max(axis=1)
        target = on_host(targets(crops, recordings, self.recipe.labels, calls), self.device)
        return Batch(
            rows, self.images.gather(rows), target, on_host(crops.weight[recordings], self.device)
        )

    def _place(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def score(
        self, crops_max: int = CROPS_MAX, precision: TrainingPrecision | None = None
    ) -> MemberScores:
        """Score the first `crops_max` crops of every recording of the validation fold, in the
        precision of the training unless another is given."""
        recordings, rows = first_crops(self.valid, crops_max)
        parts = []
        losses = []
        for chosen in np.array_split(np.arange(len(rows)), math.ceil(len(rows) / _VALID_BATCH)):
            batch = self._batch(self.valid, recordings[chosen], rows[chosen, None])
            logits = self._logits(self.images.place(batch.images), precision or self.precision)
            target = self._place(batch.target)
            losses.append(
                functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
            )
            parts.append(torch.sigmoid(logits))
        loss = float(torch.stack(losses).sum()) / (len(rows) * self.valid.classes)
        return MemberScores(
            rows, recordings, self.valid.primary[recordings], torch.cat(parts).cpu().numpy(), loss
        )

    def _score_soundscapes(self) -> float:
        if self.soundscapes is None:
            return math.nan
        images = self.soundscapes.images[:, None]
        parts = np.array_split(images, math.ceil(len(images) / _VALID_BATCH))
        logits = [self._logits(to_device(part, self.device), self.precision) for part in parts]
        return self.soundscapes.f1(torch.sigmoid(torch.cat(logits)).cpu().numpy(), self.recipe.tune)

    @torch.inference_mode()
    def _logits(self, grey: Tensor, precision: TrainingPrecision) -> Tensor:
        self.network.eval()
        with autocast(precision, self.device):
            logits: Tensor = self.network(grey.float()).float()
        return logits


def make_optimiser(network: nn.Module, recipe: OptimiserRecipe) -> Optimizer:
    kind = Adam if recipe.name == "adam" else AdamW
    return kind(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )


def set_rate(optimiser: Optimizer, recipe: OptimiserRecipe, progress: float) -> None:
    """Set the learning rate: a cosine from the maximum to the minimum over `progress` 0..1 of the
    training."""
    low = recipe.learning_rate_min
    high = recipe.learning_rate
    for group in optimiser.param_groups:
        group["lr"] = low + (high - low) * (1.0 + math.cos(math.pi * progress)) / 2.0


def _finish(run: Run, member: Member) -> MemberInfo:
    """Score the validation fold with the weights that are kept. Writes member.json last, as the
    sign that all files are complete."""
    task = member.task
    kept = len(member.history) if run.recipe.keep == "last" else member.best()
    read_weights(member.folder / WEIGHTS, member.network)
    scored = member.score(precision="fp32")  # as the network is exported
    with replacing(member.folder / SCORES) as temporary:
        np.savez(temporary, rows=scored.rows, scores=scored.scores.astype(np.float16))
    seconds = sum(e.seconds for e in member.history)
    info = MemberInfo(
        name=task.name,
        kind=task.kind.kind,
        architecture=task.kind.architecture,
        fold=task.fold,
        seed=task.seed,
        classes=task.crops.classes,
        stem_pool=task.kind.stem_pool,
        valid_f1=member.history[kept - 1].valid_f1,
        epochs=len(member.history),
        kept_epoch=kept,
        parameters=sum(p.numel() for p in member.network.parameters()),
        seconds=round(seconds, 1),
        inputs=task.inputs,
        normalise=task.kind.normalise,
        precision=member.precision,
        valid_f1_low=member.history[kept - 1].valid_f1_low,
        data_wait=round(sum(e.data_wait * e.seconds for e in member.history) / seconds, 5),
        images=member.images.held,
        device=member.device.type,
        threads=task.threads,
        versions=versions(),
        files={name: file_sha256(member.folder / name) for name in (WEIGHTS, SCORES, HISTORY_FILE)},
    )
    write_json(member.folder / "member.json", vars(info))
    (member.folder / CHECKPOINT).unlink()
    return info
