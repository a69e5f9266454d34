"""Sound as a picture for people: a spectrogram with axes and the window marked, as an SVG file
around a PNG.

It is drawn without a plotting library: text and lines of an SVG stay sharp at any size and need no
fonts, and a PNG without filters takes twenty lines. The resolution is finer than that of the
networks' images (edge.contract.audio), on the same mel scale. Knows no species and no page.
"""

import base64
import struct
import zlib
from functools import cache

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from edge.contract.audio import MEL_BANDS, RATE_HZ, WINDOW_SAMPLES, Samples, mel_edges

Picture = NDArray[np.uint8]

# 32 ms every 10 ms: trills stay apart, and so do notes a quarter tone apart at 2 kHz
N_FFT = 1024
HOP = 320
ROWS = 192
# columns at each end whose frames reach beyond the sound; they repeat their neighbours
_EDGE = -(-N_FFT // 2 // HOP)
# percentiles shown as black and white; uniform sound stays dark
_QUIET = 30.0
_LOUD = 99.9
_RANGE_DB_MIN = 30.0
# share of each frequency's steady level that is subtracted, so that wind and traffic hide less
_STEADY = 0.7
_PALETTE = (
    (0, 0, 4),
    (40, 17, 89),
    (114, 31, 129),
    (183, 55, 121),
    (241, 96, 93),
    (254, 175, 119),
    (252, 253, 191),
)
_TICKS_HZ = (500, 1000, 2000, 4000, 8000, 16000)
# size of the picture and of its margins, in pixels
_WIDTH = 720
_HEIGHT = 216
_LEFT = 52
_TOP = 14
_RIGHT = 20
_BOTTOM = 22
SIZE = _LEFT + _WIDTH + _RIGHT, _TOP + _HEIGHT + _BOTTOM


@cache
def row_edges_hz() -> NDArray[np.float64]:
    """Frequencies that bound the rows, the lowest first, `(ROWS + 1,)`."""
    edges: NDArray[np.float64] = np.interp(
        np.linspace(0, MEL_BANDS + 1, ROWS + 1), range(MEL_BANDS + 2), mel_edges()
    )
    return edges


@cache
def _rows_of_bins() -> NDArray[np.float32]:
    """Weight of each bin of the transform in each row, `(N_FFT // 2 + 1, ROWS)`, so that a row is
    the mean power over its bins."""
    edges = row_edges_hz() * N_FFT / RATE_HZ
    bins = np.arange(N_FFT // 2 + 1)[:, None]
    shared = np.minimum(bins + 0.5, edges[1:]) - np.maximum(bins - 0.5, edges[:-1])
    weights: NDArray[np.float32] = (np.maximum(shared, 0.0) / np.diff(edges)).astype(np.float32)
    return weights


def spectrogram(samples: Samples) -> Picture:
    """Levels 0 to 255 of mono sound at RATE_HZ, `(ROWS, columns)`, the highest frequency first.

    They are decibels less most of the steady level of each frequency, scaled from the quieter third
    to the loudest. Digital silence is all 0.
    """
    padded = np.pad(samples - samples.mean(), N_FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP]
    power = (
        np.abs(scipy.fft.rfft(frames * np.hanning(N_FFT).astype(np.float32), axis=1)) ** 2
        @ _rows_of_bins()
    )
    db = 10 * np.log10(np.maximum(power, 1e-12)).T[::-1]
    if db.shape[1] > 2 * _EDGE:
        db[:, :_EDGE] = db[:, _EDGE : _EDGE + 1]
        db[:, -_EDGE:] = db[:, -_EDGE - 1 : -_EDGE]
    db -= _STEADY * np.percentile(db, _QUIET, axis=1, keepdims=True)
    low, high = np.percentile(db, [_QUIET, _LOUD])
    level: Picture = np.clip(255 * (db - low) / max(high - low, _RANGE_DB_MIN), 0, 255).astype(
        np.uint8
    )
    return level


def png(picture: Picture) -> bytes:
    """PNG file with a palette of 256 colours, from levels `(rows, columns)`."""
    height, width = picture.shape
    at = np.linspace(0, len(_PALETTE) - 1, 256)
    colours = np.stack(
        [np.interp(at, range(len(_PALETTE)), channel) for channel in zip(*_PALETTE, strict=True)], 1
    )
    lines = np.pad(picture, ((0, 0), (1, 0)))  # each begins with its filter: none
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", colours.round().astype(np.uint8).tobytes()),
            _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def svg(samples: Samples, before_s: float, from_s: float) -> str:
    """SVG picture of a sound whose window begins after `before_s`; the time axis begins at
    `from_s`, the position of the first sample in its recording."""
    seconds = len(samples) / RATE_HZ
    image = base64.b64encode(png(spectrogram(samples))).decode()
    right = _LEFT + _WIDTH
    bottom = _TOP + _HEIGHT
    end_s = min(seconds, before_s + WINDOW_SAMPLES / RATE_HZ)
    first, last = (_LEFT + _WIDTH * at_s / seconds for at_s in (before_s, end_s))
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" viewBox="0 0 {0} '
        '{1}"'.format(*SIZE),
        ' font-family="sans-serif" font-size="12" fill="#777" stroke-width="1">',
        f'<image x="{_LEFT}" y="{_TOP}" width="{_WIDTH}" height="{_HEIGHT}"'
        f' preserveAspectRatio="none" href="data:image/png;base64,{image}"/>',
        *(
            f'<rect x="{x:.1f}" y="{_TOP}" width="{width:.1f}" height="{_HEIGHT}" fill="#000" '
            f'opacity="0.35"/>'
            for x, width in ((_LEFT, first - _LEFT), (last, right - last))
        ),
        *(
            f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="#fff" stroke-dasharray="3 3"/>'
            for x in (first, last)
        ),
        f'<path d="M{first:.1f} {_TOP - 5}H{last:.1f}" stroke="#777" stroke-width="3"/>',
        *_pitch_axis(),
        *_time_axis(from_s, seconds),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _pitch_axis() -> list[str]:
    edges = row_edges_hz()
    parts = []
    for hz in _TICKS_HZ:
        y = _TOP + _HEIGHT * (1 - float(np.interp(hz, edges, np.arange(ROWS + 1))) / ROWS)
        parts.append(f'<path d="M{_LEFT - 4} {y:.1f}H{_LEFT}" stroke="#777"/>')
        unit = " kHz" if hz == _TICKS_HZ[-1] else ""
        parts.append(
            f'<text x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{hz / 1000:g}{unit}</text>'
        )
    return parts


def _time_axis(from_s: float, seconds: float) -> list[str]:
    bottom = _TOP + _HEIGHT
    parts = []
    for second in range(int(np.ceil(from_s)), int(np.floor(from_s + seconds)) + 1):
        x = _LEFT + _WIDTH * (second - from_s) / seconds
        parts.append(f'<path d="M{x:.1f} {bottom}v4" stroke="#777"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{clock_text(second)}</text>'
        )
    return parts


def clock_text(second: float) -> str:
    """Position in a recording as text: 0:07, 59:59.5, 1:00:00."""
    hours, rest = divmod(second, 3600)
    whole, tenth = f"{rest % 60:04.1f}".split(".")
    words = f"{hours:.0f}:{rest // 60:02.0f}:{whole}" if hours else f"{rest // 60:.0f}:{whole}"
    return words if tenth == "0" else f"{words}.{tenth}"
