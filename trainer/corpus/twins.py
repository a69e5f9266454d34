"""Files of a corpus with the same bytes: one sound under several names, which must not be learnt
from and judged on.

Knows no tables and decodes nothing. A sound that was encoded or tagged anew is another one here.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path

from edge.contract.bundle import file_sha256
from trainer.corpus.recordings import Recording

_HEAD_BYTES = 65_536  # where most files of one size differ


def same_sound(recordings: Iterable[Recording]) -> list[list[str]]:
    """Groups of two recordings or more whose files are the same, by key."""
    found = list(recordings)
    return [[found[i].recording for i in group] for group in same_files([r.path for r in found])]


def same_files(paths: Sequence[Path]) -> list[list[int]]:
    """Groups of two files or more that are the same, by their positions; whole files are read only
    where size and beginning are. What is empty or cannot be read is in no group."""
    groups = [list(range(len(paths)))]
    for feature in (_size, _head, file_sha256):
        groups = [part for group in groups for part in _split(group, paths, feature)]
    return groups


def two_species(group: Iterable[Recording]) -> bool:
    """Whether recordings of one sound are said to be of more species than one: then nobody knows
    which is right."""
    return len({recording.primary_label for recording in group}) > 1


def _split(
    group: Sequence[int], paths: Sequence[Path], feature: Callable[[Path], Hashable]
) -> list[list[int]]:
    parts: dict[Hashable, list[int]] = defaultdict(list)
    for i in group:
        try:
            parts[feature(paths[i])].append(i)
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
