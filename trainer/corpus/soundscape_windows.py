"""The windows of soundscapes, cut during decoding, and the error if no soundscape can be read.
Knows no network."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from edge.capture.recording import Decoder, open_recording
from edge.contract.audio import IMAGE, RATE_HZ, FrontEnd, Padding, Window, WindowCutter
from edge.contract.errors import CorpusError, RecordingError
from edge.contract.rows import window_of_row
from edge.types import Gap
from trainer.corpus.recordings import Corpus
from trainer.corpus.soundscapes import LABELS

_BLOCK_S = 5
_NAMED_MAX = 5


def require_readable(corpus: Corpus) -> None:
    """Raise CorpusError if there are labelled soundscapes but none can be opened, before hours of
    work are spent."""
    unreadable = []
    for soundscape in corpus.soundscapes:
        try:
            open_recording(soundscape.path)
        except RecordingError as error:
            unreadable.append(str(error))
        else:
            return
    if unreadable:
        raise none_readable(corpus, unreadable)


def none_readable(corpus: Corpus, unreadable: Sequence[str]) -> CorpusError:
    """The error that no labelled soundscape can be read."""
    count = len(unreadable)
    advice = "put intact files there, or remove them to continue without"
    return CorpusError(
        f"{corpus.data / LABELS}: labelled soundscapes: expected one that can be read, found none "
        f"of {count}: {some_of(unreadable)}; {advice}"
    )


def some_of(lines: Sequence[str]) -> str:
    """The first few lines joined into one, and the number of the others."""
    more = [f"and {len(lines) - _NAMED_MAX} more"] if len(lines) > _NAMED_MAX else []
    return "; ".join([*lines[:_NAMED_MAX], *more])


def row_window(row_id: str, samples: int) -> int | None:
    """First sample of the window for a row of a recording with so many samples: `7019_COR_10` are
    the 5 s that end at 10 s. None if there is no such window, or the row id has another form."""
    end = row_id.rsplit("_", 1)[-1]
    return window_of_row(int(end), samples) if end.isdigit() else None


def windows_of(
    path: Path,
    padding: Padding,
    hop_s: float,
    lost: list[str] | None = None,
    front: FrontEnd = IMAGE,
) -> Iterator[Window]:
    """The windows of a recording, as the station cuts them, yielded during decoding. After a gap
    they start afresh; their `start` includes it. `lost` gets a line at the end if sound was lost.

    Raises RecordingError before the first window if nothing can be decoded; a damaged file gives
    what can be decoded, as on the station.
    """
    hop = round(hop_s * RATE_HZ)
    cutter = WindowCutter(hop, padding, front=front)
    with Decoder(path, block_s=_BLOCK_S) as decoder:
        for piece in decoder:
            if isinstance(piece, Gap):
                yield from cutter.close()
                resumes = round((piece.at_s + piece.seconds) * RATE_HZ)
                cutter = WindowCutter(hop, padding, resumes, front)
            else:
                yield from cutter.push(piece)
        yield from cutter.close()
        if decoder.warning and lost is not None:
            lost.append(f"{path}: {decoder.warning}")
