"""OpenVINO on the CPU, an optional extra: the same networks, on many processors faster, in bfloat16 where there is it.

Never imported unless `python -m export tune` found it the fastest here.
"""

import importlib
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edge.contract.audio import IMAGE_SHAPE, Image
from edge.contract.blend import Scores
from edge.contract.bundle import PROBE_TOLERANCE
from edge.contract.errors import EngineError
from edge.engines.onnx import cores, float_batch

CpuPrecision = Literal["fp32", "bf16", "int8"]
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # said outright: OpenVINO's own choice is the fastest, not fp32


def import_openvino() -> Any:
    """Intel's module, kept from reporting. Raises EngineError if it is not installed.

    Importing it sends an event to Google Analytics, without asking, if `openvino_telemetry` can be imported; where that
    cannot it takes a stub. A station calls nobody.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # Python's word for "not importable"
    try:  # only where it was tuned, so not at the head of the file
        return importlib.import_module("openvino")
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())
        raise EngineError(f"OpenVINO is missing ({reason}); pip install 'birdstation[openvino]'") from None


def has_bfloat16() -> bool:
    """Whether this processor calculates in bfloat16, as OpenVINO sees it. Raises EngineError."""
    return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenvinoEngine:
    """Runs the members one after the other, each with `threads` threads (0: one per core). Each thread that asks has
    its own requests; `callers` of them are served at once, each with so many threads.

    OpenVINO multiplies a batch of one by another kernel than larger ones, with another rounding: with `pairs` a lone
    image goes in twice, so that an image's scores do not depend on what else is in the batch. Raises EngineError if
    OpenVINO is missing or a file is no network of a bundle.
    """

    def __init__(
        self,
        members: Sequence[Path],
        threads: int = 0,
        precision: CpuPrecision = "fp32",
        tolerance: float = PROBE_TOLERANCE,
        *,
        callers: int = 1,
        pairs: bool = False,
    ) -> None:
        self.name = f"openvino-cpu {precision}"
        self.tolerance = tolerance
        self._pairs, self._own = pairs, threading.local()
        core = import_openvino().Core()
        options = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": callers * (threads or cores()),
            "NUM_STREAMS": callers,
            "ENABLE_CPU_PINNING": False,  # the service's sandbox refuses it
        }
        self._networks = []
        for path in members:
            try:
                network = core.compile_model(str(path), "CPU", options)
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[-1]
                raise EngineError(f"{path}: OpenVINO cannot load it: {reason}") from error
            shape = network.input(0).get_partial_shape()
            if [str(side) for side in shape][1:] != [str(side) for side in (1, *IMAGE_SHAPE)]:
                raise EngineError(f"{path}: takes {shape}; (batch, 1, 128, 281) is wanted")
            self._networks.append(network)

    def scores(self, images: Image, members: Sequence[int] | None = None) -> Scores:
        """Grey images `(n, 128, 281)` uint8 to sigmoid scores `(members, n, species)` float32; of all members, or of
        these. Raises EngineError if OpenVINO fails."""
        batch = float_batch(images, self._pairs)
        requests = self._requests()
        chosen = requests if members is None else [requests[index] for index in members]
        try:
            return np.stack([request.infer({0: batch}, share_inputs=True)[0][: len(images)] for request in chosen])
        except RuntimeError as error:
            raise EngineError(f"OpenVINO: {str(error).strip().splitlines()[-1]}") from error

    def _requests(self) -> list[Any]:
        """This thread's own, one for each network."""
        if not self._networks:
            raise EngineError(f"{self.name} is closed")
        if not hasattr(self._own, "requests"):
            self._own.requests = [network.create_infer_request() for network in self._networks]
        requests: list[Any] = self._own.requests
        return requests

    def close(self) -> None:
        """Give back the networks; the engine is not used again."""
        self._networks.clear()
        self._own = threading.local()
