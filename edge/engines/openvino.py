"""OpenVINO on the CPU, an optional extra: the same networks, on many processors faster, in bfloat16
where there is it.

Never imported unless `python -m export tune` found it the fastest here.
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
    imported; where that cannot it takes a stub. A station calls nobody.
    """
    # Python's word for "not importable"
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:  # only where it was tuned, so not at the head of the file
        return importlib.import_module("openvino")
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())
        raise EngineError(
            f"OpenVINO is missing ({reason}); type pip install '.[openvino]' in the checkout"
        ) from None


def has_bfloat16() -> bool:
    """Whether this processor calculates in bfloat16, as OpenVINO sees it. Raises EngineError."""
    return _has_bfloat16(import_openvino().Core())


def _has_bfloat16(core: Any) -> bool:
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


# the tensor behind which a network that takes the waveform may be calculated less exactly
FEATURES = "features"


@dataclass(frozen=True)
class _Network:
    """A network, cut in two behind its features, or before its first convolution."""

    front: int  # which of the engine's fronts makes its input
    rest: Any
    outputs: tuple[str, ...]  # of the rest, in its order; "" is the network's first


class OpenvinoEngine:
    """Runs the networks one after the other, each with `threads` threads (0: one per core); one
    that serves several members runs once. Each thread that asks has its own requests; `callers` of
    them are served at once, each with so many threads.

    What comes before a network's first convolution, the normalisation of the image, or before its
    FEATURES, is calculated in float32 whatever the precision, and once for all networks that have
    it in common: a mean taken off in bfloat16 leaves little of what it is taken from, and made up
    four fifths of the whole error.

    OpenVINO multiplies a batch of one by another kernel than larger ones, with another rounding:
    with `pairs` a lone image goes in twice, so that an image's scores do not depend on what else is
    in the batch. Raises EngineError if OpenVINO is missing or a file is no network of a bundle.
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
        self._pairs, self._own = pairs, threading.local()
        self._openvino = import_openvino()
        self._core = self._openvino.Core()
        self._options = {
            "INFERENCE_NUM_THREADS": callers * (threads or cores()),
            "NUM_STREAMS": callers,
            "ENABLE_CPU_PINNING": False,  # the service's sandbox refuses it
        }
        self._fronts: list[Any] = []
        self._known: dict[str, int] = {}  # what a front calculates -> its place
        self._shape, self._answers = input_shape, as_answers(members)
        self._networks: dict[Path, _Network] = {}
        for answer in self._answers:
            if answer.file not in self._networks:
                wanted = [one.output or "" for one in self._answers if one.file == answer.file]
                self._networks[answer.file] = self._network(
                    answer.file, precision, tuple(dict.fromkeys(wanted))
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
            does = _signature(front)
            if does not in self._known:
                self._known[does] = len(self._fronts)
                self._fronts.append(self._compile(front, "f32"))
            return _Network(self._known[does], self._compile(rest, hint), outputs)
        except RuntimeError as error:
            raise EngineError(f"{path}: OpenVINO cannot load it: {_last_line(error)}") from error

    def _write_powers_out(self, model: Any) -> None:
        """Powers of what is not negative as exponentials of logarithms. OpenVINO calculates a power
        number by number: half of BirdNET's front end. (ONNX Runtime's logarithm rounds by where a
        number stands, so that the networks themselves have powers.)"""
        ops = self._openvino.opset13
        for power in (op for op in model.get_ordered_ops() if op.get_type_name() == "Power"):
            base = power.input_value(0)
            exponent = power.input_value(1)
            if base.get_node().get_type_name() == "Abs":
                written = ops.exp(ops.multiply(ops.log(base), exponent))
                power.output(0).replace(written.output(0))

    def _hint(self, model: Any, precision: CpuPrecision) -> str:
        """Said outright: OpenVINO's own choice is the fastest, not fp32. Beside networks in 8 bits
        those that have none are calculated in bfloat16 where the processor has it; what such a
        network itself has in float32 stays so: it is little, and rounding it too would cost
        decisions."""
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
        """The model up to its features or the input of its first convolution, and from there on to
        these results; without either, the whole of it behind what does nothing."""
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
        """Windows as the networks take them to sigmoid scores `(members, n, species)` float32; of
        all members, or of these. Raises EngineError if OpenVINO fails, or if the engine is
        closed."""
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
        """This thread's own: one for each front and one for each network."""
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
        """Give back the networks; the engine is not used again."""
        self._networks = {}
        self._fronts = []
        self._own = threading.local()


def _signature(model: Any) -> str:
    """What a model calculates, as text: its operations in order, with their settings and
    constants."""
    parts = []
    for op in model.get_ordered_ops():
        inputs = [str(value.get_partial_shape()) for value in op.input_values()]
        constant = op.data.tobytes().hex() if op.get_type_name() == "Constant" else ""
        parts.append(f"{op.get_type_name()} {op.get_attributes()} {inputs} {constant}")
    return "\n".join(parts)


def _last_line(error: RuntimeError) -> str:
    """OpenVINO's errors begin with where in its source they were raised."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else "it does not say why"
