"""One ONNX network to one TensorRT plan, with the native Python API. Knows no bundle, no device and
no file.

Only calls that TensorRT 10.3 (JetPack 6), 10.16 (JetPack 7), 11.4 and TensorRT for RTX have alike,
so no switch for a precision: the network says its types itself (export/half.py), and STRONGLY_TYPED
holds the compiler to them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge.contract.errors import BundleError, EngineError

_MIB = 1 << 20
_ERRORS_MAX = 3  # of the parser, in one line


@dataclass(frozen=True)
class Profile:
    """Shapes of the inputs that the plan takes: smallest, the one it is made fast for, largest."""

    low: tuple[int, ...]
    best: tuple[int, ...]
    high: tuple[int, ...]


def window_profile(name: str, shape: tuple[int, ...], batch_max: int) -> Mapping[str, Profile]:
    """Batches of 1 to `batch_max` windows as the network takes them, `shape` each; fast for one,
    since a station hears one window at a time."""
    one = (1, *shape)
    return {name: Profile(one, one, (batch_max, *shape))}


@dataclass(frozen=True)
class CompiledPlan:
    """A plan and what the compiler learned of its kernels' speed, for the next network."""

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
    """Compile `onnx` for the GPU at hand. `trt` is the module; `workspace_mib` caps what a kernel
    may use besides; `output` is the one that the plan gives, None: all.

    Raises BundleError if the network is not for this TensorRT, EngineError if the compiler failed,
    which less workspace or more free memory may mend; it says why on stderr.
    """
    logger = trt.Logger()
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # the bindings' word for a constructor that found no driver
        raise EngineError(f"TensorRT {trt.__version__} does not start: {error}") from error
    network = _made(
        builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)),
        "network",
    )
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        errors = [
            " ".join(str(parser.get_error(i)).split())
            for i in range(min(parser.num_errors, _ERRORS_MAX))
        ]
        reason = "; ".join(errors) or "it does not say why"
        raise BundleError(f"TensorRT {trt.__version__} does not take the network: {reason}")
    _give_only(network, output)
    config = _made(builder.create_builder_config(), "configuration")
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib * _MIB)
    config.clear_flag(trt.BuilderFlag.TF32)  # it would round float32 to 10 bits of mantissa
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


def _made(thing: Any, what: str) -> Any:
    if thing is None:
        raise EngineError(f"TensorRT makes no {what}; is the memory full?")
    return thing


def _give_only(network: Any, output: str | None) -> None:
    """Leave the network this output alone: what leads to the others need not be calculated."""
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
    """One profile for all inputs. A network with an open batch and no profile is refused, but only
    when it is built."""
    inputs = [network.get_input(index).name for index in range(network.num_inputs)]
    if not set(profiles) <= set(inputs):
        raise BundleError(f"expected a network that takes {list(profiles)}, found {inputs}")
    if any(network.get_input(index).dtype != trt.float32 for index in range(network.num_inputs)):
        raise BundleError("the network takes other than float32")
    profile = _made(builder.create_optimization_profile(), "optimisation profile")
    for name, shape in profiles.items():
        profile.set_shape(name, shape.low, shape.best, shape.high)
    if config.add_optimization_profile(profile) < 0:
        raise BundleError(f"TensorRT does not take the shapes {dict(profiles)}")


def _set_timing_cache(config: Any, earlier: bytes) -> None:
    """Go on with what was measured earlier; of another device or version it is refused, and begun
    anew."""
    cache = config.create_timing_cache(earlier)
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(_made(config.create_timing_cache(b""), "timing cache"), False)
