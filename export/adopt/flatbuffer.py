"""Reads a .tflite file: its operators in order, with options and constants. Knows no network and no
ONNX.

network = parse_tflite(path.read_bytes(), path.name)
[layer.op for layer in network.layers][:3]     # ['REDUCE_MIN', 'SUB', 'REDUCE_MAX']
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tflite
from numpy.typing import NDArray

from edge.contract.errors import BundleError

_NAMES = {
    code: name for name, code in vars(tflite.BuiltinOperator).items() if isinstance(code, int)
}
_TYPES = {
    tflite.TensorType.FLOAT32: np.float32,
    tflite.TensorType.FLOAT16: np.float16,
    tflite.TensorType.INT32: np.int32,
}


@dataclass(frozen=True)
class Operator:
    """One operator: its name in TensorFlow Lite, tensors by number (-1: none), and the options used
    here."""

    op: str
    inputs: tuple[int, ...]
    output: int
    options: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TfliteNetwork:
    """The contents of a file: operators in order, constants and names by tensor."""

    layers: tuple[Operator, ...]
    constants: dict[int, NDArray[Any]]
    names: dict[int, str]
    shapes: dict[int, tuple[int, ...]]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def parse_tflite(content: bytes, path: str) -> TfliteNetwork:
    """Parse the content of a file. Raises BundleError naming it if it is not a TensorFlow Lite
    network with one graph."""
    if content[4:8] != b"TFL3":
        raise BundleError(f"{path}: not a TensorFlow Lite file")
    model = tflite.Model.GetRootAsModel(content, 0)
    if model.SubgraphsLength() != 1:
        raise BundleError(f"{path}: expected one graph, found {model.SubgraphsLength()}")
    graph = model.Subgraphs(0)
    tensors = [graph.Tensors(index) for index in range(graph.TensorsLength())]
    layers = [_layer(model, graph.Operators(index)) for index in range(graph.OperatorsLength())]
    constants = {index: _constant(model, tensor) for index, tensor in enumerate(tensors)}
    return TfliteNetwork(
        tuple(layers),
        {index: value for index, value in constants.items() if value is not None},
        {index: tensor.Name().decode() for index, tensor in enumerate(tensors)},
        {index: _shape(tensor) for index, tensor in enumerate(tensors)},
        tuple(map(int, graph.InputsAsNumpy())),
        tuple(map(int, graph.OutputsAsNumpy())),
    )


def _layer(model: tflite.Model, operator: tflite.Operator) -> Operator:
    code = model.OperatorCodes(operator.OpcodeIndex())
    name = _NAMES[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
    inputs = tuple(map(int, operator.InputsAsNumpy()))
    return Operator(name, inputs, int(operator.Outputs(0)), _options(name, operator))


_Read = dict[str, Callable[[Any], int]]
_STRIDES: _Read = {
    "stride_h": lambda o: o.StrideH(),
    "stride_w": lambda o: o.StrideW(),
    "padding": lambda o: o.Padding(),
    "activation": lambda o: o.FusedActivationFunction(),
}
_ACTIVATION: _Read = {"activation": lambda o: o.FusedActivationFunction()}
_POOL: _Read = _STRIDES | {"height": lambda o: o.FilterHeight(), "width": lambda o: o.FilterWidth()}
_OPTIONS: dict[str, tuple[type, _Read]] = {
    "CONV_2D": (tflite.Conv2DOptions, _STRIDES),
    "DEPTHWISE_CONV_2D": (tflite.DepthwiseConv2DOptions, _STRIDES),
    "AVERAGE_POOL_2D": (tflite.Pool2DOptions, _POOL),
    "MAX_POOL_2D": (tflite.Pool2DOptions, _POOL),
    "ADD": (tflite.AddOptions, _ACTIVATION),
    "MUL": (tflite.MulOptions, _ACTIVATION),
    "FULLY_CONNECTED": (tflite.FullyConnectedOptions, _ACTIVATION),
}


def _options(name: str, operator: tflite.Operator) -> dict[str, int]:
    table = operator.BuiltinOptions()
    if name not in _OPTIONS or table is None:
        return {}
    kind, readers = _OPTIONS[name]
    options = kind()
    options.Init(table.Bytes, table.Pos)
    return {key: int(read(options)) for key, read in readers.items()}


def _shape(tensor: tflite.Tensor) -> tuple[int, ...]:
    return tuple(map(int, tensor.ShapeAsNumpy())) if tensor.ShapeLength() else ()


def _constant(model: tflite.Model, tensor: tflite.Tensor) -> NDArray[Any] | None:
    buffer = model.Buffers(tensor.Buffer())
    if not buffer.DataLength() or tensor.Type() not in _TYPES:
        return None
    return np.frombuffer(buffer.DataAsNumpy().tobytes(), _TYPES[tensor.Type()]).reshape(
        _shape(tensor)
    )
