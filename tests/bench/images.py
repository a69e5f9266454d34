"""The image against librosa's: CPU milliseconds for one crop, and for one window of a stream.

One thread: the mathematical libraries are told so before they start, since threads of librosa's
that wait actively would be counted as work.

    python -m tests.bench.images
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import soundfile
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edge.config import DEMO_FOLDER
from edge.contract.audio import CROP_SAMPLES, RATE_HZ, WindowCutter, mel_image
from tests.bench.ratios import Ratio, interleaved

ROUNDS = 21
COST_ROUNDS = 9  # of which the median is one round of a comparison with other code
SOUND_S = 120
BLOCK_S = {"replay": 10.0, "live": 0.5}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def cpu_ms(work: Callable[[], object]) -> float:
    """CPU milliseconds of one call."""
    start = time.process_time()
    work()
    return 1000 * (time.process_time() - start)


def librosa_image(samples: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The published image."""
    import librosa  # in the child alone: it brings numba, which wants its threads settled first

    mel = librosa.feature.melspectrogram(
        y=samples,
        sr=RATE_HZ,
        n_fft=3200,
        hop_length=800,
        n_mels=128,
        fmin=0,
        fmax=16_000,
        pad_mode="reflect",
    )
    db = librosa.power_to_db(mel)
    return np.floor(255 * (db - db.min()) / (db.max() - db.min())).astype(np.uint8)


def windows_of(sound: NDArray[np.float32], hop_s: float, block_s: float) -> int:
    """Cut a stretch as the station does; how many windows."""
    cutter = WindowCutter(round(hop_s * RATE_HZ))
    block = round(block_s * RATE_HZ)
    pushed = sum(len(cutter.push(sound[at : at + block])) for at in range(0, len(sound), block))
    return pushed + len(cutter.close())


@dataclass(frozen=True)
class Work:
    """What makes so many windows."""

    call: Callable[[], object]
    windows: int

    def cost(self) -> float:
        """CPU milliseconds per window."""
        return cpu_ms(self.call) / self.windows


def works(sound: NDArray[np.float32]) -> dict[str, Work]:
    """All ways to make images of this sound that the station and the trainer have."""
    crops = np.stack([sound[i * RATE_HZ :][:CROP_SAMPLES] for i in range(16)])
    found = {
        "mel_image, one crop": Work(partial(mel_image, crops[0]), 1),
        "mel_image, in a batch of 16": Work(partial(mel_image, crops), len(crops)),
    }
    for hop_s in (5.0, 2.5):
        for kind, block_s in BLOCK_S.items():
            call = partial(windows_of, sound, hop_s, block_s)
            found[f"stream, hop {hop_s:g} s, blocks of {block_s:g} s ({kind})"] = Work(call, call())
    return found


def soundscapes() -> NDArray[np.float32]:
    """Two minutes."""
    files = sorted(DEMO_FOLDER.glob("soundscapes/*.ogg"))
    return np.concatenate([soundfile.read(path, dtype="float32")[0] for path in files])[
        : SOUND_S * RATE_HZ
    ]


def costs(_quick: bool) -> dict[str, float]:
    """CPU milliseconds per window."""
    found = {f"{name}, CPU ms": work.cost for name, work in works(soundscapes()).items()}
    return {
        name: statistics.median(cost() for _ in range(COST_ROUNDS)) for name, cost in found.items()
    }


def bench_images(console: Console) -> None:
    """Print the table."""
    sound = soundscapes()
    librosa = Work(partial(librosa_image, sound[:CROP_SAMPLES]), 1)
    todo = {"librosa, one crop": librosa, **works(sound)}
    for work in todo.values():
        work.call()
    found = interleaved({name: work.cost for name, work in todo.items()}, ROUNDS)
    title = f"Images: CPU ms per window on one thread, {ROUNDS} rounds in turn"
    table = Table(title=title, title_justify="left")
    for name in ("", "CPU ms", "librosa / this (95 %)", "one crop / this (95 %)"):
        table.add_column(name, justify="right" if name else "left")
    for name, spent in found.items():
        against = (
            str(Ratio.of(found[other], spent))
            for other in ("librosa, one crop", "mel_image, one crop")
        )
        table.add_row(name, f"{statistics.median(spent):.2f}", *against)
    console.print(table)


if __name__ == "__main__":
    if all(os.environ.get(name) == "1" for name in ONE_THREAD):
        bench_images(Console(width=110))
    else:
        command = [sys.executable, "-m", "tests.bench.images"]
        sys.exit(subprocess.run(command, env=os.environ | ONE_THREAD).returncode)
