"""The student: one small network that learns to imitate the scores of the bag, epoch by epoch,
resumable after a kill.

Knows no labels and no thresholds; cascade.py evaluates it.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.optim import Optimizer

from edge.contract.bundle import file_sha256
from edge.contract.errors import ConfigError, CorpusError
from edge.contract.strict import SchemaError, parse
from trainer.files import digest, map_npy, read_csv, read_json, write_csv
from trainer.networks.checkpoint import FILE as CHECKPOINT
from trainer.networks.checkpoint import (
    read_checkpoint,
    read_weights,
    write_checkpoint,
    write_weights,
)
from trainer.networks.model import NetworkSpec, build_network
from trainer.networks.precision import autocast, choose_precision, prepare
from trainer.recipe import Normalise, OptimiserRecipe, StudentRecipe
from trainer.run import Run, TrainingPrecision
from trainer.student.cascade import MARGIN_MAX
from trainer.student.targets import Views, view_file
from trainer.training.member import make_optimiser, set_rate

FOLDER = "student"
FILE = "student.json"
WEIGHTS = "weights.safetensors"
VIEWS = "views"
HISTORY = ("epoch", "loss", "seconds")


@dataclass(frozen=True)
class StudentInfo:
    """A finished student, as recorded in student.json. `inputs` is the digest of its training
    inputs, `judged` that of the bag and the tuning for which its margins are valid."""

    architecture: str
    classes: int
    stem_pool: int
    normalise: Normalise
    parameters: int
    epochs: int
    seconds: float  # of training, without scoring by the bag
    # Mean binary cross-entropy of the last epoch; its lower limit is the entropy of the targets.
    loss: float
    inputs: str
    judged: str = ""
    weights: str = ""  # SHA-256 of its file; earlier versions have none
    below: float = MARGIN_MAX  # logits
    above: float = MARGIN_MAX
    # Of the cascade with the bag, on held-out recordings, with margins chosen on others.
    agreement: float = 1.0
    opened: float = 1.0
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Training:
    """A student in training, with the learning rates and the seed of its epochs."""

    network: nn.Module
    optimiser: Optimizer
    precision: TrainingPrecision
    recipe: StudentRecipe
    rates: OptimiserRecipe
    seed: int


def judged_by(run: Run) -> str:
    """Digest of the bag, the tuning and the recipe for the student, for which margins are valid."""
    return digest(
        run.folder / "bag.json",
        run.folder / "tune.json",
        *weights_of_bag(run),
        asdict(run.recipe.student),
    )


def weights_of_bag(run: Run) -> list[Path]:
    return [run.member_folder(member.name) / WEIGHTS for member in run.bag()]


def read_student(run: Run, stale: bool = False) -> StudentInfo | None:
    """The student of a run, or None. Raises CorpusError if it does not fit the bag of the run any
    more; `stale` skips this check."""
    path = run.folder / FOLDER / FILE
    if not path.is_file():
        return None
    kept = run.book.kept(FOLDER)
    if kept is not None and file_sha256(path) != kept:
        if stale:
            return None
        raise CorpusError(
            f"{path}: is damaged: it is not what distil left; run: python -m trainer distil"
        )
    try:
        info: StudentInfo = parse(StudentInfo, read_json(path))
    except SchemaError as error:
        raise CorpusError(f"{path}: {error}; run: python -m trainer distil") from None
    if not stale and info.judged != judged_by(run):
        raise CorpusError(
            f"{path}: is for another bag or tuning than the run has now; run: python -m trainer "
            "distil"
        )
    return info


def is_whole(run: Run, info: StudentInfo) -> bool:
    """True if the weights exist and are undamaged."""
    path = run.folder / FOLDER / WEIGHTS
    return path.is_file() and info.weights in ("", file_sha256(path))


def load_student(run: Run, info: StudentInfo) -> nn.Module:
    """Load the network of a student in eval mode, on the CPU, in float32. Raises CorpusError naming
    the file."""
    if not is_whole(run, info):
        path = run.folder / FOLDER / WEIGHTS
        raise CorpusError(
            f"{path}: is missing or damaged: it is not what was trained; run: python -m trainer "
            "distil"
        )
    network = build_network(NetworkSpec.of(info))
    read_weights(run.folder / FOLDER / WEIGHTS, network)
    return network.eval()


def fit_student(
    folder: Path,
    recipe: StudentRecipe,
    optimiser: OptimiserRecipe,
    views: Views,
    classes: int,
    seed: int,
    pretrained: Path | bool,
    inputs: str,
    progress: Callable[[int, float], None],
) -> StudentInfo:
    """Train the student on the bag's scores in `folder`, or resume a killed training with the same
    result. Writes weights, history and, until it is done, a checkpoint. Its margins open
    everything. `progress` is called with the number of epochs and the loss."""
    device = views.device
    torch.manual_seed(seed)
    spec = NetworkSpec(recipe.architecture, classes, recipe.stem_pool, recipe.normalise)
    network = build_network(spec, pretrained)
    precision = choose_precision(device)
    network = prepare(network, precision, device)
    rates = OptimiserRecipe(
        optimiser.name,
        recipe.learning_rate,
        min(optimiser.learning_rate_min, recipe.learning_rate),
        optimiser.batch,
        optimiser.weight_decay,
    )
    adam = make_optimiser(network, rates)
    training = _Training(network, adam, precision, recipe, rates, seed)
    done = read_checkpoint(folder, network, adam, inputs)
    history = _read_history(folder)[:done]
    for epoch in range(done, recipe.epochs):
        begin = time.monotonic()
        answers = map_npy(
            view_file(folder / VIEWS, epoch % recipe.views),
            "remove it and run: python -m trainer distil",
        )
        mean = _fit_epoch(training, epoch, views, answers)
        history.append((epoch + 1, mean, time.monotonic() - begin))
        write_csv(folder / "history.csv", HISTORY, history)
        write_checkpoint(folder, network, adam, epoch + 1, inputs)
        progress(epoch + 1, mean)
    write_weights(folder / WEIGHTS, network)
    return StudentInfo(
        architecture=recipe.architecture,
        classes=classes,
        stem_pool=recipe.stem_pool,
        normalise=recipe.normalise,
        parameters=sum(p.numel() for p in network.parameters()),
        epochs=len(history),
        seconds=round(sum(row[2] for row in history), 1),
        loss=round(history[-1][1], 6),
        inputs=inputs,
        weights=file_sha256(folder / WEIGHTS),
    )


def _fit_epoch(training: _Training, epoch: int, views: Views, answers: NDArray[Any]) -> float:
    """Train one epoch over all batches of a view, with the bag's scores `answers` for its crops.
    Returns the mean loss. Raises ConfigError if it is not finite."""
    recipe = training.recipe
    seed = training.seed
    order = np.random.default_rng([seed, epoch]).permutation(views.steps)
    # Seeds the global generator, from which dropout draws.
    torch.manual_seed(int(np.random.default_rng([seed, epoch, 1]).integers(2**63)))
    training.network.train()
    total = torch.zeros((), device=views.device)
    for turn, step in enumerate(order.tolist()):
        grey = views.batch(epoch % recipe.views, step)
        answer = answers[step * views.size : (step + 1) * views.size].astype(np.float32)
        share = (epoch + turn / views.steps) / recipe.epochs
        set_rate(training.optimiser, training.rates, share)
        with autocast(training.precision, views.device):
            logits = training.network(grey)
        loss = functional.binary_cross_entropy_with_logits(
            logits.float(), torch.from_numpy(answer).to(views.device)
        )
        training.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        training.optimiser.step()
        total += loss.detach()
    mean = float(total / views.steps)
    if not math.isfinite(mean):
        raise ConfigError(
            f"student: loss of epoch {epoch + 1} is not finite; lower student.learning_rate"
        )
    return mean


def forget_checkpoint(folder: Path) -> None:
    """Remove the checkpoint of a finished student."""
    (folder / CHECKPOINT).unlink(missing_ok=True)


def _read_history(folder: Path) -> list[tuple[int, float, float]]:
    path = folder / "history.csv"
    rows = read_csv(path, HISTORY) if path.is_file() else []
    return [(int(row["epoch"]), float(row["loss"]), float(row["seconds"])) for row in rows]
