"""The metadata model: the species that a recordist meets at a place on a day of the year. Fits and
scores it and leaves it in the run.

It learns from the compact grid of the station rather than from the rasters themselves, so that
training and station use the same features: on the real table of 2021 that gains a percentage point
of accuracy. Knows no sound; trees.py fits the published kind, placenets.py and neighbours.py the
better one.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from edge.contract.blend import Scores
from edge.contract.errors import CorpusError
from edge.contract.screen import Screen, say
from edge.prior.nearby import FILE as NEARBY
from edge.prior.nearby import GATE_TERMS, KM, LEVELS, Nearby
from edge.prior.place import CATEGORY, RASTERS, FeatureSpec, Grid, Values, place_columns
from edge.prior.reranker import Reranker
from trainer import metrics
from trainer.corpus.recordings import Corpus
from trainer.files import digest, write_csv, write_json
from trainer.place.neighbours import fit_gates, level_shares
from trainer.place.place_prior import OUTPUT, run_onnx
from trainer.place.placenets import EPOCHS, NETS, fit_nets, nets_to_onnx, probabilities, unseen
from trainer.place.places import Places, feature_spec, split
from trainer.place.raster_check import COVER_LOW
from trainer.place.rasters import Rasters
from trainer.place.reranker import fit_judge
from trainer.place.trees import BEST_IN, fit_trees, importances, trees_to_onnx
from trainer.recipe import MetadataRecipe
from trainer.run import Run

ONNX_DIFFERENCE_MAX = 1e-5
PUBLISHED_F1 = 0.18  # of the write-up
# Maximum number of training rows for the trust in neighbours, and for the re-ranker.
_TRUST_MAX = 8000
_JUDGED_MAX = 60_000
_SHOWN = 2000  # recordings behind the importances of the better kind
Importances = list[tuple[str, float]]


@dataclass(frozen=True)
class _FitTask:
    """The inputs of a fit: features and labels of all rows, and the rows for training and
    validation."""

    recipe: MetadataRecipe
    seed: int
    spec: FeatureSpec
    features: Values
    places: Places
    train: NDArray[np.int64]
    valid: NDArray[np.int64]
    species: int  # of the taxonomy
    work: Path
    details: bool = False  # show the progress of CatBoost

    def remembered(
        self, rows: NDArray[np.int64], gates: Values, judge: Reranker | None = None
    ) -> Nearby:
        """The recordings of `rows`, and those without a date, which count for the limit only."""
        places = self.places
        limit = self.recipe.limit_km
        undated = np.zeros(len(places.undated_label), np.int16)
        return Nearby(
            latitude=np.append(places.latitude[rows], places.undated_latitude),
            longitude=np.append(places.longitude[rows], places.undated_longitude),
            day_of_year=np.append(places.day_of_year[rows].astype(np.int16), undated),
            label=np.append(places.species[rows], places.undated_label).astype(np.int16),
            gates=gates,
            limit_km=np.inf if limit is None else limit,
            seen=places.seen(rows, len(undated)),
            judge=judge,
        )


@dataclass(frozen=True)
class _FitResult:
    """A fitted model, with its scores for the validation rows `(n, species that occur)`."""

    found: Scores  # of a model that was not trained on them
    exported: Scores  # of the model in model.onnx
    gates: Values  # empty without neighbours
    judge: Reranker | None
    parts: Importances
    iterations: int  # trees, or epochs


def fit_metadata(run: Run, corpus: Corpus, rasters: Path | None, details: bool = False) -> None:
    """Train the model into RUN/metadata, or leave absent.json with the reason there. `details`
    shows the progress of CatBoost, and the F1 of the write-up beside ours.

    Resumes a fit that was killed. Raises CorpusError if a raster is missing or cannot be read.
    """
    places = Places.of(corpus, run.taxonomy)
    recipe = run.recipe.metadata
    seed = run.recipe.seed
    train, valid = split(places.label, recipe.validation, seed)
    reason = places.too_few() or (
        None if len(valid) else "no species has two recordings with place and date"
    )
    if reason or rasters is None:
        _leave_absent(run, reason or "no rasters were given (--rasters FOLDER)")
        return
    started = time.perf_counter()
    layers = Rasters.open(rasters)
    grid = layers.grid()
    cover = layers.cover(grid, places.latitude, places.longitude)
    columns = place_columns(grid, places.latitude, places.longitude, places.day_of_year)
    spec = feature_spec(columns, train, places.codes)
    features = spec.encode(columns)
    work = _work_folder(
        run, digest(asdict(recipe), seed, BEST_IN, _bytes_digest(features, places.label))
    )
    task = _FitTask(
        recipe, seed, spec, features, places, train, valid, len(run.taxonomy), work, details
    )
    fit = _fit_better if recipe.kind == "better" else _fit_published
    fitted = fit(task)
    found = _widened(fitted.found, places, len(run.taxonomy))
    gates = fitted.gates
    where = (places.latitude[valid], places.longitude[valid], places.day_of_year[valid])
    if len(gates) or recipe.limit_km is not None:
        found = task.remembered(train, gates, fitted.judge).apply(found, *where)
        task.remembered(np.arange(len(places.label)), gates, fitted.judge).write(work / NEARBY)
    figures = _figures(task, found, fitted.iterations)
    figures["problems"] = {
        k: n for k, n in corpus.problems.counts.items() if k.startswith(("place", "date"))
    }
    figures["onnx_difference"] = onnx_difference(
        work / "model.onnx", fitted.exported, features[valid]
    )
    figures["cover"] = cover
    figures["grid_agrees"] = _grid_agrees(grid, layers, places)
    spec.write(work / "features.json")
    grid.write(work / "grid.npz")
    write_csv(work / "importances.csv", ["feature", "importance"], fitted.parts)
    figures["seconds"] = round(time.perf_counter() - started, 1)
    write_json(work / "metrics.json", figures)
    _tidy(work)
    _publish(work, run.folder / "metadata")
    _show(figures, details)


def _fit_published(task: _FitTask) -> _FitResult:
    """Fit the published kind: CatBoost."""
    label = task.places.label
    model = fit_trees(
        task.recipe,
        task.seed,
        task.features,
        label,
        task.train,
        task.valid,
        task.work,
        task.details,
    )
    trees_to_onnx(model, task.work / "model.onnx")
    found = np.asarray(model.predict_proba(task.features[task.valid]), np.float32)
    gates = np.empty((0, GATE_TERMS), np.float32)
    return _FitResult(
        found, found, gates, None, importances(model, task.spec), int(model.tree_count_)
    )


def _fit_better(task: _FitTask) -> _FitResult:
    """Fit the better kind: networks, the trust in neighbours and the re-ranker. `parts` are the
    shares of each distance in the mixture before re-ranking, in percent. Of the networks that are
    evaluated, network k was not trained on fold k of the rows.

    The figures are those of a model of the training rows alone. The model that is kept also
    remembers the validation rows, and its networks are trained again on all rows.
    """
    epochs = min(task.recipe.iterations, EPOCHS)
    empty = np.empty((0, GATE_TERMS), np.float32)
    features = task.features[task.train]
    label = task.places.label[task.train]
    nearby = task.remembered(task.train, empty)
    order = np.random.default_rng(task.seed).permutation(len(label))
    nets = fit_nets(task.spec, features, label, epochs, task.seed, task.work, order % NETS)
    base = _widened(unseen(nets, features, order % NETS), task.places, task.species)
    some = order[:_TRUST_MAX]
    more = order[:_JUDGED_MAX]
    nearby = replace(nearby, gates=fit_gates(nearby, some, base[some]))
    judge = fit_judge(nearby, more, base[more], task.seed)
    shares = level_shares(nearby, some[:_SHOWN])
    parts = [("climate, cover, place and day", 100 * float(shares[0]))]
    for km in KM:
        levels = [1 + i for i, level in enumerate(LEVELS) if level[0] == km]
        parts.append((f"recordings within {km:g} km", 100 * float(shares[levels].sum())))
    parts = sorted(((name, round(share, 3)) for name, share in parts), key=lambda item: -item[1])
    whole = fit_nets(task.spec, task.features, task.places.label, epochs, task.seed, task.work)
    nets_to_onnx(whole, task.spec, task.work / "model.onnx")
    found, exported = (probabilities(model, task.features[task.valid]) for model in (nets, whole))
    return _FitResult(found, exported, nearby.gates, judge, parts, epochs)


def _widened(found: Scores, places: Places, species: int) -> Scores:
    """Expand probabilities from the species that occur to all species, with 0 for the others."""
    wide = np.zeros((len(found), species), np.float32)
    wide[:, places.columns] = found
    return wide


def _leave_absent(run: Run, reason: str) -> None:
    work = _work_folder(run, "absent")
    write_json(work / "absent.json", {"reason": reason})
    _tidy(work)
    _publish(work, run.folder / "metadata")
    say(f"metadata: no model: {reason}")


def _figures(task: _FitTask, found: Scores, iterations: int) -> dict[str, Any]:
    """The contents of metrics.json: counts, scores on the validation rows, and the majority class
    for comparison."""
    places = task.places
    train = task.train
    valid = task.valid
    frequencies = np.bincount(places.species[train], minlength=found.shape[1]) / len(train)
    return {
        "kind": task.recipe.kind,
        "rows": {
            "used": len(places.label),
            "training": len(train),
            "validation": len(valid),
            "without_place": places.without_place,
            "without_date": places.without_date,
        },
        "species": len(places.codes),
        "training_counts": dict(
            zip(places.codes, np.bincount(places.label[train]).tolist(), strict=True)
        ),
        "iterations": iterations,
        "limit_km": task.recipe.limit_km,
        "validation": place_figures(places.species[valid], found),
        "baseline_majority": place_figures(
            places.species[valid], np.broadcast_to(frequencies, found.shape)
        ),
        "published_f1": PUBLISHED_F1,
    }


def place_figures(truth: NDArray[np.int64], found: NDArray[np.floating]) -> dict[str, float]:
    """Scores of probabilities `(n, species)` against the species `(n,)`. NaN (beyond the geographic
    limit) counts as 0; a truth of -1 is a species without a column, which always counts as
    missed."""
    strange = truth < 0
    columns = found.shape[1] + int(strange.any())  # one more column for them
    probabilities = np.zeros((len(truth), columns), np.float64)
    probabilities[:, : found.shape[1]] = np.nan_to_num(found, nan=0.0)
    truth = np.where(strange, columns - 1, truth)
    f1 = metrics.class_f1(truth, probabilities.argmax(axis=1), columns)
    return {
        "top1": metrics.top_k(truth, probabilities, 1),
        "top5": metrics.top_k(truth, probabilities, 5),
        "log_loss": metrics.log_loss(truth, probabilities),
        "f1_macro": f1.macro,
        "f1_weighted": f1.weighted,
        "f1_micro": f1.micro,
    }


def onnx_difference(path: Path, found: Scores, features: Values) -> float:
    """The largest difference between the probabilities of the ONNX file and those `found` by the
    model itself.

    Raises CorpusError above ONNX_DIFFERENCE_MAX: the figures of the report would not hold for the
    station.
    """
    exported = run_onnx(path, {"features": features}, OUTPUT, found.shape)
    difference = float(np.abs(exported - found).max())
    if not difference <= ONNX_DIFFERENCE_MAX:
        raise CorpusError(
            f"{path}: differs from the model itself: expected at most {ONNX_DIFFERENCE_MAX:g}, "
            f"found {difference:.2g}"
        )
    return difference


def _grid_agrees(grid: Grid, layers: Rasters, places: Places) -> dict[str, float | None]:
    """Agreement of the grid with the rasters at the recordings: correlation, and for the category
    the share of equal values."""
    coarse = grid.at(places.latitude, places.longitude)
    fine = layers.at(places.latitude, places.longitude)
    agrees: dict[str, float | None] = {}
    for name in RASTERS:
        both = ~np.isnan(coarse[name]) & ~np.isnan(fine[name])
        a = coarse[name][both].astype(np.float64)
        b = fine[name][both].astype(np.float64)
        if name == CATEGORY:
            agrees[name] = float((a == b).mean()) if len(a) else None
        else:
            agrees[name] = (
                float(np.corrcoef(a, b)[0, 1]) if len(a) > 1 and a.std() and b.std() else None
            )
    return agrees


def _bytes_digest(*arrays: NDArray[Any]) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def _work_folder(run: Run, inputs: str) -> Path:
    """The working folder of a fit. Files of a killed fit with the same inputs are kept, others
    removed."""
    work = run.folder / ".birdstation-metadata"
    mark = {"inputs": inputs}
    try:
        same = json.loads((work / "inputs.json").read_text(encoding="utf8")) == mark
    except (OSError, ValueError):
        same = False
    if not same:
        shutil.rmtree(work, ignore_errors=True)
        write_json(work / "inputs.json", mark)
    return work


def _tidy(work: Path) -> None:
    """Remove files that only a resumed fit needs."""
    shutil.rmtree(work / "catboost", ignore_errors=True)
    for path in (work / "inputs.json", *work.glob("*.safetensors")):
        path.unlink()


def _publish(work: Path, folder: Path) -> None:
    """Rename `work` to `folder`, replacing the result of an earlier fit."""
    shutil.rmtree(folder, ignore_errors=True)
    work.rename(folder)


def _show(figures: dict[str, Any], details: bool) -> None:
    rows = figures["rows"]
    problems = figures["problems"]
    counted = (
        ", ".join(f"{kind} {count:,}" for kind, count in problems.items()) or "no row malformed"
    )
    console = Screen(soft_wrap=True, highlight=False)
    console.print(
        f"metadata: {rows['used']:,} recordings of {figures['species']} species; left out: "
        f"{rows['without_place']:,} without a place, {rows['without_date']:,} with a place but no "
        f"date ({counted}); {figures['seconds']} s"
    )
    for name, share in figures["cover"].items():
        if share < COVER_LOW:
            say(
                f"warning: {name}.tif has a value at {share:.0%} of the recordings; the others "
                "count as average"
            )
    title = f"{rows['validation']:,} random recordings held out"
    columns = {
        f"kind {figures['kind']}": figures["validation"],
        "commonest species": figures["baseline_majority"],
    }
    console.print(figures_table(columns, title, figures["published_f1"] if details else None))


def figures_table(
    columns: dict[str, dict[str, float]], title: str, published_f1: float | None = None
) -> Table:
    """A table of the figures of several models, and last, if given, the F1 of the write-up of 2021.
    The write-up does not name its kind of mean; its competition used row-wise micro-averaged F1
    (Murakami et al. 2021, abstract), which for one answer per recording is the accuracy."""
    labels: Sequence[tuple[str, str]] = (
        ("accuracy (top 1)", "top1"),
        ("among the top 5", "top5"),
        ("log-loss", "log_loss"),
        ("F1 macro", "f1_macro"),
        ("F1 weighted", "f1_weighted"),
        ("F1 micro", "f1_micro"),
    )
    published = [] if published_f1 is None else ["BirdCLEF 2021's write-up"]
    table = Table("", *columns, *published, title=title, title_justify="left")
    for label, key in labels:
        said = [f"{published_f1:.2f}" if key == "f1_micro" else "" for _ in published]
        table.add_row(label, *(f"{figures[key]:.3f}" for figures in columns.values()), *said)
    return table
