"""The metadata model: which species a recordist met at a place on a day of the year. CatBoost, exported to ONNX.

It learns from the station's own compact grid rather than from the rasters themselves, so that it is asked at a station
what it learnt: on the real 2021 table that is worth a point of accuracy. Knows no sound.
"""

import hashlib
import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from catboost import CatBoostClassifier
from numpy.typing import NDArray

from edge.contract.blend import Scores
from edge.contract.errors import CorpusError
from edge.contract.place import CATEGORY, NUMERIC, RASTERS, FeatureSpec, Grid, Values, place_columns
from edge.contract.taxonomy import Taxonomy
from trainer import metrics
from trainer.corpus import Corpus
from trainer.files import digest, write_csv, write_json
from trainer.rasters import Rasters
from trainer.recipe import MetadataRecipe
from trainer.run import Run

ROWS_MIN, SPECIES_MIN = 50, 2  # fewer recordings with place and date teach nothing about either
ONNX_DIFFERENCE_MAX = 1e-5
_SNAPSHOT_S = 600  # CatBoost keeps its progress this often (half a GB of the 2021 table): a killed fit resumes
_OUTPUT = "probabilities"


@dataclass(frozen=True)
class Places:
    """Recordings with a place and a date, as columns `(n,)`, and how many had none."""

    latitude: Values
    longitude: Values
    day_of_year: Values
    label: NDArray[np.int64]  # index into codes
    codes: tuple[str, ...]  # species that occur, in the taxonomy's order
    without_place: int
    without_date: int  # of those with a place

    @classmethod
    def of(cls, corpus: Corpus, taxonomy: Taxonomy) -> "Places":
        known = [r for r in corpus.recordings if r.primary_label in taxonomy]
        placed = [r for r in known if r.latitude is not None and r.longitude is not None]
        dated = [(r, r.date) for r in placed if r.date is not None]
        present = {r.primary_label for r, _ in dated}
        codes = tuple(code for code in taxonomy.codes if code in present)
        index = {code: i for i, code in enumerate(codes)}
        return cls(
            latitude=np.array([r.latitude for r, _ in dated], np.float32),
            longitude=np.array([r.longitude for r, _ in dated], np.float32),
            day_of_year=np.array([date.timetuple().tm_yday for _, date in dated], np.float32),
            label=np.array([index[r.primary_label] for r, _ in dated], np.int64),
            codes=codes,
            without_place=len(known) - len(placed),
            without_date=len(placed) - len(dated),
        )

    def too_few(self) -> str | None:
        """Why no model can be trained on them, or None."""
        if len(self.label) >= ROWS_MIN and len(self.codes) >= SPECIES_MIN:
            return None
        return (
            f"{len(self.label)} recordings of {len(self.codes)} species have both place and date "
            f"({self.without_place} have no place, {self.without_date} no date); "
            f"{ROWS_MIN} of {SPECIES_MIN} species are wanted"
        )


def fit_metadata(run: Run, corpus: Corpus, rasters: Path | None) -> None:
    """Train the model into RUN/metadata, or leave absent.json there with the reason and go on.

    Resumes a fit that was killed. Raises CorpusError if a raster is missing or cannot be read.
    """
    places = Places.of(corpus, run.taxonomy)
    train, valid = split(places.label, run.recipe.metadata.validation, run.recipe.seed)
    reason = places.too_few() or (None if len(valid) else "no species has two recordings with place and date")
    if reason or rasters is None:
        _leave_absent(run, reason or "no rasters were given (--rasters FOLDER)")
        return
    started = time.perf_counter()
    layers = Rasters.open(rasters)
    grid = layers.grid()
    columns = place_columns(grid, places.latitude, places.longitude, places.day_of_year)
    spec = feature_spec(columns, train, places.codes)
    features = spec.encode(columns)
    inputs = digest(asdict(run.recipe.metadata), run.recipe.seed, _bytes_digest(features, places.label))
    work = _work_folder(run, inputs)
    model = _fit(run.recipe.metadata, run.recipe.seed, features, places.label, train, valid, work)
    figures = _figures(model, features, places, train, valid)
    _export(model, work / "model.onnx")
    figures["onnx_difference"] = onnx_difference(work / "model.onnx", model, features[valid])
    figures["grid_agrees"] = _grid_agrees(grid, layers, places)
    spec.write(work / "features.json")
    grid.write(work / "grid.npz")
    write_csv(work / "importances.csv", ["feature", "importance"], importances(model, spec))
    figures["seconds"] = round(time.perf_counter() - started, 1)
    write_json(work / "metrics.json", figures)
    _tidy(work)
    _publish(work, run.folder / "metadata")
    print(_line(figures))


def _leave_absent(run: Run, reason: str) -> None:
    work = _work_folder(run, "absent")
    write_json(work / "absent.json", {"reason": reason})
    _tidy(work)
    _publish(work, run.folder / "metadata")
    print(f"metadata: no model: {reason}")


def split(label: NDArray[np.int64], share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Random rows for training and validation; a species of which all rows were drawn keeps one for training."""
    order = np.random.default_rng(seed).permutation(len(label))
    count = max(1, round(share * len(label)))
    valid, train = order[:count], order[count:]
    lost = np.setdiff1d(label[valid], label[train])
    back = np.array([valid[np.flatnonzero(label[valid] == code)[0]] for code in lost], np.int64)
    return np.sort(np.append(train, back)), np.sort(np.setdiff1d(valid, back))


def feature_spec(columns: dict[str, Values], train: NDArray[np.int64], codes: tuple[str, ...]) -> FeatureSpec:
    """Mean and deviation of the numeric columns over the training rows, and the categories that occur in them."""
    mean, std = [], []
    for name in NUMERIC:
        values = np.asarray(columns[name], np.float32)[train]
        values = values[~np.isnan(values)]
        mean.append(float(values.mean()) if len(values) else 0.0)
        deviation = float(values.std()) if len(values) else 0.0
        std.append(deviation if deviation > 0 else 1.0)
    kinds = np.asarray(columns[CATEGORY], np.float32)[train]
    categories = tuple(int(value) for value in np.unique(kinds[~np.isnan(kinds)]))
    return FeatureSpec(tuple(mean), tuple(std), categories, codes)


def _fit(
    recipe: MetadataRecipe,
    seed: int,
    features: NDArray[np.float32],
    label: NDArray[np.int64],
    train: NDArray[np.int64],
    valid: NDArray[np.int64],
    work: Path,
) -> CatBoostClassifier:
    """The model of the best iteration. The number of threads does not change it, a snapshot does not either."""
    rate = {} if recipe.learning_rate == "auto" else {"learning_rate": recipe.learning_rate}
    model = CatBoostClassifier(
        loss_function="MultiClass",
        iterations=recipe.iterations,
        depth=recipe.depth,
        random_seed=seed,
        train_dir=str(work / "catboost"),
        save_snapshot=True,
        snapshot_file="snapshot",
        snapshot_interval=_SNAPSHOT_S,
        verbose=False,
        **rate,
    )
    model.fit(features[train], label[train], eval_set=(features[valid], label[valid]), use_best_model=True)
    model.save_model(str(work / "model.cbm"))
    return model


def _figures(
    model: CatBoostClassifier,
    features: NDArray[np.float32],
    places: Places,
    train: NDArray[np.int64],
    valid: NDArray[np.int64],
) -> dict[str, Any]:
    """What metrics.json says: counts, scores on the validation rows, the majority class beside them."""
    truth, classes = places.label[valid], len(places.codes)
    frequencies = np.bincount(places.label[train], minlength=classes) / len(train)
    guess = np.broadcast_to(frequencies, (len(valid), classes))
    return {
        "rows": {
            "used": len(places.label),
            "training": len(train),
            "validation": len(valid),
            "without_place": places.without_place,
            "without_date": places.without_date,
        },
        "species": classes,
        "iterations": int(model.tree_count_),
        "validation": _scores(truth, model.predict_proba(features[valid])),
        "baseline_majority": _scores(truth, guess),
    }


def _scores(truth: NDArray[np.int64], probabilities: NDArray[np.floating]) -> dict[str, float]:
    f1 = metrics.class_f1(truth, probabilities.argmax(axis=1), probabilities.shape[1])
    return {
        "top1": metrics.top_k(truth, probabilities, 1),
        "top5": metrics.top_k(truth, probabilities, 5),
        "log_loss": metrics.log_loss(truth, probabilities),
        "f1_macro": f1.macro,
        "f1_weighted": f1.weighted,
        "f1_micro": f1.micro,
    }


def importances(model: CatBoostClassifier, spec: FeatureSpec) -> list[tuple[str, float]]:
    """The nine features and how much each moves the prediction, in percent, the largest first."""
    total = dict.fromkeys((*NUMERIC, CATEGORY), 0.0)
    for name, value in zip(spec.names, model.get_feature_importance(), strict=True):
        total[name.split("=")[0]] += float(value)
    return sorted(((name, round(value, 3)) for name, value in total.items()), key=lambda item: -item[1])


def _export(model: CatBoostClassifier, path: Path) -> None:
    """ONNX with one output, `probabilities` `(N, classes)`: CatBoost's own ends in a list of dictionaries (ZipMap)."""
    model.save_model(str(path), format="onnx")
    found = onnx.load(path)
    (trees,) = [node for node in found.graph.node if node.op_type == "TreeEnsembleClassifier"]
    trees.output[1] = _OUTPUT
    classes = len(model.classes_)
    output = onnx.helper.make_tensor_value_info(_OUTPUT, onnx.TensorProto.FLOAT, ["N", classes])
    graph = onnx.helper.make_graph([trees], "metadata", list(found.graph.input), [output])
    plain = onnx.helper.make_model(graph, opset_imports=found.opset_import, producer_name="birdstation")
    plain.ir_version = found.ir_version
    onnx.checker.check_model(plain)
    path.write_bytes(plain.SerializeToString())


def onnx_difference(path: Path, model: CatBoostClassifier, features: NDArray[np.float32]) -> float:
    """The largest difference between the ONNX file's and CatBoost's own probabilities.

    Raises CorpusError above ONNX_DIFFERENCE_MAX: the station would hear of other places than the report.
    """
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run([_OUTPUT], {"features": features})
    difference = float(np.abs(found - model.predict_proba(features)).max())
    if not difference <= ONNX_DIFFERENCE_MAX:
        raise CorpusError(f"{path}: differs from CatBoost by {difference:.2g}; at most {ONNX_DIFFERENCE_MAX:g} wanted")
    return difference


def _grid_agrees(grid: Grid, layers: Rasters, places: Places) -> dict[str, float | None]:
    """How well the grid stands for the rasters at the recordings: correlation, of the category the share of equals."""
    coarse, fine = grid.at(places.latitude, places.longitude), layers.at(places.latitude, places.longitude)
    agrees: dict[str, float | None] = {}
    for name in RASTERS:
        both = ~np.isnan(coarse[name]) & ~np.isnan(fine[name])
        a, b = coarse[name][both].astype(np.float64), fine[name][both].astype(np.float64)
        if name == CATEGORY:
            agrees[name] = float((a == b).mean()) if len(a) else None
        else:
            agrees[name] = float(np.corrcoef(a, b)[0, 1]) if len(a) > 1 and a.std() and b.std() else None
    return agrees


def _bytes_digest(*arrays: NDArray[Any]) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def _work_folder(run: Run, inputs: str) -> Path:
    """Where the model grows; what a killed fit of the same inputs left there stays, anything else goes."""
    work, mark = run.folder / ".metadata", {"inputs": inputs}
    try:
        same = json.loads((work / "inputs.json").read_text(encoding="utf8")) == mark
    except (OSError, ValueError):
        same = False
    if not same:
        shutil.rmtree(work, ignore_errors=True)
        write_json(work / "inputs.json", mark)
    return work


def _tidy(work: Path) -> None:
    """Drop what only a resumed fit wants."""
    shutil.rmtree(work / "catboost", ignore_errors=True)
    (work / "inputs.json").unlink()


def _publish(work: Path, folder: Path) -> None:
    """`work` becomes `folder`, whatever an earlier attempt left there."""
    shutil.rmtree(folder, ignore_errors=True)
    work.rename(folder)


def _line(figures: dict[str, Any]) -> str:
    valid, majority, rows = figures["validation"], figures["baseline_majority"], figures["rows"]
    return (
        f"metadata: {rows['used']} recordings of {figures['species']} species "
        f"({rows['without_place']} without place, {rows['without_date']} without date), "
        f"validation accuracy {valid['top1']:.3f}, top five {valid['top5']:.3f}, F1 {valid['f1_weighted']:.3f}; "
        f"the commonest species alone {majority['top1']:.3f}; {figures['seconds']} s"
    )


def place_scores(
    folder: Path,
    taxonomy: Taxonomy,
    latitude: Values,
    longitude: Values,
    day_of_year: Values,
) -> Scores:
    """Probabilities `(n, species)` at places and days, as a station computes them from the files in `folder`; 0 for
    species that the model never met."""
    spec = FeatureSpec.read(folder / "features.json")
    columns = place_columns(Grid.read(folder / "grid.npz"), latitude, longitude, day_of_year)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run([_OUTPUT], {"features": spec.encode(columns)})
    scores = np.zeros((len(latitude), len(taxonomy)), np.float32)
    scores[:, [taxonomy.index(code) for code in spec.classes]] = found
    return scores
