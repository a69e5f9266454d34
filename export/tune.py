"""Finds the fastest CPU runtime, precision and number of threads on this machine that give the same
detections.

Needs no torch: the probe contains torch's scores, and on real sound the reference is ONNX Runtime
in float32, with which a bundle is verified.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from edge.analysis.recognizer import OpenWindowRule, Recognizer, networks_of
from edge.config import Members
from edge.contract.audio import Input
from edge.contract.blend import Scores, acoustic_scores, open_windows
from edge.contract.bundle import Bundle
from edge.contract.errors import EngineError
from edge.engines.engine import Engine
from edge.engines.onnx import cores
from edge.engines.openvino import CpuPrecision, has_bfloat16
from edge.engines.tuning_record import (
    Runtime,
    RuntimeChoice,
    TunedSet,
    TuningRecord,
    Use,
    cpu_model,
    open_cpu_engine,
    runtime_versions,
)
from export.agreement import AGREEMENT_MIN, acoustic_limits, agreement
from export.parity import Parity, allowed, parity

WINDOWS_MAX = 400  # windows of sound for comparing decisions
_BATCH = 16  # windows per call in a replay, as in station.yaml
_HOP_S = 5
_GAIN_MIN = 1.1


@dataclass(frozen=True)
class Pace:
    """Speed of scoring windows."""

    threads: int
    p50_ms: float  # per window; in a replay with many in parallel, the mean
    p95_ms: float
    cpu_ms: float  # of all threads together


@dataclass(frozen=True)
class Measurement:
    """A runtime in a precision: its score differences, agreement of decisions, and speed."""

    runtime: Runtime
    precision: CpuPrecision
    apart: float  # largest |Δscore| of a single network against torch, over the probe
    probe: Parity  # of the scores of all networks together, against torch
    sound: Parity  # the same, against ONNX Runtime in float32
    agreement: float  # share of windows of sound with the same decisions
    refused: str | None  # the reason why it is not offered
    live: tuple[Pace, ...]  # by number of threads; empty if refused
    replay: Pace | None

    @property
    def name(self) -> str:
        return f"{self.runtime} {self.precision}"


@dataclass(frozen=True)
class SetMeasurement:
    """A set of networks, with its measurements."""

    members: Members
    heard: int  # windows of sound with any species above its threshold
    rows: tuple[Measurement, ...]

    @property
    def best(self) -> TunedSet:
        """The fastest of those with the same decisions."""
        live = [(row, pace) for row in self.rows for pace in row.live]
        replay = [(row, row.replay) for row in self.rows if row.replay]
        return TunedSet(self.members, _choice(*_fastest(live)), _choice(*_fastest(replay)))


def _fastest(found: Sequence[tuple[Measurement, Pace]]) -> tuple[Measurement, Pace]:
    """The fastest measurement; the first, ONNX Runtime in float32, unless another is faster by a
    clear margin."""
    first, _ = found[0]
    ours = min((one for one in found if one[0] is first), key=lambda one: one[1].p50_ms)
    best = min(found, key=lambda one: one[1].p50_ms)
    return best if best[1].p50_ms * _GAIN_MIN < ours[1].p50_ms else ours


def _choice(row: Measurement, pace: Pace) -> RuntimeChoice:
    found = round(pace.p50_ms, 3), row.apart, row.agreement
    return RuntimeChoice(row.runtime, row.precision, pace.threads, *found)


def tune(
    bundle: Bundle,
    inputs: Input,
    seconds: float,
    sets: Sequence[Members],
    say: Callable[[str], None] = lambda _: None,
) -> list[SetMeasurement]:
    """Measure every installed runtime, in every precision that it and the bundle have, for these
    sets of the bundle's networks; `inputs` are their inputs from real sound. Takes about `seconds`
    for timing, plus loading and comparing.

    Raises BundleError if even ONNX Runtime fails the probe, ConfigError if a set needs a student
    and there is none.
    """
    candidates = _candidates(bundle)
    each = seconds / (len(sets) * len(candidates) * (len(thread_counts()) + 1))
    found = []
    for members in sets:
        Recognizer(bundle, members=members).check_probe()
        trial = _RuntimeTrial(bundle, members, inputs, each)
        rows = []
        for runtime, precision in candidates:
            say(f"{members}: {runtime} {precision}")
            rows.append(trial.measure(runtime, precision))
        found.append(SetMeasurement(members, int(trial.reference.any(axis=1).sum()), tuple(rows)))
    return found


def record(bundle: Bundle, found: Sequence[SetMeasurement]) -> TuningRecord:
    """The contents of tuned.json."""
    return TuningRecord(
        bundle.id, cpu_model(), cores(), runtime_versions(), tuple(one.best for one in found)
    )


def sets_of(bundle: Bundle) -> tuple[Members, ...]:
    """Possible values of `members` in station.yaml with this bundle."""
    return ("bag",) if bundle.manifest.student is None else ("bag", "student", "cascade")


def thread_counts() -> list[int]:
    """Numbers of threads to try: 1, 2, 4 … and all cores."""
    return sorted(
        {2**power for power in range(cores().bit_length()) if 2**power <= cores()} | {cores()}
    )


def _candidates(bundle: Bundle) -> list[tuple[Runtime, CpuPrecision]]:
    eight: list[CpuPrecision] = (
        ["int8"] if any(network.int8 for network in bundle.manifest.networks) else []
    )
    found: list[tuple[Runtime, CpuPrecision]] = [
        ("onnxruntime", "fp32"),
        *(("onnxruntime", p) for p in eight),
    ]
    if "openvino" in runtime_versions():
        half: list[CpuPrecision] = ["bf16"] if has_bfloat16() else []
        found += [("openvino", "fp32"), *(("openvino", precision) for precision in (*half, *eight))]
    return found


class _RuntimeTrial:
    """Measurements of one set of a bundle's networks, with one runtime after another."""

    def __init__(self, bundle: Bundle, members: Members, inputs: Input, seconds: float) -> None:
        self._bundle = bundle
        self._members = members
        self._inputs = inputs
        self._seconds = seconds
        self._networks = networks_of(bundle, members)
        probe = bundle.probe()
        manifest = bundle.manifest
        expected = dict(zip([m.name for m in manifest.members], probe.member_scores, strict=True))
        if manifest.student:
            expected[manifest.student.member.name] = probe.student_scores
        self._probe = probe.inputs
        self._expected = np.stack([expected[n.name] for n in self._networks])
        kinds = [member.kind for member in manifest.members]
        bag = acoustic_scores(
            probe.member_scores, kinds, manifest.blend, bundle.known(manifest.members)
        )
        self._expected_together = probe.student_scores if members == "student" else bag
        self._limits = acoustic_limits(manifest, bundle.taxonomy)
        self._acoustic = self._recognise("onnxruntime", "fp32", "replay")
        self.reference = self._decisions(self._acoustic)

    def measure(self, runtime: Runtime, precision: CpuPrecision) -> Measurement:
        """Measure parity and decisions, then speed unless these fail."""
        try:
            engine = self._open(runtime, precision, 0, "live")
            apart, probe = self._on_probe(engine)
            engine.close()
            acoustic = self._recognise(runtime, precision, "replay")
            agreed = agreement(self._decisions(acoustic), self.reference)
            if precision == "int8":  # a single window is rounded differently from a batch
                alone = self._recognise(runtime, precision, "live")
                agreed = min(agreed, agreement(self._decisions(alone), self.reference))
        except EngineError as error:
            nothing = Parity(np.nan, np.nan)
            return Measurement(
                runtime, precision, np.nan, nothing, nothing, 0.0, str(error), (), None
            )
        sound = parity(acoustic, self._acoustic)
        refused = self._refusal(precision, probe, sound, agreed)
        live, replay = ((), None) if refused else self._paces(runtime, precision)
        return Measurement(runtime, precision, apart, probe, sound, agreed, refused, live, replay)

    def _on_probe(self, engine: Engine) -> tuple[float, Parity]:
        """Largest difference of single networks from torch, and parity of their joint scores."""
        apart = parity(engine.scores(self._probe), self._expected).largest
        together = (
            Recognizer(self._bundle, engine=engine, members=self._members)
            .recognise(self._probe, None)
            .acoustic
        )
        return apart, parity(together, self._expected_together)

    def _refusal(
        self, precision: CpuPrecision, probe: Parity, sound: Parity, agreed: float
    ) -> str | None:
        for name, found in (("probe", probe), ("sound", sound)):
            # In a cascade a window may be opened by one runtime only; agreement of decisions covers
            # that.
            if not found.holds(precision) and not (name == "sound" and self._members == "cascade"):
                return f"{name}: {found}; {allowed(precision)} is allowed"
        if agreed < AGREEMENT_MIN:
            return (
                f"gives the same detections in {agreed:.1%} of the windows, expected "
                f"{AGREEMENT_MIN:.1%}"
            )
        return None

    def _paces(self, runtime: Runtime, precision: CpuPrecision) -> tuple[tuple[Pace, ...], Pace]:
        live = []
        for threads in thread_counts():
            engine = self._open(runtime, precision, threads, "live")
            live.append(_live_pace(self._call(engine), self._inputs, threads, self._seconds))
            engine.close()
        engine = self._open(runtime, precision, 1, "replay")
        replay = _replay_pace(self._call(engine), self._inputs, self._seconds)
        engine.close()
        return tuple(live), replay

    def _open(self, runtime: Runtime, precision: CpuPrecision, threads: int, use: Use) -> Engine:
        return open_cpu_engine(self._bundle, self._networks, runtime, precision, threads, use)

    def _call(self, engine: Engine) -> "_RecognizerCall":
        recognizer = Recognizer(self._bundle, engine=engine, members=self._members)
        undecided = self._undecided if self._members == "cascade" else None
        return _RecognizerCall(recognizer, undecided)

    def _undecided(self, acoustic: Scores) -> NDArray[np.bool_]:
        """Mask of the windows that a station without a place would leave to the bag."""
        manifest = self._bundle.manifest
        assert manifest.student
        return open_windows(
            acoustic,
            None,
            manifest.blend,
            self._limits,
            manifest.student.below,
            manifest.student.above,
        )

    def _recognise(self, runtime: Runtime, precision: CpuPrecision, use: Use) -> Scores:
        """Joint scores of the networks for the sound, `(windows, species)`."""
        engine = self._open(runtime, precision, 0, use)
        ask = self._call(engine)
        size = _BATCH if use == "replay" else 1
        answers = [ask(self._inputs[i : i + size]) for i in range(0, len(self._inputs), size)]
        engine.close()
        return np.concatenate(answers)

    def _decisions(self, acoustic: Scores) -> NDArray[np.bool_]:
        """Mask of the species that a station without a place hears, `(windows, species)`."""
        return np.asarray(acoustic >= self._limits)


@dataclass(frozen=True)
class _RecognizerCall:
    """A recognizer, called as a stretch of sound calls it."""

    recognizer: Recognizer
    undecided: OpenWindowRule | None

    def __call__(self, inputs: Input) -> Scores:
        return self.recognizer.recognise(inputs, None, undecided=self.undecided).acoustic


def _live_pace(ask: _RecognizerCall, inputs: Input, threads: int, seconds: float) -> Pace:
    """Time one window after another for `seconds`; the first, which allocates buffers, does not
    count."""
    ask(inputs[:1])
    times = []
    spent = 0.0
    end = time.perf_counter() + seconds
    for index in count():
        begin = time.perf_counter()
        cpu = time.process_time()
        ask(inputs[index % len(inputs)][None])
        times.append((time.perf_counter() - begin) * 1000)
        spent += (time.process_time() - cpu) * 1000
        if time.perf_counter() >= end:
            break
    p50, p95 = np.percentile(times, (50, 95))
    return Pace(threads, float(p50), float(p95), spent / len(times))


def _replay_pace(ask: _RecognizerCall, inputs: Input, seconds: float) -> Pace:
    """Time batches as in a replay: a thread for each core, each with batch after batch."""
    callers = cores()
    batches = [
        np.take(inputs, range(i * _BATCH, (i + 1) * _BATCH), axis=0, mode="wrap")
        for i in range(callers)
    ]
    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(ask, batches))
        begin = time.perf_counter()
        cpu = time.process_time()

        def work(batch: Input) -> list[float]:
            times: list[float] = []
            while not times or time.perf_counter() < begin + seconds:
                start = time.perf_counter()
                ask(batch)
                times.append((time.perf_counter() - start) * 1000 / _BATCH)
            return times

        times = np.concatenate(list(pool.map(work, batches)))
        windows = len(times) * _BATCH
        took = (time.perf_counter() - begin) * 1000
        spent = (time.process_time() - cpu) * 1000
    return Pace(1, took / windows, float(np.percentile(times, 95)) / callers, spent / windows)


def tables(found: Sequence[SetMeasurement], bundle: Bundle, windows: int) -> Iterator[Table]:
    """Tables of parity and of speed for each set of networks, with the chosen runtime marked."""
    machine = f"{cpu_model()}, {cores()} cores"
    for one in found:
        heard = (
            f"{one.members} of {bundle.folder}: {windows} windows of sound, {one.heard} with "
            "detections"
        )
        table = _table(heard, "", "probe max |Δp|", "sound max", "mean", "same detections", "")
        for row in one.rows:
            parts = (
                f"{row.probe.largest:.1e}",
                f"{row.sound.largest:.1e}",
                f"{row.sound.mean:.1e}",
            )
            table.add_row(
                row.name, *parts, f"{row.agreement:.1%}", "not offered" if row.refused else ""
            )
        yield table
        best = one.best
        title = f"{one.members} on {machine}: ms per window, × real time with one every {_HOP_S} s"
        table = _table(title, "", "", "threads", "p50", "p95", "CPU ms", "×", "")
        for row in one.rows:
            for pace in row.live:
                table.add_row(
                    row.name,
                    "live",
                    str(pace.threads),
                    *_figures(pace, best.live == _choice(row, pace)),
                )
            if row.replay:
                chosen = best.replay == _choice(row, row.replay)
                table.add_row(row.name, "replay", f"{cores()} × 1", *_figures(row.replay, chosen))
        yield table


def _table(title: str, *heads: str) -> Table:
    table = Table(title=title, title_justify="left")
    for head in heads:
        table.add_column(head, justify="right" if head else "left", no_wrap=not head)
    return table


def _figures(pace: Pace, chosen: bool) -> tuple[str, ...]:
    ms = (f"{value:.1f}" for value in (pace.p50_ms, pace.p95_ms, pace.cpu_ms))
    return *ms, f"{_HOP_S * 1000 / pace.p50_ms:.0f}", "fastest" if chosen else ""
