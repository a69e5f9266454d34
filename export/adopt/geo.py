"""BirdNET's geo model as ONNX: from latitude, longitude and week to the probability of each
class."""

import numpy as np
import tflite
from numpy.typing import NDArray
from onnx import ModelProto

from edge.contract.errors import BundleError
from export.adopt.flatbuffer import Operator, TfliteNetwork
from export.adopt.graph import GraphBuilder, whole

_SIMPLE = {
    "ADD": "Add",
    "SUB": "Sub",
    "MUL": "Mul",
    "GREATER": "Greater",
    "LESS": "Less",
    "SIN": "Sin",
    "LOGISTIC": "Sigmoid",
    "SELECT_V2": "Where",
}

_Value = str | NDArray[np.float32]  # a tensor of the graph, or a constant


def geo_to_onnx(network: TfliteNetwork, classes: NDArray[np.integer] | None = None) -> ModelProto:
    """A network from `place` (n, 3): latitude, longitude (degrees), week (1 to 48; otherwise the
    season is unknown) to `probabilities` (n, classes), for all classes or these. Raises BundleError
    if the file is not BirdNET's geo model."""
    graph = GraphBuilder({"place": ("n", 3)})
    values: dict[int, _Value] = {i: np.asarray(c, np.float32) for i, c in network.constants.items()}
    values |= dict.fromkeys(network.inputs, "place")
    (output,) = network.outputs
    width = network.shapes[output][-1]
    for layer in network.layers:
        inputs = [values[index] for index in layer.inputs]
        if (
            layer.op == "FULLY_CONNECTED"
            and classes is not None
            and network.shapes[layer.output][-1] == width
        ):
            inputs[1:] = [
                weights[classes] for weights in inputs[1:] if not isinstance(weights, str)
            ]
        name = "probabilities" if layer.output == output else None
        values[layer.output] = _add(graph, layer, inputs, name)
    return graph.finish({"probabilities": ("n", width if classes is None else len(classes))})


def _add(graph: GraphBuilder, layer: Operator, inputs: list[_Value], name: str | None) -> _Value:
    if layer.op in _SIMPLE:
        return graph.add(_SIMPLE[layer.op], *inputs, name=name)
    # Weights are float32 by now, and columns stay columns.
    if layer.op in ("DEQUANTIZE", "EXPAND_DIMS"):
        return inputs[0]
    if layer.op == "STRIDED_SLICE":
        column = int(np.asarray(inputs[1]).ravel()[-1])
        return graph.add("Slice", inputs[0], whole(column), whole(column + 1), whole(1))
    if layer.op == "CONCATENATION":
        return graph.add("Concat", *inputs, axis=1)
    if layer.op == "FULLY_CONNECTED":
        sums = graph.add("Gemm", *inputs, transB=1, name=name)
        relu = layer.options["activation"] == tflite.ActivationFunctionType.RELU
        return graph.add("Relu", sums) if relu else sums
    raise BundleError(f"operator {layer.op}: not BirdNET's geo model V2")
