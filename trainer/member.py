"""A member: one network trained on all folds but one, epoch by epoch, resumed after a kill. Runs in a worker.

The loop itself is `Member.epoch`. Knows no sound and no corpus: crops and labels come as a CropSet.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.optim import Adam, AdamW, Optimizer

from edge.contract.audio import CROPS_MAX
from edge.contract.errors import ConfigError
from trainer.augment import Dice, augment
from trainer.checkpoint import FILE as CHECKPOINT
from trainer.checkpoint import read_checkpoint, read_weights, write_checkpoint, write_weights
from trainer.dataset import CropSet, Images, Ints, epoch_crops, first_crops, open_images, targets, to_device
from trainer.files import read_csv, replacing, write_csv, write_json
from trainer.model import build_network
from trainer.recipe import MemberRecipe, OptimiserRecipe
from trainer.run import MemberInfo, Run, member_name
from trainer.spectrograms import Spectrograms

HISTORY = ("epoch", "train_loss", "valid_loss", "valid_f1", "seconds")
VALID_THRESHOLD = 0.5  # of the F1 that epochs are compared by, as in the published training code
_VALID_BATCH = 128


@dataclass(frozen=True)
class Task:
    """One member to train, as sent to a worker."""

    run: Path
    kind: MemberRecipe
    fold: int
    seed: int
    crops: CropSet
    inputs: str  # digest of what it is trained from
    device: str
    threads: int
    weights: Path | None  # folder of ImageNet weights

    @property
    def name(self) -> str:
        return member_name(self.kind.kind, self.fold, self.seed)


@dataclass(frozen=True)
class Epoch:
    """One line of history.csv. Losses are means over crops; F1 is micro, at 0.5, on the fold left out."""

    epoch: int
    train_loss: float
    valid_loss: float
    valid_f1: float
    seconds: float


@dataclass(frozen=True)
class Scored:
    """What a network says of crops."""

    rows: Ints  # (n,) index into images.npy
    primary: Ints  # (n,) index of the species
    scores: NDArray[np.float32]  # (n, species)
    loss: float


def read_history(folder: Path) -> list[Epoch]:
    """Epochs of a member so far."""
    path = folder / "history.csv"
    if not path.is_file():
        return []
    return [Epoch(int(r["epoch"]), *(float(r[name]) for name in HISTORY[1:])) for r in read_csv(path, HISTORY)]


def fit_member(task: Task) -> MemberInfo:
    """Train one member, or finish it where an earlier run was killed. In a worker."""
    torch.set_num_threads(task.threads)
    run = Run(task.run)
    folder = run.member_folder(task.name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "member.json").unlink(missing_ok=True)  # of other inputs
    member = Member(run, task)
    member.resume()
    while len(member.history) < task.kind.epochs:
        member.epoch()
        if run.recipe.keep == "last" or member.best() == len(member.history):
            write_weights(folder / "weights.safetensors", member.network)
        write_csv(folder / "history.csv", HISTORY, ([getattr(e, n) for n in HISTORY] for e in member.history))
        write_checkpoint(folder, member.network, member.optimiser, len(member.history), task.inputs)
    return _finish(run, member)


class Member:
    """A network in training: one instance per worker task."""

    def __init__(self, run: Run, task: Task) -> None:
        self.task, self.recipe = task, run.recipe
        self.folder = run.member_folder(task.name)
        self.device = torch.device(task.device)
        self.history: list[Epoch] = []
        self.train = task.crops.where(task.crops.fold != task.fold)
        self.valid = task.crops.where(task.crops.fold == task.fold)
        self.images: Images = open_images(Spectrograms(run.folder / "spectrograms").images, self.device)
        torch.manual_seed(int(self._random(0).integers(2**63)))
        network = build_network(
            task.kind.architecture,
            task.crops.classes,
            stem_pool=task.kind.stem_pool,
            normalise=task.kind.normalise,
            pretrained=(task.weights or True) if self.recipe.pretrained else False,
        )
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # batches are of one size
            self.network.compile()  # on a CPU it costs more than a small network's training
        self.optimiser = make_optimiser(self.network, self.recipe.optimiser)

    def _random(self, epoch: int) -> np.random.Generator:
        return np.random.default_rng([self.recipe.seed, self.task.seed, self.task.fold, epoch])

    def resume(self) -> None:
        """Take up the last whole epoch of an earlier run, if there is one."""
        epochs = read_checkpoint(self.folder, self.network, self.optimiser, self.task.inputs)
        self.history = read_history(self.folder)[:epochs]

    def best(self) -> int:
        """The epoch of the best F1, counted from 1; the later of equal ones."""
        return max(self.history, key=lambda e: (e.valid_f1, e.epoch)).epoch

    def epoch(self) -> None:
        """Train one epoch and score the fold left out."""
        number = len(self.history) + 1
        begin = time.monotonic()
        rng = self._random(number)
        torch.manual_seed(int(rng.integers(2**63)))  # dropout draws from the global generator
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**63)))
        train_loss = self._train(number, rng, Dice(rng, generator))
        if not math.isfinite(train_loss):
            raise ConfigError(f"{self.task.name}: loss of epoch {number} is not finite; lower optimiser.learning_rate")
        valid = self.score(self.recipe.sampling.crops_per_recording)
        f1 = micro_f1(valid.scores, valid.primary)
        self.history.append(Epoch(number, train_loss, valid.loss, f1, time.monotonic() - begin))

    def _train(self, number: int, rng: np.random.Generator, dice: Dice) -> float:
        recipe = self.recipe
        recordings, rows = epoch_crops(self.train, recipe.sampling, rng)
        size = min(recipe.optimiser.batch, len(rows))
        steps = len(rows) // size  # the rest, another one each epoch, is left out: batches are of one size
        self.network.train()
        total = torch.zeros((), device=self.device)
        for step in range(steps):
            batch = slice(step * size, (step + 1) * size)
            target = to_device(targets(self.train, recordings[batch], recipe.labels), self.device)
            grey, target = augment(self.images.take(rows[batch]), target, self.task.kind.augment, dice)
            set_rate(self.optimiser, recipe.optimiser, (number - 1 + step / steps) / self.task.kind.epochs)
            with self._autocast():
                logits = self.network(grey)
            loss = functional.binary_cross_entropy_with_logits(logits.float(), target, reduction="none").mean(dim=1)
            if recipe.loss.rating_weight:
                loss = loss * to_device(self.train.weight[recordings[batch]], self.device)
            self.optimiser.zero_grad(set_to_none=True)
            loss.mean().backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            total += loss.detach().mean()
        return float(total / steps)

    def score(self, crops_max: int = CROPS_MAX) -> Scored:
        """Score the first `crops_max` crops of every recording of the fold left out."""
        recordings, rows = first_crops(self.valid, crops_max)
        parts, losses = [], []
        self.network.eval()
        with torch.inference_mode():
            for start in range(0, len(rows), _VALID_BATCH):
                batch = slice(start, start + _VALID_BATCH)
                target = to_device(targets(self.valid, recordings[batch], self.recipe.labels), self.device)
                with self._autocast():
                    logits = self.network(self.images.take(rows[batch]).float()).float()
                losses.append(functional.binary_cross_entropy_with_logits(logits, target, reduction="sum"))
                parts.append(torch.sigmoid(logits))
        loss = float(torch.stack(losses).sum()) / (len(rows) * self.valid.classes)
        return Scored(rows, self.valid.primary[recordings], torch.cat(parts).cpu().numpy(), loss)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")


def make_optimiser(network: nn.Module, recipe: OptimiserRecipe) -> Optimizer:
    kind = Adam if recipe.name == "adam" else AdamW
    return kind(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)


def set_rate(optimiser: Optimizer, recipe: OptimiserRecipe, progress: float) -> None:
    """Cosine from the learning rate to its minimum; `progress` 0..1 of the training."""
    low, high = recipe.learning_rate_min, recipe.learning_rate
    for group in optimiser.param_groups:
        group["lr"] = low + (high - low) * (1.0 + math.cos(math.pi * progress)) / 2.0


def micro_f1(scores: NDArray[np.float32], primary: Ints) -> float:
    """F1 over all crops and species of `score >= 0.5` against the primary species; background species are not asked
    for (their target is below 0.5)."""
    found = scores >= VALID_THRESHOLD
    hits = int(found[np.arange(len(primary)), primary].sum())
    return 2.0 * hits / (int(found.sum()) + len(primary))


def _finish(run: Run, member: Member) -> MemberInfo:
    """Score the fold left out with the weights that are kept; member.json last, as the sign that all is there."""
    task = member.task
    kept = member.best() if run.recipe.keep == "best" else len(member.history)
    read_weights(member.folder / "weights.safetensors", member.network)
    scored = member.score()
    with replacing(member.folder / "oof.npz") as temporary:
        np.savez(temporary, rows=scored.rows, scores=scored.scores.astype(np.float16))
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
        seconds=round(sum(e.seconds for e in member.history), 1),
        inputs=task.inputs,
        normalise=task.kind.normalise,
    )
    write_json(member.folder / "member.json", vars(info))
    (member.folder / CHECKPOINT).unlink()
    return info
