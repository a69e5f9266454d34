import io
from pathlib import Path
from typing import Any

import tensorrt as trt
import torch
from torch_tensorrt.dynamo.conversion import UnsupportedOperatorException

__all__ = ["convert_exported_program_to_serialized_trt_engine"]


def convert_exported_program_to_serialized_trt_engine(
    exported_program: Any,
    *,
    arg_inputs: Any,
    arg_input_binding_names: Any,
    output_binding_names: str,
    require_full_compilation: bool,
    min_block_size: int,
    disable_tf32: bool,
    workspace_size: int,
    timing_cache_path: str,
) -> bytes:
    assert require_full_compilation
    assert disable_tf32
    assert min_block_size == 1
    assert Path(timing_cache_path).parent.is_dir()
    (images,) = arg_inputs
    (name,) = arg_input_binding_names
    assert images.dtype == torch.float32
    content = io.BytesIO()
    torch.onnx.export(
        exported_program,
        dynamo=True,
        opset_version=18,
        input_names=[name],
        output_names=[output_binding_names],
    ).save(content)
    logger = trt.Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    if not trt.OnnxParser(network, logger).parse(content.getvalue()):
        raise UnsupportedOperatorException(
            f"Conversion of module GraphModule(\n) not supported: {trt.FACTS}"
        )
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_size)
    profile = builder.create_optimization_profile()
    profile.set_shape(name, *images.shapes)
    config.add_optimization_profile(profile)
    plan: bytes | None = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeError("While interpreting the module got an error: TensorRT built nothing")
    return plan
