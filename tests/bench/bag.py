"""The full published bag on each CPU runtime, against eager torch in float32 member by member: part
of `make bench`.

    python -m tests.bench.bag [--quick]

Ten members, five resnest50d and five tf_efficientnet_b3 of 397 species, from random weights: what
they say is worth nothing, so nothing is said of parity here (`python -m export tune` does), but
they cost what trained ones cost.
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
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch
from rich.console import Console
from rich.table import Table

from edge.config import DEMO_FOLDER
from edge.contract.audio import Image, WindowCutter
from edge.contract.blend import Blend
from edge.contract.bundle import Bundle, BundleMember, Manifest, Thresholds
from edge.contract.taxonomy import Species, Taxonomy
from edge.engines.onnx import cores
from edge.engines.openvino import CpuPrecision, has_bfloat16
from edge.engines.tuning_record import Runtime, cpu_model, open_cpu_engine, runtime_versions
from edge.host.machine import rss_mb
from export.int8 import to_int8
from export.to_onnx import to_onnx, torch_scores
from tests.bench.ratios import ROUNDS, Ratio, interleaved
from trainer.networks.model import NetworkSpec, build_network

ARCHITECTURES = ("resnest50d", "tf_efficientnet_b3")
MEMBERS_EACH = 5
SPECIES = 397
HOP_S = 5.0
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
    cutter = WindowCutter()
    found = []
    for path in sorted(DEMO_FOLDER.glob("soundscapes/*.ogg")):
        found += cutter.push(soundfile.read(path, dtype="float32")[0])
        if len(found) >= count:
            break
    return np.stack([window.input for window in found[:count]])


def write_members(
    folder: Path, images: Image, int8: bool
) -> tuple[list[torch.nn.Module], list[BundleMember]]:
    """The members as torch networks and as files; one network of each architecture five times,
    which costs no less."""
    networks = []
    members = []
    for name in ARCHITECTURES:
        torch.manual_seed(0)
        network = build_network(NetworkSpec(name, SPECIES)).eval()
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
    flags = (
        set(Path("/proc/cpuinfo").read_text(encoding="utf8").split())
        if Path("/proc/cpuinfo").exists()
        else set()
    )
    return " ".join(name for name in _FEATURES if name in flags) or "features not told"


def _unsealed(folder: Path, members: list[BundleMember]) -> Bundle:
    """As much of a bundle as the engines ask."""
    taxonomy = Taxonomy(Species(f"class{index}", "", "") for index in range(SPECIES))
    manifest = Manifest(
        tuple(members), Blend(), Thresholds(0.5, 0.5), "context", taxonomy.digest, None, {}
    )
    return Bundle(folder, manifest, taxonomy)


class Bag:
    """All members on one runtime: opened, and run once to make its buffers. What that takes of
    memory is counted."""

    def __init__(self, open_bag: Callable[[], Callable[[], object]], windows: int) -> None:
        before = rss_mb() or 0.0
        self._run = open_bag()
        self._windows = windows
        self._run()
        self.resident_mb = (rss_mb() or 0.0) - before
        self.cpu_ms: list[float] = []

    def cost(self) -> float:
        """Milliseconds per window by the clock; CPU milliseconds are kept beside."""
        time.sleep(0.3)  # threads of what ran before spin on for a while
        begin = time.perf_counter()
        spent = time.process_time()
        self._run()
        self.cpu_ms.append((time.process_time() - spent) * 1000 / self._windows)
        return (time.perf_counter() - begin) * 1000 / self._windows


@dataclass(frozen=True)
class Cost:
    """Of one window, all members: medians; how many times faster than torch in the same rounds;
    memory."""

    wall_ms: float
    cpu_ms: float
    faster: Ratio
    faster_cpu: Ratio
    resident_mb: float


def race(torchs: Bag, bag: Bag) -> Cost:
    """Rounds of both in turn."""
    torchs.cpu_ms.clear()
    found = interleaved({"torch": torchs.cost, "this": bag.cost})
    faster = Ratio.of(found["torch"], found["this"])
    faster_cpu = Ratio.of(torchs.cpu_ms, bag.cpu_ms)
    return Cost(
        statistics.median(found["this"]),
        statistics.median(bag.cpu_ms),
        faster,
        faster_cpu,
        bag.resident_mb,
    )


def bench(console: Console, batch: int, int8: bool) -> None:
    """One runtime after the other beside torch: all bags at once would want 13 GB."""
    images = windows(max(batch, _CALIBRATION))
    some = images[:batch]
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(cores()) as callers:
        networks, members = write_members(Path(name), images[:_CALIBRATION], int8)
        torch.set_num_threads(cores())

        def eager() -> Callable[[], object]:
            return lambda: [torch_scores(network, torch.from_numpy(some)) for network in networks]

        def on(runtime: Runtime, precision: CpuPrecision) -> Callable[[], object]:
            bundle = _unsealed(Path(name), members)
            engine = open_cpu_engine(bundle, members, runtime, precision, 1, "replay")
            # as a replay does: a thread for each core
            return lambda: list(callers.map(engine.scores, [some] * cores()))

        torchs = Bag(eager, batch)
        costs = {}
        for runtime, precision in _runtimes(int8):
            bag = Bag(partial(on, runtime, precision), batch * cores())
            costs[f"{runtime} {precision}"] = race(torchs, bag)
            del bag
            gc.collect()
    title = (
        f"{len(members)} members, {batch} windows at once, medians of {ROUNDS} rounds beside "
        f"torch, hop {HOP_S:g} s"
    )
    _print(console, torchs, costs, title)


def _runtimes(int8: bool) -> list[tuple[Runtime, CpuPrecision]]:
    eight: list[CpuPrecision] = ["int8"] if int8 else []
    found: list[tuple[Runtime, CpuPrecision]] = [
        ("onnxruntime", "fp32"),
        *(("onnxruntime", p) for p in eight),
    ]
    if "openvino" in runtime_versions():
        half: list[CpuPrecision] = ["bf16"] if has_bfloat16() else []
        found += [("openvino", "fp32"), *(("openvino", p) for p in (*half, *eight))]
    return found


def _print(console: Console, torchs: Bag, costs: dict[str, Cost], title: str) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in runtime_versions().items())
    console.print(
        f"{cpu_model()}, {cores()} cores, {cpu_features()}; torch {torch.__version__}, {versions}"
    )
    table = Table(title=f"The published bag: {title}", title_justify="left")
    for head in (
        "",
        "ms a window",
        "CPU ms",
        "× real time",
        "× torch (95 %)",
        "× torch, CPU (95 %)",
        "MB",
    ):
        table.add_column(head, justify="right" if head else "left", no_wrap=not head)
    for key, cost in costs.items():
        ratios = (str(cost.faster), str(cost.faster_cpu))
        figures = (
            f"{cost.wall_ms:.0f}",
            f"{cost.cpu_ms:.0f}",
            f"{HOP_S * 1000 / cost.wall_ms:.0f}",
            *ratios,
        )
        table.add_row(key, *figures, f"{cost.resident_mb:.0f}")
    console.print(table)
    eager_ms = statistics.median(torchs.cost() for _ in range(ROUNDS))
    console.print(
        f"torch, eager, float32: {eager_ms:.0f} ms a window, {HOP_S * 1000 / eager_ms:.0f} × real "
        "time"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer windows, no 8-bit networks")
    quick = parser.parse_args().quick
    bench(Console(width=120), batch=4 if quick else 8, int8=not quick)


if __name__ == "__main__":
    main()
