"""Acoustics between bird and recording: distance, reverberation, weather, insects, microphone.

Knows nothing of species or labels. Samples are float32 at RATE_HZ.
"""

from dataclasses import dataclass

import numpy as np
from scipy import fft, signal

from edge.contract.audio import RATE_HZ

FRAME = RATE_HZ // 50  # 20 ms, the resolution of all levels


@dataclass(frozen=True)
class Weather:
    """Levels relative to pink noise of level 1; zero omits a component."""

    wind: float
    rain: float
    insects: float


def background(rng: np.random.Generator, count: int, weather: Weather) -> np.ndarray:
    """Background sound of `count` samples, without birds."""
    sound = _coloured(rng, count, exponent=1.0)
    if weather.wind:
        sound += weather.wind * _coloured(rng, count, exponent=2.6) * _gusts(rng, count)
    if weather.rain:
        sound += weather.rain * _rain(rng, count)
    if weather.insects:
        sound += weather.insects * _insects(rng, count)
    return sound


def through_air(
    sound: np.ndarray, distance_m: float, reverberation: float, rng: np.random.Generator
) -> np.ndarray:
    """Sound after its way through the air: low-pass filtered by distance, with echoes
    (`reverberation` is their level, 0..1), and longer than before."""
    corner_hz = float(np.clip(260_000 / distance_m, 2_500, 14_000))
    dull = signal.sosfilt(signal.butter(1, corner_hz, fs=RATE_HZ, output="sos"), sound)
    decay_s = rng.uniform(0.12, 0.4)
    count = int(decay_s * 1.5 * RATE_HZ)
    echoes = rng.standard_normal(count, dtype=np.float32) * np.exp(
        -np.arange(count) / (decay_s * RATE_HZ / 4)
    )
    echoes *= reverberation / np.sqrt(np.sum(echoes**2))
    echoes[0] = 1.0
    return np.asarray(signal.oaconvolve(dull, echoes), dtype=np.float32)


def through_microphone(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sound with the frequency response of a cheap recorder: a high-pass, a resonance, a gentle
    low-pass, with random corner frequencies."""
    frequencies = fft.rfftfreq(len(sound), 1 / RATE_HZ)
    low_hz = rng.uniform(250, 500)
    peak_hz = rng.uniform(2_500, 5_500)
    top_hz = rng.uniform(6_500, 9_500)
    gain = 1 / np.sqrt(1 + (low_hz / np.maximum(frequencies, 1)) ** 4)
    gain *= 1 / np.sqrt(1 + (frequencies / top_hz) ** 3)
    gain *= 1 + rng.uniform(0.3, 0.9) * np.exp(
        -((np.log2(np.maximum(frequencies, 1) / peak_hz) / 0.4) ** 2)
    )
    return np.asarray(
        fft.irfft(fft.rfft(sound) * gain.astype(np.float32), n=len(sound)), dtype=np.float32
    )


def frame_power(sound: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    """Mean square in a band, one value per FRAME; the sound is padded to whole frames."""
    count = max(1, -(-len(sound) // FRAME))
    frames = np.zeros((count, FRAME), dtype=np.float32)
    frames.reshape(-1)[: len(sound)] = sound
    spectrum = fft.rfft(frames * _HANN, axis=1)
    first = int(np.ceil(low_hz * FRAME / RATE_HZ))
    last = int(high_hz * FRAME / RATE_HZ)
    power = np.abs(spectrum[:, first : last + 1]) ** 2
    return np.asarray(power.sum(axis=1) * (2 / (FRAME * float(np.sum(_HANN**2)))))


def sounding_power(power: np.ndarray) -> float:
    """Mean of the frame powers within 13 dB of the strongest one: the level of a song without its
    gaps."""
    return float(power[power >= 0.05 * power.max()].mean())


_HANN = signal.get_window("hann", FRAME).astype(np.float32)


def _coloured(rng: np.random.Generator, count: int, exponent: float) -> np.ndarray:
    """Noise of unit deviation, with power proportional to frequency to the -exponent above 30
    Hz."""
    length = fft.next_fast_len(count, real=True)
    frequencies = np.maximum(fft.rfftfreq(length, 1 / RATE_HZ), 30.0)
    spectrum = rng.standard_normal(2 * len(frequencies), dtype=np.float32).view(np.complex64)
    noise = fft.irfft(spectrum * (frequencies ** (-exponent / 2)).astype(np.float32), n=length)[
        :count
    ]
    return np.asarray(noise / noise.std(), dtype=np.float32)


def _gusts(rng: np.random.Generator, count: int) -> np.ndarray:
    knots = np.exp(rng.normal(0, 0.6, size=count // RATE_HZ + 3))
    return np.interp(np.arange(count), np.arange(len(knots)) * RATE_HZ, knots).astype(np.float32)


def _rain(rng: np.random.Generator, count: int) -> np.ndarray:
    drops = np.zeros(count, dtype=np.float32)
    where = rng.integers(0, count, size=int(count / RATE_HZ * rng.uniform(20, 120)))
    drops[where] = rng.exponential(1.0, size=len(where))
    tick = rng.standard_normal(160, dtype=np.float32) * np.exp(-np.arange(160) / 30)
    ticks = signal.oaconvolve(drops, tick)[:count]
    hiss = rng.standard_normal(count, dtype=np.float32)
    return np.asarray(0.35 * hiss + 0.35 * ticks, dtype=np.float32)


def _insects(rng: np.random.Generator, count: int) -> np.ndarray:
    seconds = np.arange(count, dtype=np.float32) / RATE_HZ
    chorus = np.zeros(count, dtype=np.float32)
    for _ in range(rng.integers(1, 3)):
        tone_hz = rng.uniform(6_000, 10_500)
        chirp_hz = rng.uniform(3, 30)
        pulse = np.clip(np.sin(2 * np.pi * chirp_hz * seconds + rng.uniform(0, 6)), 0, 1)
        chorus += pulse * np.sin(2 * np.pi * tone_hz * seconds)
    return chorus
