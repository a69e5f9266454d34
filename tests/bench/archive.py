"""Archives to be replayed: the shipped soundscapes over and over, in files of an hour, made once in
build/bench.

Hours of one archive are links to one file under other names: what is measured does not know, and 24
hours need no more disk or encoding than one. Remove the folder to make them anew.
"""

import os
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import soundfile

from edge.config import DEMO_FOLDER
from edge.contract.audio import RATE_HZ

FOLDER = Path(__file__).parents[2] / "build" / "bench"
HOUR_S = 3600
SUBTYPES = {"ogg": "VORBIS", "flac": "PCM_16", "wav": "PCM_16"}
_FIRST = datetime(2024, 5, 1, 4, 0, 0)


def hour(suffix: str, rate_hz: int = RATE_HZ) -> Path:
    """One hour of 32-kHz soundscapes; said to be at another rate, it is as much work."""
    path = FOLDER / f"hour-{rate_hz}.{suffix}"
    if path.exists():
        return path
    FOLDER.mkdir(parents=True, exist_ok=True)
    files = sorted(DEMO_FOLDER.glob("soundscapes/*.ogg"))
    sound = np.concatenate([soundfile.read(file, dtype="float32")[0] for file in files])
    part = path.with_suffix(".part")
    with soundfile.SoundFile(part, "w", rate_hz, 1, SUBTYPES[suffix], format=suffix) as file:
        for second in range(HOUR_S):  # libsndfile's Vorbis encoder crashes on large writes
            file.write(
                np.take(sound, np.arange(second * rate_hz, (second + 1) * rate_hz), mode="wrap")
            )
    part.rename(path)
    return path


def archive(suffix: str, hours: int) -> Path:
    """A folder of so many hours at 32 kHz."""
    folder = FOLDER / f"{suffix}-{hours}h"
    source = hour(suffix)
    folder.mkdir(exist_ok=True)
    for index in range(hours):
        path = folder / f"{_FIRST + timedelta(hours=index):%Y%m%d_%H%M%S}.{suffix}"
        if not path.exists():
            os.link(source, path)
    return folder
