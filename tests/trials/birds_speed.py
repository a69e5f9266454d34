"""What an adopted BirdNET costs, beside LiteRT, the leanest loop and BirdNET-Analyzer, in one run
of rounds in turn.

    python -m tests.trials.birds_speed BUNDLE SOUND --litert PYTHON MODEL.tflite \\
      [--regional BUNDLE] [--analyzer PYTHON]
        [--windows 64] [--network-only]

CPU seconds, one thread, the same sound for all. BUNDLE is what `python -m export adopt` made, SOUND
a folder of recordings, PYTHON one where ai-edge-litert, soundfile and soxr are installed, MODEL the
network as BirdNET publishes it. First the network alone, per stretch of 3 s; then an hour of 32-kHz
Ogg from end to end: decoding, resampling, network, prior and record, at a hop of 5 s (1,440
stretches).
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from edge.capture.recording import Decoder, find_recordings
from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES
from edge.contract.bundle import read_bundle
from edge.contract.errors import RecordingError
from edge.contract.program import run_program
from edge.engines.openvino import has_bfloat16
from edge.engines.tuning_record import cpu_model, runtime_versions
from edge.types import Gap
from tests.bench.ratios import Ratio, interleaved

PROJECT = Path(__file__).parents[2]
HOUR_S = 3600
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}


class Contender:
    """A process that computes when it is told to."""

    def __init__(self, python: str, *arguments: str) -> None:
        command = [python, str(Path(__file__).with_name("contender.py")), *arguments]
        environment = os.environ | ONE_THREAD | {"PYTHONPATH": str(PROJECT)}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            stderr=subprocess.DEVNULL,
        )
        self._answer()  # ready

    def _answer(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{' '.join(map(str, self._process.args))}: ended with {self._process.wait()}")  # type: ignore[arg-type]
        return line

    def cost(self) -> float:
        """CPU seconds of a round."""
        assert self._process.stdin
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return float(self._answer())


def sound_of(folder: Path) -> NDArray[np.float32]:
    """All sound of a folder at 32 kHz, one recording behind the other."""
    found = []
    for path in find_recordings(folder):
        try:
            with Decoder(path) as decoder:
                found += [piece.copy() for piece in decoder if not isinstance(piece, Gap)]
        except RecordingError:
            continue
    return np.concatenate(found)


def stretches_of(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Windows `(n, 160000)` at 32 kHz as LiteRT takes them: stretches `(2n, 144000)` from 0 and 2 s
    at 48 kHz."""
    wide = np.stack([soxr.resample(window, RATE_HZ, 48_000) for window in windows]).astype(
        np.float32
    )
    return np.concatenate([wide[:, :144_000], wide[:, 96_000:]])


def _table(title: str, costs: dict[str, list[float]], unit: str, scale: float, base: str) -> None:
    print(f"\n{title}\n\n| | {unit} | × {base} |\n|---|---|---|")
    for name, found in costs.items():
        median = float(np.median(found)) * scale
        print(
            f"| {name} | {median:.4g} | {'1' if name == base else Ratio.of(found, costs[base])} |"
        )


def network_alone(arguments: argparse.Namespace, windows: NDArray[np.float32], work: Path) -> None:
    """Per stretch of 3 s, two of which are in a window."""
    np.save(work / "windows.npy", windows)
    np.save(work / "stretches.npy", stretches_of(windows))
    python, model = arguments.litert
    contenders = {"LiteRT": Contender(python, "litert", model, str(work / "stretches.npy"))}
    precisions = ["fp32", *(["bf16"] if has_bfloat16() else [])]
    for name, bundle in (("whole", arguments.bundle), ("regional", arguments.regional)):
        if bundle is None:
            continue
        eight = any(member.int8 for member in read_bundle(bundle).manifest.members)
        kinds = [
            ("onnxruntime", "fp32"),
            *(("openvino", one) for one in (*precisions, *(["int8"] if eight else []))),
        ]
        for runtime, precision in kinds:
            windows_file = str(work / "windows.npy")
            one = Contender(sys.executable, "engine", runtime, precision, str(bundle), windows_file)
            contenders[f"{runtime} {precision}, {name}"] = one
    if (PROJECT / "edge" / "speech").is_dir():
        contenders["speech detector"] = Contender(
            sys.executable, "speech", str(work / "windows.npy")
        )
    costs = interleaved({name: one.cost for name, one in contenders.items()})
    title = f"Network alone, CPU ms per stretch of 3 s ({len(windows)} windows of 5 s)"
    _table(title, costs, "CPU ms", 1000 / (2 * len(windows)), "LiteRT")


def _children_s(work: Callable[[], object]) -> float:
    before = os.times()
    work()
    after = os.times()
    return (
        after.children_user + after.children_system - before.children_user - before.children_system
    )


def _replay(bundle: Path, engine: str, hour: Path, place: str) -> float:
    """CPU seconds of the command as a user types it, starting included."""
    with tempfile.TemporaryDirectory() as name:
        state = Path(name)
        config = state / "station.yaml"
        config.write_text(
            f"station: {{id: trial, {place}}}\nbundle: {bundle.absolute()}\nwindows: {{hop_s: "
            f"5}}\nruntime: {{engine: {engine}, threads: 1}}\n"
        )
        if engine == "auto":
            (state / "tuned.json").write_bytes(
                (bundle.parent / f"{bundle.name}.tuned" / "tuned.json").read_bytes()
            )
        command = [
            sys.executable,
            "-m",
            "edge",
            "replay",
            str(hour),
            "--config",
            str(config),
            "--jobs",
            "1",
        ]
        return _children_s(
            lambda: subprocess.run(command, check=True, capture_output=True, cwd=PROJECT)
        )


def _analyzer(python: str, hour: Path) -> float:
    with tempfile.TemporaryDirectory() as name:
        command = [
            python,
            "-m",
            "birdnet_analyzer.analyze",
            str(hour),
            "-o",
            name,
            "-t",
            "1",
            "-b",
            "1",
        ]
        environment = os.environ | ONE_THREAD
        return _children_s(
            lambda: subprocess.run(command, check=True, capture_output=True, env=environment)
        )


def end_to_end(arguments: argparse.Namespace, sound: NDArray[np.float32], work: Path) -> None:
    """An hour of sound."""
    hour = work / "20190522_060000.ogg"
    samples = np.resize(sound, HOUR_S * RATE_HZ)
    with soundfile.SoundFile(hour, "w", RATE_HZ, 1) as file:
        for at in range(0, len(samples), RATE_HZ):
            file.write(samples[at : at + RATE_HZ])
    some = np.stack(
        [samples[at : at + WINDOW_SAMPLES] for at in range(0, len(samples), WINDOW_SAMPLES)]
    )
    np.save(work / "hour.npy", stretches_of(some))
    python, model = arguments.litert
    works: dict[str, Callable[[], float]] = {
        "LiteRT alone": Contender(python, "litert", model, str(work / "hour.npy")).cost,
        "leanest loop, every 3 s": Contender(python, "loop", model, str(hour)).cost,
    }
    for name, bundle in (("whole", arguments.bundle), ("regional", arguments.regional)):
        engines = ["onnx"] if bundle else []
        engines += ["auto"] if bundle and bundle.with_name(f"{bundle.name}.tuned").is_dir() else []
        for engine in engines:
            works[f"replay, {engine}, {name}"] = lambda b=bundle, e=engine: _replay(
                b, e, hour, arguments.place
            )  # type: ignore[misc]
    if arguments.analyzer:
        works["BirdNET-Analyzer, every 3 s"] = lambda: _analyzer(arguments.analyzer, hour)
    costs = interleaved(works)
    _table("An hour of 32-kHz Ogg, CPU seconds", costs, "CPU s", 1.0, "LiteRT alone")


def main() -> None:
    """Both parts, with the machine named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("sound", type=Path)
    parser.add_argument("--litert", nargs=2, metavar=("PYTHON", "MODEL"), required=True)
    parser.add_argument("--regional", type=Path)
    parser.add_argument("--analyzer", metavar="PYTHON")
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--network-only", action="store_true")
    parser.add_argument(
        "--place", default="latitude: 48.52, longitude: 9.06", help="of the station"
    )
    arguments = parser.parse_args()
    sound = sound_of(arguments.sound)
    count = min(arguments.windows, len(sound) // WINDOW_SAMPLES)
    starts = np.linspace(0, len(sound) - WINDOW_SAMPLES, count).astype(int)
    windows = np.stack([sound[at : at + WINDOW_SAMPLES] for at in starts])
    versions = ", ".join(f"{name} {version}" for name, version in runtime_versions().items())
    print(f"{cpu_model()}, {versions}, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as name:
        network_alone(arguments, windows, Path(name))
        if not arguments.network_only:
            end_to_end(arguments, sound, Path(name))


if __name__ == "__main__":
    run_program(main)
