"""Converts a float32 ONNX network to 8-bit convolutions, as explicit Q/DQ, and measures the
agreement of a bag's decisions.

Weights are quantised by channel, activations by tensor, over the range seen in calibration, and
only at the input of a convolution: sums between convolutions keep their precision. No tensor has an
offset, which would have to be subtracted for every pixel: the zero of a tensor that is never
negative is at the lower end, that of any other in the middle. The first convolution, those of
attention (on one pixel), everything up to `features` if a network takes the sound itself, and
everything after the last convolution stay in float32: they cost almost nothing and are most
sensitive to rounding.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from edge.contract.audio import INPUT_SHAPES, FrontEnd, Input
from edge.contract.blend import Scores, acoustic_scores
from edge.contract.bundle import BundleMember, Manifest
from edge.contract.taxonomy import Taxonomy
from edge.engines.engine import float_batch
from edge.engines.onnx import OnnxEngine
from export.agreement import AGREEMENT_MIN, acoustic_limits, agreement
from export.half import front_end_nodes
from export.parity import Parity, parity

_BATCH = 8
_POSITIVE = ("Relu", "Sigmoid", "Softmax")
_KEEP_SIGN = ("Add", "Mul", "MaxPool", "AveragePool", "Concat")
_IN_THE_MIDDLE = {"quant_type": QuantType.QInt8, "symmetric": True}


class _Windows(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Batches of windows for ONNX Runtime's calibration."""

    def __init__(self, name: str, shape: Sequence[int], windows: Input) -> None:
        batches = range(0, len(windows), _BATCH)
        self._batches = iter([{name: float_batch(windows[i : i + _BATCH], shape)} for i in batches])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._batches, None)


def to_int8(source: Path, path: Path, windows: Input) -> bool:
    """Write to `path` the network `source` with 8-bit convolutions, calibrated on its inputs
    `windows`, grey images `(n, 128, 281)` or samples `(n, 160000)`. Returns False, without a file,
    if it has no convolution to quantise."""
    model = onnx.load(source)
    front = front_end_nodes(model)
    nodes = [node for index, node in enumerate(model.graph.node) if index not in front]
    convolutions = [node.name for node in nodes if node.op_type == "Conv"]
    source_input = model.graph.input[0]
    shape = [side.dim_value for side in source_input.type.tensor_type.shape.dim[1:]]
    chosen = [name for name in convolutions[1:] if name not in _on_one_pixel(model)]
    if not chosen:
        return False
    with _silenced():
        quantize_static(
            model,
            path,
            _Windows(source_input.name, shape, windows),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv"],
            nodes_to_quantize=chosen,
            extra_options={
                "CalibMovingAverage": True,  # one loud crop must not widen the range for all
                "OpTypesToExcludeOutputQuantization": ["Conv"],
                "TensorQuantOverrides": {
                    name: [_IN_THE_MIDDLE] for name in _signed_inputs(model, set(chosen))
                },
            },
        )
    return True


def _signed_inputs(model: ModelProto, chosen: set[str]) -> set[str]:
    """Inputs of these convolutions that may be negative, according to the graph."""
    positive: set[str] = set()
    for node in model.graph.node:
        if node.op_type in _POSITIVE or (
            node.op_type in _KEEP_SIGN and positive.issuperset(node.input)
        ):
            positive.update(node.output)
    return {node.input[0] for node in model.graph.node if node.name in chosen} - positive


def _on_one_pixel(model: ModelProto) -> set[str]:
    """Names of the convolutions with an output of one pixel."""
    inferred = onnx.shape_inference.infer_shapes(model)
    shapes = {
        v.name: [side.dim_value for side in v.type.tensor_type.shape.dim]
        for v in inferred.graph.value_info
    }
    return {
        n.name
        for n in model.graph.node
        if n.op_type == "Conv" and shapes.get(n.output[0], [])[2:] == [1, 1]
    }


@contextmanager
def _silenced() -> Iterator[None]:
    """Silence ONNX Runtime's advice on the root logger, which our graphs do not need."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)


@dataclass(frozen=True)
class QuantisationResult:
    """The result of quantising a bag: the members kept in 8 bits, the share of windows with the
    same decisions, and the score differences of each member, kept or not."""

    files: Mapping[str, str]  # member -> its file, relative to the bundle
    agreement: float
    windows: int
    apart: Mapping[str, Parity]


def quantise_members(
    work: Path,
    manifest: Manifest,
    taxonomy: Taxonomy,
    calibration: Input,
    windows: Input,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> QuantisationResult:
    """Write the members in `work` with 8-bit convolutions, calibrated on `calibration`, and keep as
    many as possible with the same decisions of the bag in AGREEMENT_MIN of `windows`: until then,
    the member with the largest differences goes back to float32."""
    members = manifest.members
    reference = []
    found = []
    files = {}
    for count, member in enumerate(members):
        progress(f"{member.name} in 8 bits", count, len(members))
        file = f"members/{member.name}.int8.onnx"
        reference.append(_scores(work / member.file, windows, manifest.front))
        if to_int8(work / member.file, work / file, calibration):
            files[member.name] = file
            found.append(_scores(work / file, windows, manifest.front))
        else:
            found.append(reference[-1])
    apart = {
        m.name: parity(f, w)
        for m, f, w in zip(members, found, reference, strict=True)
        if m.name in files
    }
    kept = dict(files)
    agreed = _agreement(manifest, taxonomy, found, reference)
    for name in sorted(files, key=lambda name: -apart[name].mean):
        if agreed >= AGREEMENT_MIN:
            break
        index = [member.name for member in members].index(name)
        found[index] = reference[index]
        del kept[name]
        (work / files[name]).unlink()
        agreed = _agreement(manifest, taxonomy, found, reference)
    return QuantisationResult(kept, agreed, len(windows), apart)


def with_int8(
    members: Sequence[BundleMember], quantised: QuantisationResult
) -> tuple[BundleMember, ...]:
    """The members, with the 8-bit files that were kept."""
    return tuple(replace(member, int8=quantised.files.get(member.name)) for member in members)


def _scores(file: Path, windows: Input, front: FrontEnd) -> Scores:
    """Scores `(windows, species)`, computed one by one as on a station: in 8 bits ONNX Runtime
    rounds a single window differently from a batch."""
    engine = OnnxEngine([file], input_shape=INPUT_SHAPES[front])
    return np.concatenate([engine.scores(windows[i : i + 1])[0] for i in range(len(windows))])


def _agreement(
    manifest: Manifest, taxonomy: Taxonomy, found: list[Scores], reference: list[Scores]
) -> float:
    kinds = [member.kind for member in manifest.members]
    limits = acoustic_limits(manifest, taxonomy)
    acoustic = [
        acoustic_scores(np.stack(scores), kinds, manifest.blend) for scores in (found, reference)
    ]
    return agreement(acoustic[0] >= limits, acoustic[1] >= limits)
