"""Windows of recordings and of backgrounds, and their mixed copies: the sound that heads learn
from. Knows no network."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES, Samples
from edge.contract.errors import ConfigError, RecordingError
from trainer.corpus.backgrounds import PINK_CROPS, pink_noise
from trainer.corpus.mixture import SILENCE, mean_square
from trainer.corpus.sound import Recording, read_sound
from trainer.files import digest

Samples16 = NDArray[np.int16]  # of 16 bits, as backgrounds wait on disk
BACKGROUND_WINDOWS_MAX = 600  # 190 MB while they are mixed in
_PER_FILE = 12
_REST_S = 1.0  # sound behind the last whole window, from which another one is cut
_PEAK = 0.98
_FULL = np.float32(32767.0)


def windows_in(sound: Samples, windows_max: int) -> Samples:
    """Windows `(n, 160000)` of a recording: one after the other from its beginning, the last one
    ends with the sound. A shorter recording stands in the middle of its only window, so that each
    stretch of it has some of the call."""
    if len(sound) <= WINDOW_SAMPLES:
        before = (WINDOW_SAMPLES - len(sound)) // 2
        alone = np.zeros((1, WINDOW_SAMPLES), np.float32)
        alone[0, before : before + len(sound)] = sound
        return alone
    starts = list(range(0, len(sound) - WINDOW_SAMPLES + 1, WINDOW_SAMPLES))
    if len(sound) - starts[-1] - WINDOW_SAMPLES >= _REST_S * RATE_HZ:
        starts.append(len(sound) - WINDOW_SAMPLES)
    return np.stack([sound[start : start + WINDOW_SAMPLES] for start in starts[:windows_max]])


def samples_max(windows_max: int) -> int:
    """Samples from the beginning of a recording that its windows cover."""
    return windows_max * WINDOW_SAMPLES


@dataclass(frozen=True)
class BackgroundWindows:
    """Windows without birds, real ones first, then pink noise."""

    windows: Samples16  # (n, 160000)
    origin: NDArray[np.int64]  # (n,) number of the file that each is from; pink noise: one each
    real: int
    unreadable: tuple[str, ...]


def background_windows(files: Sequence[Recording]) -> BackgroundWindows:
    """All windows of the sounds, at most 12 of each, and pink noise; without any pink noise alone.
    Raises ConfigError if none of them can be read."""
    found: list[Samples] = []
    numbers: list[int] = []
    unreadable: list[str] = []
    per_file = max(1, min(_PER_FILE, BACKGROUND_WINDOWS_MAX // max(1, len(files))))
    for number, file in enumerate(files):
        if sum(map(len, found)) >= BACKGROUND_WINDOWS_MAX:
            break
        try:
            sound = read_sound(file.path, samples_max(per_file), file.start_s, file.end_s)
        except RecordingError as error:
            unreadable.append(str(error))
            continue
        if len(sound) < WINDOW_SAMPLES:  # with silence it would be a background that stops
            sound = np.pad(sound, (0, WINDOW_SAMPLES - len(sound)), mode="symmetric")
        mine = windows_in(sound, per_file)
        mine = mine[[mean_square(window).mean() > SILENCE for window in mine]]
        found.append(mine)
        numbers += [number] * len(mine)
    real = len(numbers)
    if files and not real:
        raise ConfigError(
            f"{files[0].path.parent}: backgrounds: none of {len(files)} files can be read as sound"
        )
    pink = np.stack([pink_noise(seed, WINDOW_SAMPLES) for seed in range(PINK_CROPS)])
    numbers += range(len(files), len(files) + len(pink))
    windows = np.round(np.clip(np.concatenate([*found, pink]), -1.0, 1.0) * _FULL).astype(np.int16)
    return BackgroundWindows(windows, np.array(numbers, np.int64), real, tuple(unreadable))


def as_samples(windows: Samples16) -> Samples:
    """16-bit samples as float32 in [-1, 1]."""
    return windows.astype(np.float32) / _FULL


def mixed_copy(
    windows: Samples, key: str, copy: int, backgrounds: Samples16, snr_db: tuple[float, float]
) -> Samples:
    """A copy of the windows of one recording, each over a background at a random SNR, both powers
    measured above 500 Hz. `key` names the recording and the seed: the same key gives the same copy,
    whatever else is in the corpus."""
    random = np.random.default_rng(int(digest(key, copy)[:16], 16))
    chosen = random.integers(len(backgrounds), size=len(windows))
    mixed = np.empty_like(windows)
    for row, window, number in zip(mixed, windows, chosen, strict=True):
        background = as_samples(backgrounds[number])
        snr = random.uniform(*snr_db)
        power = max(float(mean_square(window).mean()), SILENCE)
        noise = max(float(mean_square(background).mean()), SILENCE)
        row[:] = window + background * np.float32(np.sqrt(power / noise / 10 ** (snr / 10)))
        row *= np.float32(min(1.0, _PEAK / max(float(np.abs(row).max()), SILENCE)))
    return mixed
