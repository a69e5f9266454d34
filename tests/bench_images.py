"""The image against librosa's: CPU milliseconds for one crop, and for one window of a stream.

One thread: the mathematical libraries are told so before they start, since threads of librosa's that wait actively
would be counted as work.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import soundfile
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edge.config import DEMO_FOLDER
from edge.contract.audio import CROP_SAMPLES, RATE_HZ, WindowCutter, mel_image

ROUNDS = 21
SOUND_S = 120
BLOCK_S = {"replay": 10.0, "live": 0.5}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def cpu_ms(works: dict[str, Callable[[], object]]) -> dict[str, NDArray[np.float64]]:
    """CPU milliseconds of one call of each, in every round; all in turn, so that all see the same machine."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(ROUNDS):
        for name, work in works.items():
            start = time.process_time()
            work()
            found[name].append(1000 * (time.process_time() - start))
    return {name: np.array(ms) for name, ms in found.items()}


def librosa_image(samples: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The published image."""
    import librosa  # in the child alone: it brings numba, which wants its threads settled first

    mel = librosa.feature.melspectrogram(
        y=samples, sr=RATE_HZ, n_fft=3200, hop_length=800, n_mels=128, fmin=0, fmax=16_000, pad_mode="reflect"
    )
    db = librosa.power_to_db(mel)
    return np.floor(255 * (db - db.min()) / (db.max() - db.min())).astype(np.uint8)


def windows_of(sound: NDArray[np.float32], hop_s: float, block_s: float) -> int:
    """Cut a stretch as the station does; how many windows."""
    cutter, block = WindowCutter(round(hop_s * RATE_HZ)), round(block_s * RATE_HZ)
    pushed = sum(len(cutter.push(sound[at : at + block])) for at in range(0, len(sound), block))
    return pushed + len(cutter.close())


def bench_images(console: Console) -> None:
    """Print the table."""
    files = sorted(DEMO_FOLDER.glob("soundscapes/*.ogg"))
    sound = np.concatenate([soundfile.read(path, dtype="float32")[0] for path in files])[: SOUND_S * RATE_HZ]
    crops = np.stack([sound[i * RATE_HZ :][:CROP_SAMPLES] for i in range(16)])
    theirs, ours = "librosa, one crop", "mel_image, one crop"
    works: dict[str, Callable[[], object]] = {
        theirs: lambda: librosa_image(crops[0]),
        ours: lambda: mel_image(crops[0]),
        "mel_image, in a batch of 16": lambda: mel_image(crops),
    }
    windows = dict.fromkeys(works, 1) | {"mel_image, in a batch of 16": len(crops)}
    for hop_s in (5.0, 2.5):
        for kind, block_s in BLOCK_S.items():
            name = f"stream, hop {hop_s:g} s, blocks of {block_s:g} s ({kind})"
            works[name] = partial(windows_of, sound, hop_s, block_s)
            windows[name] = windows_of(sound, hop_s, block_s)
    ms = {name: spent / windows[name] for name, spent in cpu_ms(works).items()}
    table = Table(title="Images: CPU ms per window on one thread, medians of rounds in turn", title_justify="left")
    for name in ("", "CPU ms", "× librosa", "× one crop"):
        table.add_column(name, justify="right" if name else "left")
    for name, spent in ms.items():
        against = (f"{np.median(ms[other] / spent):.2f}" for other in (theirs, ours))
        table.add_row(name, f"{np.median(spent):.2f}", *against)
    console.print(table)


if __name__ == "__main__":
    if all(os.environ.get(name) == "1" for name in ONE_THREAD):
        bench_images(Console(width=110))
    else:
        command = [sys.executable, "-m", "tests.bench_images"]
        sys.exit(subprocess.run(command, env=os.environ | ONE_THREAD).returncode)
