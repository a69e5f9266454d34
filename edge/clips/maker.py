"""Saves clips: keeps the sound that a clip may still need, and writes a clip once it is final.

Detections are committed before they come here, so an error costs the clip, never the detection.
Knows no window cutter, no network and no thread.
"""

import errno
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
import soundfile

from edge.clips.cut import ClipCut, Rolls, SampleSpan, cut, touches
from edge.clips.encode import Pcm, encode, pcm
from edge.clips.guano import guano_text
from edge.clips.partial_file import remove_left, written
from edge.config import Config
from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES, Samples
from edge.contract.errors import StoreError
from edge.disclosure import Disclosure
from edge.types import ClipRow, Detection, RecordingRow, stable_id

HEADROOM_BYTES = 32 << 20  # that clips leave free for the database
_CODE_LENGTH_MAX = 40  # keeps a file's name under 100 bytes


class Clips(Protocol):
    """Table of clips; edge.store.clips.ClipTable."""

    def __enter__(self) -> "Clips": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def add(
        self,
        clip: ClipRow,
        detections: Sequence[str],
        put: Callable[[], None],
        undo: Callable[[], None],
    ) -> str | None:
        """Store a clip and link its detections, call `put`, which puts the file in place, and
        commit; if that fails, `undo` reverts `put` while no other process can store a clip. An
        existing clip is replaced, unless a person has kept it: then it stays as it is and `put` is
        not called. Returns the clip's previous path if it was another one; that file must be
        removed. Raises StoreError, also if none of the detections exists; then nothing is
        stored."""

    def take_away(
        self, remove: Callable[[str], bool], paths: Collection[str] | None = None
    ) -> None:
        """Remove the files of clips that have no row, those at `paths` or all."""


class ClipMaker:
    """Maker of clips, fed with one recording at a time, in one thread.

        with ClipMaker(lambda: ClipTable(config.database), config, bundle.id) as maker:
            maker.begin(row)
            maker.hear(samples)                              # as they arrive
            maker.miss(seconds)                              # for missing sound in between
            maker.decided(until_s, detections, private)      # as windows are decided and committed
            maker.end()

    A window that touches a window of a sensitive species, or a span with speech, has no clip; a
    roll that would reach into one is cut short. Sound that no decided window covers is in no clip.
    The result does not depend on how sound and decisions are divided into calls.

    Sound is kept in memory from `before_s` before the first window that waits for its clip: at most
    seconds_max + before_s + 5.5 s, plus undecided sound and one block, at 64 kB/s. No OSError or
    StoreError leaves this class: `failed` counts them, `last_error` has the last one, and the next
    clip tries again with a newly opened table.
    """

    def __init__(
        self,
        open_table: Callable[[], Clips],
        config: Config,
        bundle_id: str,
        disclosure: Callable[[], Disclosure] | None = None,
    ) -> None:
        """`disclosure` returns the present rules for places, which also apply to sound heard under
        earlier settings; None: those of `config`."""
        self.config = config  # may be replaced; used from the next stretch on
        self._disclosure = disclosure or (lambda: Disclosure.of(self.config))
        self.saved = 0
        self.failed = 0
        self.last_error = ""
        self._open_table = open_table
        self._bundle_id = bundle_id
        self._table: Clips | None = None
        self._opened = ExitStack()
        self._row: RecordingRow | None = None
        self._blocks: deque[tuple[int, Pcm]] = deque()  # first sample, and sound

    def __enter__(self) -> "ClipMaker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, row: RecordingRow) -> None:
        """Begin a stretch; its clips are saved only if the settings say so."""
        settings = self.config.clips
        self._row = row if settings.wanted(row.source) else None
        self._settings = settings
        self._sensitive = self.config.sensitive
        self._rolls = Rolls.of(settings)
        self._blocks.clear()
        self._heard = 0
        self._until = 0
        self._windows: dict[SampleSpan, list[Detection]] = {}
        self._forbidden: list[SampleSpan] = []

    def hear(self, samples: Samples | Pcm) -> None:
        """Take the next samples of the stretch: mono, RATE_HZ; float32, or 16 bit as they are kept
        in memory."""
        if self._row is not None and len(samples):
            self._blocks.append((self._heard, pcm(samples)))
            self._heard += len(samples)

    def miss(self, seconds: float) -> None:
        """Note that sound is missing here; no clip spans it."""
        if self._row is not None:
            gap = (self._heard, self._heard + round(seconds * RATE_HZ))
            self._forbidden.append(gap)
            self._heard = gap[1]

    def decided(
        self,
        until_s: float,
        detections: Sequence[Detection],
        private: Sequence[tuple[float, float]] = (),
    ) -> None:
        """Note that all windows that end up to `until_s` are decided, with their new detections and
        spans of speech (from_s, to_s), and write clips that are final. All times are from the start
        of the recording."""
        if self._row is None:
            return
        self._until = max(self._until, round(until_s * RATE_HZ))
        self._forbidden += [
            (round(start * RATE_HZ), round(stop * RATE_HZ)) for start, stop in private
        ]
        for detection in detections:
            window = _window(detection)
            self._windows.setdefault(window, []).append(detection)
            if detection.species in self._sensitive.species:
                self._forbidden.append(window)
        self._write(all_of_it=False)

    def end(self) -> None:
        """End the stretch: write the remaining clips."""
        if self._row is not None:
            self._write(all_of_it=True)
        self._row = None
        self._blocks.clear()

    @property
    def held_s(self) -> float:
        """Seconds of sound in memory."""
        return sum(len(block) for _, block in self._blocks) / RATE_HZ if self._row else 0.0

    def _write(self, all_of_it: bool) -> None:
        """Write the clips that are final, in order, and drop sound that no later one needs."""
        for piece in cut(
            sorted(self._windows), self._forbidden, self._rolls, min(self._heard, self._until)
        ):
            if not all_of_it and piece.windows[-1][1] + self._rolls.settled_after > self._until:
                break
            self._save(piece, [d for window in piece.windows for d in self._windows.pop(window)])
        self._windows = {
            w: found for w, found in self._windows.items() if not touches(w, self._forbidden)
        }
        # all windows that begin before this are decided
        undecided = self._until - WINDOW_SAMPLES
        needed = min([undecided, *(start for start, _ in self._windows)]) - self._rolls.before
        self._forbidden = [span for span in self._forbidden if span[1] > needed]
        while self._blocks and self._blocks[0][0] + len(self._blocks[0][1]) <= needed:
            self._blocks.popleft()

    def _save(self, piece: ClipCut, detections: list[Detection]) -> None:
        assert self._row is not None
        folder = self.config.clips_folder
        best = _best_of_each(detections)
        clip = _clip_row(piece, self._row, best[0], self._settings.format)
        text = guano_text(clip, self._row, best, self._disclosure(), self._bundle_id)
        try:
            sound = encode(self._sound(piece.start, piece.stop), text, self._settings.format)
            clip = _clip_row(piece, self._row, best[0], self._settings.format, len(sound))
            self._store(clip, folder, sound, [d.id for d in detections])
            self.saved += 1
        except (OSError, soundfile.SoundFileError, StoreError) as error:
            self.failed += 1
            self.last_error = f"{clip.path}: {error}"

    def _store(self, clip: ClipRow, folder: Path, sound: bytes, detections: list[str]) -> None:
        """Write file and row so that there is never a row without its file; a crash before the
        commit leaves a file without a row."""
        path = folder / clip.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < HEADROOM_BYTES + len(sound):
            raise OSError(errno.ENOSPC, "too little space left for clips")
        placed = False

        def put() -> None:
            nonlocal placed
            placed = not path.exists()
            _rename_synced(part, path)

        def undo() -> None:
            if placed:
                _remove(path)

        # left by a program that was killed while it saved this clip
        for left in path.parent.glob(f".{path.name}.*.part"):
            remove_left(left)
        try:
            with written(path, sound) as part:
                if self._table is None:
                    self._table = self._opened.enter_context(self._open_table())
                before = self._table.add(clip, detections, put, undo)
                if before is not None:
                    self._table.take_away(lambda old: _remove(folder / old), [before])
        except (OSError, StoreError):
            self.close()
            raise

    def close(self) -> None:
        """Close the table; the next clip opens it again."""
        self._opened.close()
        self._table = None

    def _sound(self, start: int, stop: int) -> Pcm:
        parts = [
            b[max(0, start - at) : stop - at]
            for at, b in self._blocks
            if at < stop and start < at + len(b)
        ]
        sound = np.concatenate(parts)
        assert len(sound) == stop - start, "sound was dropped too early"
        return sound


def _window(detection: Detection) -> SampleSpan:
    start = round(detection.offset_s * RATE_HZ)
    return start, start + round((detection.end - detection.start).total_seconds() * RATE_HZ)


def _best_of_each(detections: list[Detection]) -> list[Detection]:
    """The best-scored detection of each species, best first."""
    best: dict[str, Detection] = {}
    for detection in sorted(detections, key=lambda d: (-d.score, d.species, d.offset_s)):
        best.setdefault(detection.species, detection)
    return list(best.values())


def _clip_row(
    piece: ClipCut, row: RecordingRow, best: Detection, suffix: str, size: int = 0
) -> ClipRow:
    """Row of a clip. Its id and path depend only on the sound and its detections, so that a
    recording analysed again gives the same. The day is local; eight digits of the id distinguish
    recorders that heard the same species at the same time. The path has no character that FAT or
    NTFS forbid."""
    offset_s = piece.start / RATE_HZ
    start = row.start + timedelta(seconds=offset_s)
    clip_id = stable_id("clip", row.id, str(piece.start), str(piece.stop))
    day = row.local.day(start).isoformat()
    code = re.sub(r"[^A-Za-z0-9-]", "-", best.species)[:_CODE_LENGTH_MAX]
    stamp = start.strftime("%Y%m%dT%H%M%S.") + f"{start.microsecond // 1000:03d}Z"
    path = f"{day}/{code}_{best.score:.2f}_{stamp}_{clip_id[:8]}.{suffix}"
    return ClipRow(
        clip_id, path, row.id, start, (piece.stop - piece.start) / RATE_HZ, size, offset_s
    )


def _remove(path: Path) -> bool:
    """Remove a file; True if it is gone."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _rename_synced(part: Path, path: Path) -> None:
    """Rename a file; when this returns, the new name is on the disk, and the folder of its day
    too."""
    os.replace(part, path)  # noqa: PTH105 - named in the tests of what a kill leaves
    for folder in (path.parent, path.parent.parent):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
