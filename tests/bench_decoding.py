"""CPU seconds per hour of sound, of each step from a file to windows: libsndfile alone, decoder, resampler, cutter."""

import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from rich.console import Console
from rich.table import Table

from edge.capture.recording import Decoder
from edge.contract.audio import RATE_HZ, WindowCutter
from edge.contract.bundle import file_sha256
from tests.bench_archive import hour


def cpu_s(work: Callable[[], object]) -> float:
    """CPU seconds of all threads. An hour is long enough to need no second round."""
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


def bench_decoding(console: Console, kinds: Iterable[tuple[str, int]]) -> None:
    """Print the table, for files of these suffixes and rates."""
    table = Table(title="Decoding: CPU seconds per hour of sound", title_justify="left")
    steps = ("libsndfile alone", "decoder", "with resampling", "and windows, hop 5 s", "digest of the file")
    for name in ("recording", *steps):
        table.add_column(name, justify="left" if name == "recording" else "right")
    for suffix, rate_hz in kinds:
        path = hour(suffix, rate_hz)
        works = (
            partial(libsndfile, path),
            partial(decode, path, rate_hz),
            partial(decode, path, RATE_HZ),
            partial(cut, path),
            partial(file_sha256, path),
        )
        table.add_row(f"{rate_hz / 1000:g}-kHz {suffix.upper()}", *(f"{cpu_s(work):.2f}" for work in works))
    console.print(table)


if __name__ == "__main__":
    bench_decoding(Console(width=110), [("ogg", RATE_HZ), ("flac", RATE_HZ), ("wav", RATE_HZ), ("flac", 48_000)])
