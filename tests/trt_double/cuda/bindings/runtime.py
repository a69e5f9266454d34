"""The CUDA runtime in host memory, with the bindings' manners: (status, value…), nothing raised.

It suffices because what can be got wrong without a GPU is order and bookkeeping, and these it takes
seriously: a stream does nothing until it is waited for, so a missing wait or an array that died
early shows as a wrong score; copies beyond an allocation, memory freed twice and unknown streams
give the status that CUDA gives. Speed and arithmetic of a GPU it cannot show.
"""

import ctypes
import json
import os
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

FACTS: dict[str, Any] = {"gpu": "Orin", "capability": [8, 7], "gpus": 1, "fails": ""}
FACTS |= json.loads(os.environ.get("TRT_DOUBLE", "{}"))


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorNoDevice = 100
    cudaErrorInvalidResourceHandle = 400
    cudaErrorLaunchFailure = 719


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


OK = cudaError_t.cudaSuccess
BAD = cudaError_t.cudaErrorInvalidValue
allocated: dict[int, Any] = {}  # address -> buffer
streams: dict[int, list[Callable[[], None]]] = {}
calls: list[str] = []


def _status(name: str) -> cudaError_t:
    calls.append(name)
    return cudaError_t.cudaErrorLaunchFailure if FACTS["fails"] == name else OK


def cudaGetErrorString(status: cudaError_t) -> tuple[cudaError_t, bytes]:
    return OK, status.name.encode()


def cudaGetDeviceCount() -> tuple[cudaError_t, int | None]:
    return _status("cudaGetDeviceCount"), FACTS["gpus"]


def cudaGetDeviceProperties(_device: int) -> tuple[cudaError_t, Any]:
    major, minor = FACTS["capability"]
    name = FACTS["gpu"].encode().ljust(256, b"\0")
    return _status("cudaGetDeviceProperties"), SimpleNamespace(name=name, major=major, minor=minor)


def cudaRuntimeGetVersion() -> tuple[cudaError_t, int]:
    return OK, 12060


def cudaDriverGetVersion() -> tuple[cudaError_t, int]:
    return OK, 12060


def cudaMemGetInfo() -> tuple[cudaError_t, int, int]:
    used = sum(ctypes.sizeof(buffer) for buffer in allocated.values())
    return _status("cudaMemGetInfo"), 6_000_000_000 - used, 8_000_000_000


def cudaMalloc(size: int) -> tuple[cudaError_t, int | None]:
    status = _status("cudaMalloc")
    if status:
        return status, None
    buffer = (ctypes.c_char * size)()
    ctypes.memset(buffer, 0xFF, size)  # NaN: what was never written is seen
    allocated[ctypes.addressof(buffer)] = buffer
    return OK, ctypes.addressof(buffer)


def cudaFree(address: int) -> tuple[cudaError_t]:
    return (OK if allocated.pop(address, None) is not None else BAD,)


def cudaStreamCreate() -> tuple[cudaError_t, int]:
    stream = 1 + len(streams)
    streams[stream] = []
    return _status("cudaStreamCreate"), stream


def cudaStreamDestroy(stream: int) -> tuple[cudaError_t]:
    return (
        OK if streams.pop(stream, None) is not None else cudaError_t.cudaErrorInvalidResourceHandle,
    )


def cudaStreamSynchronize(stream: int) -> tuple[cudaError_t]:
    status = _status("cudaStreamSynchronize")
    waiting = streams[stream]
    streams[stream] = []
    for work in waiting:
        work()
    return (status,)


def cudaMemcpyAsync(
    to: int, source: int, size: int, kind: cudaMemcpyKind, stream: int
) -> tuple[cudaError_t]:
    device = to if kind == cudaMemcpyKind.cudaMemcpyHostToDevice else source
    if device not in allocated or size > ctypes.sizeof(allocated[device]):
        return (BAD,)
    streams[stream].append(lambda: ctypes.memmove(to, source, size))
    return (_status("cudaMemcpyAsync"),)
