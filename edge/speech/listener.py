"""Detection of speech in windows, by silero-vad's network: a stretch is processed once, as a
stream, from its beginning.

Bird song often exceeds SPEECH_OVER for a frame or two; speech is a run of such frames. The network
detects poorly in recordings as faint as those of the field, hence GAIN, and nothing in still
fainter ones, which get more. It also detects nothing in clipped sound, so that wind, hum or a
constant offset that fill the scale are not clipped: the network tells them from voices by their
frequency. docs/verification.md has the effect of each. Knows windows as spans of samples; no
settings, no species and no clip.
"""

import hashlib
import math
from collections import deque
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge.contract.audio import RATE_HZ, Samples
from edge.contract.errors import BundleError

NETWORK = "silero-vad 6.2.3"
FILE = Path(__file__).parent / "silero_vad_products.onnx"
SHA256 = "d3e82b1fe74de96f20a4755d18131768f80aa2e208fc61ba5c66de8ba6698d6b"
SPEECH_OVER = 0.5  # a frame's probability
RUN_FRAMES = 16  # consecutive frames over it that are speech: 512 ms
GAIN = 4  # amplification before the network
# Level (root mean square) below which the amplification is larger, and above which it is smaller.
FAINT = 2.5e-4
LOUD = 0.25
GAIN_MAX = 400  # of the faintest sound
# Description of everything that rows may depend on.
RULE = (
    f"{NETWORK}, {GAIN} times louder from {FAINT} to {LOUD}, {RUN_FRAMES} frames over {SPEECH_OVER}"
)

# Samples at half the station's rate, the network's input rate.
_FRAME = 512
_CONTEXT = 64
FRAME_SAMPLES = 2 * _FRAME  # 32 ms
RUN_SAMPLES = RUN_FRAMES * FRAME_SAMPLES  # delay of detection behind the start of speech
_LEVEL_FRAMES = 300  # averaging time of the level: 10 s
_FRAMES_MAX = 160  # per call: those of a window
_TAPS = 63  # of the low-pass: flat to 7 kHz, -62 dB from 9 kHz on, delay 1 ms
_PHASE = (_TAPS + 1) // 2

assert RATE_HZ == 2 * 16_000
assert RUN_SAMPLES * 1000 == 512 * RATE_HZ


@cache
def _low_pass() -> Samples:
    """Half-band low-pass, a sinc with Kaiser's window (beta 6): its taps at odd distances from the
    centre, up to the centre.

    The other taps are 0, the centre is 0.5.
    """
    distance = np.arange(_TAPS) - _TAPS // 2
    taps = 0.5 * np.sinc(distance / 2) * np.kaiser(_TAPS, 6.0)
    odd: Samples = (taps[::2] * 0.5 / taps[::2].sum()).astype(np.float32)
    return odd[: _PHASE // 2]


class HalfRate:
    """Resampler to half the rate.

    A sample depends on no sound later than its own two samples, and is always the same sums in the
    same order: the division into blocks changes nothing, to the bit.
    """

    def __init__(self) -> None:
        # samples of the even and of the odd phase that are still needed
        self._late = np.zeros(_PHASE - 1, np.float32)
        self._middle = np.zeros(_PHASE // 2, np.float32)

    def push(self, samples: Samples) -> Samples:
        """Resample `(2 n,)` at RATE_HZ to `(n,)` at half the rate."""
        count = len(samples) // 2
        even = np.concatenate([self._late, samples[0::2]])
        odd = np.concatenate([self._middle, samples[1::2]])
        self._late = even[count:].copy()
        self._middle = odd[count:].copy()
        half = np.float32(0.5) * odd[:count]
        pair = np.empty(count, np.float32)
        for at, tap in enumerate(_low_pass()):
            np.add(even[at : at + count], even[_PHASE - 1 - at :][:count], out=pair)
            pair *= tap
            half += pair
        return half


@cache
def _network() -> ort.InferenceSession:
    """The network, one for all stretches of this process. Raises BundleError if it is not the file
    that was tested."""
    try:
        content = FILE.read_bytes()
    except OSError as error:
        raise BundleError(f"{FILE}: {error.strerror}; reinstall birdstation") from error
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise BundleError(
            f"{FILE}: not the network shipped with birdstation; reinstall birdstation"
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # frees a call's few hundred kB
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


class Gain:
    """Amplification of each frame, from the level of the sound up to it without its constant
    offset."""

    def __init__(self) -> None:
        self._power = 0.0
        self._frames = 0

    def push(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """Amplifications `(n, 1)` of the next frames `(n, samples)`."""
        gains = np.empty((len(frames), 1), np.float32)
        for at, power in enumerate(frames.var(axis=1).tolist()):
            self._frames = min(self._frames + 1, _LEVEL_FRAMES)
            self._power += (power - self._power) / self._frames
            level = max(math.sqrt(self._power), FAINT * GAIN / GAIN_MAX)
            gains[at] = GAIN * max(1.0, FAINT / level) * min(1.0, LOUD / level)
        return gains


class Listener:
    """Speech detector for one stretch. It is asked about windows in order, each when its sound is
    there:

        listener = Listener()
        listener.push(samples)
        begins = listener.spoken(window.start, window.start + window.samples)

    The answer for a window depends only on the sound up to its end. The network runs from window to
    window, so in the same pieces however the sound was pushed. At most the sound since the last
    window is kept, and the runs that reach into windows to come.
    """

    def __init__(self) -> None:
        self._session = _network()
        self._half = HalfRate()
        self._gain = Gain()
        self._waiting: list[Samples] = []  # pushed, not processed yet
        self._context = np.zeros(_CONTEXT, np.float32)
        self._state: tuple[Samples, Samples] = (np.zeros((1, 1, 128), np.float32),) * 2
        self._frames = 0  # processed
        self._run = 0  # consecutive latest frames over the limit
        # first frame and end of runs of speech that have ended
        self._spoken: deque[tuple[int, int]] = deque()

    def push(self, samples: Samples) -> None:
        """Add samples, mono, RATE_HZ; NaN and infinity among them cannot break the network's
        state."""
        if len(samples):
            sound = np.where(np.isnan(samples), np.float32(0), samples)
            self._waiting.append(np.clip(sound, -1, 1, out=sound))

    def spoken(self, start: int, stop: int) -> int | None:
        """Start of speech in the window from sample `start` to `stop` of the stretch; None if there
        is none.

        The start is a sample of the stretch, and may be before the window.
        """
        self._hear(stop // FRAME_SAMPLES - self._frames)
        while self._spoken and self._spoken[0][1] * FRAME_SAMPLES <= start:
            self._spoken.popleft()
        runs = [*self._spoken]
        if self._run >= RUN_FRAMES:
            runs.append((self._frames - self._run, self._frames))
        return next(
            (begin * FRAME_SAMPLES for begin, end in runs if end * FRAME_SAMPLES > start), None
        )

    def _hear(self, frames: int) -> None:
        """Run the network over `frames` more frames."""
        while frames > 0:
            count = min(frames, _FRAMES_MAX)
            for quiet in self._probabilities(self._take(count * FRAME_SAMPLES)) <= SPEECH_OVER:
                if not quiet:  # true for NaN too, which might be a voice
                    self._run += 1
                else:
                    self._end_run()
                self._frames += 1
            frames -= count

    def _end_run(self) -> None:
        if self._run >= RUN_FRAMES:
            self._spoken.append((self._frames - self._run, self._frames))
        self._run = 0

    def _take(self, count: int) -> Samples:
        """The next `count` samples."""
        sound = np.concatenate(self._waiting) if len(self._waiting) > 1 else self._waiting[0]
        assert len(sound) >= count, "a window is asked about when its sound is there"
        self._waiting = [sound[count:]]
        return sound[:count]

    def _probabilities(self, sound: Samples) -> NDArray[np.float32]:
        """Probability of speech in each frame of the next sound."""
        frames = self._half.push(sound).reshape(-1, _FRAME)
        half = np.concatenate([self._context, (frames * self._gain.push(frames)).ravel()])
        self._context = half[-_CONTEXT:].copy()
        inputs = np.lib.stride_tricks.sliding_window_view(half, _CONTEXT + _FRAME)[::_FRAME]
        hidden, cell = self._state
        speech, hidden, cell = self._session.run(None, {"input": inputs, "h": hidden, "c": cell})
        self._state = hidden, cell
        return np.asarray(speech)
