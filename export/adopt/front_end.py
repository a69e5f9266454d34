"""BirdNET's two spectrograms as matrix products: from the sound of a window at 32 kHz to both
images of its stretches.

The network's spectrograms keep only the real part of the Fourier transform, so that Hann window,
transform and mel filters are one linear map, even together with the resampling from 32 to 48 kHz.
Each map works at the lowest possible rate: the first bank covers frequencies up to 3.5 kHz and
takes sound at 8 kHz; the second covers up to 15 kHz and takes the sound at 32 kHz; only the largest
and smallest sample of a stretch, by which the network normalises loudness, are computed at 48 kHz.
No Fourier transform and no convolution remains.

The scaling to -1…1 is affine and is applied after the filters, so that digital silence stays
exactly silent; before them, its rounding error would be raised to a small power. Knows nothing of
what follows the images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES
from edge.contract.errors import BundleError
from export.adopt.flatbuffer import TfliteNetwork
from export.adopt.graph import GraphBuilder, whole

Matrix = NDArray[np.float64]

NATIVE_HZ = 48_000  # sample rate of the network's training
LOW_HZ = 8_000  # sample rate for the first bank
STRETCH_S = 3
STRETCHES_AT_S = (0, 2)  # both ends of a window of 5 s
BANDS = 96
FRAMES = 511
PHASES = 3  # three hops of the network are a whole number of our samples

assert WINDOW_SAMPLES == 5 * RATE_HZ
assert RATE_HZ * 3 == NATIVE_HZ * 2
assert RATE_HZ == 4 * LOW_HZ

_GROUPS = ceil(FRAMES / PHASES)  # groups of three frames; the last two frames are surplus
_EPSILON = 1e-6  # added by the network to the range of a stretch
_SILENCE = 160  # samples of padding before and after a window, for resampling
_ROW = 40  # samples gathered at once: hops of groups and starts of stretches are multiples
_LOW_ROW = 5  # the same at 8 kHz
_BLOCK = 64  # samples decimated at once


@dataclass(frozen=True)
class Lowpass:
    """A low-pass filter: a sinc with a Kaiser window.

    Kaiser and Schafer (1980), On the use of the I0-sinh window for spectrum analysis.
    """

    half: int  # length on either side, in samples
    cutoff: float  # as a share of the Nyquist frequency
    beta: float

    def __call__(self, distance: NDArray[np.floating] | NDArray[np.integer]) -> Matrix:
        """Weights at distances in samples."""
        inside = np.clip(1.0 - (distance / self.half) ** 2, 0.0, None)
        window = np.where(inside > 0, np.i0(self.beta * np.sqrt(inside)) / np.i0(self.beta), 0.0)
        return np.asarray(self.cutoff * np.sinc(self.cutoff * distance) * window)


# soxr's HQ from 32 to 48 kHz within 4e-7, measured from its impulse response.
RESAMPLING = Lowpass(97, 0.9568718, 13.08447)
DECIMATION = Lowpass(56, 0.25, 9.0)


@dataclass(frozen=True)
class Tolerance:
    """Weights of the error of a truncated filter: below `low_hz` it counts `factor` times as much
    as above `high_hz`, with linear interpolation in decibels between."""

    factor: float
    low_hz: float
    high_hz: float

    def counts(self, frequency: NDArray[np.floating]) -> Matrix:
        """Weight of the squared error at each frequency."""
        return np.asarray(
            self.factor
            ** np.clip((self.high_hz - frequency) / (self.high_hz - self.low_hz), 0.0, 1.0)
        )


# Slope in the transition band of resampling, so that loud sound does not leak into empty bands.
BANK_ERROR = Tolerance(1e8, 14_000.0, 14_700.0)
# Slope of typical field sound; the error of peaks is below 2e-4 in 99 of 100.
PEAK_ERROR = Tolerance(1e4, 10_000.0, 16_000.0)


@dataclass(frozen=True)
class Spectrogram:
    """One spectrogram layer as a linear map at 48 kHz."""

    filters: Matrix  # (BANDS, samples of a frame); in the network's order, highest band first
    step: int  # hop in samples
    exponent: float  # of the squared output of the filters

    def span(self, phase: int, rate_hz: int) -> tuple[float, float]:
        """Begin and end of the frame `phase` of a group, in samples at a rate."""
        first = phase * self.step
        return first * rate_hz / NATIVE_HZ, (first + self.filters.shape[1]) * rate_hz / NATIVE_HZ


def read_spectrogram(network: TfliteNetwork, name: str) -> Spectrogram:
    """Read the layer `model/<name>/…`: Hann window times the real part of the Fourier transform
    times the mel filters, in float64. Raises BundleError if the file has no such layer, or one of
    another size."""

    def constant(end: str) -> Matrix:
        for index, value in network.constants.items():
            if name in network.names[index] and network.names[index].endswith(end):
                return value.astype(np.float64)
        raise BundleError(f"spectrogram {name}: no constant {end}; another version of the network?")

    window = constant(f"{name}/stft/hann_window/sub_2")
    step = int(constant(f"{name}/stft/frame_step"))
    mel = constant(f"{name}/Tensordot/MatMul")
    exponent = float(constant(f"{name}/truediv_1"))
    length = len(window)
    turns = np.outer(np.arange(length), np.arange(length // 2 + 1)) % length
    filters = (window[:, None] * np.cos(2 * np.pi * turns / length)) @ mel.T
    if filters.shape[1] != BANDS or (STRETCH_S * NATIVE_HZ - length) // step + 1 != FRAMES:
        raise BundleError(
            f"spectrogram {name}: {filters.shape[1]} bands every {step} samples; another version?"
        )
    return Spectrogram(np.ascontiguousarray(filters.T[::-1]), step, exponent)


def add_images(
    graph: GraphBuilder, banks: Sequence[Spectrogram], gain: Matrix, offset: Matrix
) -> str:
    """Add nodes from `sound` (n, 160000) to `features` (2n, 2, BANDS, FRAMES), which are `gain *
    |filters(stretch at -1…1)| ** (2 * exponent) + offset` for both banks, with gain and offset
    `(2,)` by bank."""
    padded = graph.add("Pad", "sound", whole(0, _SILENCE, 0, _SILENCE))
    images = [_first_images(graph, banks[0]), _second_images(graph, padded, banks[1])]
    both = graph.add("Concat", *images, axis=1)
    middle, factor = _loudness(graph, padded)
    sums = np.stack([bank.filters.sum(axis=1) for bank in banks])
    heard = graph.add(
        "Sub", both, graph.add("Mul", middle, np.float32(sums).reshape(1, 2, BANDS, 1))
    )
    exponents = 2 * np.array([bank.exponent for bank in banks], np.float32).reshape(1, 2, 1, 1)
    # Exp of Log would save 2 % of the total, but its rounding depends on the position of a number
    # within its thread.
    power = graph.add("Pow", graph.add("Abs", heard), exponents)
    loud = graph.add(
        "Mul", graph.add("Pow", factor, exponents), np.float32(gain).reshape(1, 2, 1, 1)
    )
    return graph.add(
        "Add",
        graph.add("Mul", power, loud),
        np.float32(offset).reshape(1, 2, 1, 1),
        name="features",
    )


def first_bank(spectrogram: Spectrogram) -> Matrix:
    """Matrix `(samples at 8 kHz, PHASES * BANDS)` for a group of frames from decimated sound, the
    least-squares approximation of the filters at the full rate."""
    ratio = RATE_HZ // LOW_HZ
    end = ceil(spectrogram.span(PHASES - 1, LOW_HZ)[1]) + 1
    bank = np.zeros((end, PHASES * BANDS))
    for phase in range(PHASES):
        first, last = spectrogram.span(phase, LOW_HZ)
        low = np.arange(int(first), min(ceil(last) + 2, end))
        samples = np.arange(ratio * low[0] - DECIMATION.half, ratio * low[-1] + DECIMATION.half + 1)
        taps = _decimation(samples[:, None] - ratio * low[None, :])
        exact = _resampled(spectrogram, phase, samples)
        bank[low, phase * BANDS : (phase + 1) * BANDS] = np.linalg.lstsq(taps, exact.T, rcond=None)[
            0
        ]
    return bank


def second_bank(spectrogram: Spectrogram, phase: int) -> tuple[int, Matrix]:
    """The first sample and the matrix `(samples, BANDS)` for the frame `phase` of a group from
    samples at 32 kHz; both are multiples of _ROW with a margin at the ends. Truncated with the
    weights of BANK_ERROR."""
    first, last = spectrogram.span(phase, RATE_HZ)
    spare = 8
    start = int((first - spare) // _ROW) * _ROW
    stop = ceil((last + spare) / _ROW) * _ROW
    samples = np.arange(start - RESAMPLING.half, stop + RESAMPLING.half)
    return start, _cut_short(_resampled(spectrogram, phase, samples), BANK_ERROR).T


def peaks(block: int, spare: int) -> Matrix:
    """Matrix `(block + 2 * spare, block * 3 / 2)` from a block at 32 kHz, with `spare` samples
    around it, to 48 kHz."""
    samples = np.arange(-spare - RESAMPLING.half, block + spare + RESAMPLING.half)
    at = np.arange(block * NATIVE_HZ // RATE_HZ) * RATE_HZ / NATIVE_HZ
    return _cut_short(RESAMPLING(samples[None, :] - at[:, None]), PEAK_ERROR).T


def _cut_short(filters: Matrix, allowed: Tolerance) -> Matrix:
    """Filters `(filters, samples)` truncated by RESAMPLING.half samples at either end: their
    weighted least-squares approximation."""
    reach = RESAMPLING.half
    kept = filters.shape[1] - 2 * RESAMPLING.half
    size = 1 << (2 * filters.shape[1]).bit_length()
    counts = allowed.counts(np.fft.rfftfreq(size, 1 / RATE_HZ))
    weighted = np.fft.irfft(np.fft.rfft(filters, size) * counts, size)[:, reach : reach + kept]
    return np.asarray(scipy.linalg.solve_toeplitz(np.fft.irfft(counts)[:kept], weighted.T).T)


def _resampled(spectrogram: Spectrogram, phase: int, samples: NDArray[np.integer]) -> Matrix:
    """Filters and resampling combined, `(BANDS, samples)`, for samples at 32 kHz counted from the
    start of the group."""
    first, _ = spectrogram.span(phase, RATE_HZ)
    at = first + np.arange(spectrogram.filters.shape[1]) * RATE_HZ / NATIVE_HZ
    columns = (
        np.floor(at).astype(int)[:, None]
        - samples[0]
        + np.arange(-RESAMPLING.half, RESAMPLING.half + 2)
    )
    inside = (columns >= 0) & (columns < len(samples))
    weights = np.zeros((len(at), len(samples)))
    rows = np.broadcast_to(np.arange(len(at))[:, None], columns.shape)
    weights[rows[inside], columns[inside]] = RESAMPLING(columns + samples[0] - at[:, None])[inside]
    return spectrogram.filters @ weights


def _decimation(distance: NDArray[np.integer]) -> Matrix:
    total = DECIMATION(np.arange(-DECIMATION.half, DECIMATION.half + 1.0)).sum()
    return np.asarray(DECIMATION(distance) / total)


def _first_images(graph: GraphBuilder, spectrogram: Spectrogram) -> str:
    bank = first_bank(spectrogram)
    step = PHASES * spectrogram.step * LOW_HZ // NATIVE_HZ
    reach = len(bank) // step  # whole blocks of a hop in a group, followed by a part
    blocks = ceil((_GROUPS + reach) / _LOW_ROW) * _LOW_ROW
    rows = np.array(STRETCHES_AT_S)[:, None] * LOW_HZ // _LOW_ROW + np.arange(
        blocks * step // _LOW_ROW
    )
    low = graph.add("Reshape", _decimate(graph), whole(0, -1, _LOW_ROW))
    low = graph.add(
        "Gather", low, _within(rows, WINDOW_SAMPLES * LOW_HZ // RATE_HZ // _LOW_ROW), axis=1
    )
    low = graph.add("Reshape", low, whole(-1, blocks, step))
    parts = [
        graph.add("Slice", low, whole(k), whole(k + _GROUPS), whole(1)) for k in range(reach + 1)
    ]
    parts[-1] = graph.add("Slice", parts[-1], whole(0), whole(len(bank) - reach * step), whole(2))
    heard = graph.add("MatMul", graph.add("Concat", *parts, axis=2), np.float32(bank))
    return _image(graph, heard)


def _second_images(graph: GraphBuilder, padded: str, spectrogram: Spectrogram) -> str:
    step = PHASES * spectrogram.step * RATE_HZ // NATIVE_HZ
    assert step * NATIVE_HZ == PHASES * spectrogram.step * RATE_HZ
    assert step % _ROW == 0
    sound = graph.add("Reshape", padded, whole(0, -1, _ROW))
    groups = (
        _SILENCE
        + np.array(STRETCHES_AT_S)[:, None, None] * RATE_HZ
        + np.arange(_GROUPS)[:, None] * step
    )
    heard = []
    for phase in range(PHASES):
        start, bank = second_bank(spectrogram, phase)
        rows = (groups + start) // _ROW + np.arange(len(bank) // _ROW)
        frames = graph.add(
            "Gather", sound, _within(rows, (WINDOW_SAMPLES + 2 * _SILENCE) // _ROW), axis=1
        )
        frames = graph.add("Reshape", frames, whole(-1, _GROUPS, len(bank)))
        heard.append(graph.add("MatMul", frames, np.float32(bank)))
    return _image(graph, graph.add("Concat", *heard, axis=2))


def _image(graph: GraphBuilder, groups: str) -> str:
    """Rearrange `(2n, _GROUPS, PHASES * BANDS)` to `(2n, 1, BANDS, FRAMES)`."""
    frames = graph.add("Reshape", groups, whole(-1, 1, _GROUPS * PHASES, BANDS))
    frames = graph.add("Slice", frames, whole(0), whole(FRAMES), whole(2))
    return graph.add("Transpose", frames, perm=[0, 1, 3, 2])


def _decimate(graph: GraphBuilder) -> str:
    """Decimate `sound` (n, 160000) to (n, 2500, 16) at 8 kHz: one product gives the contributions
    of each block to the block before, to itself and to the next, which are then added."""
    low = _BLOCK * LOW_HZ // RATE_HZ
    at = (np.arange(3 * low) - low) * RATE_HZ // LOW_HZ
    matrix = _decimation(np.arange(_BLOCK)[:, None] - at[None, :])
    given = graph.add(
        "MatMul", graph.add("Reshape", "sound", whole(0, -1, _BLOCK)), np.float32(matrix)
    )
    before, own, after = (
        graph.add("Slice", given, whole(k * low), whole((k + 1) * low), whole(2)) for k in range(3)
    )
    before = graph.add("Pad", before, whole(0, -1, 0, 0, 1, 0))  # one block earlier
    after = graph.add("Pad", after, whole(0, 1, 0, 0, -1, 0))
    return graph.add("Add", graph.add("Add", own, before), after)


def _loudness(graph: GraphBuilder, padded: str) -> tuple[str, str]:
    """The middle of the range of each stretch, and the factor that scales it to -1…1; both `(2n, 1,
    1, 1)`."""
    row = 32
    block = 64
    rows = np.arange(WINDOW_SAMPLES // block)[:, None] * (block // row) + np.arange(
        -1, block // row + 1
    )
    frames = graph.add(
        "Gather", graph.add("Reshape", padded, whole(0, -1, row)), rows + _SILENCE // row, axis=1
    )
    frames = graph.add("Reshape", frames, whole(0, -1, block + 2 * row))
    fine = graph.add("MatMul", frames, np.float32(peaks(block, row)))
    fine = graph.add("Reshape", fine, whole(0, -1, NATIVE_HZ))
    seconds = np.array(STRETCHES_AT_S)[:, None] + np.arange(STRETCH_S)
    high, low = (_by_stretch(graph, fine, reduce, seconds) for reduce in ("ReduceMax", "ReduceMin"))
    middle = graph.add(
        "Mul", graph.add("Add", graph.add("Add", high, low), np.float32(_EPSILON)), np.float32(0.5)
    )
    width = graph.add("Add", graph.add("Sub", high, low), np.float32(_EPSILON))
    return middle, graph.add("Div", np.float32(2), width)


def _by_stretch(graph: GraphBuilder, fine: str, reduce: str, seconds: NDArray[np.integer]) -> str:
    """Reduce by second, then by stretch."""
    by_second = graph.add(reduce, fine, axes=[2], keepdims=0)
    by_stretch = graph.add(
        reduce, graph.add("Gather", by_second, seconds, axis=1), axes=[2], keepdims=0
    )
    return graph.add("Reshape", by_stretch, whole(-1, 1, 1, 1))


def _within(rows: NDArray[np.integer], count: int) -> NDArray[np.int64]:
    """Replace rows beyond the sound by its last one: only surplus frames, which are dropped, use
    them."""
    assert rows.min() >= 0
    return np.asarray(np.minimum(rows, count - 1), np.int64)
