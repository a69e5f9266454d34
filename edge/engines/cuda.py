"""The few calls of the CUDA runtime that an engine needs, with each status checked. Device 0; knows
no TensorRT.

The bindings return (status, value…) and never raise: an unchecked error would surface later,
elsewhere, as a wrong score.
"""

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.contract.errors import EngineError

_SUCCESS = 0


class Cuda:
    """The CUDA runtime of cuda-python. Raises EngineError with one line if it is missing or a call
    fails."""

    def __init__(self) -> None:
        try:  # only needed with a GPU, so not imported at the top
            self._runtime: Any = importlib.import_module("cuda.bindings.runtime")
        except ImportError as error:
            raise EngineError(
                f"cuda-python is missing ({error}); type pip install '.[trt]' in the checkout"
            ) from None
        if self._call("cudaGetDeviceCount") < 1:
            raise EngineError("CUDA: no GPU here")

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *values = getattr(self._runtime, name)(*arguments)
        if int(status) != _SUCCESS:
            _, text = self._runtime.cudaGetErrorString(status)
            message = (
                text.decode("utf8", "replace")
                if isinstance(text, bytes)
                else f"status {int(status)}"
            )
            raise EngineError(f"CUDA: {name}: {message}")
        return values[0] if len(values) == 1 else values

    def gpu(self) -> tuple[str, str]:
        """Name and compute capability of the GPU, e.g. ("Orin", "8.7")."""
        properties = self._call("cudaGetDeviceProperties", 0)
        name = bytes(properties.name).split(b"\0")[0].decode("utf8", "replace")
        return name, f"{properties.major}.{properties.minor}"

    def versions(self) -> tuple[str, str]:
        """Versions of the runtime, and of CUDA as supported by the driver, e.g. ("12.6",
        "12.6")."""
        runtime = self._call("cudaRuntimeGetVersion")
        driver = self._call("cudaDriverGetVersion")
        return (
            f"{runtime // 1000}.{runtime % 1000 // 10}",
            f"{driver // 1000}.{driver % 1000 // 10}",
        )

    def memory(self) -> tuple[int, int]:
        """Free and total memory of the GPU in bytes; on a Jetson, of the whole machine."""
        free, total = self._call("cudaMemGetInfo")
        return free, total

    def stream(self) -> Any:
        """A new stream; TensorRT takes its `int`."""
        return self._call("cudaStreamCreate")

    def end_stream(self, stream: Any) -> None:
        self._call("cudaStreamDestroy", stream)

    def wait(self, stream: Any) -> None:
        """Wait until all work in the stream is done; its errors are raised here."""
        self._call("cudaStreamSynchronize", stream)

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes, at least one, of the GPU's memory, and return the address."""
        return int(self._call("cudaMalloc", max(size, 1)))

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def upload(self, address: int, values: NDArray[np.float32], stream: Any) -> None:
        """Copy a contiguous array to the GPU. It must live until `wait`."""
        self._copy(address, values.ctypes.data, values, "cudaMemcpyHostToDevice", stream)

    def download(self, values: NDArray[np.float32], address: int, stream: Any) -> None:
        """Copy from the GPU into a contiguous array. It is filled after `wait`."""
        self._copy(values.ctypes.data, address, values, "cudaMemcpyDeviceToHost", stream)

    def _copy(
        self, to: int, source: int, values: NDArray[np.float32], kind: str, stream: Any
    ) -> None:
        assert values.flags.c_contiguous, "a copy goes by address and length"
        direction = getattr(self._runtime.cudaMemcpyKind, kind)
        self._call("cudaMemcpyAsync", to, source, values.nbytes, direction, stream)
