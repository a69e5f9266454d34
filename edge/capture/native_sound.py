"""The sound of a recording file at its own rate in one channel: pieces, and gaps between them.

Knows what was declared, read, folded and lost. Does not know the output rate, blocks, or the
record.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile

from edge.capture.container import ContainerHeader
from edge.capture.container_layout import Layout
from edge.capture.mix import BLOCK_FRAMES, Mixer
from edge.capture.sound_parts import SoundPart, error_line
from edge.capture.streams import Mpeg, Ogg
from edge.capture.triggered import Fold, Unfolder, folds_are_lost, may_be_folded
from edge.contract.audio import Samples
from edge.types import GapReason

DURATION_S_MAX = 7 * 86_400.0  # a few MB of FLAC can claim and deliver years of silence
LOST_S_MIN = 0.1  # smaller differences of header and decoder are the encoder's padding
# Full scale is 1. Resamplers and float files overshoot it a little, which is valid sound; a program
# that forgets to divide leaves integer units, up to 32 bits, and an image is the same at every
# scale. Samples larger than any converter gives mean a damaged file; squared, summed and mixed they
# would end in infinities or NaN.
SAMPLE_MAX = 2.0**31
PARTS_MAX = 10_000
_FOLDS_LOST = (
    "AudioMoth's trigger may have left out silence here, and a lossy file keeps no trace of it: "
    "times after it may be too early"
)
_PIECE_FRAMES = 4 * BLOCK_FRAMES  # per mixing and resampling step


class MissingSound(NamedTuple):
    """Sound that is missing between pieces of sound."""

    frames: int
    reason: GapReason
    detail: str


class NativeSound:
    """Pieces of sound and gaps. Iterate once; what is lost is known when the iteration has
    ended."""

    def __init__(self, file: BinaryIO, part: SoundPart, recording: ContainerHeader) -> None:
        self._file = file
        self._part = part
        self._recording = recording
        self._mixer = Mixer(recording.channels, recording.rate_hz)
        self._said = part.frames  # declared by the current file or stream
        self._read = 0  # frames read of it
        self._before = 0  # frames of earlier files or streams, with what is lost of them
        self._behind = 0  # declared by a following file of another rate or channel count
        self._added = 0  # frames that folded blocks stand for, minus the blocks' own
        self._fold_note = _FOLDS_LOST if folds_are_lost(recording.path, file, part.sound) else None
        self._over = False  # read nothing more, whatever follows
        self.between = 0  # frames lost between pieces of sound
        self.why: str | None = None  # reason for a loss
        self.no_end_mark = False  # an unknown amount is lost
        self.not_closed = False  # no length is declared: a loss would not be noticed

    @property
    def note(self) -> str | None:
        """Remarks on the sound: channels cancel each other, or times are uncertain."""
        return "; ".join(filter(None, (self._mixer.note, self._fold_note))) or None

    @property
    def expected(self) -> int | None:
        """Frames declared or read, whichever are more, unfolded as far as was read; None while
        unknown."""
        if self._said is None and not self._before + self._behind:
            return None
        return self._before + max(self._said or 0, self._read) + self._behind + self._added

    @property
    def certain(self) -> int | None:
        """Frames that will be read, if header and end of the file prove it; else None."""
        part = self._part
        most = DURATION_S_MAX * self._recording.rate_hz
        if (
            may_be_folded(self._recording.path, self._file, part.sound)
            or part.certain is None
            or part.certain > most
        ):
            return None
        return part.certain

    def close(self) -> None:
        self._part.close()

    def __iter__(self) -> Iterator[Samples | MissingSound]:
        for _ in range(PARTS_MAX):
            part = self._part
            yield from self._pieces(part)
            self.why = self.why or part.stopped or None
            if self._over:
                return
            following = self._following(part)
            self._note_junk(part, following)
            if following is None:
                break
            if following is not part:
                yield from self._settled(part, following)
        cut = self._part.cut and self._said is None
        self.no_end_mark = self.no_end_mark or cut or not self._part.end_marked()
        self.not_closed = self._part.not_closed

    def _pieces(self, part: SoundPart) -> Iterator[Samples | MissingSound]:
        unfolder = None
        if may_be_folded(self._recording.path, self._file, part.sound):
            form = part.form if part.sound.subtype == "PCM_16" else None
            unfolder = Unfolder(form.data_at if isinstance(form, Layout) else None)
        buffer = np.empty((_PIECE_FRAMES, self._recording.channels), np.float32)
        count = _PIECE_FRAMES
        while count == _PIECE_FRAMES and not self._over:
            count = part.read(buffer)
            with np.errstate(all="ignore"):  # _sane handles what is not finite
                mono = self._mixer.mix(buffer[:count])
            mono = self._sane(mono)
            self._read += len(mono)
            yield from (mono,) if unfolder is None else self._unfolded(unfolder.push(mono))
            self._limit()
        if unfolder is not None:
            yield from self._unfolded(unfolder.close())

    def _unfolded(self, items: Iterator[Samples | Fold]) -> Iterator[Samples | MissingSound]:
        for item in items:
            if isinstance(item, Fold):
                room = (
                    round(DURATION_S_MAX * self._recording.rate_hz)
                    - self._before
                    - self._read
                    - self._added
                )
                frames = min(item.frames, item.block + max(0, room))
                self._added += frames - item.block
                yield MissingSound(frames, "triggered", "below the recorder's trigger")
            else:
                yield item

    def _limit(self) -> None:
        frames = self._before + self._read + self._added
        if frames >= DURATION_S_MAX * self._recording.rate_hz and not self._over:
            self._over = True
            self.why = f"too long (only the first {DURATION_S_MAX / 86_400:.0f} days are read)"

    def _sane(self, mono: Samples) -> Samples:
        if not len(mono) or max(mono.max(), -mono.min()) <= SAMPLE_MAX:  # false for NaN too
            return mono
        with np.errstate(invalid="ignore"):
            first_bad = int(np.argmin(np.abs(mono) <= SAMPLE_MAX))
        value = float(mono[first_bad])
        what = (
            f"of {value:.1g}, far beyond full scale"
            if np.isfinite(value)
            else "that are not numbers"
        )
        self._over = True
        self.why = f"damaged (samples {what})"
        return mono[:first_bad]

    def _following(self, part: SoundPart) -> SoundPart | None:
        """The part to be read behind one that has ended; the same part if libsndfile ended it too
        early."""
        start = part.next_start()
        if start is None or start <= part.start:
            return None
        if isinstance(part.form, Layout):
            self._said = part.frames  # the next file may lie within this one's declared length
        if part.stop_at(start, self._read):
            self._said = part.frames
            return part
        try:
            following = SoundPart(self._file, start)
        except soundfile.SoundFileError as error:
            self.why = self.why or f"followed by data that cannot be read ({error_line(error)})"
            return None
        sound = following.sound
        recording = self._recording
        if (sound.samplerate, sound.channels) == (recording.rate_hz, recording.channels):
            return following
        self.why = (
            self.why or f"joined with sound of {sound.samplerate} Hz and {sound.channels} channels"
        )
        self._behind = round(_frames_of(following) * recording.rate_hz / sound.samplerate)
        following.close()
        return None

    def _note_junk(self, part: SoundPart, following: SoundPart | None) -> None:
        """Report data behind the sound if it is more than a little: it may have been sound."""
        if (
            self.why is None
            and following is not part
            and (count := part.junk(following.start if following else None))
        ):
            self.why = f"holds {count} bytes that are not read as sound"

    def _settled(self, part: SoundPart, following: SoundPart) -> Iterator[MissingSound]:
        """Close one part and begin the next."""
        said = self._said
        if isinstance(part.form, Ogg):
            self.no_end_mark = self.no_end_mark or not part.end_marked(following.start)
            # its declared length may be that of the following stream
            said = None if part.form.whole else said
        self._part = following
        part.close()
        if (
            isinstance(part.form, Mpeg)
            and isinstance(following.form, Mpeg)
            and not following.form.has_length
        ):
            return  # the same stream goes on
        lost = (said or 0) - self._read
        if lost <= LOST_S_MIN * self._recording.rate_hz:
            lost = 0
        self._before += self._read + lost
        self._said = following.frames
        self._read = 0
        if lost:
            self.between += lost
            yield MissingSound(
                lost, "damaged", self.why or "truncated, and joined with another file"
            )


def _frames_of(part: SoundPart) -> int:
    """Number of frames in a part, by reading it if it does not say."""
    if part.frames is not None:
        return part.frames
    buffer = np.empty((_PIECE_FRAMES, part.sound.channels), np.float32)
    total = 0
    most = DURATION_S_MAX * part.sound.samplerate
    while (count := part.read(buffer)) and total < most:
        total += count
    return total
