"""A training of heads killed at random moments and begun again, with one process and with two,
against one that nobody disturbed; and heads for many species at once.

    python -m tests.trials.transfer_kills BUNDLE CORPUS NOISE OUT [--kills 10] [--seed 1]
    python -m tests.trials.transfer_kills --species 400 OUT

The second makes up embeddings of four recordings a species, and says how long the heads take.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from edge.contract.taxonomy import Species, Taxonomy
from trainer.corpus.folds import make_folds, write_folds
from trainer.corpus.recordings import Corpus, Recording
from trainer.corpus.tables import Problems
from trainer.files import digest, write_csv
from trainer.recipe import find_recipe
from trainer.run import Run
from trainer.transfer.embeddings import BACKGROUNDS, FOLDER, INDEX
from trainer.transfer.fit import fit_heads

_WIDTH, _STRETCHES, _WINDOWS, _RECORDINGS, _QUIET = 1024, 2, 4, 4, 200
_SPREAD = 0.5  # of windows about the middle of their species


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--species", type=int)
    asked = parser.parse_args()
    if asked.species:
        many_species(asked.paths[-1], asked.species)
    else:
        killed(*asked.paths, kills=asked.kills, seed=asked.seed)


def killed(bundle: Path, data: Path, noise: Path, out: Path, *, kills: int, seed: int) -> None:
    """Compare an undisturbed run of one process with runs of two that are killed and begun again,
    each at another moment."""
    began = time.monotonic()
    command = [sys.executable, "-m", "trainer", "fit-all", "--data", data, "--backbone", bundle]
    command += ["--nocall", noise, "--no-rasters", "--no-track"]
    subprocess.run([*command, "--out", out / "whole", "--jobs", "1"], check=True)
    whole_s = time.monotonic() - began
    export(out, "whole")
    dice = random.Random(seed)
    moments = []
    apart: list[str] = []
    for number in range(kills):
        name = f"killed{number}"
        after_s = dice.uniform(0.1, 0.8) * whole_s
        with subprocess.Popen([*command, "--out", out / name, "--jobs", "2"]) as process:
            try:
                process.wait(after_s)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
        done = out / name / "stages.json"
        there = list(json.loads(done.read_text())["stages"]) if done.is_file() else []
        moments.append(f"{after_s:.0f} s: {there[-1] if there else 'nothing done'}")
        subprocess.run([*command, "--out", out / name, "--jobs", "2"], check=True)
        export(out, name)
        apart += differences(out, name)
    print(f"undisturbed {whole_s:.0f} s; killed after (last stage done)", "; ".join(moments))
    print("differs:", ", ".join(apart) or "nothing")
    raise SystemExit(bool(apart))


def export(out: Path, name: str) -> None:
    command = ["export", "onnx", "--run", out / name, "--out", out / f"{name}-bundle"]
    subprocess.run([sys.executable, "-m", *map(str, command)], check=True)


def differences(out: Path, killed: str) -> list[str]:
    """Files of run and bundle that differ, apart from those with times in them."""
    found = []
    for folder, names in (
        ("", ["embeddings/index.csv", "scales.npz", "tune.json", "sweep.json", "oof.json"]),
        ("-bundle", ["probe.npz", "taxonomy.csv"]),
    ):
        whole, other = out / f"whole{folder}", out / f"{killed}{folder}"
        parts = [*whole.glob("members/*/*.safetensors"), *whole.glob("members/*/oof.npz")]
        parts += [*whole.glob("members/*.onnx"), *whole.glob("members/*.npy")]
        parts += [*whole.glob("embeddings/parts/*"), *(whole / name for name in names)]
        for path in parts:
            name = path.relative_to(whole)
            if not path.is_file() or digest(path) != digest(other / name):
                found.append(f"{killed}{folder}/{name}")
    return found


def many_species(out: Path, count: int) -> None:
    """Train the heads of made-up species and print how long it took and how well they do."""
    rng = np.random.default_rng(1)
    codes = [f"sp{number:04d}" for number in range(count)]
    taxonomy = Taxonomy(Species(code, f"Avis {code}", code) for code in codes)
    middles = rng.standard_normal((count, _WIDTH)).astype(np.float32)
    recordings, rows = [], []
    parts = out / FOLDER / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    for species, code in enumerate(codes):
        for number in range(_RECORDINGS):
            key = f"{code}/{number}.wav"
            path = out / "none" / key
            recordings.append(Recording(key, path, code, (), None, None, None, 0.0, "", ""))
            shape = (2, _WINDOWS, _STRETCHES, _WIDTH)
            own = middles[species] + _SPREAD * 2 * rng.standard_normal(shape, np.float32)
            name = f"parts/{species}-{number}.npz"
            np.savez(
                out / FOLDER / name,
                embedding=np.maximum(own, 0).astype(np.float16),
                own=np.zeros((2, _WINDOWS, 0), np.float32),
                call=np.ones(_WINDOWS, np.float32),
            )
            rows.append((key, code, _WINDOWS * len(rows), _WINDOWS, name))
    write_csv(out / FOLDER / "index.csv", INDEX, rows)
    np.savez(
        out / FOLDER / BACKGROUNDS,
        embedding=np.maximum(rng.standard_normal((_QUIET, _STRETCHES, _WIDTH)), 0).astype(
            np.float16
        ),
        own=np.zeros((_QUIET, 0), np.float32),
        origin=np.arange(_QUIET),
    )
    run = Run.create(out, find_recipe("transfer"), "made up", taxonomy)
    corpus = Corpus(out, tuple(recordings), taxonomy, (), Problems())
    write_folds(out / "folds.csv", make_folds(recordings, run.recipe.folds, 1))
    began = time.monotonic()
    fit_heads(run, corpus, "made up", 2, Console())
    f1 = [info.valid_f1 for info in run.members()]
    print(
        f"{count} species of {_RECORDINGS} recordings of {_WINDOWS} windows: "
        f"{time.monotonic() - began:.0f} s; F1 of heads {min(f1):.3f} to {max(f1):.3f}"
    )


if __name__ == "__main__":
    main()
