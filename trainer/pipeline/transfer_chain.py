"""The chain of stages of a training with heads on a published model: embeddings and fit-heads take
the place of spectrograms and fit-cnn. Parses no arguments."""

from collections.abc import Sequence
from dataclasses import astuple, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from trainer.book import HEAD_STAGES, Result, recipe_parts
from trainer.corpus.backgrounds import background_source
from trainer.files import digest, write_json
from trainer.pipeline.chain import CHAIN, Stage
from trainer.pipeline.work import StageParts, Work
from trainer.run import HISTORY, SCORES, WEIGHTS, Run
from trainer.tuning.cautions import guessing, tell_cautions
from trainer.tuning.out_of_fold import crop_table, score_crops

if TYPE_CHECKING:
    from trainer.transfer.head_windows import TransferSet


def _embeddings(work: Work, parts: StageParts) -> None:
    from trainer.transfer.embeddings import FOLDER, MixedCopies, make_embeddings

    run = work.run
    work.require_backgrounds()
    quiet, left_out = work.background_sounds()
    if left_out:
        work.console.print(
            f"{left_out} sounds without birds are recordings of the corpus: left out",
            style="yellow",
            highlight=False,
        )
    backbone = work.backbone()
    made = make_embeddings(
        run.folder / FOLDER,
        work.corpus.recordings,
        run.book.contents,
        backbone,
        list(work.backbone_classes().values()),
        quiet,
        parts["backgrounds"],
        MixedCopies.of(run.recipe),
        work.options.jobs,
        work.console,
    )
    known = len(work.backbone_classes())
    title = backbone.member.architecture
    work.console.print(
        f"{made.windows} windows of {made.recordings} recordings, {made.skipped} skipped; {title} "
        f"knows {known} of {len(run.taxonomy)} species",
        highlight=False,
        soft_wrap=True,
    )


def _embeddings_parts(work: Work) -> StageParts:
    from trainer.transfer.embeddings import MixedCopies

    order = digest([(r.recording, r.primary_label) for r in work.corpus.recordings])
    parts = {"recordings": order, "sound": work.sound(), "backgrounds": work.backgrounds()}
    heard = digest(astuple(MixedCopies.of(work.run.recipe)))  # of the recipe, no more than needed
    backbone = digest(work.backbone().id, work.backbone_classes())
    return parts | {"backbone": backbone, "windows and copies": heard}


def _embeddings_result(run: Run) -> Result:
    from trainer.transfer.embeddings import FOLDER, Embeddings

    found = Embeddings(run.folder / FOLDER)
    return Result(tuple(found.files), found.digest())


def _fit_heads(work: Work, parts: StageParts) -> None:
    from trainer.transfer.fit import fit_heads
    from trainer.transfer.out_of_fold import FILE, fit_scales, unseen_scores

    run = work.run
    for option in work.unused_by_heads():
        work.console.print(f"{option} is not used: heads have one thread each", highlight=False)
    learning = fit_heads(run, work.corpus, digest(parts), work.options.jobs, work.console)
    heads = run.members()
    unseen = unseen_scores(run, heads)
    fit_scales(unseen, learning).write(run.folder / FILE)
    score = score_crops(table := crop_table(run, work.corpus, heads), run.taxonomy.codes)
    figures: dict[str, Any] = {
        "balanced_accuracy": round(score.balanced_accuracy, 4),
        "macro_f1": round(score.f1_macro, 4),
        "mean_average_precision": round(score.mean_average_precision, 4),
        "crops": score.crops,
    }
    figures |= guessing(table, score)
    figures["not_judged"] = not_judged(learning, unseen.trained, run.taxonomy.codes)
    pink = work.backgrounds() == background_source(None, run.book.contents)
    figures["backgrounds"] = "pink noise" if pink else "real"
    shown = Table(
        "windows", "balanced accuracy", "macro F1", "mean average precision", title="out of fold"
    )
    shown.add_row(f"{score.crops}", *(f"{value:.3f}" for value in list(figures.values())[:3]))
    work.console.print(shown)
    write_json(run.folder / "oof.json", figures)
    tell_cautions(run, work.console, tuned=False)


def not_judged(
    learning: "TransferSet", trained: NDArray[np.bool_], codes: Sequence[str]
) -> list[str]:
    """Species none of whose windows was heard by a head that had learnt the species elsewhere: they
    have a single recording, or all of theirs are of one place and season."""
    own = np.arange(len(learning.primary)), learning.primary
    judged = set(learning.primary[trained[own]].tolist())
    return [code for index, code in enumerate(codes) if index not in judged]


def _fit_heads_parts(work: Work) -> StageParts:
    keys = ("transfer", "optimiser", "sampling", "labels", "loss", "seed")
    return {"labels": work.labels()} | recipe_parts(work.recipe, *keys)


def _fit_heads_result(run: Run) -> Result:
    from trainer.transfer.out_of_fold import FILE

    names = ["oof.json", FILE]
    left: list[object] = []
    for info in run.members():
        names += [
            f"members/{info.name}/{file}" for file in ("member.json", WEIGHTS, SCORES, HISTORY)
        ]
        left.append([info.name, info.fold, info.files[WEIGHTS], info.files[SCORES]])
    return Result(tuple(names), digest(left, run.folder / FILE))


def _fit_heads_went_in(work: Work) -> dict[str, Any]:
    from trainer.transfer.embeddings import FOLDER, Embeddings

    found = Embeddings(work.run.folder / FOLDER)
    return {"recordings": len(found.entries), "crops": found.windows}


_STAGES = {stage.name: stage for stage in CHAIN}


def _after_heads(name: str) -> Stage:
    """A stage of the other chain that reads heads instead of networks."""
    stage = _STAGES[name]
    return replace(stage, needs=tuple("fit-heads" if n == "fit-cnn" else n for n in stage.needs))


TRANSFER_CHAIN = (
    _STAGES["check-data"],
    _STAGES["folds"],
    Stage(
        "embeddings",
        (),
        _embeddings_parts,
        _embeddings,
        _embeddings_result,
        keeps=("backgrounds",),
    ),
    Stage(
        "fit-heads",
        ("folds", "embeddings"),
        _fit_heads_parts,
        _fit_heads,
        _fit_heads_result,
        _fit_heads_went_in,
    ),
    _STAGES["fit-metadata"],
    _after_heads("bag"),
    _after_heads("tune"),
    _after_heads("report"),
)
assert tuple(stage.name for stage in TRANSFER_CHAIN) == HEAD_STAGES
