"""Identical files of a corpus: one sound under several names, which must not be both trained and
tested on.

Knows no tables and decodes nothing. A sound that was re-encoded or re-tagged counts as different.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cache
from pathlib import Path

from edge.contract.bundle import file_sha256
from trainer.corpus.sound import Recording

_HEAD_BYTES = 65_536  # most files of one size differ here


def same_sound(recordings: Iterable[Recording]) -> list[list[str]]:
    """Groups of two or more recordings with identical files, as keys. Segments of one file are no
    copies of each other; where their file has a copy, they are in one group with its recordings."""
    of_file = by_file(recordings)
    paths = list(of_file)
    return [[r.recording for i in group for r in of_file[paths[i]]] for group in same_files(paths)]


def by_file(recordings: Iterable[Recording]) -> dict[Path, list[Recording]]:
    """Recordings by their file, in order."""
    of_file: dict[Path, list[Recording]] = {}
    for recording in recordings:
        of_file.setdefault(recording.path, []).append(recording)
    return of_file


def same_files(paths: Sequence[Path]) -> list[list[int]]:
    """Groups of two or more identical files, as positions. Whole files are read only if size and
    beginning are equal, and once if a path occurs several times. Empty or unreadable files are in
    no group."""
    groups = [list(range(len(paths)))]
    for feature in (_size, _head, file_sha256):
        groups = [part for group in groups for part in _split(group, paths, cache(feature))]
    return groups


def two_species(group: Iterable[Recording]) -> bool:
    """True if recordings of one sound are labelled with several species, so that the right one is
    unknown. Labels that name each other as secondary ones agree: both are heard. Segments do not
    count: several species may be heard in a file."""
    recordings = [one for one in group if not one.is_segment]
    heard = {frozenset((one.primary_label, *one.secondary_labels)) for one in recordings}
    return len({one.primary_label for one in recordings}) > 1 and len(heard) > 1


def _split(
    group: Sequence[int], paths: Sequence[Path], feature: Callable[[Path], Hashable]
) -> list[list[int]]:
    parts: dict[Hashable, list[int]] = defaultdict(list)
    for i in group:
        try:
            parts[feature(paths[i])].append(i)
        except OSError:  # missing or unreadable: check-data reports it
            continue
    return [part for part in parts.values() if len(part) > 1]


def _size(path: Path) -> int:
    """Size of a file. Raises OSError for an empty one: empty files are not the same sound."""
    size = path.stat().st_size
    if not size:
        raise OSError("empty")
    return size


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)
