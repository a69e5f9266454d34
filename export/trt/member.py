"""Makes the engine of one member: compiles it, checks it on the probe, times it and puts it into
place. Runs in its own process, which returns the compiler's memory to the system, and which alone
is killed if a board runs out of memory.

`python -m export.trt.member REQUEST` (JSON) prints the result (an EngineMember as JSON) as its last
line of stdout. Exit status 78: this TensorRT cannot compile the network; 1: the compiler or the GPU
failed, and less workspace may help.
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
from edge.engines.engine_record import Builder, EngineMember, Precision
from edge.engines.tensorrt import TensorrtEngine
from export.parity import Parity, parity
from export.trt.native import CompiledPlan, build_engine, window_profile
from export.trt.plan import INPUTS

TIMING_CACHE = "timing.cache"
_RUNS = 50
_WARM = 5


@dataclass(frozen=True)
class Request:
    """A network to compile, and the folder for its engine."""

    name: str
    index: int  # among the networks of the bundle: its members, then the student
    onnx: str
    precision: Precision
    bundle: str
    out: str
    batch_max: int
    workspace_mib: int
    builder: Builder


def make_member(request: Request) -> EngineMember:
    """Compile, check and time one member; its engine is put into the folder only if it keeps
    parity.

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
        from export.trt.torch_trt import build_with_torch, takes_of  # boards have no torch

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
    """The path of a member's engine until it has passed its check."""
    return out / f".{name}.engine"


def write_durably(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on disk: boards may lose power."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _try(
    trt: object, cuda: Cuda, path: Path, bundle: Bundle, request: Request
) -> tuple[Parity, list[float]]:
    """Run the engine on the probe, in batches and one by one. Returns its parity, and times of
    single windows."""
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
    """Durations of `runs` runs in milliseconds, after a few that do not count."""
    times = []
    for count in range(_WARM + runs):
        begin = time.perf_counter()
        engine.scores(inputs)
        if count >= _WARM:
            times.append((time.perf_counter() - begin) * 1000)
    return times


def main() -> None:
    """Serve one request with low priority, so that a station on this machine comes first."""
    os.nice(10)
    try:
        member = make_member(Request(**json.loads(sys.argv[1])))
    except BirdstationError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(json.dumps(asdict(member)))


if __name__ == "__main__":
    main()
