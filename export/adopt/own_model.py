"""Wraps an ONNX file brought by the user into a network for a station: sound of 5 s at 32 kHz in,
scores after the sigmoid and embeddings out. Recognises the model by the shapes of its inputs and
outputs. Knows no label's meaning.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.checker import ValidationError

from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES
from edge.contract.bundle import file_sha256
from edge.contract.errors import BundleError, UsageError
from export.adopt.download import cache_folder
from export.adopt.known import KnownModel

_OPSET_MIN = 13  # the first in which axes are inputs
_TRIED = 2  # windows of noise, to distinguish scores from log-odds


@dataclass(frozen=True)
class ModelParts:
    """Names of the inputs and outputs of a file."""

    sound: str
    scores: str
    embedding: str | None
    classes: int
    log_odds: bool  # the scores need a sigmoid


def check_first_sum(name: str, path: Path) -> str:
    """The SHA-256 of a file, recorded for the first file that is adopted under this name. Raises
    BundleError naming both sums if the first one was different."""
    found = file_sha256(path)
    record = cache_folder() / f"{name}.sha256"
    # Empty if the disk was full then.
    first = record.read_text(encoding="utf8").strip() if record.is_file() else ""
    if not first:
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(found + "\n", encoding="utf8")
    elif found != first:
        raise BundleError(
            f"{path}: its SHA-256 is {found}; the {name} adopted first had {first}; remove "
            f"{record} to adopt another"
        )
    return found


def wrap(known: KnownModel, path: Path, classes: int) -> ModelProto:
    """The network of `path` with input `sound` (n, 160000) and outputs `scores` (n, classes) and
    `embedding` (n, stretches, width). Raises UsageError if it cannot be read, BundleError if its
    inputs or outputs do not fit."""
    try:
        model = onnx.load(path)
    # ValidationError: the separate file with the weights is missing.
    except (OSError, DecodeError, ValidationError) as error:
        raise UsageError(
            f"--from {path}: not an ONNX file: {' '.join(str(error).split())[:200]}"
        ) from error
    found = _recognise(known, model, path, classes)
    return _Wrapped(model, found, _starts(known)).model()


def only_classes(model: ModelProto, kept: NDArray[np.int64]) -> ModelProto:
    """A wrapped network with the scores of these classes only."""
    cut = ModelProto()
    cut.CopyFrom(model)
    graph = cut.graph
    next(node for node in graph.node if node.output[0] == "scores").output[0] = "all_scores"
    graph.initializer.append(numpy_helper.from_array(kept, "kept"))
    graph.node.append(
        helper.make_node("Gather", ["all_scores", "kept"], ["scores"], name="scores_kept", axis=1)
    )
    scores = next(index for index, value in enumerate(graph.output) if value.name == "scores")
    graph.output[scores].CopyFrom(_value("scores", ["n", len(kept)]))
    return cut


def _starts(known: KnownModel) -> list[int]:
    """First samples of the network's input within a window: one, or one at each end."""
    spare = WINDOW_SAMPLES - known.input.samples
    assert known.input.rate_hz == RATE_HZ
    assert spare >= 0
    return [0, spare] if spare else [0]


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    """Sizes of a tensor; 0 for axes of any length."""
    return [side.dim_value for side in value.type.tensor_type.shape.dim]


def _recognise(known: KnownModel, model: ModelProto, path: Path, classes: int) -> ModelParts:
    if (
        version := next((one.version for one in model.opset_import if not one.domain), 0)
    ) < _OPSET_MIN:
        raise BundleError(f"{path}: expected operator set {_OPSET_MIN} or newer, found {version}")
    weights = {weight.name for weight in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    takes = ", ".join(f"{value.name} {_shape(value)}" for value in inputs)
    if (
        len(inputs) != 1
        or len(shape := _shape(inputs[0])) != 2
        or shape[1] not in (0, known.input.samples)
    ):
        raise BundleError(
            f"{path}: takes {takes}; {known.title} takes (any, {known.input.samples})"
        )
    if shape[0]:
        raise BundleError(
            f"{path}: takes {shape[0]} windows at a time; export it with a batch of any size"
        )
    flat = {value.name: _shape(value) for value in model.graph.output if len(_shape(value)) == 2}
    scores = [name for name, shape in flat.items() if shape[1] == classes]
    gives = ", ".join(f"{value.name} {_shape(value)}" for value in model.graph.output)
    if known.classes not in (None, classes) or len(scores) != 1:
        expected = f"{known.classes or classes} classes, one for each of {classes} labels"
        raise BundleError(f"{path}: gives {gives}; {known.title} gives {expected}")
    embedding = next((name for name, shape in flat.items() if shape[1] == known.embedding), None)
    return ModelParts(
        inputs[0].name,
        scores[0],
        embedding,
        classes,
        _gives_log_odds(known, path, inputs[0].name, scores[0]),
    )


def _gives_log_odds(known: KnownModel, path: Path, sound: str, scores: str) -> bool:
    noise = (
        np.random.default_rng(7).standard_normal((_TRIED, known.input.samples)).astype(np.float32)
        * 0.1
    )
    try:
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (found,) = session.run([scores], {sound: noise})
    except Exception as error:  # ONNX Runtime's errors have no common base but Exception
        raise BundleError(
            f"{path}: ONNX Runtime cannot run it: {' '.join(str(error).split())[:300]}"
        ) from error
    if not np.isfinite(found).all():
        raise BundleError(f"{path}: gives scores that are not finite numbers")
    return bool((found < 0).any() or (found > 1).any())


class _Wrapped:
    """The graph of a model between our nodes; its own tensors keep their names, with a prefix."""

    def __init__(self, model: ModelProto, found: ModelParts, starts: list[int]) -> None:
        self._model = model
        self._found = found
        self._starts = starts
        self._before: list[onnx.NodeProto] = []
        self._after: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def model(self) -> ModelProto:
        """Assemble the network."""
        whole = onnx.compose.add_prefix(self._model, "brought/")
        graph = whole.graph
        name = {part: f"brought/{getattr(self._found, part)}" for part in ("sound", "scores")}
        length = WINDOW_SAMPLES - self._starts[-1]
        parts = [self._part(start, length) for start in self._starts]
        several = len(parts)
        stacked = self._node(self._before, "Concat", [self._split(part) for part in parts], axis=1)
        self._node(self._before, "Reshape", [stacked, self._whole(-1, length)], name["sound"])
        scores = self._node(
            self._after, "Reshape", [name["scores"], self._whole(-1, several, self._found.classes)]
        )
        each = [
            self._node(self._after, "Gather", [scores, self._one(k)], axis=1)
            for k in range(several)
        ]
        # Not ReduceMax, whose axes moved to the inputs in operator set 18.
        scores = self._node(self._after, "Max", each)
        self._node(
            self._after, "Sigmoid" if self._found.log_odds else "Identity", [scores], "scores"
        )
        outputs = [_value("scores", ["n", self._found.classes])]
        if self._found.embedding:
            inner = f"brought/{self._found.embedding}"
            width = next(_shape(value)[1] for value in graph.output if value.name == inner)
            self._node(
                self._after, "Reshape", [inner, self._whole(-1, several, width)], "embedding"
            )
            outputs.append(_value("embedding", ["n", several, width]))
        nodes = [*self._before, *graph.node, *self._after]
        del graph.node[:], graph.input[:], graph.output[:]
        graph.node.extend(nodes)
        graph.input.append(_value("sound", ["n", WINDOW_SAMPLES]))
        graph.output.extend(outputs)
        graph.initializer.extend(self._weights)
        return whole

    def _part(self, start: int, length: int) -> str:
        if length == WINDOW_SAMPLES:
            return "sound"
        return self._node(
            self._before,
            "Slice",
            ["sound", self._whole(start), self._whole(start + length), self._whole(1)],
        )

    def _split(self, part: str) -> str:
        return self._node(self._before, "Unsqueeze", [part, self._whole(1)])

    def _whole(self, *values: int) -> str:
        weight = numpy_helper.from_array(
            np.array(values, np.int64), f"wrap/weight_{len(self._weights)}"
        )
        self._weights.append(weight)
        return weight.name

    def _one(self, value: int) -> str:
        weight = numpy_helper.from_array(
            np.array(value, np.int64), f"wrap/weight_{len(self._weights)}"
        )
        self._weights.append(weight)
        return weight.name

    def _node(
        self,
        nodes: list[onnx.NodeProto],
        op: str,
        inputs: list[str],
        name: str = "",
        **attributes: Any,
    ) -> str:
        output = name or f"wrap/{op.lower()}_{len(self._before) + len(self._after)}"
        nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output


def _value(name: str, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
