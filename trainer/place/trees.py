"""CatBoost on the nine features: the published metadata model. Fits, resumes and exports it to
ONNX.

Knows neither corpus nor rasters, only features and labels; computes no figures.
"""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from catboost import CatBoostClassifier, CatBoostError
from catboost.utils import get_gpu_device_count
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from edge.contract.errors import CorpusError
from edge.contract.program import OUTSIDE, Interrupt
from edge.prior.place import CATEGORY, NUMERIC, FeatureSpec
from trainer.files import make_folder, naming
from trainer.place.place_prior import OUTPUT
from trainer.recipe import MetadataRecipe

# Metric that selects the best iteration. The write-up quotes F1 and needed 1208 iterations; by
# log-loss the real table of 2021 is best at half of them with CatBoost's own settings, earlier with
# larger steps, while F1 is still rising.
BEST_IN = "TotalF1:average=Micro"
_LINES = 40  # lines of progress
_WORK = "catboost"
_LOGS = ("learn_error_log", "test_error_log", "time_left_log", "json_log")
_TENSORBOARD = ("learn/events.out.tfevents", "test/events.out.tfevents")
_SYSTEM = re.compile(r"\(Error (\d+): ")  # CatBoost's form of a system error
_ROOM_BYTES = 1 << 20
# Interval of CatBoost's snapshots (half a GB for the 2021 table), from which a killed fit resumes.
_SNAPSHOT_S = 600


def fit_trees(
    recipe: MetadataRecipe,
    seed: int,
    features: NDArray[np.float32],
    label: NDArray[np.int64],
    train: NDArray[np.int64],
    valid: NDArray[np.int64],
    work: Path,
    details: bool = False,
) -> CatBoostClassifier:
    """Fit the model and keep the iteration with the best F1, micro-averaged as in the competition.
    The result depends neither on threads nor on a snapshot.

    Prints progress with `details` only. Runs on the GPU if there is one, where results vary by
    rounding.
    """
    own: dict[str, Any] = (
        {} if recipe.learning_rate == "auto" else {"learning_rate": recipe.learning_rate}
    )
    if recipe.borders is not None:
        own["border_count"] = recipe.borders
    if recipe.leaf_steps is not None:
        own |= {
            "leaf_estimation_method": "Gradient",
            "leaf_estimation_iterations": recipe.leaf_steps,
        }
    model = CatBoostClassifier(
        loss_function="MultiClass",
        eval_metric=BEST_IN,
        iterations=recipe.iterations,
        depth=recipe.depth,
        random_seed=seed,
        task_type="GPU" if get_gpu_device_count() else "CPU",
        train_dir=str(work / _WORK),
        save_snapshot=True,
        snapshot_file="snapshot",
        snapshot_interval=_SNAPSHOT_S,
        verbose=max(1, recipe.iterations // _LINES) if details else False,
        **own,
    )
    _send_logs_nowhere(model, work / _WORK)
    with _catboost_errors(work):
        model.fit(
            features[train],
            label[train],
            eval_set=(features[valid], label[valid]),
            use_best_model=True,
        )
    return model


def _send_logs_nowhere(model: CatBoostClassifier, folder: Path) -> None:
    """Send CatBoost's logs to /dev/null: nobody reads them, and on a full disk they abort the
    process. Disabling them (allow_writing_files) would also disable snapshots."""
    model.set_params(**dict.fromkeys(_LOGS, os.devnull))
    for name in _TENSORBOARD:
        path = folder / name
        make_folder(path.parent)
        if not path.is_symlink():
            path.unlink(missing_ok=True)
            path.symlink_to(os.devnull)


@contextmanager
def _catboost_errors(folder: Path) -> Iterator[None]:
    """Translate CatBoost's errors while it works in a folder: OSError if the disk is full or cannot
    be written, CorpusError for the rest, Interrupt for Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupt from None
    # DecodeError: half a file, written without an error.
    except (CatBoostError, DecodeError) as error:
        found = _SYSTEM.search(str(error))
        if found and int(found[1]) in OUTSIDE:
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(folder)) from error
        # A full disk gives a misleading error, or none.
        with naming(folder), tempfile.TemporaryFile(dir=folder) as probe:
            os.posix_fallocate(probe.fileno(), 0, _ROOM_BYTES)
        line = " ".join(str(error).split())[:300]
        raise CorpusError(
            f"{folder}: CatBoost: {line}; remove this folder and run the same command again"
        ) from error


def importances(model: CatBoostClassifier, spec: FeatureSpec) -> list[tuple[str, float]]:
    """The nine features and their influence on the prediction in percent, largest first."""
    total = dict.fromkeys((*NUMERIC, CATEGORY), 0.0)
    for name, value in zip(spec.names, model.get_feature_importance(), strict=True):
        total[name.split("=")[0]] += float(value)
    return sorted(
        ((name, round(value, 3)) for name, value in total.items()), key=lambda item: -item[1]
    )


def trees_to_onnx(model: CatBoostClassifier, path: Path) -> None:
    """Write ONNX with one output, `probabilities` `(N, classes)`: CatBoost's own export ends in a
    list of dictionaries (ZipMap)."""
    with _catboost_errors(path.parent):
        model.save_model(str(path), format="onnx")
        found = onnx.load(path)
    (trees,) = [node for node in found.graph.node if node.op_type == "TreeEnsembleClassifier"]
    trees.output[1] = OUTPUT
    classes = len(model.classes_)
    output = onnx.helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, ["N", classes])
    graph = onnx.helper.make_graph([trees], "metadata", list(found.graph.input), [output])
    plain = onnx.helper.make_model(
        graph, opset_imports=found.opset_import, producer_name="birdstation"
    )
    plain.ir_version = found.ir_version
    onnx.checker.check_model(plain)
    path.write_bytes(plain.SerializeToString())
