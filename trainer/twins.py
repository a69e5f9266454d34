"""Files of a corpus with the same bytes: one sound under several names, which must not be learnt from and judged on.

Knows no tables and decodes nothing. A sound that was encoded or tagged anew is another one here.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path

from edge.contract.bundle import file_sha256
from trainer.corpus import Recording

_HEAD_BYTES = 65_536  # where most files of one size differ


def same_sound(recordings: Iterable[Recording]) -> list[list[str]]:
    """Groups of two recordings or more whose files are the same; whole files are read only where size and beginning
    are. What cannot be read is in no group."""
    groups = [list(recordings)]
    for feature in (_size, _head, file_sha256):
        groups = [part for group in groups for part in _split(group, feature)]
    return [[recording.recording for recording in group] for group in groups]


def _split(group: Sequence[Recording], feature: Callable[[Path], Hashable]) -> list[list[Recording]]:
    parts: dict[Hashable, list[Recording]] = defaultdict(list)
    for recording in group:
        try:
            parts[feature(recording.path)].append(recording)
        except OSError:  # not there, or not readable: check-data says so
            continue
    return [part for part in parts.values() if len(part) > 1]


def _size(path: Path) -> int:
    """Of a file with something in it; many empty ones are not one sound."""
    size = path.stat().st_size
    if not size:
        raise OSError("empty")
    return size


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)
