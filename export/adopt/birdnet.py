"""BirdNET V2.4 as ONNX: from the sound of a window at 32 kHz to scores of classes and embeddings of
its stretches.

The network hears 3 s; a window of 5 s is two stretches, of which the higher score counts. The
layers after the images are rebuilt operator by operator, with two changes: two consecutive 1x1
convolutions become one, and channels are padded with zeros to multiples of 16, which runtimes do
internally anyway and then need not undo between layers.

Knows no labels and no bundle.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tflite
from numpy.typing import NDArray
from onnx import ModelProto

from edge.contract.audio import WINDOW_SAMPLES
from edge.contract.errors import BundleError
from export.adopt.flatbuffer import Operator, TfliteNetwork
from export.adopt.front_end import BANDS, FRAMES, STRETCHES_AT_S, add_images, read_spectrogram
from export.adopt.graph import GraphBuilder, Shape, whole

_IMAGES = "model/concatenate/concat"  # the tensor that joins both spectrograms
_SPECTROGRAMS = ("MEL_SPEC1", "MEL_SPEC2")
_NONE = tflite.ActivationFunctionType.NONE
_ALIGNED = 16  # channels that runtimes process together
_STRETCHES = len(STRETCHES_AT_S)
_SHAPES_ALONE = ("SHAPE", "STRIDED_SLICE", "PACK")  # they compute the shape of a later reshape
_NAMES = {"MUL": "Mul", "ADD": "Add", "AVERAGE_POOL_2D": "AveragePool", "MAX_POOL_2D": "MaxPool"}

Weights = NDArray[np.float64]


def birdnet_to_onnx(
    network: TfliteNetwork, classes: NDArray[np.integer] | None = None
) -> ModelProto:
    """A network from `sound` (n, 160000), float32, to `scores` (n, classes) after the sigmoid and
    `embedding` (n, 2, width), for all classes or these. Raises BundleError if the file is not
    BirdNET V2.4."""
    start = next(
        (i for i, layer in enumerate(network.layers) if network.names[layer.output] == _IMAGES),
        None,
    )
    if start is None:
        raise BundleError(f"no layer {_IMAGES}: not BirdNET V2.4")
    layers = _merged(network, list(network.layers[start + 1 :]))
    return _Rebuilt(network, layers, classes).model()


@dataclass(frozen=True)
class _Kernel:
    """The weights of a convolution in ONNX's order, (out, in, height, width), and its bias."""

    weights: Weights
    bias: Weights


def _merged(
    network: TfliteNetwork, layers: list[Operator]
) -> list[tuple[Operator, _Kernel | None]]:
    """The layers with their kernels; a 1x1 convolution whose only consumer is another one is merged
    into it."""
    kernels = [_kernel(network, layer) for layer in layers]
    uses = [tensor for layer in layers for tensor in layer.inputs]
    joined: list[tuple[Operator, _Kernel | None]] = []
    for layer, kernel in zip(layers, kernels, strict=True):
        before, first = joined[-1] if joined else (None, None)
        if before and first and kernel and _one_after_another(before, first, layer, kernel, uses):
            matrix = kernel.weights[:, :, 0, 0]
            one = _Kernel(
                np.einsum("oi,ijkl->ojkl", matrix, first.weights), matrix @ first.bias + kernel.bias
            )
            joined[-1] = (
                Operator(
                    layer.op, (before.inputs[0], *layer.inputs[1:]), layer.output, layer.options
                ),
                one,
            )
        else:
            joined.append((layer, kernel))
    return joined


def _kernel(network: TfliteNetwork, layer: Operator) -> _Kernel | None:
    if layer.op not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        return None
    weights, bias = (network.constants[tensor].astype(np.float64) for tensor in layer.inputs[1:3])
    return _Kernel(
        weights.transpose(3, 0, 1, 2) if layer.op[0] == "D" else weights.transpose(0, 3, 1, 2), bias
    )


def _one_after_another(
    before: Operator, first: _Kernel, layer: Operator, kernel: _Kernel, uses: list[int]
) -> bool:
    alone = layer.inputs[0] == before.output and uses.count(before.output) == 1
    return (
        alone and not _has_activation(before) and _is_1x1(before, first) and _is_1x1(layer, kernel)
    )


def _has_activation(layer: Operator) -> bool:
    return bool(layer.options.get("activation", _NONE) != _NONE)


def _is_1x1(layer: Operator, kernel: _Kernel) -> bool:
    strides = (layer.options["stride_h"], layer.options["stride_w"])
    return layer.op == "CONV_2D" and kernel.weights.shape[2:] == (1, 1) and strides == (1, 1)


@dataclass(frozen=True)
class _Tensor:
    """An image in the graph: the positions of the network's channels among its padded ones, and its
    height and width."""

    name: str
    places: NDArray[np.integer]
    channels: int
    size: tuple[int, int]

    def spread(self, values: Weights, axis: int, silent: float = 0.0) -> Weights:
        """Values by channel of the network, expanded to the channels of this image."""
        shape = list(values.shape)
        shape[axis] = self.channels
        wide = np.full(shape, silent)
        np.moveaxis(wide, axis, 0)[self.places] = np.moveaxis(values, axis, 0)
        return wide


class _Rebuilt:
    """The graph under construction, and the tensors of the file by their number."""

    def __init__(
        self,
        network: TfliteNetwork,
        layers: list[tuple[Operator, _Kernel | None]],
        classes: NDArray[np.integer] | None,
    ) -> None:
        self._network = network
        self._layers = layers
        self._classes = classes
        self._graph = GraphBuilder({"sound": ("n", WINDOW_SAMPLES)})
        self._tensors: dict[int, _Tensor] = {}
        self._outputs: dict[str, Shape] = {}

    def model(self) -> ModelProto:
        """Build the network."""
        self._images()
        for layer, kernel in self._layers[2:]:
            if layer.op not in _SHAPES_ALONE:
                self._add(layer, kernel)
        if not self._outputs:
            raise BundleError("no layer of classes: not BirdNET V2.4")
        return self._graph.finish(self._outputs)

    def _images(self) -> None:
        """Add the front end and the normalisation after it, a factor and an offset by channel."""
        (factor, _), (offset, _) = self._layers[:2]
        if (factor.op, offset.op) != ("MUL", "ADD"):
            raise BundleError(f"{factor.op}, {offset.op} behind the spectrograms: not BirdNET V2.4")
        banks = [read_spectrogram(self._network, name) for name in _SPECTROGRAMS]
        values = [
            self._network.constants[layer.inputs[1]].astype(np.float64)
            for layer in (factor, offset)
        ]
        name = add_images(self._graph, banks, *values)
        self._tensors[offset.output] = _Tensor(
            name, np.arange(len(banks)), len(banks), (BANDS, FRAMES)
        )

    def _add(self, layer: Operator, kernel: _Kernel | None) -> None:
        source = self._tensors[layer.inputs[0]]
        adders: dict[str, Callable[[Operator, _Tensor], _Tensor]] = {
            "LOGISTIC": lambda _, x: self._same(x, self._graph.add("Sigmoid", x.name)),
            # (n, channels) to (n, 1, 1, channels): here the mean keeps its pixel
            "RESHAPE": lambda _, x: x,
            "MUL": self._sum_or_product,
            "ADD": self._sum_or_product,
            "AVERAGE_POOL_2D": self._pool,
            "MAX_POOL_2D": self._pool,
            "CONCATENATION": self._concatenation,
            "PAD": self._pad,
            "MEAN": self._mean,
        }
        if kernel is not None:
            result = self._convolution(layer, kernel, source)
        elif layer.op in adders:
            result = adders[layer.op](layer, source)
        elif layer.op == "FULLY_CONNECTED":
            self._scores(layer, source)
            return
        else:
            raise BundleError(f"operator {layer.op}: not BirdNET V2.4")
        if _has_activation(layer):
            if layer.options["activation"] != tflite.ActivationFunctionType.RELU:
                raise BundleError(f"activation {layer.options['activation']}: not BirdNET V2.4")
            result = self._same(result, self._graph.add("Relu", result.name))
        self._tensors[layer.output] = result

    @staticmethod
    def _same(like: _Tensor, name: str, size: tuple[int, int] | None = None) -> _Tensor:
        return _Tensor(name, like.places, like.channels, size or like.size)

    def _convolution(self, layer: Operator, kernel: _Kernel, source: _Tensor) -> _Tensor:
        weights = kernel.weights
        bias = kernel.bias
        options = layer.options
        deep = layer.op == "DEPTHWISE_CONV_2D"
        if deep:
            target = self._same(source, "")
        else:
            target = _Tensor(
                "", np.arange(len(bias)), -(-len(bias) // _ALIGNED) * _ALIGNED, source.size
            )
            weights = source.spread(weights, 1)
        strides = (options["stride_h"], options["stride_w"])
        padded = options["padding"] == tflite.Padding.SAME
        sides = tuple(zip(source.size, weights.shape[2:], strides, strict=True))
        pads = [_same_padding(*side) if padded else (0, 0) for side in sides]
        name = self._graph.add(
            "Conv",
            source.name,
            np.float32(target.spread(weights, 0)),
            np.float32(target.spread(bias, 0)),
            kernel_shape=weights.shape[2:],
            strides=strides,
            pads=[before for before, _ in pads] + [after for _, after in pads],
            group=source.channels if deep else 1,
        )
        height, width = (
            (s + sum(p) - k) // step + 1 for (s, k, step), p in zip(sides, pads, strict=True)
        )
        return self._same(target, name, (height, width))

    def _sum_or_product(self, layer: Operator, source: _Tensor) -> _Tensor:
        """Add a sum or product with a constant by channel, or with another tensor of the same size
        or of one pixel."""
        constant = self._network.constants.get(layer.inputs[1])
        other = self._tensors.get(layer.inputs[1])
        if constant is not None:
            wide = source.spread(
                np.broadcast_to(constant.astype(np.float64), source.places.shape), 0
            )
            by_channel = wide.astype(np.float32)[:, None, None]
            return self._same(source, self._graph.add(_NAMES[layer.op], source.name, by_channel))
        if other is None or not np.array_equal(other.places, source.places):
            raise BundleError(f"{layer.op} of other channels: not BirdNET V2.4")
        return self._same(source, self._graph.add(_NAMES[layer.op], source.name, other.name))

    def _pool(self, layer: Operator, source: _Tensor) -> _Tensor:
        options = layer.options
        kernel = (options["height"], options["width"])
        strides = (options["stride_h"], options["stride_w"])
        if options["padding"] != tflite.Padding.VALID:
            raise BundleError("a pool with padding: not BirdNET V2.4")
        name = self._graph.add(_NAMES[layer.op], source.name, kernel_shape=kernel, strides=strides)
        height, width = (
            (s - k) // step + 1 for s, k, step in zip(source.size, kernel, strides, strict=True)
        )
        return self._same(source, name, (height, width))

    def _concatenation(self, layer: Operator, source: _Tensor) -> _Tensor:
        tensors = [self._tensors[index] for index in layer.inputs]
        starts = np.cumsum([0, *(tensor.channels for tensor in tensors)])
        places = np.concatenate(
            [start + tensor.places for start, tensor in zip(starts, tensors, strict=False)]
        )
        name = self._graph.add("Concat", *(tensor.name for tensor in tensors), axis=1)
        return _Tensor(name, places, int(starts[-1]), source.size)

    def _pad(self, layer: Operator, source: _Tensor) -> _Tensor:
        _, height, width, _ = self._network.constants[layer.inputs[1]].tolist()
        pads = whole(0, 0, height[0], width[0], 0, 0, height[1], width[1])
        size = (source.size[0] + sum(height), source.size[1] + sum(width))
        return self._same(source, self._graph.add("Pad", source.name, pads), size)

    def _mean(self, _layer: Operator, source: _Tensor) -> _Tensor:
        return self._same(source, self._graph.add("GlobalAveragePool", source.name), (1, 1))

    def _scores(self, layer: Operator, source: _Tensor) -> None:
        """Add the layer of classes, and the higher score of both stretches. It takes both stretches
        at once, so that its weights, half of the file, are read only once."""
        weights, bias = (self._network.constants[tensor] for tensor in layer.inputs[1:3])
        if self._classes is not None:
            weights = weights[self._classes]
            bias = bias[self._classes]
        embedding = self._graph.add("Flatten", source.name)
        self._graph.add(
            "Reshape", embedding, whole(-1, _STRETCHES, source.channels), name="embedding"
        )
        wide = source.spread(weights.astype(np.float64), 1)
        odds = self._graph.add("Gemm", embedding, np.float32(wide), bias, transB=1)
        odds = self._graph.add("Reshape", odds, whole(-1, _STRETCHES, len(bias)))
        self._graph.add(
            "Sigmoid", self._graph.add("ReduceMax", odds, axes=[1], keepdims=0), name="scores"
        )
        self._outputs = {
            "scores": ("n", len(bias)),
            "embedding": ("n", _STRETCHES, source.channels),
        }


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's padding SAME of one axis, before and after: ceil(size / stride) outputs, with an
    odd pixel after."""
    total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
    return total // 2, total - total // 2
