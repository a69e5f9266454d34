"""Fit: trains the members that are missing, side by side in worker processes. Knows which, not how (member.py)."""

from concurrent.futures import FIRST_EXCEPTION, wait
from pathlib import Path

import torch
from rich.console import Console

from edge.contract.errors import ConfigError, CorpusError
from trainer.dataset import CropSet
from trainer.member import Task, fit_member, read_history
from trainer.model import check_architecture, find_weights
from trainer.run import Run
from trainer.workers import default_jobs, progress_bar, worker_pool

_POLL_S = 0.5


def choose_device(name: str) -> str:
    """`auto` takes a GPU where there is one. Raises ConfigError for one that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no GPU here; allowed: auto, cpu")
    return name


def fit_members(
    run: Run, crops: CropSet, inputs: str, *, device: str, jobs: int, weights: Path | None, console: Console
) -> int:
    """Train the members that are missing, `jobs` at a time; returns how many were. `inputs` is the digest of what
    they are trained from: spectrograms, folds, labels."""
    recipe = run.recipe
    threads = 1 if device == "cpu" else default_jobs()
    tasks = [
        Task(run.folder, kind, fold, seed, crops, inputs, device, threads, weights)
        for fold in range(recipe.folds.count)
        for kind in recipe.members
        for seed in kind.seeds
    ]
    missing = [task for task in tasks if not _finished(run, task)]
    for architecture in sorted({task.kind.architecture for task in missing}):
        check_architecture(architecture)
        if recipe.pretrained:
            find_weights(architecture, weights or True)
    for fold in range(recipe.folds.count):
        if not (crops.fold == fold).any() or (crops.fold == fold).all():
            raise CorpusError(f"{run.folder / 'folds.csv'}: fold {fold} has no recording with sound to validate on")
    if missing:
        _train_all(run, missing, min(jobs, len(missing)), console)
    return len(missing)


def _finished(run: Run, task: Task) -> bool:
    if not (run.member_folder(task.name) / "member.json").is_file():
        return False
    return run.member(task.name).inputs == task.inputs


def _train_all(run: Run, tasks: list[Task], jobs: int, console: Console) -> None:
    """Workers train; this process only watches the histories they write."""
    total = sum(task.kind.epochs for task in tasks)
    with worker_pool(jobs) as pool, progress_bar(console) as progress:
        bar = progress.add_task(f"{len(tasks)} members", total=total, note="")
        futures = {pool.submit(fit_member, task): task for task in tasks}
        pending = set(futures)
        while pending:
            done, pending = wait(pending, _POLL_S, FIRST_EXCEPTION)
            for future in done:
                info = future.result()
                line = f"{info.name}: F1 {info.valid_f1:.3f}, {info.epochs} epochs in {info.seconds:.0f} s"
                progress.console.print(line, markup=False, highlight=False)
            epochs = sum(len(read_history(run.member_folder(task.name))) for task in tasks)
            progress.update(bar, completed=epochs, note="epochs")
