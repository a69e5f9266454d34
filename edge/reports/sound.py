"""The sound of detections with some seconds around it, cut out of the recordings, or out of clips
where the recordings are gone.

Matches files with recordings; knows no page.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edge.capture.file_states import state_of
from edge.capture.recording import Decoder, find_recordings, record_name
from edge.clips.retention import clip_file
from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES, Samples
from edge.contract.errors import RecordingError
from edge.store.files import same_place
from edge.store.record import Store
from edge.types import Gap

AROUND_S = 2.0  # on both sides of a window, where there is sound


@dataclass(frozen=True)
class WindowSound:
    """A window and what surrounds it."""

    samples: Samples  # mono, RATE_HZ
    before_s: float  # s of it that lie before the window


def recordings_under(store: Store, station: str, folder: Path) -> dict[str, Path]:
    """Recording -> one of its files, for the recordings of the record that lie in a folder.

    Files are recognised by their size and a sample of their content, whatever their name. Raises
    RecordingError if the folder does not exist.
    """
    known: dict[tuple[int, str], list[tuple[str, str]]] = {}
    for path, size, sample, recording in store.rows(
        "SELECT f.path, f.bytes, f.sample, coalesce(r.grown_into, r.id) FROM files f JOIN "
        "recordings r ON r.id = f.recording WHERE f.station = ?",
        (station,),
    ):
        known.setdefault((size, sample), []).append((path, recording))
    root = folder if folder.is_dir() else folder.parent
    files: dict[str, Path] = {}
    for path in find_recordings(folder):
        try:
            state = state_of(path)
        except OSError:  # a replay reports the reason
            continue
        name = record_name(path, root)
        # several where recordings are equally silent: the one with this path first
        same = known.get((state.bytes, state.sample), [])
        for _, recording in sorted(same, key=lambda one: not same_place(name, one[0]))[:1]:
            files.setdefault(recording, path)
    return files


@dataclass
class _WindowCut:
    """A window that is collected while its recording is decoded; positions are samples of the
    recording."""

    window: int
    pieces: list[Samples] = field(default_factory=list)
    begin: int = 0  # of the first piece
    ended: bool = False

    def take(self, at: int, piece: Samples) -> None:
        around = round(AROUND_S * RATE_HZ)
        first = max(0, self.window - around - at)
        last = self.window + WINDOW_SAMPLES + around - at
        part = piece[first : max(first, last)]
        if len(part) and not self.ended:
            if not self.pieces:
                self.begin = at + first
            self.pieces.append(part.copy())
        self.ended = self.ended or last <= len(piece)

    def miss(self, until: int) -> None:
        """Note a gap that ends at `until`; no window crosses a gap."""
        if until <= self.window:
            self.pieces.clear()
        else:
            self.ended = self.ended or bool(self.pieces)

    def sound(self) -> WindowSound:
        return WindowSound(np.concatenate(self.pieces), (self.window - self.begin) / RATE_HZ)


def cut_out(path: Path, offsets_s: Iterable[float]) -> dict[float, WindowSound]:
    """Sound of these windows of a recording, which is decoded once, up to the last of them. Windows
    that cannot be decoded are missing from the result."""
    cuts = {offset_s: _WindowCut(round(offset_s * RATE_HZ)) for offset_s in offsets_s}
    try:
        with Decoder(path) as decoder:
            at = 0
            for piece in decoder:
                if isinstance(piece, Gap):
                    at = round((piece.at_s + piece.seconds) * RATE_HZ)
                    for cut in cuts.values():
                        cut.miss(at)
                    continue
                for cut in cuts.values():
                    cut.take(at, piece)
                at += len(piece)
                if all(cut.ended for cut in cuts.values()):
                    break
    except (RecordingError, OSError):
        pass  # damaged since its replay: the result has what could be read
    return {offset_s: cut.sound() for offset_s, cut in cuts.items() if cut.pieces}


def cut_of_clip(folder: Path, path: str, offset_s: float) -> WindowSound | None:
    """Sound of a window in a clip; None if its file does not exist."""
    try:
        return cut_out(clip_file(folder, path), [offset_s]).get(offset_s)
    except ValueError:  # a path that leads out of the folder
        return None
