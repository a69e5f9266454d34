"""What the real torch-tensorrt makes of networks on a machine without a GPU, by the project's own
function.

python -m tests.helpers.torch_trt_plans FILE.onnx …

Prints an object of JSON for each. One step is stood in for: a plan that was built is loaded, for
which a GPU is wanted; here it is given back as it is. A process of its own, since torch-tensorrt
for RTX puts itself in the place of tensorrt.
"""

import importlib
import inspect
import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edge.contract.audio import IMAGE, INPUT_SHAPES
from edge.contract.errors import BirdstationError
from export.trt.torch_trt import NetworkInputs, build_with_torch, coverage, imported

BATCH_MAX = 4
WORKSPACE_MIB = 256
TAKES = NetworkInputs(INPUT_SHAPES[IMAGE])


def watch(trt: Any, seen: dict[str, Any]) -> None:
    """Put what is built into `seen`, and let plans be loaded without a GPU."""

    class Builder(trt.Builder):
        def create_optimization_profile(self) -> Any:
            self.profile = super().create_optimization_profile()
            return self.profile

        def build_serialized_network(self, network: Any, config: Any) -> Any:
            layers = [network.get_layer(index) for index in range(network.num_layers)]
            inputs = [network.get_input(index) for index in range(network.num_inputs)]
            outputs = [network.get_output(index) for index in range(network.num_outputs)]
            seen["tensors"] = [
                [one.name, list(one.shape), one.dtype.name] for one in inputs + outputs
            ]
            seen["profile"] = [list(shape) for shape in self.profile.get_shape(inputs[0].name)]
            seen["strongly_typed"] = network.get_flag(
                trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
            )
            seen["tf32"] = config.get_flag(trt.BuilderFlag.TF32)
            seen["workspace_mib"] = config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) >> 20
            for kind in ("CONVOLUTION", "REDUCE"):
                of_kind = [layer for layer in layers if layer.type == getattr(trt.LayerType, kind)]
                seen[kind] = sorted({layer.get_output(0).dtype.name for layer in of_kind})
            return super().build_serialized_network(network, config)

    def load(plan: Any) -> Any:
        return SimpleNamespace(serialize=lambda: plan, get_aliased_input_tensor=lambda _: None)

    trt.Builder = Builder
    trt.Runtime = lambda _: SimpleNamespace(deserialize_cuda_engine=load)


def main() -> None:
    with imported() as torch_tensorrt:
        convert = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine
        print(json.dumps(sorted(inspect.signature(convert).parameters)))
        trt = importlib.import_module("tensorrt")
    for name in sys.argv[1:]:
        seen: dict[str, Any] = {}
        watch(trt, seen)
        content = Path(name).read_bytes()
        try:
            seen["coverage"] = asdict(coverage(content, TAKES, BATCH_MAX))
            seen["bytes"] = len(
                build_with_torch(content, TAKES, BATCH_MAX, workspace_mib=WORKSPACE_MIB).plan
            )
        except BirdstationError as error:
            seen["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(seen))


if __name__ == "__main__":
    main()
