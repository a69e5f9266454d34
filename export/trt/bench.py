"""Benchmark of the engines of a bundle on this machine: parity, latency, memory, power, compared
with ONNX Runtime on its CPU."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from edge.contract.audio import Input
from edge.contract.blend import Scores
from edge.contract.bundle import Bundle, BundleMember
from edge.contract.errors import EngineError
from edge.engines.cuda import Cuda
from edge.engines.engine import Engine, answers_of
from edge.engines.engine_record import EngineMember, EngineRecord, read_record
from edge.engines.onnx import OnnxEngine
from edge.engines.tensorrt import open_tensorrt
from export.parity import Parity, parity
from export.trt.power import PowerMeter

_MEASURE_S = 10.0
_IDLE_S = 3.0


@dataclass(frozen=True)
class Speed:
    """Measurements of an engine with all members of the bundle, or with its student."""

    engine: str
    networks: str  # bag or student
    one_ms: tuple[float, float]  # single windows, as on a station: median, 95th percentile
    windows_per_s: float  # in batches of `batch`, as in a replay
    batch: int
    parity: Parity  # against torch float32, on the probe of the bundle
    watts: float | None  # in batches
    memory_mb: float | None  # of the GPU, taken by loading; on a Jetson of the whole machine


@dataclass(frozen=True)
class Bench:
    """Measurements of TensorRT and ONNX Runtime."""

    record: EngineRecord
    speeds: tuple[Speed, ...]
    idle_watts: float | None


@dataclass(frozen=True)
class _NetworkGroup:
    """Networks of a bundle that are used together, with their expected scores for its probe."""

    name: str  # bag or student
    networks: Sequence[BundleMember]
    inputs: Input
    expected: Scores


def _network_groups(bundle: Bundle) -> list[_NetworkGroup]:
    """The groups of a bundle: the bag, and the student if there is one."""
    manifest = bundle.manifest
    probe = bundle.probe()
    parts = [_NetworkGroup("bag", manifest.members, probe.inputs, probe.member_scores)]
    if manifest.student:
        parts.append(
            _NetworkGroup(
                "student", [manifest.student.member], probe.inputs, probe.student_scores[None]
            )
        )
    return parts


def bench(bundle: Bundle, engines: Path, measure_s: float = _MEASURE_S) -> Bench:
    """Measure for about four times `measure_s`, or eight times with a student. Raises EngineError
    if there are no engines for this machine."""
    record = read_record(engines)
    if record is None:
        raise EngineError(f"{engines}: no engines here; python -m export trt builds them")
    meter = PowerMeter()
    with meter.reading():
        time.sleep(min(_IDLE_S, measure_s))
    batch = min(member.batch_max for member in record.members)
    speeds: list[Speed] = []
    for part in _network_groups(bundle):
        cuda = Cuda()
        before, _ = cuda.memory()
        engine = open_tensorrt(bundle, engines, part.networks)
        assert engine is not None, "its record was read"
        try:
            took = (before - cuda.memory()[0]) / 1e6
            speeds.append(_measure(engine, part, batch, took, measure_s))
        finally:
            engine.close()
        onnx = OnnxEngine(answers_of(bundle, part.networks), input_shape=bundle.input_shape)
        speeds.append(_measure(onnx, part, batch, None, measure_s))
    return Bench(record, tuple(speeds), meter.watts)


def _measure(
    engine: Engine, part: _NetworkGroup, batch: int, memory_mb: float | None, measure_s: float
) -> Speed:
    apart = parity(engine.scores(part.inputs), part.expected)
    inputs = np.resize(part.inputs, (batch, *part.inputs.shape[1:]))
    ones = _times_s(engine, inputs[:1], measure_s)
    meter = PowerMeter()
    with meter.reading():
        many = _times_s(engine, inputs, measure_s)
    p50, p95 = np.percentile(ones, (50, 95)) * 1000
    rate = batch / float(np.median(many))
    return Speed(
        engine.name, part.name, (float(p50), float(p95)), rate, batch, apart, meter.watts, memory_mb
    )


def _times_s(engine: Engine, inputs: Input, measure_s: float) -> list[float]:
    """Duration in seconds of each run, for `measure_s`; the first run, which allocates buffers,
    does not count."""
    engine.scores(inputs)
    times: list[float] = []
    end = time.perf_counter() + measure_s
    while not times or time.perf_counter() < end:
        begin = time.perf_counter()
        engine.scores(inputs)
        times.append(time.perf_counter() - begin)
    return times


def members_table(members: tuple[EngineMember, ...]) -> Table:
    """A table of the members in engine.json."""
    table = Table(title="Engines", title_justify="left")
    for name in ("member", "", "MB", "built in", "with MB", "max |Δp|", "ms p50", "p95"):
        table.add_column(
            name, justify="right" if name not in ("member", "") else "left", overflow="fold"
        )
    for m in members:
        build = (f"{m.bytes / 1e6:.1f}", f"{m.build_s:.0f} s", f"{m.build_peak_mb:.0f}")
        table.add_row(
            m.name, m.precision, *build, f"{m.parity_max:.1e}", f"{m.p50_ms:.2f}", f"{m.p95_ms:.2f}"
        )
    return table


def bench_table(found: Bench) -> Table:
    """A table that compares the engines."""
    device = found.record.device
    where = ", ".join(
        part for part in (device.board or device.gpu, device.l4t, device.power_mode) if part
    )
    table = Table(title=f"All networks on {where}", title_justify="left")
    table.add_column("")
    for speed in found.speeds:
        table.add_column(f"{speed.engine}, {speed.networks}", justify="right")
    rows: list[tuple[str, list[str]]] = [
        ("max |Δp| against torch", [f"{s.parity.largest:.1e}" for s in found.speeds]),
        ("mean |Δp|", [f"{s.parity.mean:.1e}" for s in found.speeds]),
        ("one window, ms (median)", [f"{s.one_ms[0]:.2f}" for s in found.speeds]),
        ("one window, ms (95 %)", [f"{s.one_ms[1]:.2f}" for s in found.speeds]),
        ("windows/s in batches", [f"{s.windows_per_s:.1f} (of {s.batch})" for s in found.speeds]),
        ("memory, MB", [_number(s.memory_mb, ".0f") for s in found.speeds]),
        ("power at work, W", [_number(s.watts, ".2f") for s in found.speeds]),
        ("power idle, W", [_number(found.idle_watts, ".2f")] * len(found.speeds)),
        (
            "J per window",
            [_number(s.watts and s.watts / s.windows_per_s, ".3f") for s in found.speeds],
        ),
    ]
    for name, values in rows:
        table.add_row(name, *values)
    return table


def _number(value: float | None, form: str) -> str:
    return "unknown" if value is None else format(value, form)
