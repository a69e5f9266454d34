"""The sound of a mixed soundscape: calls cut from recordings, mixed over a background at a given
SNR. Knows no files.

A recording does not consist of calls alone: events are detected against its own steady part, band
by band, and the SNR refers to the piece that is placed. All powers are measured above LOW_HZ, where
birds sing but rumble does not reach.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES, Samples

FRAME = RATE_HZ // 50  # 20 ms, the resolution of all levels
LOW_HZ = 500.0
CALL_S = (1.0, 8.0)  # duration of a placed piece
_FFT = 2 * FRAME
_STEADY = 0.2  # quantile of a band's power over the recording: its steady part
_ABOVE_STEADY = 4.0  # 6 dB: power above this multiple of the steady part is an event
# -20 dB: frames weaker than this relative to the loudest frame of the piece are not part of the
# call
_BELOW_PEAK = 0.01
# Minimum share of events in the power of the frames in which a call sounds.
_CLEAR = 0.5
_BRIDGE_S = 0.1  # shorter gaps between syllables are part of the call
_FADE_S = 0.03
# A row is labelled if the call sounds in it for this long, or for half of the call's duration.
_ROW_SOUNDING_S = 0.1
_SWING_DB = 6.0  # random gain of each background, up or down
_HISS = 0.1  # a recorder's own noise, -20 dB against the background
SILENCE = 1e-10  # mean square below which sound counts as silence

Mask = NDArray[np.bool_]
Powers = NDArray[np.float64]


@dataclass(frozen=True)
class Call:
    """A piece of a recording, with the frames in which the call sounds."""

    samples: Samples
    sounding: Mask  # (frames,) of FRAME samples each
    start_s: float  # within the recording


@dataclass(frozen=True)
class PlacedCall:
    """A call within a soundscape."""

    start_s: float
    end_s: float
    snr_db: float
    rows: tuple[int, ...]  # indices of the 5-s rows in which it sounds


def mean_square(samples: Samples) -> Powers:
    """Mean square above LOW_HZ of each frame, `(frames,)`."""
    return np.asarray(_spectra(samples).sum(axis=1))


def events_of(samples: Samples) -> Powers:
    """Power of each frame above the steady part of its bands, as mean square `(frames,)`."""
    power = _spectra(samples)
    steady = np.quantile(power, _STEADY, axis=0)
    return np.asarray(np.maximum(power - _ABOVE_STEADY * steady, 0.0).sum(axis=1))


def _spectra(samples: Samples) -> Powers:
    """Mean square by frame and band above LOW_HZ, `(frames, bands)`."""
    frames = -(-len(samples) // FRAME)
    padded = np.zeros(frames * FRAME + _FFT - FRAME, np.float32)
    padded[(_FFT - FRAME) // 2 :][: len(samples)] = samples
    window = signal.get_window("hann", _FFT).astype(np.float32)
    cut = np.lib.stride_tricks.sliding_window_view(padded, _FFT)[::FRAME]
    spectrum = np.abs(np.fft.rfft(cut * window, axis=1)[:, int(LOW_HZ * _FFT / RATE_HZ) :]) ** 2
    return np.asarray(spectrum * (2 / (_FFT * float(np.square(window).sum()))))


def cut_call(samples: Samples, random: np.random.Generator) -> Call | None:
    """Cut a piece of 1 to 8 s around a random event of a recording, from its first sound to its
    last, with faded ends.

    None if nothing there stands out from the steady part of the recording: the piece would be
    noise.
    """
    events = events_of(samples)
    sounding = np.flatnonzero(events > _BELOW_PEAK * np.quantile(events, 0.995))
    if not len(sounding):
        return None
    length = int(random.uniform(*CALL_S) * RATE_HZ / FRAME)
    first = max(0, int(random.choice(sounding)) - int(random.uniform(0, 0.5) * length))
    mine = events[first : first + length]
    heard = bridge(mine > _BELOW_PEAK * mine.max(), round(_BRIDGE_S * RATE_HZ / FRAME))
    where = np.flatnonzero(heard)
    low = first + int(where[0])
    high = first + int(where[-1]) + 1
    if (
        mine[heard].sum()
        < _CLEAR * mean_square(samples[first * FRAME : (first + length) * FRAME])[heard].sum()
    ):
        return None
    edge = round(_FADE_S * RATE_HZ)
    start = max(0, low * FRAME - edge)
    stop = min(len(samples), high * FRAME + edge)
    piece = samples[start:stop].copy()
    ramp = np.linspace(0, 1, min(edge, len(piece) // 2), dtype=np.float32)
    piece[: len(ramp)] *= ramp
    piece[len(piece) - len(ramp) :] *= ramp[::-1]
    frames = np.zeros(-(-len(piece) // FRAME), bool)
    offset = (low * FRAME - start) // FRAME
    frames[offset : offset + high - low] = heard[where[0] : where[-1] + 1][: len(frames) - offset]
    return Call(piece, frames, start / RATE_HZ)


def bridge(frames: Mask, longest: int) -> Mask:
    """The frames with gaps of at most `longest` between true ones filled."""
    at = np.flatnonzero(frames)
    filled = frames.copy()
    for gap in np.flatnonzero(np.diff(at) <= longest + 1):
        filled[at[gap] : at[gap + 1]] = True
    return filled


def place_call(
    scene: Samples, background: Samples, call: Call, start: int, snr_db: float
) -> PlacedCall:
    """Add a call to a scene (in place) at sample `start`.

    The SNR is the mean power of the frames in which the call sounds, relative to that of the
    background in the same frames, both above LOW_HZ; other calls in the scene do not count as
    background.
    """
    here = slice(start, start + len(call.samples))
    mine, theirs = (
        mean_square(part)[call.sounding].mean() for part in (call.samples, background[here])
    )
    gain = np.sqrt(max(theirs, SILENCE) / max(mine, SILENCE) * 10 ** (snr_db / 10))
    scene[here] += np.float32(gain) * call.samples
    return PlacedCall(
        start / RATE_HZ,
        (start + len(call.samples)) / RATE_HZ,
        snr_db,
        rows_of(call.sounding, start),
    )


def rows_of(sounding: Mask, start: int) -> tuple[int, ...]:
    """Indices of the 5-s rows in which a call that begins at sample `start` sounds long enough for
    a label."""
    seconds = FRAME / RATE_HZ
    row = (start + FRAME * np.flatnonzero(sounding)) // WINDOW_SAMPLES
    rows, frames = np.unique(row, return_counts=True)
    enough = min(_ROW_SOUNDING_S, seconds * frames.sum() / 2)
    return tuple(
        int(r) for r, count in zip(rows, frames, strict=True) if count * seconds >= enough - 1e-9
    )


def lay_background(
    pieces: Sequence[Samples], count: int, level: float, random: np.random.Generator
) -> Samples:
    """A background of `count` samples: the pieces one after another, repeated as needed, each at
    `level` (root mean square above LOW_HZ) plus or minus 6 dB, cross-faded over half a second.
    Recorder hiss is added, so that no part is too silent for a meaningful SNR."""
    out = _HISS * level * random.standard_normal(count, np.float32)
    filled = 0
    steady = [p * np.float32(level / np.sqrt(max(mean_square(p).mean(), SILENCE))) for p in pieces]
    for same in cycle(steady):
        piece = same * np.float32(10 ** (random.uniform(-_SWING_DB, _SWING_DB) / 20))
        # Equal power.
        ramp = np.sqrt(np.linspace(0, 1, min(RATE_HZ // 2, len(piece) // 2), dtype=np.float32))
        if filled:
            piece[: len(ramp)] *= ramp
        piece[len(piece) - len(ramp) :] *= ramp[::-1]
        part = piece[: count - filled]
        out[filled : filled + len(part)] += part
        filled += max(1, len(piece) - len(ramp))
        if filled >= count:
            break
    return out
