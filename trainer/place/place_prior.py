"""Scores of a run's metadata model for places and days, computed as on a station. Fits nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edge.contract.blend import Scores
from edge.contract.errors import BundleError, CorpusError
from edge.contract.taxonomy import Taxonomy
from edge.prior.nearby import Nearby
from edge.prior.place import FeatureSpec, Grid, Values, place_columns

OUTPUT = "probabilities"  # of model.onnx, for both kinds


def place_scores(
    folder: Path,
    taxonomy: Taxonomy,
    latitude: Values,
    longitude: Values,
    day_of_year: Values,
) -> Scores:
    """Probabilities `(n, species)` at places and days, computed as on a station from the files in
    `folder`; 0 for species that the model was not trained on, NaN for those beyond their geographic
    limit."""
    try:
        spec = FeatureSpec.read(folder / "features.json")
        grid = Grid.read(folder / "grid.npz")
    except BundleError as error:
        raise CorpusError(f"{error}; {damaged(folder)}") from error
    columns = place_columns(grid, latitude, longitude, day_of_year)
    shape = (len(latitude), len(spec.classes))
    found = run_onnx(folder / "model.onnx", {"features": spec.encode(columns)}, OUTPUT, shape)
    scores = np.zeros((len(latitude), len(taxonomy)), np.float32)
    scores[:, [taxonomy.index(code) for code in spec.classes]] = found
    nearby = Nearby.read(folder)
    return scores if nearby is None else nearby.apply(scores, latitude, longitude, day_of_year)


def run_onnx(
    path: Path, inputs: Mapping[str, NDArray[Any]], output: str, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Compute one output, of this shape, of the network in a file. Raises CorpusError naming the
    file."""
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (found,) = session.run([output], dict(inputs))
    except Exception as error:  # ONNX Runtime's errors have no common base but Exception
        reason = " ".join(str(error).split())[:200]
        raise CorpusError(
            f"{path}: ONNX Runtime cannot run it: {reason}; {damaged(path.parent)}"
        ) from error
    if found.shape != shape:
        raise CorpusError(
            f"{path}: {output}: expected {shape}, found {found.shape}; {damaged(path.parent)}"
        )
    return np.asarray(found, np.float32)


def damaged(folder: Path) -> str:
    """The remedy for a metadata model with an unusable file."""
    return f"remove {folder} and run: python -m trainer fit-all"
