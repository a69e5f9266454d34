"""AudioMoth's triggered recordings (…T.WAV), which keep silence below the trigger as folded blocks;
this module finds those blocks.

In the recorder's file a block of 512 bytes at a multiple of 512 stands for a number of such blocks
that were not kept: 32 samples of +1 or -1 are the bits of the number, the lowest first, and 224
zeros follow. What is left out of the first and the last buffer is written as zeros. A lossy copy
preserves neither. Knows no times.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile

from edge.capture.tags import texts_of
from edge.contract.audio import Samples

BLOCK_SAMPLES = 256
# Length of the header in AudioMoth's own files; converted files keep the blocks' distances from it.
HEADER_BYTES = 488
_BITS = 32
_PIECE = 65_536  # zeros given at a time
_ONE = np.float32(1 / 32_768)
_NAME = re.compile(r"(.*[_-])?\d{6}T(?![0-9A-Za-z]).*", re.IGNORECASE | re.DOTALL)
_EXACT = ("PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")  # sample values are kept exactly


class Fold(NamedTuple):
    """Silence that was left out, in samples."""

    frames: int  # samples that it stands for
    block: int  # samples that the block itself has


def may_be_folded(path: Path, file: BinaryIO, sound: soundfile.SoundFile) -> bool:
    """True if AudioMoth made this recording and it can hold folded blocks: one channel, at least
    its own 16 bits, and a comment of AudioMoth's or a file name like those of its triggered
    recordings. Raises OSError."""
    if sound.channels != 1 or sound.subtype not in _EXACT:
        return False
    return _NAME.fullmatch(path.name) is not None or _audiomoth_note(file, sound) is not None


def folds_are_lost(path: Path, file: BinaryIO, sound: soundfile.SoundFile) -> bool:
    """True if this is a triggered AudioMoth recording in a lossy format, in which folded blocks
    cannot be found."""
    if sound.format not in ("OGG", "MP3"):
        return False
    return _NAME.fullmatch(path.name) is not None or "trigger" in (
        _audiomoth_note(file, sound) or ""
    )


def _audiomoth_note(file: BinaryIO, sound: soundfile.SoundFile) -> str | None:
    if "AudioMoth" in sound.comment or sound.artist.startswith("AudioMoth"):
        return str(sound.comment)
    if sound.format in ("WAV", "WAVEX", "RF64"):
        return None
    # libsndfile does not read every field, nor the chunks of a WAV file that FLAC may keep
    texts = (text.data.decode("utf-8", "replace") for text in texts_of(file))
    return next((text for text in texts if "AudioMoth" in text), None)


class Unfolder:
    """Replaces each folded block among the samples by a `Fold`, and likewise zeros beside one, if
    there are at least as many as a block has.

    `data_at` is the byte offset of the sound in its file. Blocks are searched where they lie in the
    recorder's own file, or in a file with another header; the first block that is found decides
    between the two.
    """

    def __init__(self, data_at: int | None) -> None:
        phases = {-HEADER_BYTES // 2 % BLOCK_SAMPLES}
        if data_at is not None and data_at % 2 == 0:
            phases.add(-data_at // 2 % BLOCK_SAMPLES)
        self._phases = sorted(phases)  # positions of blocks modulo their length
        self._at = 0  # position of the first held sample
        self._held = np.empty(0, np.float32)
        self._zeros = 0  # trailing zeros that are held back
        self._behind_fold = False  # only these zeros follow the last fold

    def push(self, samples: Samples) -> Iterator[Samples | Fold]:
        """The sound and folds that are certain after these samples."""
        yield from self._with_zeros(self._pushed(samples))

    def close(self) -> Iterator[Samples | Fold]:
        """The rest. A block that was cut off after its number counts."""
        yield from self._with_zeros(self._closed())
        yield from self._silence(self._behind_fold)

    def _pushed(self, samples: Samples) -> Iterator[Samples | Fold]:
        # complete the block that has begun first, so that the rest need not be copied
        if len(self._phases) == 1 and len(self._held):
            missing = (self._first(self._phases[0]) - len(self._held)) % BLOCK_SAMPLES
            yield from self._advanced(samples[:missing])
            samples = samples[missing:]
        yield from self._advanced(samples)

    def _advanced(self, samples: Samples) -> Iterator[Samples | Fold]:
        self._held = np.concatenate([self._held, samples]) if len(self._held) else samples
        folds = self._folds()
        yield from self._given(folds)
        begun = max(
            (len(self._held) - self._first(phase)) % BLOCK_SAMPLES for phase in self._phases
        )
        if len(self._held) > begun:
            yield self._take(len(self._held) - begun)

    def _closed(self) -> Iterator[Samples | Fold]:
        yield from self._given(self._folds())
        for phase in self._phases:
            tail = len(self._held) - (len(self._held) - self._first(phase)) % BLOCK_SAMPLES
            cut = self._held[max(0, tail) :]
            block = np.pad(cut, (0, BLOCK_SAMPLES))[:BLOCK_SAMPLES]
            if tail >= 0 and len(cut) > _BITS and (count := _count(block)):
                yield from self._given([(tail, count)], cut=len(cut))
        if len(self._held):
            yield self._take(len(self._held))

    def _with_zeros(self, items: Iterator[Samples | Fold]) -> Iterator[Samples | Fold]:
        for item in items:
            if isinstance(item, Fold):
                yield from self._silence(left_out=True)
                yield item
                self._behind_fold = True
                continue
            first, stop = _sounding(item)
            self._zeros += first
            if first < stop:
                yield from self._silence(self._behind_fold)
                yield item[first:stop]
                self._zeros = len(item) - stop
                self._behind_fold = False

    def _silence(self, left_out: bool) -> Iterator[Samples | Fold]:
        """The zeros held back so far: left out if beside a fold, sound elsewhere."""
        if left_out and self._zeros >= BLOCK_SAMPLES:
            yield Fold(self._zeros, self._zeros)
            self._zeros = 0
        while self._zeros:
            yield np.zeros(min(self._zeros, _PIECE), np.float32)
            self._zeros -= min(self._zeros, _PIECE)

    def _first(self, phase: int) -> int:
        """Index of the first held sample at which a block begins."""
        return (phase - self._at) % BLOCK_SAMPLES

    def _folds(self) -> list[tuple[int, int]]:
        """Index in the held samples, and sample count, of each folded block."""
        for phase in self._phases:
            first = self._first(phase)
            whole = (len(self._held) - first) // BLOCK_SAMPLES
            if whole <= 0:
                continue
            blocks = self._held[first : first + whole * BLOCK_SAMPLES].reshape(whole, BLOCK_SAMPLES)
            if blocks[:, -1].all():
                continue  # true of most sound
            likely = np.flatnonzero(
                (np.abs(blocks[:, 0]) == _ONE) & (blocks[:, -1] == 0) & (blocks[:, _BITS] == 0)
            )
            folds = [
                (first + int(i) * BLOCK_SAMPLES, n) for i in likely if (n := _count(blocks[i]))
            ]
            if folds:
                self._phases = [phase]
                return folds
        return []

    def _given(
        self, folds: list[tuple[int, int]], cut: int = BLOCK_SAMPLES
    ) -> Iterator[Samples | Fold]:
        """The samples before the folds, and the folds."""
        begin = self._at
        for at, count in folds:
            before = at - (self._at - begin)
            if before:
                yield self._take(before)
            self._take(cut)
            yield Fold(count, cut)

    def _take(self, count: int) -> Samples:
        taken = self._held[:count]
        self._held = self._held[count:]
        self._at += count
        return taken


def _sounding(samples: Samples) -> tuple[int, int]:
    """Indices of the first non-zero sample and of the end of the last one; the length twice if all
    are zero."""
    if len(samples) and samples[0] and samples[-1]:
        return 0, len(samples)
    places = np.flatnonzero(samples)
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (len(samples), len(samples))


def _count(block: Samples) -> int:
    """Number of samples that a folded block stands for; 0 if the block is not folded."""
    if block[_BITS:].any() or (np.abs(block[:_BITS]) != _ONE).any():
        return 0
    return BLOCK_SAMPLES * sum(1 << bit for bit in np.flatnonzero(block[:_BITS] > 0).tolist())
