"""Rebuilds a network of a bundle as a torch module from its ONNX file, with the same results in the
same types.

For the only compiler that takes torch's graphs (export/trt/torch_trt.py). So it compiles the same
file that all other runtimes run, including the choice of half precision, and needs no training run.
"""

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from edge.contract.errors import BundleError

_Attributes = dict[str, Any]
# Inputs of a node: tensors, constants as Python values, None if omitted.
_Given = Sequence[Any]
_DTYPES = {TensorProto.FLOAT: torch.float32, TensorProto.FLOAT16: torch.float16}


class OnnxNetwork(nn.Module):
    """The nodes of an ONNX network with one input, in order, up to its `output` (None: the first).

    Raises BundleError for an unknown operator or type.
    """

    def __init__(self, content: bytes, output: str | None = None) -> None:
        super().__init__()
        graph = onnx.load_from_string(content).graph  # checksums of a bundle have been checked
        unknown = sorted({node.op_type for node in graph.node} - set(_OPERATORS))
        if unknown:
            raise BundleError(
                f"torch-tensorrt cannot be given the network: {', '.join(unknown)} is not "
                "supported here"
            )
        # Shapes, axes and limits are part of the graph, not of its weights.
        self._constants: dict[str, Any] = {}
        for index, weight in enumerate(graph.initializer):
            value = torch.from_numpy(numpy_helper.to_array(weight).copy())
            if value.is_floating_point() and value.ndim:
                self.register_buffer(f"weight_{index}", value)
                self._constants[weight.name] = f"weight_{index}"
            else:
                self._constants[weight.name] = value.tolist()
        (self._input,) = (value.name for value in graph.input)
        self._output = output or graph.output[0].name
        self._nodes = [
            (
                _OPERATORS[node.op_type],
                list(node.input),
                list(node.output),
                {one.name: helper.get_attribute_value(one) for one in node.attribute},
            )
            for node in graph.node
        ]

    def forward(self, grey: Tensor) -> Tensor:
        values: dict[str, Any] = {"": None, self._input: grey}
        for name, constant in self._constants.items():
            values[name] = getattr(self, constant) if isinstance(constant, str) else constant
        for operator, inputs, outputs, attributes in self._nodes:
            found = operator([values[name] for name in inputs], attributes)
            values.update(
                zip(outputs, found if isinstance(found, tuple) else (found,), strict=True)
            )
        scores: Tensor = values[self._output]
        return scores


def _bordered(
    image: Tensor, attributes: _Attributes, value: float
) -> tuple[Tensor, tuple[int, int]]:
    """The image, and the symmetric border (vertical, horizontal) that torch adds; an asymmetric
    border of ONNX is added to the image."""
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    if (top, left) == (bottom, right):
        return image, (top, left)
    return F.pad(image, (left, right, top, bottom), value=value), (0, 0)


def _conv(given: _Given, attributes: _Attributes) -> Tensor:
    weight, bias = (*given[1:], None)[:2]
    image, border = _bordered(given[0], attributes, 0.0)
    stride = attributes.get("strides", 1)
    dilation = attributes.get("dilations", 1)
    return F.conv2d(image, weight, bias, stride, border, dilation, attributes.get("group", 1))


def _max_pool(given: _Given, attributes: _Attributes) -> Tensor:
    image, border = _bordered(given[0], attributes, float("-inf"))
    size = attributes["kernel_shape"]
    stride = attributes["strides"]
    return F.max_pool2d(image, size, stride, border, ceil_mode=_ceil(attributes))


def _average_pool(given: _Given, attributes: _Attributes) -> Tensor:
    """Average pooling. With `ceil_mode`, the mean of a pair that extends beyond the edge is its
    first half. torch computes that too, but its compiler does not support it; a copy of the edge
    gives the same mean."""
    (image,) = given
    size = attributes["kernel_shape"]
    stride = attributes["strides"]
    ceil = _ceil(attributes)
    counted = bool(attributes.get("count_include_pad", 0))
    image, border = _bordered(image, attributes, 0.0)
    if border == (0, 0) and any(attributes.get("pads", ())) and not counted:
        raise BundleError(
            "torch-tensorrt cannot be given the network: AveragePool with an uneven border"
        )
    if ceil and size == stride == [2, 2] and border == (0, 0):
        for axis in (2, 3):
            if image.shape[axis] % 2:
                image = torch.cat([image, image.narrow(axis, image.shape[axis] - 1, 1)], axis)
        ceil = False
    return F.avg_pool2d(image, size, stride, border, ceil, counted)


def _ceil(attributes: _Attributes) -> bool:
    return bool(attributes.get("ceil_mode", 0))


def _extreme(reduce: Callable[..., Tensor]) -> Callable[[_Given, _Attributes], Tensor]:
    """Maximum or minimum along axes, which are an attribute in opset 17 and an input in later
    ones."""

    def apply(given: _Given, attributes: _Attributes) -> Tensor:
        axes = given[1] if len(given) > 1 else attributes["axes"]
        return reduce(given[0], tuple(axes), keepdim=bool(attributes.get("keepdims", 1)))

    return apply


def _slice(given: _Given, _: _Attributes) -> Tensor:
    sound, starts, ends = given[:3]
    axes, steps = (*given[3:], None, None)[:2]
    ranges = [slice(None)] * sound.ndim
    for at, (start, end) in enumerate(zip(starts, ends, strict=True)):
        ranges[axes[at] if axes else at] = slice(start, end, steps[at] if steps else 1)
    found: Tensor = sound[tuple(ranges)]
    return found


def _pad(given: _Given, attributes: _Attributes) -> Tensor:
    """Padding. ONNX lists borders from the first axis, all beginnings before all ends; torch from
    the last, in pairs."""
    if attributes.get("mode", b"constant") != b"constant" or len(given) > 3:
        raise BundleError(
            "torch-tensorrt cannot be given the network: Pad other than with a constant on all axes"
        )
    borders = given[1]
    half = len(given[1]) // 2
    pairs = [
        border for axis in reversed(range(half)) for border in (borders[axis], borders[axis + half])
    ]
    return F.pad(
        given[0], pairs, value=given[2] if len(given) == 3 and given[2] is not None else 0.0
    )


def _gather(given: _Given, attributes: _Attributes) -> Tensor:
    index = torch.tensor(given[1], device=given[0].device)
    found: Tensor = given[0].index_select(attributes.get("axis", 0), index.reshape(-1))
    axis = attributes.get("axis", 0) % given[0].ndim
    return found.reshape(*given[0].shape[:axis], *index.shape, *given[0].shape[axis + 1 :])


def _reshape(given: _Given, _: _Attributes) -> Tensor:
    shape = [given[0].shape[at] if side == 0 else side for at, side in enumerate(given[1])]
    found: Tensor = given[0].reshape(shape)
    return found


def _mean(given: _Given, attributes: _Attributes) -> Tensor:
    return torch.mean(given[0], given[1], keepdim=bool(attributes.get("keepdims", 1)))


def _gemm(given: _Given, attributes: _Attributes) -> Tensor:
    rows, weight, bias = (*given, None)[:3]
    weight = weight.T if attributes.get("transB", 0) else weight
    if attributes.get("transA", 0) or any(
        attributes.get(name, 1.0) != 1.0 for name in ("alpha", "beta")
    ):
        raise BundleError(
            "torch-tensorrt cannot be given the network: Gemm with a factor or rows transposed"
        )
    found: Tensor = rows @ weight if bias is None else torch.addmm(bias, rows, weight)
    return found


def _hard_sigmoid(given: _Given, attributes: _Attributes) -> Tensor:
    line: Tensor = given[0] * attributes.get("alpha", 0.2) + attributes.get("beta", 0.5)
    return line.clamp(0.0, 1.0)


def _split(given: _Given, attributes: _Attributes) -> tuple[Tensor, ...]:
    image = given[0]
    axis = attributes.get("axis", 0)
    sizes = given[1] if len(given) > 1 else image.shape[axis] // attributes["num_outputs"]
    return torch.split(image, sizes, axis)


def _batch_norm(given: _Given, attributes: _Attributes) -> Tensor:
    image, weight, bias, mean, variance = given
    return F.batch_norm(image, mean, variance, weight, bias, eps=attributes.get("epsilon", 1e-5))


def _cast(given: _Given, attributes: _Attributes) -> Tensor:
    if attributes["to"] not in _DTYPES:
        kind = TensorProto.DataType.Name(attributes["to"])
        raise BundleError(
            f"torch-tensorrt cannot be given the network: Cast to {kind} is not supported here"
        )
    found: Tensor = given[0].to(_DTYPES[attributes["to"]])
    return found


_OPERATORS: dict[str, Callable[[_Given, _Attributes], Any]] = {
    "Abs": lambda given, _: given[0].abs(),
    "Add": lambda given, _: given[0] + given[1],
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": lambda given, _: given[0].clamp(*given[1:]),
    "Concat": lambda given, attributes: torch.cat(list(given), attributes["axis"]),
    "Conv": _conv,
    "Div": lambda given, _: given[0] / given[1],
    "Flatten": lambda given, attributes: given[0].flatten(attributes.get("axis", 1)),
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda given, _: given[0].mean((2, 3), keepdim=True),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda given, _: F.hardswish(given[0]),
    "MatMul": lambda given, _: given[0] @ given[1],
    "MaxPool": _max_pool,
    "Mul": lambda given, _: given[0] * given[1],
    "Neg": lambda given, _: -given[0],
    "Pad": _pad,
    "Pow": lambda given, _: given[0] ** given[1],
    "ReduceMax": _extreme(torch.amax),
    "ReduceMean": _mean,
    "ReduceMin": _extreme(torch.amin),
    "Relu": lambda given, _: torch.relu(given[0]),
    "Reshape": _reshape,
    "Sigmoid": lambda given, _: torch.sigmoid(given[0]),
    "Slice": _slice,
    "Split": _split,
    "Sqrt": lambda given, _: torch.sqrt(given[0]),
    "Sub": lambda given, _: given[0] - given[1],
    "Transpose": lambda given, attributes: given[0].permute(attributes["perm"]),
}
