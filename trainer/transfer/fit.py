"""Fit: trains the heads that are missing, each on all folds but one, side by side in workers of one
thread, so that neither cores nor kills change a bit of them.

Knows no soundscape and no threshold.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from edge.contract.bundle import file_sha256
from edge.contract.errors import CorpusError
from trainer.book import versions
from trainer.corpus.recordings import Corpus
from trainer.files import digest, write_csv, write_json, write_npz
from trainer.networks.checkpoint import read_weights, write_weights
from trainer.recipe import HeadForm, Recipe
from trainer.run import HISTORY, SCORES, WEIGHTS, MemberInfo, Run, member_name
from trainer.transfer.embeddings import FOLDER, Embeddings
from trainer.transfer.head_windows import KIND, HeadScores, Ints, TransferSet, transfer_set
from trainer.transfer.heads import (
    Floats,
    Head,
    LearningSet,
    build_head,
    fit_logistic,
    fit_mlp,
    scores_of,
)
from trainer.workers import progress_bar, worker_pool

_EVEN = 0.5  # threshold of the F1 by which heads are compared
_HISTORY = ("epoch", "train_loss", "valid_loss", "valid_f1")


@dataclass(frozen=True)
class HeadTask:
    """One head to train, as sent to a worker."""

    run: Path
    form: HeadForm
    fold: int
    seed: int
    learning: TransferSet
    inputs: str

    @property
    def name(self) -> str:
        return member_name(self.form, self.fold, self.seed)


def fit_heads(run: Run, corpus: Corpus, inputs: str, jobs: int, console: Console) -> TransferSet:
    """Train the missing heads. Returns the windows. `inputs` is the digest of what they are trained
    on."""
    embeddings = Embeddings(run.folder / FOLDER)
    learning = transfer_set(run, corpus, embeddings)
    recipe = run.recipe
    assert recipe.transfer is not None
    for fold in range(recipe.folds.count):
        if not (learning.fold == fold).any() or (learning.fold == fold).all():
            raise CorpusError(
                f"{run.folder / 'folds.csv'}: expected readable recordings in each fold, to "
                f"validate on; found none in fold {fold}, or all of them; check-data names the "
                "unreadable files; start again with a new --out"
            )
    tasks = [
        HeadTask(run.folder.resolve(), form, fold, recipe.seed, learning, inputs)
        for form in recipe.transfer.heads
        for fold in range(recipe.folds.count)
    ]
    missing = [task for task in tasks if not _finished(run, task)]
    with worker_pool(min(jobs, max(1, len(missing)))) as pool, progress_bar(console) as progress:
        bar = progress.add_task(
            "heads", total=len(tasks), completed=len(tasks) - len(missing), note=""
        )
        for info in pool.map(fit_head, missing):
            line = f"{info.name}: F1 {info.valid_f1:.3f}, {info.seconds:.1f} s"
            progress.console.print(line, markup=False, highlight=False)
            progress.update(bar, advance=1)
    return learning


def _finished(run: Run, task: HeadTask) -> bool:
    """True if a head exists, is undamaged and is from these inputs."""
    folder = run.member_folder(task.name)
    if not (folder / "member.json").is_file():
        return False
    try:
        info = run.member(task.name)
    except CorpusError:
        return False
    return info.inputs == task.inputs and all(
        run.book.contents.of(folder / name) == sha256 for name, sha256 in info.files.items()
    )


def fit_head(task: HeadTask) -> MemberInfo:
    """Train one head and score the fold that it has not seen. Runs in a worker."""
    torch.set_num_threads(1)
    began = time.monotonic()
    run = Run(task.run)
    recipe = run.recipe
    assert recipe.transfer is not None
    folder = run.member_folder(task.name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "member.json").unlink(missing_ok=True)  # made from other inputs
    embeddings = Embeddings(task.run / FOLDER)
    heard = embeddings.read()
    backgrounds = embeddings.backgrounds().embedding
    learning = learning_set(task, heard.embedding, backgrounds, recipe)
    torch.manual_seed(_seed(task))
    head = build_head(task.form, heard.embedding.shape[-1], task.learning.classes, recipe.transfer)
    if task.form == "logistic":
        steps = fit_logistic(head, learning, recipe.transfer)
    else:
        steps = fit_mlp(head, learning, recipe.transfer, recipe.optimiser, _seed(task))
    seen = task.learning.fold == task.fold
    empty = np.flatnonzero(task.learning.background_fold == task.fold)
    found = HeadScores(
        np.flatnonzero(seen),
        scores_of(head, heard.embedding[0][seen]),
        np.stack([scores_of(head, view[seen]) for view in heard.embedding[1:]]),
        empty,
        scores_of(head, backgrounds[empty]),
        task.learning.knows(task.fold),
    )
    write_weights(folder / WEIGHTS, head)
    write_npz(folder / SCORES, vars(found))
    primary = task.learning.primary[seen]
    loss, f1 = _judge(found.scores, primary, task.learning.calling[seen])
    shown = [(s.step, f"{s.loss:.6f}", f"{loss:.6f}", f"{f1:.6f}") for s in steps]
    write_csv(folder / HISTORY, _HISTORY, shown)
    info = MemberInfo(
        name=task.name,
        kind=KIND,
        architecture=task.form,
        fold=task.fold,
        seed=task.seed,
        classes=task.learning.classes,
        stem_pool=1,
        valid_f1=f1,
        epochs=len(steps),
        kept_epoch=len(steps),
        parameters=sum(p.numel() for p in head.parameters()),
        seconds=round(time.monotonic() - began, 1),
        inputs=task.inputs,
        device="cpu",
        threads=1,
        versions=versions(),
        files={name: file_sha256(folder / name) for name in (WEIGHTS, SCORES, HISTORY)},
    )
    write_json(folder / "member.json", vars(info))
    return info


def _seed(task: HeadTask) -> int:
    return int(digest(task.seed, task.fold, task.form)[:8], 16)


def _judge(scores: Floats, primary: Ints, calling: NDArray[np.bool_]) -> tuple[float, float]:
    """Mean cross-entropy and micro F1 at 0.5 of the windows in which something calls."""
    mine, truth = scores[calling], np.eye(scores.shape[1], dtype=np.float32)[primary[calling]]
    safe = np.clip(mine, 1e-6, 1 - 1e-6)
    loss = -(truth * np.log(safe) + (1 - truth) * np.log(1 - safe)).mean()
    passed = mine >= _EVEN
    hits = passed[truth > 0].sum()
    return float(loss), float(2 * hits / max(1, passed.sum() + len(mine)))


def learning_set(
    task: HeadTask, embedding: Floats, backgrounds: Floats, recipe: Recipe
) -> LearningSet:
    """All stretches that a head is trained on: the windows of the other folds in which something
    calls, as they are and mixed, and the other folds' backgrounds.

    A recording counts as much as any other of its species, and a species by its number of
    recordings to the power 1 - sampling.balance; backgrounds together count `empty` times as much
    as all calls together."""
    of = task.learning
    assert recipe.transfer is not None
    mine = np.flatnonzero((of.fold != task.fold) & of.calling)
    empty = np.flatnonzero(of.background_fold != task.fold)
    views, stretches, width = len(embedding), embedding.shape[2], embedding.shape[3]
    labels = recipe.labels
    target = np.where(of.secondary[mine], labels.secondary, labels.other).astype(np.float32)
    target[np.arange(len(mine)), of.primary[mine]] = labels.primary
    windows = np.bincount(of.recording[mine], minlength=of.recording.max() + 1)
    species = {int(r): int(s) for r, s in zip(of.recording[mine], of.primary[mine], strict=True)}
    recordings = np.bincount(list(species.values()), minlength=of.classes)
    weight = of.rating[mine] / windows[of.recording[mine]]
    weight = weight / recordings[of.primary[mine]] ** recipe.sampling.balance
    calls = np.tile(np.repeat(weight, stretches), views)
    nothing = np.full(len(empty) * stretches, recipe.transfer.empty * calls.sum(), np.float64)
    all_weights = np.concatenate([calls, nothing / max(1, len(nothing))])
    return LearningSet(
        np.concatenate(
            [embedding[:, mine].reshape(-1, width), backgrounds[empty].reshape(-1, width)]
        ),
        np.concatenate(
            [
                np.tile(np.repeat(target, stretches, axis=0), (views, 1)),
                np.full((len(nothing), of.classes), labels.other, np.float32),
            ]
        ),
        (all_weights / all_weights.mean()).astype(np.float32),
    )


def load_head(run: Run, info: MemberInfo, width: int) -> Head:
    """The head of a finished member, in eval mode. Raises CorpusError naming the file."""
    path = run.member_folder(info.name) / WEIGHTS
    if path.is_file() and file_sha256(path) != info.files[WEIGHTS]:
        raise CorpusError(f"{path}: is damaged: it is not what was trained; run fit-all again")
    assert run.recipe.transfer is not None
    form: HeadForm = "logistic" if info.architecture == "logistic" else "mlp"
    head = build_head(form, width, info.classes, run.recipe.transfer)
    read_weights(path, head)
    return head.eval()
