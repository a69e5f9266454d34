"""TensorFlow Lite files as BirdNET has them, with few channels and classes: written from a seed,
and what they hear by numpy, step by step as TensorFlow does it (a real Fourier transform at 48 kHz,
images with channels last)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
import soxr
import tflite
from numpy.typing import NDArray

Array = NDArray[Any]

CLASSES = 6
EMBEDDING = 24
SPECTROGRAMS = {
    "MEL_SPEC1": (2048, 278, 0.0, 3000.0, 0.23),
    "MEL_SPEC2": (1024, 280, 500.0, 15000.0, 0.19),
}
GEO_STEPS = 4

_OPTIONS = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "ADD": "AddOptions",
    "MUL": "MulOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
}


@dataclass
class Tiny:
    """A network while it is written: tensors by number, operators in order."""

    tensors: list[tuple[str, tuple[int, ...], Array | None]] = field(default_factory=list)
    operators: list[tuple[str, list[int], int, dict[str, int]]] = field(default_factory=list)

    def constant(self, value: Array, name: str = "") -> int:
        self.tensors.append((name or f"constant_{len(self.tensors)}", value.shape, value))
        return len(self.tensors) - 1

    def tensor(self, shape: tuple[int, ...], name: str = "") -> int:
        self.tensors.append((name or f"tensor_{len(self.tensors)}", shape, None))
        return len(self.tensors) - 1

    def add(
        self, op: str, *inputs: int, shape: tuple[int, ...] = (1,), name: str = "", **options: int
    ) -> int:
        output = self.tensor(shape, name)
        self.operators.append((op, list(inputs), output, options))
        return output

    def content(self, first: int, last: int) -> bytes:
        """The file."""
        return _write(self, first, last)


def _vector(b: flatbuffers.Builder, values: list[int], size: int = 4) -> int:
    b.StartVector(size, len(values), size)
    for value in reversed(values):
        b.PrependUOffsetTRelative(value)
    return int(b.EndVector())


def _table(b: flatbuffers.Builder, kind: str, **values: Any) -> int:
    """A table of tflite by the names of its fields."""
    getattr(tflite, f"{kind}Start")(b)
    for name, value in values.items():
        getattr(tflite, f"{kind}Add{name}")(b, value)
    return int(getattr(tflite, f"{kind}End")(b))


def _write(tiny: Tiny, first: int, last: int) -> bytes:
    b = flatbuffers.Builder(1 << 20)
    kinds = {
        np.dtype(np.float32): "FLOAT32",
        np.dtype(np.float16): "FLOAT16",
        np.dtype(np.int32): "INT32",
    }
    buffers = [_table(b, "Buffer")]
    tensors = []
    for name, shape, value in tiny.tensors:
        buffer = 0
        kind = tflite.TensorType.FLOAT32
        if value is not None:
            data = b.CreateByteVector(np.ascontiguousarray(value).tobytes())
            buffer = len(buffers)
            kind = getattr(tflite.TensorType, kinds[value.dtype])
            buffers.append(_table(b, "Buffer", Data=data))
        text = b.CreateString(name)
        sides = b.CreateNumpyVector(np.array(shape, np.int32))
        tensors.append(_table(b, "Tensor", Shape=sides, Type=kind, Buffer=buffer, Name=text))
    codes = sorted({op for op, *_ in tiny.operators})
    operators = [
        _operator(b, codes.index(op), *rest) for op, *rest in ((o[0], o) for o in tiny.operators)
    ]
    parts = {"Tensors": _vector(b, tensors), "Operators": _vector(b, operators)}
    parts |= {"Inputs": b.CreateNumpyVector(np.array([first], np.int32))}
    parts |= {"Outputs": b.CreateNumpyVector(np.array([last], np.int32))}
    graphs = _vector(b, [_table(b, "SubGraph", **parts)])
    numbers = [getattr(tflite.BuiltinOperator, op) for op in codes]
    known = [
        _table(b, "OperatorCode", DeprecatedBuiltinCode=min(number, 127), BuiltinCode=number)
        for number in numbers
    ]
    all_codes = _vector(b, known)
    all_buffers = _vector(b, buffers)
    model = _table(
        b, "Model", Version=3, OperatorCodes=all_codes, Subgraphs=graphs, Buffers=all_buffers
    )
    b.Finish(model, b"TFL3")
    return bytes(b.Output())


def _operator(
    b: flatbuffers.Builder, code: int, operator: tuple[str, list[int], int, dict[str, int]]
) -> int:
    op, inputs, output, options = operator
    vectors = {"Inputs": b.CreateNumpyVector(np.array(inputs, np.int32))}
    vectors["Outputs"] = b.CreateNumpyVector(np.array([output], np.int32))
    if op not in _OPTIONS:
        return _table(b, "Operator", OpcodeIndex=code, **vectors)
    table = _table(b, _OPTIONS[op], **options)
    kind = getattr(tflite.BuiltinOptions, _OPTIONS[op])
    return _table(
        b, "Operator", OpcodeIndex=code, BuiltinOptionsType=kind, BuiltinOptions=table, **vectors
    )


def _mel(length: int, low_hz: float, high_hz: float) -> Array:
    """96 triangles over the bins of a transform, evenly on the mel scale, `(96, length // 2 +
    1)`."""
    edges = 700 * (
        10 ** (np.linspace(*(2595 * np.log10(1 + f / 700) for f in (low_hz, high_hz)), 98) / 2595)
        - 1
    )
    bins = np.fft.rfftfreq(length, 1 / 48000)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def tiny_birdnet(seed: int = 0) -> bytes:
    """All that BirdNET V2.4 has, once: spectrograms, pools side by side, two convolutions of one
    pixel in a row, a depthwise one with padding, squeeze and excite, a residual, the layer of
    classes."""
    rng = np.random.default_rng(seed)
    t = Tiny()
    first = t.tensor((1, 144000), "INPUT")
    for name, (length, step, low_hz, high_hz, power) in SPECTROGRAMS.items():
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
        t.constant(hann.astype(np.float32), f"model/{name}/stft/hann_window/sub_2")
        t.constant(np.array(step, np.int32), f"model/{name}/stft/frame_step")
        t.constant(_mel(length, low_hz, high_hz), f"model/{name}/Tensordot/MatMul")
        t.constant(np.array(power, np.float32), f"model/{name}/truediv_1")
    x = t.add("CONCATENATION", first, first, shape=(1, 96, 1, 2), name="model/concatenate/concat")
    x = t.add("MUL", x, t.constant(np.array([0.2, 2.0], np.float32)), FusedActivationFunction=0)
    x = t.add("ADD", x, t.constant(np.array([-0.6, -0.3], np.float32)), FusedActivationFunction=0)
    x = _conv(t, rng, x, 2, 6, (4, 8), (4, 4), relu=True)
    pools = {"Padding": 1, "StrideH": 1, "StrideW": 2, "FilterHeight": 1, "FilterWidth": 2}
    x = t.add(
        "CONCATENATION", t.add("MAX_POOL_2D", x, **pools), t.add("AVERAGE_POOL_2D", x, **pools)
    )
    x = _silu(t, _conv(t, rng, _conv(t, rng, x, 12, 6), 6, 20))
    x = t.add("PAD", x, t.constant(np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32)))
    x = _silu(t, _conv(t, rng, x, 20, 20, (3, 3), (2, 2), deep=True, same=False))
    squeezed = t.add(
        "RESHAPE",
        t.add("MEAN", x, t.constant(np.array([1, 2], np.int32)), shape=(1, 20)),
        shape=(1, 20),
    )
    squeezed = _silu(t, _conv(t, rng, squeezed, 20, 3))
    x = t.add(
        "MUL", x, t.add("LOGISTIC", _conv(t, rng, squeezed, 3, 20)), FusedActivationFunction=0
    )
    x = _conv(t, rng, x, 20, 7)
    y = _conv(t, rng, _silu(t, _conv(t, rng, x, 7, 20)), 20, 7)
    x = t.add("ADD", y, x, FusedActivationFunction=0)
    x = _conv(t, rng, x, 7, EMBEDDING, (3, 3), same=False, relu=True)
    x = t.add("MEAN", x, t.constant(np.array([1, 2], np.int32)), shape=(1, EMBEDDING))
    weights = t.constant(rng.standard_normal((CLASSES, EMBEDDING)).astype(np.float32) * 1.5)
    bias = t.constant(np.linspace(-2, 1, CLASSES).astype(np.float32))
    last = t.add("FULLY_CONNECTED", x, weights, bias, shape=(1, CLASSES), FusedActivationFunction=0)
    return t.content(first, last)


def _conv(
    t: Tiny,
    rng: np.random.Generator,
    x: int,
    taken: int,
    given: int,
    size: tuple[int, int] = (1, 1),
    stride: tuple[int, int] = (1, 1),
    *,
    deep: bool = False,
    same: bool = True,
    relu: bool = False,
) -> int:
    shape = (1, *size, given) if deep else (given, *size, taken)
    fan = size[0] * size[1] * (1 if deep else taken)
    weights = t.constant((rng.standard_normal(shape) * np.sqrt(2 / fan)).astype(np.float32))
    bias = t.constant((rng.standard_normal(given) * 0.1).astype(np.float32))
    options = {"Padding": 0 if same else 1, "StrideH": stride[0], "StrideW": stride[1]}
    kind = "DEPTHWISE_CONV_2D" if deep else "CONV_2D"
    return t.add(kind, x, weights, bias, FusedActivationFunction=int(relu), **options)


def _silu(t: Tiny, x: int) -> int:
    return t.add("MUL", x, t.add("LOGISTIC", x), FusedActivationFunction=0)


def heard(content: bytes, windows: Array) -> Array:
    """Scores `(n, classes)` of windows `(n, 160000)` at 32 kHz, in float64."""
    from export.adopt.flatbuffer import parse_tflite

    network = parse_tflite(content, "tiny")
    found = []
    for window in windows:
        wide = soxr.resample(window.astype(np.float64), 32000, 48000)
        odds = [_stretch(network, wide[at : at + 144000]) for at in (0, 96000)]
        found.append(1 / (1 + np.exp(-np.max(odds, axis=0))))
    return np.stack(found)


def _images(network: Any, sound: Array) -> Array:
    """`(96, 511, 2)`."""
    level = (sound - sound.min()) / (sound.max() - sound.min() + 1e-6) * 2 - 1
    constants = {network.names[index]: value for index, value in network.constants.items()}
    images = []
    for name in SPECTROGRAMS:
        window = constants[f"model/{name}/stft/hann_window/sub_2"].astype(np.float64)
        step = int(constants[f"model/{name}/stft/frame_step"])
        frames = np.lib.stride_tricks.sliding_window_view(level, len(window))[::step]
        real = np.fft.rfft(frames * window).real @ constants[f"model/{name}/Tensordot/MatMul"].T
        images.append(((real**2) ** float(constants[f"model/{name}/truediv_1"]))[:, ::-1].T)
    return np.stack(images, axis=-1)


def _stretch(network: Any, sound: Array) -> Array:
    """Log-odds of one stretch at 48 kHz, operator by operator."""
    values: dict[int, Array] = {
        index: np.asarray(value, np.float64) for index, value in network.constants.items()
    }
    for layer in network.layers:
        x, *more = [values.get(index, np.zeros(0)) for index in layer.inputs]
        options = layer.options
        if network.names[layer.output] == "model/concatenate/concat":
            y = _images(network, sound)
        elif layer.op in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            y = _convolved(x, more[0], more[1], options, layer.op[0] == "D")
        elif layer.op in ("MAX_POOL_2D", "AVERAGE_POOL_2D"):
            pairs = x[:, : x.shape[1] // 2 * 2].reshape(x.shape[0], -1, 2, x.shape[2])
            y = pairs.max(axis=2) if layer.op[0] == "M" else pairs.mean(axis=2)
        elif layer.op == "PAD":
            y = np.pad(x, more[0][1:].astype(int))
        else:
            y = _SIMPLE[layer.op](x, *more)
        values[layer.output] = np.maximum(y, 0) if options.get("activation") else y
    return values[network.outputs[0]]


_SIMPLE: dict[str, Callable[..., Array]] = {
    "LOGISTIC": lambda x: 1 / (1 + np.exp(-x)),
    "MUL": lambda x, factor: x * factor,
    "ADD": lambda x, summand: x + summand,
    "CONCATENATION": lambda *parts: np.concatenate(parts, axis=-1),
    "MEAN": lambda x, _axes: x.mean(axis=(0, 1)),
    "RESHAPE": lambda x: x.reshape(1, 1, -1),
    "FULLY_CONNECTED": lambda x, weights, bias: weights @ x + bias,
}


def _convolved(x: Array, weights: Array, bias: Array, options: dict[str, int], deep: bool) -> Array:
    size = weights.shape[1:3]
    stride = (options["stride_h"], options["stride_w"])
    if options["padding"] == 0:
        totals = [
            max(0, (-(-s // p) - 1) * p + k - s)
            for s, k, p in zip(x.shape, size, stride, strict=False)
        ]
        x = np.pad(x, [*((total // 2, total - total // 2) for total in totals), (0, 0)])
    patches = np.lib.stride_tricks.sliding_window_view(x, size, axis=(0, 1))[
        :: stride[0], :: stride[1]
    ]
    summed = (
        np.einsum("hwcij,ijc->hwc", patches, weights[0])
        if deep
        else np.einsum("hwcij,oijc->hwo", patches, weights)
    )
    return summed + bias


def tiny_geo(
    seed: int = 0, likely: tuple[float, ...] = (3.0, 3.0, -9.0, -9.0, -9.0, -9.0)
) -> bytes:
    """BirdNET's geo model in small: sines of place and week, the week masked outside 1 to 48,
    weights in half precision; `likely` are the classes' log-odds on the whole."""
    rng = np.random.default_rng(seed)
    t = Tiny()
    first = t.tensor((1, 3), "place")

    def half(value: Any) -> int:
        return t.add("DEQUANTIZE", t.constant(np.asarray(value, np.float16)))

    parts = []
    for column, (offset, scale) in enumerate(((90.0, 1 / 180), (180.0, 1 / 360), (-1.0, 1 / 47))):
        picked = [t.constant(np.array([0, column], np.int32)) for _ in range(3)]
        raw = t.add("STRIDED_SLICE", first, *picked)
        y = t.add(
            "EXPAND_DIMS",
            t.add("MUL", t.add("ADD", raw, half(offset)), half(scale)),
            t.constant(np.int32([1])),
        )
        y = t.add("ADD", t.add("MUL", y, half(6.0)), half(np.linspace(0, 1.5, GEO_STEPS)))
        y = t.add("SIN", y)
        if column == 2:
            one = half(1.0)
            none = half(0.0)
            late = t.add("SELECT_V2", t.add("GREATER", raw, half(48.0)), none, one)
            early = t.add("SELECT_V2", t.add("LESS", raw, half(1.0)), none, one)
            y = t.add(
                "MUL", y, t.add("EXPAND_DIMS", t.add("MUL", late, early), t.constant(np.int32([1])))
            )
        parts.append(y)
    x = t.add("CONCATENATION", *parts)
    wide = half(rng.standard_normal((5, 3 * GEO_STEPS)) * 0.3), half(np.full(5, 0.1))
    x = t.add("FULLY_CONNECTED", x, *wide, shape=(1, 5), FusedActivationFunction=1)
    last = half(rng.standard_normal((CLASSES, 5)) * 0.2), half(likely)
    x = t.add("FULLY_CONNECTED", x, *last, shape=(1, CLASSES), FusedActivationFunction=0)
    return t.content(first, t.add("LOGISTIC", x, shape=(1, CLASSES)))
