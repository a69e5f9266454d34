"""CPU seconds per hour of sound, of each step from a file to windows: libsndfile alone, decoder,
resampler, cutter."""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from rich.console import Console
from rich.table import Table

from edge.capture.recording import Decoder
from edge.contract.audio import RATE_HZ, WindowCutter
from edge.contract.bundle import file_sha256
from tests.bench.archive import hour
from tests.bench.ratios import ROUNDS, Ratio, interleaved

KINDS = (("ogg", RATE_HZ), ("flac", RATE_HZ), ("wav", RATE_HZ), ("flac", 48_000))


def cpu_s(work: Callable[[], object]) -> float:
    """CPU seconds of all threads."""
    start = time.process_time()
    work()
    return time.process_time() - start


def libsndfile(path: Path) -> None:
    """The plainest loop."""
    with soundfile.SoundFile(path) as file:
        buffer = np.empty((65_536, file.channels), np.float32)
        while len(file.read(out=buffer)):
            pass


def decode(path: Path, rate_hz: int) -> None:
    """As the station does, and nothing more."""
    with Decoder(path, rate_hz=rate_hz) as decoder:
        for _ in decoder:
            pass


def cut(path: Path) -> None:
    """From the file to windows with their images."""
    cutter = WindowCutter(5 * RATE_HZ)
    with Decoder(path) as decoder:
        for block in decoder:
            cutter.push(block)
    cutter.close()


def works(path: Path, rate_hz: int) -> dict[str, Callable[[], float]]:
    """Step -> its CPU seconds for this hour of sound."""
    steps: dict[str, Callable[[], object]] = {
        "libsndfile alone": partial(libsndfile, path),
        "decoder": partial(decode, path, rate_hz),
        "with resampling": partial(decode, path, RATE_HZ),
        "and windows, hop 5 s": partial(cut, path),
        "digest of the file": partial(file_sha256, path),
    }
    return {name: partial(cpu_s, step) for name, step in steps.items()}


def costs(quick: bool) -> dict[str, float]:
    """CPU seconds per hour of sound, of each step."""
    kinds = KINDS[:1] if quick else KINDS
    return {
        f"{title(*kind)}, {step}, CPU s an hour": cost()
        for kind in kinds
        for step, cost in works(hour(*kind), kind[1]).items()
    }


def title(suffix: str, rate_hz: int) -> str:
    """As the table names it."""
    return f"{rate_hz / 1000:g}-kHz {suffix.upper()}"


def bench_decoding(console: Console, kinds: Sequence[tuple[str, int]]) -> None:
    """Print the table, for files of these suffixes and rates."""
    table = Table(
        title=f"Decoding: CPU seconds per hour of sound, {ROUNDS} rounds in turn; × libsndfile "
        f"alone (95 %)",
        title_justify="left",
    )
    table.add_column("recording")
    for kind in kinds:
        found = interleaved(works(hour(*kind), kind[1]))
        if not table.rows:
            for step in found:
                table.add_column(step, justify="right")
        plain = found["libsndfile alone"]
        cells = [
            f"{statistics.median(spent):.2f}; {Ratio.of(spent, plain)}" for spent in found.values()
        ]
        table.add_row(title(*kind), *cells)
    console.print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Ogg alone")
    bench_decoding(Console(width=130), KINDS[:1] if parser.parse_args().quick else KINDS)
