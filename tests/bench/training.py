"""Steps per second of the training loop against a plain eager float32 loop of the same network, in
one run.

`make bench` shows it; alone: python -m tests.bench.training. The images are noise: what they show
costs no time. On a CPU one thread is measured, as every worker has, in CPU seconds: other programs
do not count.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional

from edge.contract.audio import IMAGE_SHAPE
from edge.contract.taxonomy import Species, Taxonomy
from tests.bench.ratios import ROUNDS, Ratio, interleaved
from trainer.corpus.spectrograms import IMAGES, INDEX, RANGES, Spectrograms, cache_constants
from trainer.files import write_csv, write_json
from trainer.networks.model import NetworkSpec, build_network
from trainer.recipe import MemberRecipe, SamplingRecipe, find_recipe
from trainer.run import Run
from trainer.training.augment import Dice, augment
from trainer.training.dataset import CropSet, Ints, epoch_crops, targets
from trainer.training.member import Member, MemberTask
from trainer.workers import default_jobs

SPECIES = 397
# of BirdCLEF 2021 and the author's write-up: hours of one member on Colab
RECORDINGS = 62_874
CROPS = 380_000
AUTHOR_HOURS = {"stripes": 2.5, "mixup": 5.5}


@dataclass(frozen=True)
class Measured:
    """Medians of the rounds, and the ratio."""

    batch: int
    ours: float  # steps per second
    plain: float
    ratio: Ratio  # how many times faster
    waited: float  # share of our loop's time
    precision: str
    peak_bytes: int  # of device memory; 0 on a CPU


def make_task(folder: Path, kind: MemberRecipe, batch: int, steps: int, device: str) -> MemberTask:
    """A member whose epoch is so many steps, on a cache of noise."""
    recipe = find_recipe("published")
    optimiser = replace(recipe.optimiser, batch=batch)
    recipe = replace(
        recipe,
        pretrained=False,
        sampling=SamplingRecipe(1, 0.0),
        members=(kind,),
        optimiser=optimiser,
    )
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
    return MemberTask(
        run.folder, kind, 1, 1, crops, "-", device, default_jobs() if device != "cpu" else 1, None
    )


class Plain:
    """The same member as one would write it first: float32, eager, images and targets made between
    the steps."""

    def __init__(self, task: MemberTask, member: Member) -> None:
        self.task = task
        self.member = member
        self.device = member.device
        kind = task.kind
        self.images = Spectrograms(task.run / "spectrograms").images
        self.network = build_network(
            NetworkSpec(
                kind.architecture, SPECIES, stem_pool=kind.stem_pool, normalise=kind.normalise
            )
        )
        self.network.to(self.device).train()
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=8e-4)

    def epoch(self, recordings: Ints, rows: Ints, batch: int, dice: Dice) -> float:
        total = 0.0
        recipe = self.member.recipe
        for start in range(0, len(rows), batch):
            at = slice(start, start + batch)
            target = torch.from_numpy(targets(self.member.train, recordings[at], recipe.labels)).to(
                self.device
            )
            grey, target = augment(
                torch.from_numpy(self.images[rows[at]]).to(self.device),
                target,
                self.task.kind.augment,
                dice,
            )
            loss = functional.binary_cross_entropy_with_logits(self.network(grey), target)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            total += loss.item()
        return total


class Race:
    """Both loops of one kind of member on the same images; seconds per step of an epoch of
    either."""

    def __init__(
        self, folder: Path, kind: MemberRecipe, batch: int, steps: int, device: str
    ) -> None:
        self.task = make_task(folder, kind, batch, steps, device)
        self.steps = steps
        self.device = device
        torch.set_num_threads(self.task.threads)
        self.member = Member(Run(self.task.run), self.task)
        self.plain = Plain(self.task, self.member)
        self.clock = time.perf_counter if device != "cpu" else time.process_time
        self.waits: list[float] = []
        self.peak_bytes = self.epochs = 0

    def ours(self) -> float:
        """An epoch of the trainer's loop."""
        rng, dice = self._dice()
        if self.device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        begin = self.clock()
        wall = time.perf_counter()
        _, waited = self.member._train(1, rng, dice)
        spent = self.clock() - begin
        self.waits.append(waited / (time.perf_counter() - wall))
        self.peak_bytes = torch.cuda.max_memory_allocated() if self.device != "cpu" else 0
        return spent / self.steps

    def theirs(self) -> float:
        """An epoch of the plain one."""
        rng, dice = self._dice()
        recordings, rows = epoch_crops(self.member.train, self.member.recipe.sampling, rng)
        begin = self.clock()
        self.plain.epoch(recordings, rows, self.member.recipe.optimiser.batch, dice)
        return (self.clock() - begin) / self.steps

    def _dice(self) -> tuple[np.random.Generator, Dice]:
        self.epochs += 1
        rng = np.random.default_rng(self.epochs)
        return rng, Dice(rng, torch.Generator(self.member.device).manual_seed(self.epochs))


def measure(race: Race) -> Measured:
    """Epochs of both loops in turn, after one of each that warms up (and compiles)."""
    race.ours()
    race.theirs()
    race.waits.clear()
    found = interleaved({"ours": race.ours, "plain": race.theirs})
    ours, plain = (1 / statistics.median(seconds) for seconds in found.values())
    batch = race.member.recipe.optimiser.batch
    waited = float(np.mean(race.waits))
    ratio = Ratio.of(found["plain"], found["ours"])
    return Measured(batch, ours, plain, ratio, waited, race.member.precision, race.peak_bytes)


def races(device: str, quick: bool) -> Iterator[Race]:
    """The published kinds of member and the demo's, in a folder of their own each; the demo's alone
    if it is to be quick."""
    demo = find_recipe("demo").members[0]
    for kind in (*(() if quick else find_recipe("published").members), demo):
        batch, steps = (64, 40) if device != "cpu" else (32, 8) if kind is demo else (16, 1)
        with tempfile.TemporaryDirectory() as name:
            yield Race(Path(name), kind, batch, steps, device)


def costs(quick: bool) -> dict[str, float]:
    """Seconds per step of the trainer's loop: on a CPU of one thread."""
    found = {}
    for race in races(device_here(), quick):
        race.ours()  # warms up
        found[f"{race.task.kind.architecture}, s a step"] = race.ours()
    return found


def device_here() -> str:
    """The first GPU, or the CPU."""
    return "cuda:0" if torch.cuda.is_available() else "cpu"


def bench_training(console: Console, quick: bool) -> None:
    """Print the table; with a GPU also memory and what the published recipe would take."""
    device = device_here()
    where = torch.cuda.get_device_name() if device != "cpu" else "one CPU thread"
    versions = f"torch {torch.__version__}, Python {sys.version.split()[0]}"
    title = f"Training loop: steps per second, {where}, {versions}, {ROUNDS} rounds in turn"
    table = Table(title=title, title_justify="left")
    for name in (
        "network",
        "batch",
        "",
        "ours",
        "plain float32",
        "ratio (95 %)",
        "data wait",
        "peak GB",
    ):
        table.add_column(name, justify="left" if name in ("network", "") else "right")
    hours = []
    for race in races(device, quick):
        kind = race.task.kind
        found = measure(race)
        figures = f"{found.ours:.2f}", f"{found.plain:.2f}", str(found.ratio), f"{found.waited:.1%}"
        memory = f"{found.peak_bytes / 1e9:.1f}" if found.peak_bytes else "-"
        table.add_row(kind.architecture, str(found.batch), found.precision, *figures, memory)
        if kind in find_recipe("published").members:
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
    return (
        f"{kind.architecture}, {kind.epochs} epochs of {epoch}: {hours:.2f} h a member; the "
        f"author's {author} h"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the demo's network alone")
    bench_training(Console(width=130), parser.parse_args().quick)
