"""The one definition of sound: rates, crop, window, the input of a network, and how a stream is cut
into windows.

Trainer, exporter and station all make their images here, so that a network is used on the same
input that it was trained on. A bundle names its front end: IMAGE is the log-mel image of our own
networks, WAVEFORM the sound itself, for networks that bring their own. Knows nothing of files,
microphones, species or networks.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from edge.contract.newest_rows import Recent

Samples = NDArray[np.float32]
Image = NDArray[np.uint8]
Ranges = NDArray[np.float32]
Input = NDArray[Any]  # the networks' input for windows: grey images (uint8) or samples (float32)
Padding = Literal["context", "zeros", "image"]
FrontEnd = Literal["image-128x281", "waveform-32k-5s"]
IMAGE: FrontEnd = "image-128x281"
WAVEFORM: FrontEnd = "waveform-32k-5s"

RATE_HZ = 32_000
CROP_SAMPLES = 7 * RATE_HZ  # input of a network
WINDOW_SAMPLES = 5 * RATE_HZ  # unit of the station's decisions
# Default step between windows: a call cut by one window is complete in the next.
HOP_SAMPLES = RATE_HZ * 5 // 2
CONTEXT_SAMPLES = (CROP_SAMPLES - WINDOW_SAMPLES) // 2  # real sound before and after a window
N_FFT = RATE_HZ // 10
FRAME_HOP = RATE_HZ // 40
MEL_BANDS = 128
F_MIN_HZ = 0.0
F_MAX_HZ = RATE_HZ / 2
POWER_FLOOR = 1e-10
TOP_DB = 80.0
GREY_MAX = 255.0
CROP_FRAMES = CROP_SAMPLES // FRAME_HOP + 1
IMAGE_SHAPE = (MEL_BANDS, CROP_FRAMES)
# Shape of a network's input for one window.
INPUT_SHAPES: dict[FrontEnd, tuple[int, ...]] = {
    IMAGE: (1, *IMAGE_SHAPE),
    WAVEFORM: (WINDOW_SAMPLES,),
}
CROP_STEP = int(CROP_SAMPLES * 0.666)  # step between crops of a training clip
CROPS_MAX = 10

assert IMAGE_SHAPE == (128, 281)
assert CROP_STEP == 149_184
assert CROP_SAMPLES == WINDOW_SAMPLES + 2 * CONTEXT_SAMPLES
assert CROP_SAMPLES % FRAME_HOP == WINDOW_SAMPLES % FRAME_HOP == CONTEXT_SAMPLES % FRAME_HOP == 0
assert N_FFT % (2 * FRAME_HOP) == 0

_HALF = N_FFT // 2
_EDGE = _HALF // FRAME_HOP  # frames at each end of a centred STFT that reach beyond the sound
# Frames per FFT call: few enough for the CPU cache. The same blocks always give the same bits.
_BLOCK = 20
BLOCK_SAMPLES = _BLOCK * FRAME_HOP  # cutters that begin a multiple of it apart give the same bits
# With this first block, blocks end exactly where windows do, at any hop of a multiple of 0.5 s.
_FIRST_BLOCK_END = 19
_BLOCKS_AT_ONCE = 3  # blocks per call for mel bands: fewer calls, the same small products


def front_end(name: FrontEnd = IMAGE) -> dict[str, object]:
    """The constants of a front end, as a bundle or a spectrogram cache records them."""
    if name == WAVEFORM:
        return {"rate_hz": RATE_HZ, "samples": WINDOW_SAMPLES}
    return {
        "rate_hz": RATE_HZ,
        "crop_samples": CROP_SAMPLES,
        "n_fft": N_FFT,
        "hop": FRAME_HOP,
        "window": "hann_periodic",
        "pad_mode": "reflect",
        "mel_bands": MEL_BANDS,
        "f_min_hz": F_MIN_HZ,
        "f_max_hz": F_MAX_HZ,
        "mel_scale": "slaney",
        "top_db": TOP_DB,
        "power_floor": POWER_FLOOR,
        "image": "floor(255*(dB-min)/(max-min)) uint8",
    }


def _hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slaney's mel scale (Auditory Toolbox, 1998): linear to 1 kHz, then 27 steps per factor of
    6.4."""
    return np.where(
        mel < 15.0, mel * 200.0 / 3.0, 1000.0 * np.exp((mel - 15.0) * np.log(6.4) / 27.0)
    )


@cache
def mel_edges() -> NDArray[np.float64]:
    """Corners of the mel filters (Hz), `(MEL_BANDS + 2,)`: band m rises from corner m to m + 1 and
    falls to m + 2."""
    mel_max = 15.0 + 27.0 * np.log(F_MAX_HZ / 1000.0) / np.log(6.4)
    return _hz(np.linspace(0.0, mel_max, MEL_BANDS + 2))


@cache
def mel_filters() -> Samples:
    """Triangular mel filters with Slaney's area norm, `(MEL_BANDS, N_FFT // 2 + 1)`; as
    librosa.filters.mel."""
    edges = mel_edges()
    bins = np.fft.rfftfreq(N_FFT, 1.0 / RATE_HZ)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    filters = (
        np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (edges[2:] - edges[:-2]))[:, None]
    )
    return filters.astype(np.float32)


@cache
def _filter_groups(size: int = 16) -> list[tuple[slice, slice, Samples]]:
    """The filters as (bands, bins, weights) of neighbouring bands, since 98 % of the dense matrix
    are zeros.

    The product of each with a block of frames takes fewer than 2 ** 18 multiplications, which
    OpenBLAS does in the calling thread: no thread pool spins, however many threads cut sound at
    once.
    """
    filters = mel_filters()
    groups = []
    for first in range(0, MEL_BANDS, size):
        bands = slice(first, first + size)
        used = np.flatnonzero(filters[bands].any(axis=0))
        bins = slice(int(used[0]), int(used[-1]) + 1)
        assert _BLOCK * size * (bins.stop - bins.start) < 2**18
        groups.append((bands, bins, np.ascontiguousarray(filters[bands, bins].T)))
    return groups


@cache
def _hann() -> Samples:
    return (0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(N_FFT) / N_FFT)).astype(np.float32)


def _decibels(sound: Samples) -> Samples:
    """Mel power in dB `(frames, MEL_BANDS)` of the frames wholly within `sound`; frame i begins at
    i * FRAME_HOP."""
    count = max(0, (len(sound) - N_FFT) // FRAME_HOP + 1)
    db = np.empty((count, MEL_BANDS), np.float32)
    if count:
        _write_decibels(_frames_of(sound), db)
    return db


def _frames_of(sound: Samples) -> Samples:
    return np.lib.stride_tricks.sliding_window_view(sound, N_FFT)[::FRAME_HOP]


def _write_decibels(frames: Samples, db: Samples, first_block: int = _BLOCK) -> None:
    """Write mel power in dB of frames `(n, N_FFT)` into `db` `(n, MEL_BANDS)`, in blocks of _BLOCK
    after the first."""
    count = len(frames)
    windowed = np.empty((min(_BLOCK, count), N_FFT), np.float32)
    energy = np.empty((min(_BLOCKS_AT_ONCE * _BLOCK, count), _HALF + 1), np.float32)
    start = 0
    while start < count:
        size = min(_BLOCK if start else first_block, count - start)
        blocks = min(_BLOCKS_AT_ONCE, (count - start) // _BLOCK) if size == _BLOCK else 1
        stop = start + blocks * size
        for at in range(0, stop - start, size):
            _write_energy(frames[start + at :][:size], windowed[:size], energy[at : at + size])
        several = energy[: stop - start].reshape(blocks, size, -1)
        power = db[start:stop].reshape(blocks, size, -1)
        for bands, bins, weights in _filter_groups():
            np.matmul(several[:, :, bins], weights, out=power[:, :, bands])
        start = stop
    np.maximum(db, np.float32(POWER_FLOOR), out=db)
    np.log10(db, out=db)
    db *= 10.0


def _write_energy(frames: Samples, windowed: Samples, energy: Samples) -> None:
    """Write squared magnitudes of the spectra of a block of frames into `energy`; `windowed` is
    scratch space."""
    np.multiply(frames, _hann(), out=windowed)
    spectrum = scipy.fft.rfft(windowed, axis=1)
    np.square(spectrum.real, out=energy)
    imaginary = windowed.reshape(-1)[: energy.size].reshape(energy.shape)
    np.square(spectrum.imag, out=imaginary)
    energy += imaginary


def _mirrored(sound: Samples, before: int, after: int) -> Samples:
    """The sound padded as np.pad does with `reflect`, at a fifth of its cost; it must be longer
    than the padding."""
    return np.concatenate([sound[before:0:-1], sound, sound[-2 : -2 - after : -1]])


def _grey(db: Samples) -> tuple[Image, float, float]:
    """Convert mel power in dB `(frames, bands)` to the grey image `(bands, frames)`: floored at max
    - 80, stretched to 0..255.

    Also returns the dB of grey 0 and of grey 255, which the stretch removes.
    """
    top = db.max()
    db = np.maximum(db, top - TOP_DB)
    low = db.min()
    if top == low:
        return np.zeros(db.shape[::-1], np.uint8), float(low), float(top)
    db -= low
    db *= GREY_MAX
    db /= top - low
    grey = np.ascontiguousarray(db.astype(np.uint8).T)  # the cast of a positive number is its floor
    return grey, float(low), float(top)


def _image(samples: Samples) -> tuple[Image, float, float]:
    return _grey(_decibels(_mirrored(samples, _HALF, _HALF)))


def mel_image(samples: Samples) -> Image:
    """The input image of a network, of one crop `(224000,) -> (128, 281)` or a batch `(N, 224000)
    -> (N, 128, 281)`.

    Samples are float32 mono at 32 kHz in [-1, 1]. Power mel spectrogram in dB per crop, stretched
    to uint8; equal to librosa's `feature.melspectrogram(pad_mode="reflect")` and `power_to_db`
    within one grey level. A constant crop (silence) is all zeros. Raises ValueError on another
    shape.
    """
    samples = np.asarray(samples, np.float32)
    if samples.ndim not in (1, 2) or samples.shape[-1] != CROP_SAMPLES:
        raise ValueError(
            f"expected ({CROP_SAMPLES},) or (crops, {CROP_SAMPLES}) samples, found {samples.shape}"
        )
    if samples.ndim == 1:
        return _image(samples)[0]
    return mel_images(samples)[0]


def mel_images(crops: Samples) -> tuple[Image, Ranges]:
    """The images of crops `(N, 224000)` as `mel_image` makes them, and the dB of grey 0 and of grey
    255 of each, `(N, 2)` float32.

    Mel power is 10 ** ((low + grey / 255 * (high - low)) / 10). The two are equal for a constant
    crop. Raises ValueError if samples are not finite, or so large that their power is not.
    """
    images = np.empty((len(crops), *IMAGE_SHAPE), np.uint8)
    ranges = np.empty((len(crops), 2), np.float32)
    for image, span, crop in zip(images, ranges, crops, strict=True):
        image[:], span[0], span[1] = _image(crop)
    if not np.isfinite(ranges).all():
        raise ValueError(
            f"expected crops of finite power, found dB of {ranges[~np.isfinite(ranges)][0]}"
        )
    return images, ranges


def training_crops(samples: Samples, crops_max: int = CROPS_MAX) -> Samples:
    """The crops of a training clip, `(n, 224000)`: complete crops every 149 184 samples from the
    start, at most `crops_max`.

    A clip shorter than one crop is padded with zeros (kkiller's published mels, BirdCLEF 2021).
    """
    starts = range(0, max(1, len(samples) - CROP_SAMPLES + 1), CROP_STEP)[:crops_max]
    crops = np.zeros((len(starts), CROP_SAMPLES), np.float32)
    for crop, start in zip(crops, starts, strict=True):
        part = samples[start : start + CROP_SAMPLES]
        crop[: len(part)] = part
    return crops


@dataclass(frozen=True)
class Window:
    """Five seconds for which the station decides, with the network's input."""

    start: int  # sample index in the stream
    samples: int  # length; less than WINDOW_SAMPLES only if the whole stretch is shorter
    input: Input  # (128, 281) uint8, or (160000,) float32
    level_dbfs: float  # root mean square relative to full scale; -inf for digital silence


def _extend(sound: Samples, before: int, after: int, padding: Padding) -> Samples:
    """Fill missing sound by mirroring (which keeps the level, and so the image's contrast) or with
    zeros."""
    if not before and not after:
        return sound
    return np.pad(sound, (before, after), mode="constant" if padding == "zeros" else "symmetric")


class WindowCutter:
    """Cuts one unbroken stretch of sound into rolling windows; each STFT frame is computed once,
    however much they overlap.

        cutter = WindowCutter(hop_samples=HOP_SAMPLES)
        for block in blocks:
            windows += cutter.push(block)
        windows += cutter.close()

    Windows start at 0, hop, 2 hop, … of the stretch. If sound remains behind the last one, `close`
    adds a window that ends with the sound, so that every sample is in a window. Begin a new cutter
    after a gap. The result does not depend on how the sound was divided into blocks.

    `padding` selects how 5 s become the 7 s of an image: `context` takes 1 s of real sound on each
    side (mirrored at the ends of the stretch), `zeros` pads the end of the waveform (as published),
    `image` pads the 5-s image with zeros. A network that takes the WAVEFORM gets the 5 s alone; a
    shorter stretch is padded with zeros at its end.
    """

    def __init__(
        self,
        hop_samples: int = HOP_SAMPLES,
        padding: Padding = "context",
        first_sample: int = 0,
        front: FrontEnd = IMAGE,
    ) -> None:
        if hop_samples <= 0 or hop_samples > WINDOW_SAMPLES or hop_samples % FRAME_HOP:
            raise ValueError(
                f"hop: expected a multiple of {FRAME_HOP} samples up to {WINDOW_SAMPLES}, found "
                f"{hop_samples}"
            )
        if padding not in get_args(Padding):
            raise ValueError(
                f"padding: expected one of {', '.join(get_args(Padding))}, found {padding!r}"
            )
        self._hop = hop_samples
        self._padding = padding
        self._origin = first_sample
        self._images = front == IMAGE
        self._before = CONTEXT_SAMPLES if padding == "context" and self._images else 0
        self._next = 0  # start of the next window
        self._sound = Recent()
        # mel power in dB by frame; frame f is centred on sample f * FRAME_HOP
        self._db = Recent(MEL_BANDS, begin=_EDGE)

    @property
    def heard(self) -> int:
        """Samples pushed so far."""
        return self._sound.end

    @property
    def nbytes(self) -> int:
        """Memory held between two pushes, in bytes."""
        return self._sound.nbytes + self._db.nbytes

    def push(self, samples: Samples) -> list[Window]:
        """Take the next float32 samples; return the windows that are now complete."""
        self._sound.grow(len(samples))[:] = samples
        self._compute_frames(whole_blocks=True)
        windows = []
        ends = self.heard
        if self._images:
            # end of the sound whose frames are computed
            ends = min(ends, (self._db.end + _EDGE) * FRAME_HOP - 1)
        while self._next + WINDOW_SAMPLES + self._before <= ends:
            windows.append(self._window(self._next, WINDOW_SAMPLES))
            self._next += self._hop
        self._forget()
        return windows

    def close(self) -> list[Window]:
        """End the stretch; return its last windows."""
        self._compute_frames(whole_blocks=False)
        windows = []
        while self._next + WINDOW_SAMPLES <= self.heard:
            windows.append(self._window(self._next, WINDOW_SAMPLES))
            self._next += self._hop
        covered = self._next - self._hop + WINDOW_SAMPLES if self._next else 0
        if self.heard > covered:
            length = min(WINDOW_SAMPLES, self.heard)
            windows.append(self._window(self.heard - length, length))
        self._next = self.heard
        return windows

    def _compute_frames(self, whole_blocks: bool) -> None:
        if not self._images:
            return
        known = self._db.end
        count = max(0, (self.heard - _HALF) // FRAME_HOP + 1 - known)
        lead = max(0, _FIRST_BLOCK_END - known)
        if whole_blocks:
            count = lead + (count - lead) // _BLOCK * _BLOCK if count >= lead else 0
        if count:
            first = known * FRAME_HOP - _HALF
            sound = self._sound.between(first, first + (count - 1) * FRAME_HOP + N_FFT)
            _write_decibels(_frames_of(sound), self._db.grow(count), first_block=lead or _BLOCK)

    def _window(self, start: int, length: int) -> Window:
        sound = self._sound.between(start, start + length)
        mean_square = float(np.einsum("i,i->", sound, sound)) / length
        level = 10.0 * np.log10(mean_square) if mean_square > 0 else -np.inf
        return Window(self._origin + start, length, self._input(start, length, sound), float(level))

    def _input(self, start: int, length: int, sound: Samples) -> Input:
        if not self._images:
            return _extend(sound.copy(), 0, WINDOW_SAMPLES - length, "zeros")
        if self._padding == "image":
            image = np.zeros(IMAGE_SHAPE, np.uint8)
            part, *_ = _grey(
                self._frames(
                    start, length, _extend(sound, 0, max(0, N_FFT - length), self._padding)
                )
            )
            left = CONTEXT_SAMPLES // FRAME_HOP
            image[:, left : left + part.shape[1]] = part
            return image
        return _grey(self._frames(start - self._before, CROP_SAMPLES, self._crop(start)))[0]

    def _crop(self, start: int) -> Samples:
        """The 7 s around a window, filled where the stretch has no sound."""
        first = start - self._before
        stop = first + CROP_SAMPLES if self._padding == "context" else start + WINDOW_SAMPLES
        real = self._sound.between(first, stop)
        before = max(0, -first)
        return _extend(real, before, CROP_SAMPLES - before - len(real), self._padding)

    def _frames(self, first: int, length: int, crop: Samples) -> Samples:
        """Mel power in dB of the centred frames of the crop at sample `first`, which may be before
        the stretch.

        Frames shared with other windows come from the stream; only those that reach the crop's ends
        or filled sound are computed for this crop.
        """
        count = length // FRAME_HOP + 1
        offset = first // FRAME_HOP
        lo = max(_EDGE, self._db.begin - offset)
        hi = min(count - _EDGE, self._db.end - offset)
        if self._padding == "zeros":
            # later frames of the stream reach beyond the window
            hi = min(hi, WINDOW_SAMPLES // FRAME_HOP - _EDGE + 1)
        if first % FRAME_HOP or hi <= lo:
            return _decibels(_mirrored(crop, _HALF, _HALF))[:count]
        head = _mirrored(crop[: (lo - 1) * FRAME_HOP + _HALF], _HALF, 0)
        tail = _mirrored(crop[hi * FRAME_HOP - _HALF :], 0, _HALF)
        db = np.empty((count, MEL_BANDS), np.float32)
        db[lo:hi] = self._db.between(lo + offset, hi + offset)
        if lo + count - hi <= _BLOCK:  # the usual two at each end: one FFT call for all
            ends = np.concatenate([_frames_of(head), _frames_of(tail)[: count - hi]])
            found = np.empty((len(ends), MEL_BANDS), np.float32)
            _write_decibels(ends, found)
            db[:lo] = found[:lo]
            db[hi:] = found[lo:]
        else:
            db[:lo] = _decibels(head)
            db[hi:] = _decibels(tail)[: count - hi]
        return db

    def _forget(self) -> None:
        """Drop what no later window needs; a last window that ends with the sound may still need
        the newest 6 s."""
        keep = min(self._next, self.heard - WINDOW_SAMPLES) - self._before
        if not self._images:
            self._sound.forget(keep)
            return
        self._db.forget(max(_EDGE, keep // FRAME_HOP))
        self._sound.forget(min(keep, self._db.begin * FRAME_HOP - _HALF))
