"""Recordings of a corpus and their sound: a whole file, or a segment of one, with its labels.

`probe_audio` reads headers; all that decodes does so with the station's decoder.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np

from edge.capture.recording import Decoder, stream
from edge.contract.audio import RATE_HZ, Samples
from edge.contract.errors import RecordingError

AUDIO = (  # suffixes of sound files
    *(".ogg", ".oga", ".opus", ".wav", ".flac", ".mp3"),
    *(".aif", ".aiff", ".aifc", ".au", ".caf", ".w64", ".rf64", ".bwf"),
)
_BLOCK_S = 5.0


@dataclass(frozen=True)
class Recording:
    """A labelled sound: a file, or with `start_s` and `end_s` a segment of one. Place and date are
    None unless valid."""

    recording: str  # unique key "<code>/<filename>", of a segment "<code>/<filename>@<start>-<end>"
    path: Path  # may be missing: the metadata model also learns from rows without sound
    primary_label: str
    secondary_labels: tuple[str, ...]  # only species of the taxonomy, without the primary one
    latitude: float | None  # degrees WGS84; both or neither
    longitude: float | None
    date: date | None
    rating: float  # 0 to 5; 0 is "not rated"
    author: str
    type: str
    start_s: float = 0.0  # within the file
    end_s: float | None = None  # None: to the end of the file

    @property
    def quarter(self) -> int | None:
        """Quarter of the year, 1 to 4."""
        return None if self.date is None else (self.date.month + 2) // 3

    @property
    def source(self) -> str:
        """The sound file. Segments with the same source are never in two folds."""
        return str(self.path)

    @property
    def is_segment(self) -> bool:
        return self.start_s > 0.0 or self.end_s is not None


@dataclass(frozen=True)
class Audio:
    """The header of a sound file; `problem` is empty if it can be read."""

    seconds: float
    rate_hz: int
    channels: int
    problem: str = ""

    @property
    def samples(self) -> int:
        """Number of samples at 32 kHz."""
        return round(self.seconds * RATE_HZ)

    def within(self, recording: Recording) -> "Audio":
        """The same for the part that a recording is; a problem if the file ends before it."""
        if self.problem or not recording.is_segment:
            return self
        end_s = self.seconds if recording.end_s is None else min(recording.end_s, self.seconds)
        if round((end_s - recording.start_s) * RATE_HZ) <= 0:
            why = f"{recording.path.name}: {_behind_end(recording.start_s, self.seconds)}"
            return Audio(0.0, self.rate_hz, self.channels, why)
        return Audio(end_s - recording.start_s, self.rate_hz, self.channels)


def _behind_end(start_s: float, seconds: float) -> str:
    """A reason to leave out a segment that begins behind the end of its file."""
    return f"a segment from {start_s:g} s, but the file ends at {seconds:.1f} s"


def probe_audio(path: Path) -> Audio:
    """Probe a sound file with the station's decoder; never raises. Only the header is read, or the
    whole file if header and end do not determine its duration."""
    try:
        with Decoder(path, block_s=_BLOCK_S) as decoder:
            seconds = decoder.certain_s
            if seconds is None:
                for _ in decoder:
                    pass
                seconds = decoder.decoded_s
    except RecordingError as error:
        return Audio(0.0, 0, 0, f"{path.name}: {error.reason}")
    return Audio(seconds, decoder.recording.rate_hz, decoder.recording.channels)


def read_sound(
    path: Path, samples_max: int, start_s: float = 0.0, end_s: float | None = None
) -> Samples:
    """The first `samples_max` samples of a file, or of its part from `start_s` to `end_s`, float32
    mono at 32 kHz, as the station hears them; gaps are closed. A truncated file gives the part
    before its end. Raises RecordingError if nothing can be decoded."""
    (sound,) = read_segments(path, [(start_s, end_s)], samples_max)
    if not len(sound):
        raise RecordingError(path, f"no sound from {start_s:g} s on")
    return sound


def read_segments(
    path: Path, spans: Sequence[tuple[float, float | None]], samples_max: int
) -> Iterator[Samples]:
    """The sound of several parts of a file, sorted by their start, in one pass and with no more in
    memory than a part needs; empty where the file has ended before. Like `read_sound` otherwise.

    >>> for sound in read_segments(path, [(2.0, 5.0), (7200.0, None)], 10 * RATE_HZ): ...
    """
    assert all(a[0] <= b[0] for a, b in pairwise(spans)), "sorted by start"
    blocks = stream(path, block_s=_BLOCK_S)
    held: list[Samples] = []
    first = 0  # position of the first sample in `held`
    end = 0  # of the last one
    for start_s, end_s in spans:
        start = round(start_s * RATE_HZ)
        stop = start + samples_max
        if end_s is not None:
            stop = min(stop, round(end_s * RATE_HZ))
        while end < stop:
            block = next(blocks, None)
            if block is None:
                break
            held.append(block)
            end += len(block)
            while held and first + len(held[0]) <= start:
                first += len(held.pop(0))
        while held and first + len(held[0]) <= start:
            first += len(held.pop(0))
        sound = np.concatenate(held) if held else np.empty(0, np.float32)
        yield sound[max(0, start - first) : max(0, stop - first)]


def read_recordings(recordings: Sequence[Recording], samples_max: int) -> Iterator[Samples | str]:
    """The sound of each recording, or in one line the reason why there is none. Recordings of one
    file that follow each other, sorted by their start, are decoded in one pass."""
    for path, group in groupby(recordings, key=lambda recording: recording.path):
        own = list(group)
        sounds = read_segments(path, [(r.start_s, r.end_s) for r in own], samples_max)
        reason = ""
        for recording in own:
            sound: Samples | None = None
            try:
                sound = None if reason else next(sounds)
            except RecordingError as error:
                reason = " ".join(f"{path.name}: {error.reason}".split())
            if sound is not None and not len(sound):
                yield f"{path.name}: no sound from {recording.start_s:g} s on"
            else:
                yield reason if sound is None else sound
