"""`make bench`: how fast, as ratios from one run on this machine. Never a test: a busy machine is not a bug.

Uses the bundle and soundscapes that ship with birdstation; makes its recordings in a temporary folder.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import soundfile
from bench_training import bench_training
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edge.capture.recording import Decoder
from edge.config import DEMO_FOLDER
from edge.contract.audio import CROP_SAMPLES, RATE_HZ, WindowCutter, mel_image

_ROUNDS = 7
_HOUR_S = 3600


def cpu_ms(work: Callable[[], object], times: int = 5) -> float:
    """Best of several rounds: CPU milliseconds of one call, all threads."""
    time.sleep(0.3)  # BLAS threads of what ran before spin on for a while and would be counted
    work()
    best = float("inf")
    for _ in range(_ROUNDS):
        start = time.process_time()
        for _ in range(times):
            work()
        best = min(best, (time.process_time() - start) / times)
    return best * 1000


def librosa_image(samples: NDArray[np.float32]) -> NDArray[np.uint8]:
    mel = librosa.feature.melspectrogram(
        y=samples, sr=RATE_HZ, n_fft=3200, hop_length=800, n_mels=128, fmin=0, fmax=16_000, pad_mode="reflect"
    )
    db = librosa.power_to_db(mel)
    return np.floor(255 * (db - db.min()) / (db.max() - db.min())).astype(np.uint8)


def bench_images(console: Console, sound: NDArray[np.float32]) -> None:
    crop = sound[:CROP_SAMPLES]
    batch = np.stack([sound[i * RATE_HZ :][:CROP_SAMPLES] for i in range(16)])

    def stream(hop: int) -> int:
        cutter = WindowCutter(hop)
        return sum(len(cutter.push(sound[i : i + 320_000])) for i in range(0, len(sound), 320_000)) + len(
            cutter.close()
        )

    theirs, single = cpu_ms(lambda: librosa_image(crop)), cpu_ms(lambda: mel_image(crop))
    rows = [("librosa, one crop", theirs), ("mel_image, one crop", single)]
    rows.append(("mel_image, in a batch of 16", cpu_ms(lambda: mel_image(batch), 1) / 16))
    rows += [
        (f"in a stream, hop {hop / RATE_HZ:g} s", cpu_ms(lambda h=hop: stream(h), 1) / stream(hop))
        for hop in (160_000, 80_000)
    ]
    table = Table(title="Images: CPU ms per window, one core's worth", title_justify="left")
    for name in ("", "CPU ms", "× librosa", "× single"):
        table.add_column(name, justify="right" if name else "left")
    for name, ms in rows:
        table.add_row(name, f"{ms:.2f}", f"{theirs / ms:.2f}", f"{single / ms:.2f}")
    console.print(table)


def write_hours(path: Path, sound: NDArray[np.float32], hours: int, rate_hz: int) -> Path:
    """The sound over and over, as FLAC."""
    with soundfile.SoundFile(path, "w", rate_hz, 1) as file:
        written = 0
        while written < hours * _HOUR_S * rate_hz:
            file.write(sound[: hours * _HOUR_S * rate_hz - written])
            written += len(sound)
    return path


def bench_decoding(console: Console, path: Path) -> None:
    """CPU seconds per hour of sound of decoding alone and of decoding with resampling."""
    seconds = {}
    for name, rate_hz in (("decode", 48_000), ("decode and resample", RATE_HZ)):
        start = time.process_time()
        with Decoder(path, rate_hz=rate_hz) as decoder:
            for _ in decoder:
                pass
        seconds[name] = time.process_time() - start
    resample = seconds["decode and resample"] - seconds["decode"]
    console.print(f"one hour of 48-kHz FLAC: decode {seconds['decode']:.1f} CPU-s, resample {resample:.1f} CPU-s")


def bench_replay(console: Console, folder: Path, recordings: dict[str, Path]) -> None:
    table = Table(title="Replay with the shipped bundle, hop 2.5 s", title_justify="left")
    steps = ("decode", "image", "engine", "store")
    for name in ("recording", "× real time", "CPU-s per hour", *(f"{s} %" for s in steps), "peak MB"):
        table.add_column(name, justify="left" if name == "recording" else "right")
    for name, path in recordings.items():
        config = folder / f"{path.stem}.yaml"
        config.write_text(f"station: {{id: bench}}\nstate: {path.stem}\n")
        command = [sys.executable, "-m", "edge", "replay", str(path), "--config", str(config), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        hours = found["audio_s"] / _HOUR_S
        shares = [f"{100 * found['seconds'][s] / found['wall_s']:.0f}" for s in steps]
        figures = (
            f"{found['x_real_time']:.0f}",
            f"{found['cpu_s'] / hours:.1f}",
            *shares,
            f"{found['peak_rss_mb']:.0f}",
        )
        table.add_row(name, *figures)
    console.print(table)
    console.print("decode includes resampling and the file's digest; what is missing to 100 % is start-up")


def main() -> None:
    console = Console(width=110)
    sound = np.concatenate(
        [soundfile.read(p, dtype="float32")[0] for p in sorted(DEMO_FOLDER.glob("soundscapes/*.ogg"))]
    )
    versions = f"numpy {np.__version__}, librosa {librosa.__version__}"
    console.print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, {versions}")
    bench_images(console, sound[: 120 * RATE_HZ])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fast = write_hours(folder / "at48_20240501_040000.flac", sound, 1, 48_000)
        bench_decoding(console, fast)
        recordings = {"1 h, 48-kHz FLAC": fast}
        for hours in (1, 4):
            path = write_hours(folder / f"h{hours}_20240501_040000.flac", sound, hours, RATE_HZ)
            recordings[f"{hours} h, 32-kHz FLAC"] = path
        bench_replay(console, folder, recordings)
    bench_training(console)


if __name__ == "__main__":
    main()
