"""Compiles an ONNX network to a TensorRT plan with the native Python API. Knows no bundle, no
device and no file.

Uses only calls that TensorRT 10.3 (JetPack 6), 10.16 (JetPack 7), 11.4 and TensorRT for RTX have in
common. These have no option for the precision: the network defines its types itself
(export/half.py), and STRONGLY_TYPED binds the compiler to them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge.contract.errors import BundleError, EngineError

_MIB = 1 << 20
_ERRORS_MAX = 3  # errors of the parser in a message


@dataclass(frozen=True)
class Profile:
    """Shapes of an input of the plan: smallest, the one it is optimised for, largest."""

    low: tuple[int, ...]
    best: tuple[int, ...]
    high: tuple[int, ...]


def window_profile(name: str, shape: tuple[int, ...], batch_max: int) -> Mapping[str, Profile]:
    """The profile for batches of 1 to `batch_max` windows of `shape`, optimised for one, since a
    station scores one window at a time."""
    one = (1, *shape)
    return {name: Profile(one, one, (batch_max, *shape))}


@dataclass(frozen=True)
class CompiledPlan:
    """A plan, and the compiler's timings of kernels, for the next network."""

    plan: bytes
    timing_cache: bytes


def build_engine(
    trt: Any,
    onnx: bytes,
    profiles: Mapping[str, Profile],
    *,
    workspace_mib: int,
    timing_cache: bytes = b"",
    output: str | None = None,
) -> CompiledPlan:
    """Compile `onnx` for the GPU of this machine. `trt` is the module; `workspace_mib` limits the
    scratch memory of a kernel; `output` is the output of the plan, None: all.

    Raises BundleError if this TensorRT does not support the network, EngineError if the compiler
    failed, which less workspace or more free memory may fix; it prints the reason on stderr.
    """
    logger = trt.Logger()
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # raised by the bindings if there is no driver
        raise EngineError(f"TensorRT {trt.__version__} does not start: {error}") from error
    network = _created(
        builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)),
        "network",
    )
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        errors = [
            " ".join(str(parser.get_error(i)).split())
            for i in range(min(parser.num_errors, _ERRORS_MAX))
        ]
        reason = "; ".join(errors) or "no reason given"
        raise BundleError(f"TensorRT {trt.__version__} does not support the network: {reason}")
    _keep_output(network, output)
    config = _created(builder.create_builder_config(), "configuration")
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib * _MIB)
    config.clear_flag(trt.BuilderFlag.TF32)  # TF32 rounds the mantissa to 10 bits
    if profiles:
        _add_profile(trt, builder, network, config, profiles)
    _set_timing_cache(config, timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(
            f"TensorRT {trt.__version__} built no engine with {workspace_mib} MiB of workspace"
        )
    cache = config.get_timing_cache()
    return CompiledPlan(bytes(plan), b"" if cache is None else bytes(cache.serialize()))


def _created(thing: Any, what: str) -> Any:
    if thing is None:
        raise EngineError(f"TensorRT could not create a {what}; is the memory full?")
    return thing


def _keep_output(network: Any, output: str | None) -> None:
    """Keep only this output of the network, so that the others need not be computed."""
    given = [network.get_output(index) for index in range(network.num_outputs)]
    if output is not None and output not in [tensor.name for tensor in given]:
        raise BundleError(
            f"expected a network that gives {output}, found {[tensor.name for tensor in given]}"
        )
    for tensor in given:
        if output is not None and tensor.name != output:
            network.unmark_output(tensor)


def _add_profile(
    trt: Any, builder: Any, network: Any, config: Any, profiles: Mapping[str, Profile]
) -> None:
    """Add one profile for all inputs. Without one, a network with a dynamic batch would be refused,
    but only during compilation."""
    inputs = [network.get_input(index).name for index in range(network.num_inputs)]
    if not set(profiles) <= set(inputs):
        raise BundleError(f"expected a network that takes {list(profiles)}, found {inputs}")
    if any(network.get_input(index).dtype != trt.float32 for index in range(network.num_inputs)):
        raise BundleError("the network takes inputs other than float32")
    profile = _created(builder.create_optimization_profile(), "optimisation profile")
    for name, shape in profiles.items():
        profile.set_shape(name, shape.low, shape.best, shape.high)
    if config.add_optimization_profile(profile) < 0:
        raise BundleError(f"TensorRT does not support the shapes {dict(profiles)}")


def _set_timing_cache(config: Any, earlier: bytes) -> None:
    """Use earlier timings; those of another device or version are refused, so a new cache is
    started."""
    cache = config.create_timing_cache(earlier)
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(_created(config.create_timing_cache(b""), "timing cache"), False)
