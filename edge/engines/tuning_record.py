"""tuned.json: the fastest runtime, precision and threads on this machine as measured by `python -m
export tune`, for live sound and for replays.

It only applies to the bundle, processor and versions with which it was measured, and its choice
must pass the probe again before it is used. Measures nothing itself.
"""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from edge.config import Members
from edge.contract.bundle import PROBE_TOLERANCE, Bundle, BundleMember
from edge.contract.errors import BundleError, EngineError
from edge.engines.engine import Engine, answers_of
from edge.engines.onnx import OnnxEngine, cores
from edge.engines.openvino import CpuPrecision, OpenvinoEngine
from edge.engines.record_file import read_record_file

FILE = "tuned.json"
SCHEMA = 1
Runtime = Literal["onnxruntime", "openvino"]
Use = Literal["live", "replay"]
RUNTIMES: tuple[Runtime, ...] = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class RuntimeChoice:
    """A way to run networks on a CPU."""

    runtime: Runtime
    precision: CpuPrecision
    threads: int  # per call; a replay that reads several recordings at once sets its own
    window_ms: float  # median time of a single window; in a replay, of one of many
    # largest |Δscore| of a network over the probe, which the station must reproduce
    probe_max: float
    agreement: float  # fraction of windows with the decisions of ONNX Runtime in float32


@dataclass(frozen=True)
class TunedSet:
    """The fastest choice for the ensemble, for the student, or for both in a cascade."""

    members: Members
    live: RuntimeChoice
    replay: RuntimeChoice


@dataclass(frozen=True)
class TuningRecord:
    """Contents of tuned.json."""

    bundle: str  # its id
    cpu: str
    cores: int
    versions: Mapping[str, str]  # of the installed runtimes
    sets: tuple[TunedSet, ...]
    schema: int = SCHEMA

    def write(self, folder: Path) -> Path:
        """Write tuned.json, completely or not at all."""
        temporary = folder / f".{FILE}.{os.getpid()}"
        try:
            temporary.write_text(
                json.dumps(asdict(self), indent=1, sort_keys=True) + "\n", encoding="utf8"
            )
            return temporary.replace(folder / FILE)
        finally:
            temporary.unlink(missing_ok=True)


def cpu_model() -> str:
    """Name of this machine's processor, e.g. "x86_64 AMD EPYC 9654 96-Core Processor" or "aarch64
    0xd0b"."""
    found: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            found.setdefault(key.strip(), value.strip())
    part = found.get("model name") or found.get("CPU part") or platform.processor()
    return f"{platform.machine()} {part}".strip()


def runtime_versions() -> dict[str, str]:
    """Versions of the installed runtimes; none is imported."""
    found: dict[str, str] = {}
    for name in RUNTIMES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def open_cpu_engine(
    bundle: Bundle,
    networks: Sequence[BundleMember],
    runtime: Runtime,
    precision: CpuPrecision,
    threads: int,
    use: Use,
    tolerance: float = PROBE_TOLERANCE,
) -> Engine:
    """Networks of a bundle on a CPU runtime.

    `tolerance` is the largest allowed error of its probe scores. In a replay as many threads call
    at once as there are cores for them. Raises EngineError if the runtime is missing or cannot load
    the networks.
    """
    eight = precision == "int8"
    files = [(network.int8 if eight else None) or network.file for network in networks]
    answers = answers_of(bundle, networks, files)
    shape = bundle.input_shape
    threads = threads or cores()
    pairs = use == "replay"
    if runtime == "openvino":
        callers = max(1, cores() // threads) if pairs else 1
        return OpenvinoEngine(
            answers, threads, precision, tolerance, callers=callers, pairs=pairs, input_shape=shape
        )
    try:
        name = "onnxruntime-cpu int8" if eight else "onnxruntime-cpu"
        return OnnxEngine(
            answers, threads, name, tolerance, pairs=pairs and eight, input_shape=shape
        )
    except BundleError as error:
        raise EngineError(str(error)) from error


def open_tuned(
    bundle: Bundle,
    folder: Path,
    networks: Sequence[BundleMember],
    members: Members,
    use: Use,
    threads: int = 0,
) -> Engine | None:
    """The fastest engine for `members` and this use; None if nothing was measured.

    `threads` overrides the measured best number unless it is 0. Raises EngineError, one line, if it
    was measured with another bundle, processor or version, or cannot be used.
    """
    path = folder / FILE
    tuned = read_tuned(path)
    chosen = {one.members: one for one in tuned.sets}.get(members) if tuned else None
    if tuned is None or chosen is None:
        return None
    here = {
        "bundle": bundle.id,
        "cpu": cpu_model(),
        "cores": cores(),
        "versions": runtime_versions(),
    }
    for key, value in here.items():
        if getattr(tuned, key) != value:
            found = f"{getattr(tuned, key)}, now {value}"
            raise EngineError(f"{path}: tuned with {key} {found}; run python -m export tune again")
    choice = chosen.live if use == "live" else chosen.replay
    # the error measured with this very processor and version, with a margin
    tolerance = choice.probe_max + PROBE_TOLERANCE
    asked = threads or choice.threads
    return open_cpu_engine(
        bundle, networks, choice.runtime, choice.precision, asked, use, tolerance
    )


def read_tuned(path: Path) -> TuningRecord | None:
    """The contents of a tuned.json; None if there is none. Raises EngineError if it cannot be
    used."""
    return read_record_file(path, TuningRecord, SCHEMA, "python -m export tune")
