"""The chain of stages of a training: for each its name, inputs, work and result.

stages.py decides which of them to run. Parses no arguments. Libraries that only one stage needs
(torch, CatBoost, matplotlib) are loaded when it runs, so that an error, or a finished run, takes no
seconds.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from edge.contract.folders import passed_over
from edge.prior.nearby import FILE as NEARBY
from trainer.book import STAGES, Result, recipe_parts
from trainer.corpus.backgrounds import FILE as BACKGROUNDS
from trainer.corpus.backgrounds import (
    make_backgrounds,
    read_backgrounds,
    wants_backgrounds,
    wants_folder,
)
from trainer.corpus.check import check_data
from trainer.corpus.folds import read_folds, write_folds
from trainer.corpus.spectrograms import IMAGES, RANGES, Spectrograms, make_spectrograms
from trainer.file_digests import ABSENT
from trainer.files import digest, write_json
from trainer.pipeline.work import NONE, StageParts, Work
from trainer.run import CALLS, HISTORY, SCORES, WEIGHTS, Run
from trainer.tuning.cautions import guessing, tell_cautions
from trainer.tuning.out_of_fold import crop_table, score_crops
from trainer.tuning.row_images import FILE as ROW_IMAGES
from trainer.tuning.row_images import make_row_images

# Files of the metadata model that predictions need.
_MODEL = ("model.onnx", "features.json", "grid.npz", NEARBY)


@dataclass(frozen=True)
class Stage:
    """One step of a training."""

    name: str
    needs: tuple[str, ...]  # stages whose results it reads
    made_from: Callable[[Work], StageParts]  # its inputs besides those results
    do: Callable[[Work, StageParts], None]  # its work, given all its inputs
    result: Callable[[Run], Result]
    went_in: Callable[[Work], dict[str, Any]] = lambda _: {}  # for readers and manifests
    keeps: tuple[str, ...] = ()  # inputs that stay the same if their option is not given


# Work and result of each stage


def _check_data(work: Work, _: StageParts) -> None:
    checked = check_data(work.corpus, work.options.jobs)
    write_json(work.run.folder / "check.json", asdict(checked))
    work.console.print(checked.table())


def _folds(work: Work, made_from: StageParts) -> None:
    from trainer.report.foldmap import assign_folds

    if made_from["map"] == NONE and not work.options.no_rasters and work.run.metadata() is not None:
        work.console.print("no --rasters given: folds.png shows no land", highlight=False)
    placed = assign_folds(
        work.corpus,
        work.run.recipe,
        work.run.folder / "folds.png",
        work.console,
        work.options.rasters,
    )
    write_folds(work.run.folder / "folds.csv", placed)


def _folds_parts(work: Work) -> StageParts:
    """Inputs of the folds; of the sound, only which files exist and which are identical."""
    first: dict[str, str] = {}
    equal = [
        None if sha256 == ABSENT else first.setdefault(sha256, name)
        for name, sha256 in work.sounds().items()
    ]
    parts = {"places": work.places(), "equal recordings": digest(equal), "map": work.elevation()}
    return parts | recipe_parts(work.recipe, "folds", "seed")


def _folds_result(run: Run) -> Result:
    placed = [(p.recording, p.fold) for p in read_folds(run.folder / "folds.csv")]
    return Result(("folds.csv", "folds.png"), digest(placed))


def _spectrograms(work: Work, _: StageParts) -> None:
    run = work.run
    asked = work.options
    made = make_spectrograms(
        run.folder / "spectrograms",
        work.corpus.recordings,
        run.book.contents,
        run.recipe.spectrograms.crops_max,
        asked.jobs,
        work.console,
    )
    work.console.print(
        f"{made.crops} crops of {made.recordings} recordings, {made.skipped} skipped"
    )
    if made.crops_per_s and asked.details:
        work.console.print(made.projected(asked.jobs), highlight=False)
    folder = asked.nocall if wants_folder(run.recipe) else None
    if folder != asked.nocall:
        work.console.print(
            f"--nocall is not used: recipe {run.recipe.name} mixes no backgrounds", highlight=False
        )
    if wants_backgrounds(run.recipe):
        make_backgrounds(
            run.folder / BACKGROUNDS,
            folder,
            work.backgrounds(),
            asked.jobs,
            work.console,
            work.own_backgrounds(),
        )
    else:
        (run.folder / BACKGROUNDS).unlink(missing_ok=True)  # of another recipe


def _spectrograms_parts(work: Work) -> StageParts:
    order = digest([(r.recording, r.primary_label) for r in work.corpus.recordings])
    parts = {"recordings": order, "sound": work.sound(), "backgrounds": work.backgrounds()}
    return parts | {"front end": work.images()} | recipe_parts(work.recipe, "spectrograms")


def _spectrograms_result(run: Run) -> Result:
    names = [
        f"spectrograms/{name}"
        for name in ("index.csv", "skipped.csv", "cache.json", IMAGES, RANGES)
    ]
    mixed = [BACKGROUNDS] if wants_backgrounds(run.recipe) else []
    left = [run.folder / name for name in (names[0], names[2], *mixed)]
    return Result((*names, *mixed), digest(*left))


def _fit_cnn(work: Work, made_from: StageParts) -> None:
    from trainer.networks.model import check_clips
    from trainer.training.dataset import crop_set
    from trainer.training.fit import Workplace, fit_members

    run = work.run
    asked = work.options
    inputs = digest({part: found for part, found in made_from.items() if part != "recipe.members"})
    for architecture in sorted({m.architecture for m in run.recipe.members if m.clip_crops > 1}):
        check_clips(architecture)
    work.require_weights()
    spectrograms = Spectrograms(run.folder / "spectrograms")
    _calls(work, spectrograms)
    if run.recipe.keep == "soundscapes":
        source = digest(work.labelled_rows())
        make_row_images(run.folder / ROW_IMAGES, work.corpus, run.recipe, source, work.console)
    else:
        (run.folder / ROW_IMAGES).unlink(missing_ok=True)  # of another recipe, like the calls
    folds = {p.recording: p.fold for p in read_folds(run.folder / "folds.csv")}
    fit_members(
        run,
        crop_set(spectrograms.entries, work.corpus.recordings, folds, work.corpus.taxonomy),
        inputs,
        workplace=Workplace.of(
            asked.device, asked.devices, asked.cluster, asked.jobs, asked.threads
        ),
        weights=asked.weights,
        console=work.console,
        note=lambda: work.tell(digest(made_from)),
        details=asked.details,
    )
    _out_of_fold(work)
    tell_cautions(run, work.console, tuned=False)


def _calls(work: Work, spectrograms: Spectrograms) -> None:
    run = work.run
    if run.recipe.labels.call_probability:
        from trainer.training.calls import make_calls

        source = digest(_spectrograms_result(run).digest, run.recipe.seed)
        backgrounds = read_backgrounds(run.folder / BACKGROUNDS)
        path = run.folder / CALLS
        jobs = work.options.jobs
        make_calls(path, spectrograms, backgrounds, source, run.recipe.seed, jobs, work.console)
    else:
        (run.folder / CALLS).unlink(missing_ok=True)


def _out_of_fold(work: Work) -> None:
    """Write oof.json: scores of the members on the crops of their validation folds, by kind and for
    all together."""
    members = work.run.members()
    kinds = {
        kind.kind: [m for m in members if m.kind == kind.kind] for kind in work.run.recipe.members
    }
    table = Table(
        "members", "balanced accuracy", "macro F1", "mean average precision", title="out of fold"
    )
    figures: dict[str, dict[str, float | int]] = {}
    for name, chosen in {**kinds, "all": members}.items():
        table_of = crop_table(work.run, work.corpus, chosen)
        score = score_crops(table_of, work.corpus.taxonomy.codes)
        figures[name] = {
            "balanced_accuracy": round(score.balanced_accuracy, 4),
            "macro_f1": round(score.f1_macro, 4),
            "mean_average_precision": round(score.mean_average_precision, 4),
            "crops": score.crops,
        }
        figures[name] |= guessing(table_of, score)
        table.add_row(name, *(f"{value:.3f}" for value in list(figures[name].values())[:3]))
    work.console.print(table)
    write_json(work.run.folder / "oof.json", figures.pop("all") | {"kinds": figures})


def _fit_cnn_parts(work: Work) -> StageParts:
    keys = (
        "members",
        "optimiser",
        "sampling",
        "labels",
        "loss",
        "validation",
        "keep",
        "pretrained",
        "seed",
    )
    weights = {"weights": work.weights() if work.run.recipe.pretrained else NONE}
    return (
        {"labels": work.labels()}
        | weights
        | work.labelled_rows()
        | recipe_parts(work.recipe, *keys)
    )


def _fit_cnn_result(run: Run) -> Result:
    names = ["oof.json"]
    left = []
    for info in run.members():
        names += [
            f"members/{info.name}/{file}" for file in ("member.json", WEIGHTS, SCORES, HISTORY)
        ]
        figures = info.kind, info.fold, info.valid_f1, info.valid_f1_low
        left.append([info.name, *figures, info.files[WEIGHTS], info.files[SCORES]])
    used = {CALLS: run.recipe.labels.call_probability, ROW_IMAGES: run.recipe.keep == "soundscapes"}
    names += [name for name in used if used[name]]
    return Result(tuple(names), digest(left))


def _fit_cnn_went_in(work: Work) -> dict[str, Any]:
    entries = Spectrograms(work.run.folder / "spectrograms").entries
    return {"recordings": len(entries), "crops": sum(entry.count for entry in entries)}


def _fit_metadata(work: Work, _: StageParts) -> None:
    from trainer.place.metadata import fit_metadata

    rasters = None if work.options.no_rasters else work.options.rasters
    fit_metadata(work.run, work.corpus, rasters, work.options.details)


def _fit_metadata_parts(work: Work) -> StageParts:
    told = {
        key: n
        for key, n in work.corpus.problems.counts.items()
        if key.startswith(("place", "date"))
    }
    parts = {"places": digest(work.places(), told), "rasters": work.rasters()} | work.met()
    return parts | recipe_parts(work.recipe, "metadata", "seed")


def _fit_metadata_result(run: Run) -> Result:
    folder = run.folder / "metadata"
    names = sorted(
        path.name for path in folder.iterdir() if path.is_file() and not passed_over(path.name)
    )
    used = [name for name in names if name in _MODEL]
    return Result(
        tuple(f"metadata/{name}" for name in names), digest(used, *(folder / name for name in used))
    )


def _bag_result(run: Run) -> Result:
    chosen = [(info.name, info.kind, info.files[WEIGHTS], info.files[SCORES]) for info in run.bag()]
    return Result(("bag.json",), digest(chosen))


def _bag(work: Work, _: StageParts) -> None:
    from trainer.tuning.bag import choose_bag

    choose_bag(work.run)


def _tune(work: Work, _: StageParts) -> None:
    from trainer.tuning.tune import tune

    tune(work.run, work.corpus)
    tell_cautions(work.run, work.console)


def _tune_parts(work: Work) -> StageParts:
    """Inputs of tuning; without labelled soundscapes, out-of-fold crops decide."""
    crops = (
        {"labels": work.labels(), "places": work.places()} if not work.corpus.soundscapes else {}
    )
    return {"soundscapes": work.soundscapes()} | crops | recipe_parts(work.recipe, "tune", "seed")


def _tune_went_in(work: Work) -> dict[str, Any]:
    scores = work.run.tuning().scores
    return {
        key: scores[key] for key in ("basis", "rows", "recordings", "unreadable") if key in scores
    }


def _report_parts(work: Work) -> StageParts:
    """Inputs of the report, with the whole recipe, which it shows."""
    parts = {"names": work.names(), "folds": digest(work.run.folder / "folds.csv")}
    return work.corpus_tables() | parts | {"recipe": work.run.recipe.digest}


def _report(work: Work, _: StageParts) -> None:
    from trainer.report.report import write_report

    work.console.print(f"report: {write_report(work.run, work.corpus)}", soft_wrap=True)


def _left(*names: str) -> Callable[[Run], Result]:
    """The result of a stage whose files later stages use as they are."""
    return lambda run: Result(names, digest(*(run.folder / name for name in names)))


CHAIN = (
    Stage(
        "check-data",
        (),
        lambda work: (
            work.corpus_tables() | {"sound": work.sound(), "soundscapes": work.soundscapes()}
        ),
        _check_data,
        _left("check.json"),
    ),
    Stage("folds", (), _folds_parts, _folds, _folds_result),
    Stage(
        "spectrograms",
        (),
        _spectrograms_parts,
        _spectrograms,
        _spectrograms_result,
        keeps=("backgrounds",),
    ),
    Stage(
        "fit-cnn",
        ("folds", "spectrograms"),
        _fit_cnn_parts,
        _fit_cnn,
        _fit_cnn_result,
        _fit_cnn_went_in,
        keeps=("weights",),
    ),
    Stage(
        "fit-metadata",
        (),
        _fit_metadata_parts,
        _fit_metadata,
        _fit_metadata_result,
        keeps=("rasters",),
    ),
    Stage(
        "bag",
        ("fit-cnn",),
        lambda work: recipe_parts(work.recipe, "bag"),
        _bag,
        _bag_result,
    ),
    Stage(
        "tune",
        ("bag", "fit-metadata"),
        _tune_parts,
        _tune,
        _left("tune.json", "sweep.json"),
        _tune_went_in,
    ),
    Stage(
        "report",
        ("check-data", "folds", "fit-cnn", "fit-metadata", "bag", "tune"),
        _report_parts,
        _report,
        _left("report.html"),
    ),
)
assert tuple(stage.name for stage in CHAIN) == STAGES
