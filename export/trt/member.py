"""One member's engine: compiled, checked on the probe, timed, put into its place. A process of its
own, since the compiler's memory only returns to the system with it, and a board that runs out of
memory kills it alone.

`python -m export.trt.member REQUEST` (JSON) says on its last line of stdout what came of it (an
EngineMember as JSON); exit 78: this TensorRT cannot compile the network; 1: the compiler or the GPU
failed, less workspace may help.
"""

import json
import os
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edge.contract.audio import Input
from edge.contract.bundle import HALF_TOLERANCE, Bundle, file_sha256, read_bundle
from edge.contract.errors import BirdstationError
from edge.engines.cuda import Cuda
from edge.engines.device import import_tensorrt
from edge.engines.engine import answers_of
from edge.engines.record import Builder, EngineMember, Precision
from edge.engines.tensorrt import TensorrtEngine
from export.parity import Parity, parity
from export.trt.native import CompiledPlan, build_engine, window_profile
from export.trt.plan import INPUTS

TIMING_CACHE = "timing.cache"
_RUNS = 50
_WARM = 5


@dataclass(frozen=True)
class Request:
    """What is to be compiled, and where to."""

    name: str
    index: int  # among the bundle's networks: its members, then the student
    onnx: str
    precision: Precision
    bundle: str
    out: str
    batch_max: int
    workspace_mib: int
    builder: Builder


def make_member(request: Request) -> EngineMember:
    """Compile, check and time one member; its engine lies in the folder only if it passed.

    Raises BundleError or EngineError.
    """
    trt = import_tensorrt()
    cuda = Cuda()
    out = Path(request.out)
    source = Path(request.onnx)
    bundle = read_bundle(Path(request.bundle))
    cache = out / TIMING_CACHE
    begin = time.perf_counter()
    built = _build(
        trt, bundle, request, source.read_bytes(), cache.read_bytes() if cache.is_file() else b""
    )
    seconds = time.perf_counter() - begin
    temporary = tried(out, request.name)
    try:
        write_durably(temporary, built.plan)
        apart, times_ms = _try(trt, cuda, temporary, bundle, request)
        digest = file_sha256(temporary)
        name = f"{request.name}.{request.precision}.{digest[:12]}.engine"
        if apart.holds(request.precision):
            temporary.replace(out / name)
    finally:
        temporary.unlink(missing_ok=True)
    if built.timing_cache:
        write_durably(out / f".{TIMING_CACHE}", built.timing_cache)
        (out / f".{TIMING_CACHE}").replace(cache)
    p50, p95 = np.percentile(times_ms, (50, 95))
    compiled = file_sha256(source)
    return EngineMember(
        name=request.name,
        precision=request.precision,
        onnx_sha256=compiled,
        wanted_sha256=compiled,
        file=name,
        sha256=digest,
        bytes=len(built.plan),
        builder=request.builder,
        batch_max=request.batch_max,
        workspace_mib=request.workspace_mib,
        build_s=round(seconds, 1),
        build_peak_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, 1),
        parity_max=apart.largest,
        parity_mean=apart.mean,
        p50_ms=round(float(p50), 3),
        p95_ms=round(float(p95), 3),
    )


def _build(
    trt: object, bundle: Bundle, request: Request, onnx: bytes, timing_cache: bytes
) -> CompiledPlan:
    if request.builder == "torch-tensorrt":
        from export.trt.torch_trt import build_with_torch, takes_of  # a board has no torch

        takes = takes_of(bundle, bundle.manifest.networks[request.index])
        return build_with_torch(onnx, takes, request.batch_max, workspace_mib=request.workspace_mib)
    profile = window_profile(INPUTS[bundle.manifest.front], bundle.input_shape, request.batch_max)
    return build_engine(
        trt,
        onnx,
        profile,
        workspace_mib=request.workspace_mib,
        timing_cache=timing_cache,
        output=bundle.manifest.networks[request.index].output,
    )


def tried(out: Path, name: str) -> Path:
    """Where a member's engine lies until it is known to be right."""
    return out / f".{name}.engine"


def write_durably(path: Path, content: bytes) -> None:
    """Write a file that is on the disk, not only on its way there: boards lose power."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _try(
    trt: object, cuda: Cuda, path: Path, bundle: Bundle, request: Request
) -> tuple[Parity, list[float]]:
    """The engine on the probe, in batches and one by one; and how long one window takes."""
    probe = bundle.probe()
    inputs = bundle.probe().inputs
    members = len(probe.member_scores)
    reference = (
        probe.member_scores[request.index] if request.index < members else probe.student_scores
    )
    engine = TensorrtEngine(
        trt,
        cuda,
        [path],
        answers_of(bundle, [bundle.manifest.networks[request.index]]),
        batch_max=request.batch_max,
        tolerance=HALF_TOLERANCE,
        input_shape=bundle.input_shape,
    )
    try:
        batches = engine.scores(inputs)[0]
        singles = np.concatenate(
            [engine.scores(inputs[at : at + 1])[0] for at in range(len(inputs))]
        )
        return parity(np.stack([batches, singles]), np.stack([reference, reference])), time_ms(
            engine, inputs[:1]
        )
    finally:
        engine.close()


def time_ms(engine: TensorrtEngine, inputs: Input, runs: int = _RUNS) -> list[float]:
    """Milliseconds that each of some runs took, after a few that are not counted."""
    times = []
    for count in range(_WARM + runs):
        begin = time.perf_counter()
        engine.scores(inputs)
        if count >= _WARM:
            times.append((time.perf_counter() - begin) * 1000)
    return times


def main() -> None:
    """Serve one request; a station that listens beside goes first."""
    os.nice(10)
    try:
        member = make_member(Request(**json.loads(sys.argv[1])))
    except BirdstationError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(json.dumps(asdict(member)))


if __name__ == "__main__":
    main()
