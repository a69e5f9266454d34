"""The full published bag on each CPU runtime, against eager torch in float32 member by member: part of `make bench`.

    python -m tests.bench_bag [--quick]

Ten members, five resnest50d and five tf_efficientnet_b3 of 397 species, from random weights: what they say is worth
nothing, so nothing is said of parity here (`python -m export tune` does), but they cost what trained ones cost.
"""

import argparse
import copy
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from rich.console import Console
from rich.table import Table

from edge.config import DEMO_FOLDER
from edge.contract.audio import Image, WindowCutter
from edge.contract.bundle import BundleMember
from edge.engines.onnx import cores
from edge.engines.openvino import CpuPrecision, has_bfloat16
from edge.engines.tuned import Runtime, cpu_model, open_cpu_engine, runtime_versions
from edge.machine import rss_mb
from export.int8 import to_int8
from export.to_onnx import to_onnx, torch_scores
from trainer.model import build_network

ARCHITECTURES = ("resnest50d", "tf_efficientnet_b3")
MEMBERS_EACH, SPECIES, HOP_S = 5, 397, 5.0
_CALIBRATION = 32
_FEATURES = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_tile",
    "asimd",
    "asimddp",
    "bf16",
    "i8mm",
)


def windows(count: int) -> Image:
    """So many windows of the soundscapes that ship."""
    cutter, found = WindowCutter(), []
    for path in sorted(DEMO_FOLDER.glob("soundscapes/*.ogg")):
        found += cutter.push(soundfile.read(path, dtype="float32")[0])
        if len(found) >= count:
            break
    return np.stack([window.image for window in found[:count]])


def write_members(folder: Path, images: Image, int8: bool) -> tuple[list[torch.nn.Module], list[BundleMember]]:
    """The members as torch networks and as files; one network of each architecture five times, which costs no less."""
    networks, members = [], []
    for name in ARCHITECTURES:
        torch.manual_seed(0)
        network = build_network(name, SPECIES).eval()
        to_onnx(network, folder / f"{name}.onnx")
        eight = f"{name}.int8.onnx" if int8 else None
        if eight:
            to_int8(folder / f"{name}.onnx", folder / eight, images)
        networks += [copy.deepcopy(network) for _ in range(MEMBERS_EACH)]
        member = BundleMember(name, f"{name}.onnx", name, name, 0, 0, None, eight)
        members += [member] * MEMBERS_EACH
    return networks, members


def cpu_features() -> str:
    """What of this processor matters to a network."""
    flags = set(Path("/proc/cpuinfo").read_text(encoding="utf8").split()) if Path("/proc/cpuinfo").exists() else set()
    return " ".join(name for name in _FEATURES if name in flags) or "features not told"


@dataclass(frozen=True)
class Cost:
    """Of one window, all members: medians; and what loading and running the bag takes of memory."""

    wall_ms: float
    cpu_ms: float
    resident_mb: float


def measure(open_bag: Callable[[], Callable[[], object]], batch: int, rounds: int) -> Cost:
    """Open a bag, run its `batch` windows once to make its buffers, then `rounds` times; it is gone afterwards."""
    before = rss_mb() or 0.0
    work = open_bag()
    work()
    resident = (rss_mb() or 0.0) - before
    wall, cpu = [], []
    for _ in range(rounds):
        time.sleep(0.3)  # threads of what ran before spin on for a while
        begin, spent = time.perf_counter(), time.process_time()
        work()
        wall.append((time.perf_counter() - begin) * 1000 / batch)
        cpu.append((time.process_time() - spent) * 1000 / batch)
    del work
    gc.collect()
    return Cost(statistics.median(wall), statistics.median(cpu), resident)


def bench(console: Console, batch: int, rounds: int, int8: bool) -> None:
    """One runtime after the other: all bags at once would want 13 GB."""
    images = windows(max(batch, _CALIBRATION))
    some = images[:batch]
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(cores()) as callers:
        networks, members = write_members(Path(name), images[:_CALIBRATION], int8)
        torch.set_num_threads(cores())

        def eager() -> Callable[[], object]:
            return lambda: [torch_scores(network, torch.from_numpy(some)) for network in networks]

        def on(runtime: Runtime, precision: CpuPrecision) -> Callable[[], object]:
            engine = open_cpu_engine(members, Path(name), runtime, precision, 1, "replay")
            return lambda: list(
                callers.map(engine.scores, [some] * cores())
            )  # as a replay does: a thread for each core

        costs = {"torch fp32, eager": measure(eager, batch, rounds)}
        networks.clear()
        for runtime, precision in _runtimes(int8):
            costs[f"{runtime} {precision}"] = measure(lambda r=runtime, p=precision: on(r, p), batch * cores(), rounds)
    _print(console, costs, f"{len(members)} members, {batch} windows at once, median of {rounds}, hop {HOP_S:g} s")


def _runtimes(int8: bool) -> list[tuple[Runtime, CpuPrecision]]:
    eight: list[CpuPrecision] = ["int8"] if int8 else []
    found: list[tuple[Runtime, CpuPrecision]] = [("onnxruntime", "fp32"), *(("onnxruntime", p) for p in eight)]
    if "openvino" in runtime_versions():
        half: list[CpuPrecision] = ["bf16"] if has_bfloat16() else []
        found += [("openvino", "fp32"), *(("openvino", p) for p in (*half, *eight))]
    return found


def _print(console: Console, costs: dict[str, Cost], title: str) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in runtime_versions().items())
    console.print(f"{cpu_model()}, {cores()} cores, {cpu_features()}; torch {torch.__version__}, {versions}")
    table = Table(title=f"The published bag: {title}", title_justify="left")
    for head in ("", "ms per window", "CPU ms", "× real time", "× torch", "× torch, CPU", "resident MB"):
        table.add_column(head, justify="right" if head else "left", no_wrap=not head)
    torchs = costs["torch fp32, eager"]
    for key, cost in costs.items():
        ratios = (f"{torchs.wall_ms / cost.wall_ms:.1f}", f"{torchs.cpu_ms / cost.cpu_ms:.1f}")
        figures = (f"{cost.wall_ms:.0f}", f"{cost.cpu_ms:.0f}", f"{HOP_S * 1000 / cost.wall_ms:.0f}", *ratios)
        table.add_row(key, *figures, f"{cost.resident_mb:.0f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer windows and rounds, no 8-bit networks")
    quick = parser.parse_args().quick
    batch, rounds = (4, 1) if quick else (8, 5)
    bench(Console(width=110), batch, rounds, int8=not quick)


if __name__ == "__main__":
    main()
