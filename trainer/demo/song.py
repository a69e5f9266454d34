"""Songs of the demo species: repertoires of syllables, individual variation, and synthesis of
samples.

Knows nothing of places, names, noise or files. Songs lie between about 1 and 8 kHz.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from edge.contract.audio import RATE_HZ

_LOW_HZ = 1_000.0
_HIGH_HZ = 8_000.0
_GOLDEN = 0.618034


@dataclass(frozen=True)
class Syllable:
    """A pulsed tone with harmonics, whose pitch follows slope + arch + vibrato (in octaves)."""

    duration_s: float
    start_hz: float
    slope_oct: float
    arch_oct: float = 0.0
    vibrato_hz: float = 0.0
    vibrato_oct: float = 0.0
    pulse_depth: float = 0.0
    harmonics: tuple[float, ...] = (1.0, 0.08)


@dataclass(frozen=True)
class Voice:
    """The song of a species, or an individual's version of it."""

    repertoire: tuple[Syllable, ...]
    order: tuple[int, ...]  # indices into the repertoire, one song long
    gap_s: float
    pause_s: float  # typical silence between songs
    low_hz: float
    high_hz: float


def make_voice(slot: int, rng: np.random.Generator) -> Voice:
    """The song of the `slot`-th song type; consecutive types differ in kind of syllable, pitch and
    tempo."""
    kind = _KINDS[slot % len(_KINDS)]
    pitch_hz = 1_700.0 * (5_000.0 / 1_700.0) ** ((0.3 + _GOLDEN * slot) % 1.0)
    repertoire = tuple(
        kind(pitch_hz * 2 ** rng.uniform(-0.2, 0.2), rng) for _ in range(rng.integers(2, 5))
    )
    gap_s = float(
        rng.uniform(0.03, 0.11) if repertoire[0].duration_s < 0.16 else rng.uniform(0.06, 0.2)
    )
    order: list[int] = []
    length_s = 0.0
    goal_s = float(rng.uniform(1.3, 2.8))
    pattern = _PATTERNS[(slot // len(_KINDS) + slot) % len(_PATTERNS)]
    while length_s < goal_s:
        order.append(pattern(len(order), len(repertoire)))
        length_s += repertoire[order[-1]].duration_s + gap_s
    low_hz, high_hz = _band(repertoire)
    return Voice(repertoire, tuple(order), gap_s, float(rng.uniform(0.9, 2.6)), low_hz, high_hz)


def vary(
    voice: Voice, rng: np.random.Generator, *, pitch_oct: float, tempo: float, swap: float = 0.0
) -> Voice:
    """A random version of `voice`: deviations of pitch (octaves) and tempo (relative), and the
    probability of another order."""
    up = rng.normal(0, pitch_oct)
    slower = float(np.exp(rng.normal(0, tempo)))
    repertoire = tuple(
        replace(
            syllable,
            duration_s=syllable.duration_s * slower,
            start_hz=syllable.start_hz * 2 ** (up + rng.normal(0, pitch_oct / 3)),
            slope_oct=syllable.slope_oct * float(rng.uniform(0.85, 1.15)),
        )
        for syllable in voice.repertoire
    )
    order = list(voice.order)
    if rng.random() < swap:
        order = order[1:] + order[:1]
    low_hz, high_hz = _band(repertoire)
    return replace(
        voice,
        repertoire=repertoire,
        order=tuple(order),
        gap_s=voice.gap_s * slower,
        low_hz=low_hz,
        high_hz=high_hz,
    )


def songs(voice: Voice, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield songs of one individual without end: float32 samples with a peak of about 1, each
    slightly different."""
    sounds = [_render(syllable) for syllable in voice.repertoire]
    while True:
        order = voice.order
        if rng.random() < 0.15:  # sometimes a song breaks off
            order = order[: max(2, int(len(order) * rng.uniform(0.5, 0.9)))]
        parts: list[np.ndarray] = []
        for place, index in enumerate(order):
            swell = 0.7 + 0.3 * np.sin(np.pi * (place + 1) / (len(order) + 1))
            parts.append(sounds[index] * np.float32(swell * rng.uniform(0.75, 1.0)))
            parts.append(
                np.zeros(int(RATE_HZ * voice.gap_s * rng.uniform(0.85, 1.15)), dtype=np.float32)
            )
        yield np.concatenate(parts[:-1])


def _render(syllable: Syllable) -> np.ndarray:
    count = int(syllable.duration_s * RATE_HZ)
    seconds = np.arange(count) / RATE_HZ
    along = np.linspace(0, 1, count)
    wobble = np.sin(2 * np.pi * syllable.vibrato_hz * seconds)
    octaves = syllable.slope_oct * along + syllable.arch_oct * 4 * along * (1 - along)
    pitch_hz = syllable.start_hz * 2 ** (octaves + syllable.vibrato_oct * wobble)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ
    tone = np.zeros(count)
    for number, level in enumerate(syllable.harmonics, start=1):
        tone += level * np.sin(number * phase) * (number * pitch_hz < _HIGH_HZ * 1.05)
    edge = np.minimum(1.0, np.minimum(along, 1 - along) / 0.15)
    loudness = np.sin(edge * np.pi / 2) ** 2 * (1 - syllable.pulse_depth * (0.5 + 0.5 * wobble))
    tone *= loudness
    return (tone / max(float(np.abs(tone).max()), 1e-9)).astype(np.float32)


def _band(repertoire: tuple[Syllable, ...]) -> tuple[float, float]:
    """The frequency band of the strong parts of a song in Hz, with a small margin."""
    lows = []
    highs = []
    for syllable in repertoire:
        turns = [0.0, syllable.slope_oct, syllable.slope_oct / 2 + syllable.arch_oct]
        strong = [number for number, level in enumerate(syllable.harmonics, start=1) if level > 0.3]
        lows.append(strong[0] * syllable.start_hz * 2 ** (min(turns) - syllable.vibrato_oct))
        highs.append(strong[-1] * syllable.start_hz * 2 ** (max(turns) + syllable.vibrato_oct))
    return max(min(lows) * 0.94, 800.0), min(max(highs) * 1.06, _HIGH_HZ * 1.05)


def _whistle(pitch_hz: float, rng: np.random.Generator) -> Syllable:
    return Syllable(float(rng.uniform(0.2, 0.42)), pitch_hz, float(rng.uniform(-0.14, 0.14)))


def _trill(pitch_hz: float, rng: np.random.Generator) -> Syllable:
    rate_hz = float(rng.uniform(14, 26))
    depth_oct = float(rng.uniform(0.15, 0.3))
    return Syllable(
        float(rng.uniform(0.35, 0.7)), pitch_hz, -0.1, 0.0, rate_hz, depth_oct, pulse_depth=0.85
    )


def _sweep(pitch_hz: float, rng: np.random.Generator) -> Syllable:
    slope_oct = float(rng.choice([-1.0, 1.0]) * rng.uniform(0.5, 0.95))
    return Syllable(float(rng.uniform(0.07, 0.15)), pitch_hz * 2 ** (-slope_oct / 2), slope_oct)


def _buzz(pitch_hz: float, rng: np.random.Generator) -> Syllable:
    rate_hz = float(rng.uniform(60, 120))
    depth_oct = float(rng.uniform(0.14, 0.24))
    return Syllable(
        float(rng.uniform(0.2, 0.45)), pitch_hz, 0.1, 0.0, rate_hz, depth_oct, pulse_depth=0.6
    )


def _nasal(pitch_hz: float, rng: np.random.Generator) -> Syllable:
    base_hz = max(pitch_hz / 2, _LOW_HZ)
    arch_oct = float(rng.uniform(0.1, 0.3))
    return Syllable(
        float(rng.uniform(0.1, 0.26)), base_hz, -0.05, arch_oct, harmonics=(0.6, 1.0, 0.7, 0.4, 0.2)
    )


_KINDS = (_whistle, _trill, _sweep, _buzz, _nasal)
_PATTERNS: tuple[Callable[[int, int], int], ...] = (
    lambda place, size: place % size,  # ABCABC
    lambda place, size: (place // 3) % size,  # AAABBB
    lambda place, size: 0 if place % 2 == 0 else 1 + (place // 2) % (size - 1),  # ABAC
)
