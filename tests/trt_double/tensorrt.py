"""TensorRT whose plans are the ONNX files themselves, run by ONNX Runtime on the memory of the CUDA
double.

It suffices because the scores are real: a wrong address, shape, order or member shows as a wrong
score of the probe. It is strict where TensorRT is (a plan of another version, a batch beyond the
profile, a context without memory, a network that is not strongly typed), it returns None or False
where TensorRT does, and a test holds every name in it against the real bindings. That kernels exist
and are fast it cannot show.
"""

import ctypes
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import numpy as np
import onnx
import onnxruntime

FACTS: dict[str, Any] = {
    "version": "10.3.0.30",
    "workspace_works_mib": 4096,
    "killed_above_mib": 4096,
}
FACTS |= {"half_error": 0.0, "unsupported": ""} | json.loads(os.environ.get("TRT_DOUBLE", "{}"))
__version__ = FACTS["version"]
_SCRATCH = 1 << 16


def _cuda() -> Any:
    return importlib.import_module("cuda.bindings.runtime")


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 1


class MemoryPoolType(IntEnum):
    WORKSPACE = 0


class BuilderFlag(IntEnum):
    TF32 = 7


class TensorIOMode(IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(IntEnum):
    STATIC = 0
    USER_MANAGED = 2


class DataType(IntEnum):
    FLOAT = 0
    HALF = 1


float32 = DataType.FLOAT


class Logger:
    pass


class ITensor:
    def __init__(self, value: Any) -> None:
        self.name = value.name
        self.dtype = (
            float32 if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT else DataType.HALF
        )


class INetworkDefinition:
    _model: Any = None

    @property
    def num_inputs(self) -> int:
        return len(self._model.graph.input)

    def get_input(self, index: int) -> ITensor:
        return ITensor(self._model.graph.input[index])

    @property
    def num_outputs(self) -> int:
        return len(self._model.graph.output)

    def get_output(self, index: int) -> ITensor:
        return ITensor(self._model.graph.output[index])

    def unmark_output(self, tensor: ITensor) -> None:
        self._model.graph.output.remove(
            next(one for one in self._model.graph.output if one.name == tensor.name)
        )


class ParserError:
    def __str__(self) -> str:
        return f"In node 0: No importer registered\nfor op: {FACTS['unsupported']}"


class OnnxParser:
    def __init__(self, network: INetworkDefinition, _logger: Logger) -> None:
        self._network = network
        self.num_errors = 0

    def parse(self, content: bytes) -> bool:
        self._network._model = onnx.load_from_string(content)
        operators = {node.op_type for node in self._network._model.graph.node}
        self.num_errors = int(FACTS["unsupported"] in operators)
        return not self.num_errors

    def get_error(self, index: int) -> ParserError:
        assert index < self.num_errors
        return ParserError()


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, tuple[Any, Any, Any]] = {}

    def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
        self._shapes[name] = (low, best, high)


class ITimingCache:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> bytes:
        return self._content + b"k"


class IBuilderConfig:
    def __init__(self) -> None:
        self._workspace = 0
        self._profiles = []
        self._flags = {BuilderFlag.TF32}
        self._cache = None

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        assert pool == MemoryPoolType.WORKSPACE
        self._workspace = size >> 20

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._flags.discard(flag)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, content: bytes) -> ITimingCache:
        return ITimingCache(content)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if not ignore_mismatch and cache._content.strip(b"k"):
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache


class Builder:
    def __init__(self, _logger: Logger) -> None:
        if FACTS["version"] == "none":
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> bytes | None:
        assert not config._flags, "TF32 is cleared"
        if config._workspace > FACTS["killed_above_mib"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if config._workspace > FACTS["workspace_works_mib"]:
            print(
                "[TRT] [E] Error Code 2: OutOfMemory (Requested size was 4 bytes.)", file=sys.stderr
            )
            return None
        header = {"version": __version__, "shapes": config._profiles[0]._shapes}
        return json.dumps(header).encode() + b"\n" + network._model.SerializeToString()


class ICudaEngine:
    device_memory_size_v2 = _SCRATCH

    def __init__(self, header: dict[str, Any], content: bytes) -> None:
        model = onnx.load_from_string(content)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(content, options)
        self._shapes = header["shapes"]
        halved = any(w.data_type == onnx.TensorProto.FLOAT16 for w in model.graph.initializer)
        self._error = FACTS["half_error"] if halved else 0.0
        self._tensors = {v.name: v for v in (*model.graph.input, *model.graph.output)}

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._shapes else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> list[int]:
        return [d.dim_value or -1 for d in self._tensors[name].type.tensor_type.shape.dim]

    def get_tensor_dtype(self, name: str) -> DataType:
        return ITensor(self._tensors[name]).dtype

    def create_execution_context(self, strategy: Any) -> "IExecutionContext":
        assert strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        return IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._addresses = {}
        self._shape = {}
        self._scratch = 0

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= _SCRATCH
        self._scratch = memory

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return memory in _cuda().allocated

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self._engine._shapes[name]
        self._shape[name] = shape
        return all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))

    def execute_async_v3(self, stream_handle: int) -> bool:
        engine = self._engine
        (grey, scores) = self._engine._tensors
        if (
            self._scratch not in _cuda().allocated
            or grey not in self._shape
            or len(self._addresses) != 2
        ):
            return False
        source = self._addresses[grey]
        target = self._addresses[scores]
        shape = self._shape[grey]

        def work() -> None:
            size = int(np.prod(shape)) * 4
            images = np.frombuffer((ctypes.c_char * size).from_address(source), np.float32).reshape(
                shape
            )
            found = engine._session.run(None, {grey: images})[0] + np.float32(engine._error)
            assert found.nbytes <= ctypes.sizeof(_cuda().allocated[target])
            ctypes.memmove(target, np.ascontiguousarray(found).ctypes.data, found.nbytes)

        _cuda().streams[stream_handle].append(work)
        return True


class Runtime:
    def __init__(self, _logger: Logger) -> None:
        self._deserialise: Callable[[dict[str, Any], bytes], ICudaEngine] = ICudaEngine

    def deserialize_cuda_engine(self, plan: bytes) -> ICudaEngine | None:
        header, _, content = plan.partition(b"\n")
        read = json.loads(header) if header.startswith(b"{") else {}
        if read.get("version") != __version__:
            print("[TRT] [E] the plan was serialized with another version", file=sys.stderr)
            return None
        return self._deserialise(read, content)
