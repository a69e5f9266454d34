"""The sounds of a bundle's probe: synthetic, so that a bundle contains no recording under a
licence."""

import numpy as np
from numpy.typing import NDArray

from edge.contract.audio import CONTEXT_SAMPLES, CROP_SAMPLES, RATE_HZ, WINDOW_SAMPLES


def probe_clips(seed: int = 7) -> NDArray[np.int16]:
    """Clips `(6, 224000)`: silence, faint noise, a sweep, trills, song-like notes in noise, clipped
    notes."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(CROP_SAMPLES) / RATE_HZ
    noise = rng.standard_normal(CROP_SAMPLES) * 0.002
    sweep_hz = 1000.0 + 5000.0 * time_s / time_s[-1]
    phase = 2 * np.pi * np.cumsum(sweep_hz) / RATE_HZ
    sweep = 0.3 * np.sin(phase) + 0.1 * np.sin(2 * phase)
    trill = 0.25 * np.sin(2 * np.pi * 4200 * time_s) * (np.sin(2 * np.pi * 18 * time_s) > 0)
    notes = _notes(rng, time_s)
    clips = np.stack(
        [
            np.zeros(CROP_SAMPLES),
            noise,
            sweep,
            trill,
            notes * 0.2 + noise,
            np.clip(notes * 3, -1, 1),
        ]
    )
    return np.round(clips * 32767).astype(np.int16)


def waveform_clips() -> NDArray[np.int16]:
    """The clips without their context `(6, 160000)`, for networks that take the waveform of a
    window."""
    return np.ascontiguousarray(
        probe_clips()[:, CONTEXT_SAMPLES : CONTEXT_SAMPLES + WINDOW_SAMPLES]
    )


def _notes(rng: np.random.Generator, time_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Short frequency-modulated notes at random times, peak 1."""
    sound = np.zeros_like(time_s)
    for start_s in np.sort(rng.uniform(0.2, 6.5, 18)):
        length_s = rng.uniform(0.05, 0.3)
        low_hz = rng.uniform(1500, 6500)
        bend_hz = rng.uniform(-2500, 2500)
        inside = (time_s >= start_s) & (time_s < start_s + length_s)
        local = (time_s[inside] - start_s) / length_s
        phase = 2 * np.pi * length_s * (low_hz * local + 0.5 * bend_hz * local**2)
        sound[inside] += np.sin(phase) * np.sin(np.pi * local) ** 2
    sound /= np.max(np.abs(sound))
    return sound
