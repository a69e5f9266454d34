"""Steps per second of the training loop against a plain eager float32 loop of the same network, in one run.

`make bench` shows it; alone: python tests/bench_training.py. The images are noise: what they show costs no time. On a
CPU one thread is measured, as every worker has, in CPU seconds: other programs do not count.
"""

import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional

from edge.contract.audio import IMAGE_SHAPE
from edge.contract.taxonomy import Species, Taxonomy
from trainer.augment import Dice, augment
from trainer.dataset import CropSet, Ints, epoch_crops, targets
from trainer.files import write_csv, write_json
from trainer.member import Member, Task
from trainer.model import build_network
from trainer.recipe import MemberRecipe, SamplingRecipe, find_recipe
from trainer.run import Run
from trainer.spectrograms import IMAGES, INDEX, RANGES, Spectrograms, cache_constants
from trainer.workers import default_jobs

SPECIES = 397
ROUNDS = 2
# of BirdCLEF 2021 and the author's write-up: hours of one member on Colab
RECORDINGS, CROPS, AUTHOR_HOURS = 62_874, 380_000, {"stripes": 2.5, "mixup": 5.5}


@dataclass(frozen=True)
class Measured:
    """Best of the rounds."""

    batch: int
    ours: float  # steps per second
    plain: float
    waited: float  # share of our loop's time
    precision: str
    peak_bytes: int  # of device memory; 0 on a CPU


def make_task(folder: Path, kind: MemberRecipe, batch: int, steps: int, device: str) -> Task:
    """A member whose epoch is so many steps, on a cache of noise."""
    recipe = find_recipe("published")
    optimiser = replace(recipe.optimiser, batch=batch)
    recipe = replace(recipe, pretrained=False, sampling=SamplingRecipe(1, 0.0), members=(kind,), optimiser=optimiser)
    species = Taxonomy(Species(f"bird{i}", f"Avis {i}", f"Bird {i}") for i in range(SPECIES))
    run = Run.create(folder, recipe, "bench", species)
    recordings = batch * steps + 1
    cache = folder / "spectrograms"
    write_csv(cache / "index.csv", INDEX, [])
    write_json(cache / "cache.json", cache_constants(1) | {"done": True})
    rng = np.random.default_rng(0)
    np.save(cache / IMAGES, rng.integers(0, 256, (recordings, *IMAGE_SHAPE), np.uint8))
    np.save(cache / RANGES, np.tile(np.array([-80, 0], np.float32), (recordings, 1)))
    crops = CropSet(
        first=np.arange(recordings),
        count=np.ones(recordings, np.int64),
        fold=np.arange(recordings) // (batch * steps),  # the last recording is the fold left out
        primary=rng.integers(0, SPECIES, recordings),
        secondary=np.zeros((recordings, SPECIES), bool),
        weight=np.ones(recordings, np.float32),
    )
    return Task(run.folder, kind, 1, 1, crops, "-", device, default_jobs() if device != "cpu" else 1, None)


class Plain:
    """The same member as one would write it first: float32, eager, images and targets made between the steps."""

    def __init__(self, task: Task, member: Member) -> None:
        self.task, self.member, self.device = task, member, member.device
        kind = task.kind
        self.images = Spectrograms(task.run / "spectrograms").images
        self.network = build_network(kind.architecture, SPECIES, stem_pool=kind.stem_pool, normalise=kind.normalise)
        self.network.to(self.device).train()
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=8e-4)

    def epoch(self, recordings: Ints, rows: Ints, batch: int, dice: Dice) -> float:
        total, recipe = 0.0, self.member.recipe
        for start in range(0, len(rows), batch):
            at = slice(start, start + batch)
            target = torch.from_numpy(targets(self.member.train, recordings[at], recipe.labels)).to(self.device)
            grey, target = augment(
                torch.from_numpy(self.images[rows[at]]).to(self.device), target, self.task.kind.augment, dice
            )
            loss = functional.binary_cross_entropy_with_logits(self.network(grey), target)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            total += loss.item()
        return total


def measure(folder: Path, kind: MemberRecipe, batch: int, steps: int, device: str) -> Measured:
    """Epochs of both loops in turn, so that what else the machine does meets both."""
    task = make_task(folder, kind, batch, steps, device)
    torch.set_num_threads(task.threads)
    member = Member(Run(task.run), task)
    plain = Plain(task, member)
    clock = time.perf_counter if device != "cpu" else time.process_time
    seconds, waits, peak = dict[str, list[float]](ours=[], plain=[]), [], 0
    for number in range(ROUNDS + 1):  # the first one warms up (and compiles) and does not count
        rng = np.random.default_rng(number)
        dice = Dice(rng, torch.Generator(member.device).manual_seed(number))
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        begin, wall = clock(), time.perf_counter()
        _, waited = member._train(1, rng, dice)
        seconds["ours"].append(clock() - begin)
        waits.append(waited / (time.perf_counter() - wall))
        peak = torch.cuda.max_memory_allocated() if device != "cpu" else 0
        recordings, rows = epoch_crops(member.train, member.recipe.sampling, rng)
        begin = clock()
        plain.epoch(recordings, rows, batch, dice)
        seconds["plain"].append(clock() - begin)
    ours, theirs = (min(found[1:]) for found in seconds.values())
    return Measured(batch, steps / ours, steps / theirs, float(np.mean(waits[1:])), member.precision, peak)


def bench_training(console: Console) -> None:
    """Print the table; with a GPU also memory and what the published recipe would take."""
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    published, demo = find_recipe("published").members, find_recipe("demo").members[0]
    where = torch.cuda.get_device_name() if device != "cpu" else "one CPU thread"
    versions = f"torch {torch.__version__}, Python {sys.version.split()[0]}"
    table = Table(title=f"Training loop: steps per second, {where}, {versions}", title_justify="left")
    for name in ("network", "batch", "", "ours", "plain float32", "ratio", "data wait", "peak GB"):
        table.add_column(name, justify="left" if name in ("network", "") else "right")
    hours = []
    for kind in (*published, demo):
        small = kind is demo
        batch, steps = (64, 40) if device != "cpu" else (32, 8) if small else (16, 1)
        with tempfile.TemporaryDirectory() as name:
            found = measure(Path(name), kind, batch, steps, device)
        figures = f"{found.ours:.2f}", f"{found.plain:.2f}", f"{found.ours / found.plain:.2f}", f"{found.waited:.1%}"
        memory = f"{found.peak_bytes / 1e9:.1f}" if found.peak_bytes else "-"
        table.add_row(kind.architecture, str(batch), found.precision, *figures, memory)
        if not small:
            hours += [
                projection(kind, found, RECORDINGS, "a crop of every recording"),
                projection(kind, found, CROPS, "all crops"),
            ]
    console.print(table)
    for line in hours if device != "cpu" else []:
        console.print(line, highlight=False)


def projection(kind: MemberRecipe, found: Measured, samples: int, epoch: str) -> str:
    """Hours of one published member whose epoch is four fifths of so many samples."""
    hours = 0.8 * samples * kind.epochs / (found.batch * found.ours) / 3600
    author = AUTHOR_HOURS[kind.kind]
    return f"{kind.architecture}, {kind.epochs} epochs of {epoch}: {hours:.2f} h a member; the author's {author} h"


if __name__ == "__main__":
    bench_training(Console(width=130))
