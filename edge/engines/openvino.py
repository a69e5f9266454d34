"""OpenVINO on the CPU, an optional extra: the same networks, faster on many processors, in bfloat16
where supported.

Only imported if `python -m export tune` found it to be the fastest here.
"""

import importlib
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edge.contract.audio import IMAGE, INPUT_SHAPES, Input
from edge.contract.blend import Scores
from edge.contract.bundle import PROBE_TOLERANCE
from edge.contract.errors import EngineError
from edge.engines.engine import Answer, arranged, as_answers, at_once, float_batch
from edge.engines.onnx import cores

CpuPrecision = Literal["fp32", "bf16", "int8"]


def import_openvino() -> Any:
    """Intel's module, kept from reporting. Raises EngineError if it is not installed.

    Importing it sends an event to Google Analytics, without asking, if `openvino_telemetry` can be
    imported; otherwise it uses a stub. A station contacts nobody.
    """
    # None marks a module as not importable
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:  # only needed after tuning, so not imported at the top
        return importlib.import_module("openvino")
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())
        raise EngineError(
            f"OpenVINO is missing ({reason}); type pip install '.[openvino]' in the checkout"
        ) from None


def has_bfloat16() -> bool:
    """True if this processor computes in bfloat16, according to OpenVINO. Raises EngineError."""
    return _has_bfloat16(import_openvino().Core())


def _has_bfloat16(core: Any) -> bool:
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


# The tensor behind which a network that takes the waveform may be computed with less precision.
FEATURES = "features"


@dataclass(frozen=True)
class _Network:
    """A network, divided at its features, or before its first convolution."""

    front: int  # index of the front that makes its input
    rest: Any  # the part behind that
    outputs: tuple[str, ...]  # of `rest`, in its order; "" is the network's first


class OpenvinoEngine:
    """Runs the networks one after the other, each with `threads` threads (0: one per core).

    A network that serves several members runs once. Each calling thread has its own requests;
    `callers` of them are served at once, each with `threads` threads.

    The part before a network's first convolution, the normalisation of the image, or before its
    FEATURES, is computed in float32 whatever the precision, and once for all networks that share
    it: subtracting a mean in bfloat16 leaves little of the value, and caused four fifths of the
    whole error.

    OpenVINO multiplies a batch of one by another kernel than larger ones, with another rounding:
    with `pairs` a single image is doubled, so that an image's scores do not depend on the rest of
    the batch. Raises EngineError if OpenVINO is missing or a file is not a bundle's network.
    """

    def __init__(
        self,
        members: Sequence[Path | Answer],
        threads: int = 0,
        precision: CpuPrecision = "fp32",
        tolerance: float = PROBE_TOLERANCE,
        *,
        callers: int = 1,
        pairs: bool = False,
        input_shape: tuple[int, ...] = INPUT_SHAPES[IMAGE],
    ) -> None:
        self.name = f"openvino-cpu {precision}"
        self.tolerance = tolerance
        self._pairs = pairs
        self._own = threading.local()
        self._openvino = import_openvino()
        self._core = self._openvino.Core()
        self._options = {
            "INFERENCE_NUM_THREADS": callers * (threads or cores()),
            "NUM_STREAMS": callers,
            "ENABLE_CPU_PINNING": False,  # the service's sandbox refuses it
        }
        self._fronts: list[Any] = []
        self._known: dict[str, int] = {}  # index of a front by its signature
        self._shape = input_shape
        self._answers = as_answers(members)
        self._networks: dict[Path, _Network] = {}
        for answer in self._answers:
            if answer.file not in self._networks:
                outputs = [one.output or "" for one in self._answers if one.file == answer.file]
                self._networks[answer.file] = self._network(
                    answer.file, precision, tuple(dict.fromkeys(outputs))
                )

    def _network(self, path: Path, precision: CpuPrecision, outputs: tuple[str, ...]) -> _Network:
        """A network compiled to give these of its outputs."""
        try:
            model = self._core.read_model(path)
            shape = model.input(0).get_partial_shape()
            if [str(side) for side in shape][1:] != [str(side) for side in self._shape]:
                raise EngineError(
                    f"{path}: input: expected (batch, {', '.join(map(str, self._shape))}), found "
                    f"{shape}"
                )
            hint = self._hint(model, precision)
            self._write_powers_out(model)
            results = [
                model.get_results()[0] if not name else model.output(name).get_node()
                for name in outputs
            ]
            front, rest = self._cut(model, results)
            signature = _signature(front)
            if signature not in self._known:
                self._known[signature] = len(self._fronts)
                self._fronts.append(self._compile(front, "f32"))
            return _Network(self._known[signature], self._compile(rest, hint), outputs)
        except RuntimeError as error:
            raise EngineError(f"{path}: OpenVINO cannot load it: {_last_line(error)}") from error

    def _write_powers_out(self, model: Any) -> None:
        """Replace powers of absolute values by exponentials of logarithms.

        OpenVINO computes powers one number at a time, which is half the cost of BirdNET's front
        end. (The networks themselves keep powers because ONNX Runtime's logarithm rounds
        differently by a number's position.)
        """
        ops = self._openvino.opset13
        for power in (op for op in model.get_ordered_ops() if op.get_type_name() == "Power"):
            base = power.input_value(0)
            exponent = power.input_value(1)
            if base.get_node().get_type_name() == "Abs":
                written = ops.exp(ops.multiply(ops.log(base), exponent))
                power.output(0).replace(written.output(0))

    def _hint(self, model: Any, precision: CpuPrecision) -> str:
        """Precision of a network, given explicitly because OpenVINO's default is the fastest one,
        not fp32.

        Beside 8-bit networks, members without 8-bit form run in bfloat16 if the processor supports
        it. The float32 parts of an 8-bit network itself stay in float32: they are small, and
        rounding them too would change decisions.
        """
        eight = any(op.get_type_name() == "FakeQuantize" for op in model.get_ops())
        half = precision == "bf16" or (
            precision == "int8" and not eight and _has_bfloat16(self._core)
        )
        return "bf16" if half else "f32"

    def _compile(self, model: Any, hint: str) -> Any:
        return self._core.compile_model(
            model, "CPU", {"INFERENCE_PRECISION_HINT": hint, **self._options}
        )

    def _cut(self, model: Any, results: list[Any]) -> tuple[Any, Any]:
        """Divide the model at its features, or at the input of its first convolution; the second
        part has these results.

        With neither, the first part does nothing and the second is the whole model.
        """
        named = (
            out
            for op in model.get_ordered_ops()
            for out in op.outputs()
            if FEATURES in out.get_names()
        )
        source = next(named, None)
        if source is None:
            first = next(
                (
                    op
                    for op in model.get_ordered_ops()
                    if op.get_type_name().endswith("Convolution")
                ),
                None,
            )
            source = model.get_parameters()[0].output(0) if first is None else first.input_value(0)
        targets = list(source.get_target_inputs())
        inner = self._openvino.op.Parameter(source.get_element_type(), source.get_partial_shape())
        for target in targets:
            target.replace_source_output(inner.output(0))
        return self._openvino.Model([source], model.get_parameters()), self._openvino.Model(
            results, [inner]
        )

    def scores(self, inputs: Input, members: Sequence[int] | None = None) -> Scores:
        """Sigmoid scores `(members, n, species)` float32 of windows in the networks' input format,
        of all members or of those given.

        Raises EngineError if OpenVINO fails, or if the engine is closed.
        """
        return np.concatenate(
            [self._scores(part, members) for part in at_once(inputs, self._shape)], axis=1
        )

    def _scores(self, inputs: Input, members: Sequence[int] | None) -> Scores:
        batch = float_batch(inputs, self._shape, self._pairs)
        fronts, requests = self._requests()
        chosen = self._answers if members is None else [self._answers[index] for index in members]
        inner: dict[int, Any] = {}
        given: dict[Path, dict[str, Scores]] = {}
        try:
            for path in dict.fromkeys(answer.file for answer in chosen):
                network = self._networks[path]
                if network.front not in inner:
                    inner[network.front] = fronts[network.front].infer(
                        {0: batch}, share_inputs=True
                    )[0]
                found = requests[path].infer({0: inner[network.front]}, share_inputs=True)
                given[path] = {
                    name: found[at][: len(inputs)] for at, name in enumerate(network.outputs)
                }
        except RuntimeError as error:
            raise EngineError(f"OpenVINO: {_last_line(error)}") from error
        return arranged([given[answer.file][answer.output or ""] for answer in chosen], chosen)

    def _requests(self) -> tuple[list[Any], dict[Path, Any]]:
        """The calling thread's own requests: one for each front and one for each network."""
        if not self._networks:
            raise EngineError(f"{self.name} is closed")
        if not hasattr(self._own, "requests"):
            fronts = [front.create_infer_request() for front in self._fronts]
            rests = {
                path: network.rest.create_infer_request()
                for path, network in self._networks.items()
            }
            self._own.requests = fronts, rests
        requests: tuple[list[Any], dict[Path, Any]] = self._own.requests
        return requests

    def close(self) -> None:
        """Release the networks; the engine is not used again."""
        self._networks = {}
        self._fronts = []
        self._own = threading.local()


def _signature(model: Any) -> str:
    """The computation of a model as text: its operations in order, with their settings and
    constants."""
    parts = []
    for op in model.get_ordered_ops():
        inputs = [str(value.get_partial_shape()) for value in op.input_values()]
        constant = op.data.tobytes().hex() if op.get_type_name() == "Constant" else ""
        parts.append(f"{op.get_type_name()} {op.get_attributes()} {inputs} {constant}")
    return "\n".join(parts)


def _last_line(error: RuntimeError) -> str:
    """The last line of an error: OpenVINO's errors begin with their place in its source code."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else "no reason given"
