"""Groups of alike vectors: average linkage on the cosine distance, cut at one distance.

    grouping = cut(tree_of(vectors), vectors, distance=0.4, smallest=3)

Of the ways tried (docs/log.md) this one kept species apart best without a number that depends on
how many there are. Knows no sound.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

Vectors = NDArray[np.float32]
Ints = NDArray[np.int64]
# Chosen on nine species: below it groups of one species fall apart, above it species grow together.
DISTANCE = 0.4
SMALLEST = 3  # members of a group; fewer are unlike anything
CLIPS_MAX = 10_000  # 400 MB of distances
UNSORTED = -1
_BLOCK = 512  # rows of the table of distances made at once


@dataclass(frozen=True)
class Partition:
    """The group of each vector, `(n,)`, 0 for the largest, UNSORTED for none; and its cosine
    distance to the middle of its group (NaN without one)."""

    group: Ints
    apart: NDArray[np.float64]

    @property
    def count(self) -> int:
        """Number of groups."""
        return int(self.group.max(initial=UNSORTED)) + 1

    def members(self, number: int) -> Ints:
        """Indices of a group's vectors, from its middle outwards."""
        mine = np.flatnonzero(self.group == number)
        return mine[np.argsort(self.apart[mine], kind="stable")]


def tree_of(vectors: Vectors) -> NDArray[np.float64]:
    """The linkage of vectors `(n, width)`, n at least 2, for `cut`."""
    unit = _unit(vectors)
    count = len(unit)
    assert 2 <= count <= CLIPS_MAX
    apart = np.empty(count * (count - 1) // 2)
    at = 0
    for first in range(0, count, _BLOCK):
        block = 1.0 - unit[first : first + _BLOCK] @ unit[first:].T
        for row, distances in enumerate(block):
            length = count - first - row - 1
            apart[at : at + length] = distances[row + 1 :]
            at += length
    tree: NDArray[np.float64] = linkage(np.maximum(apart, 0.0, out=apart), "average")
    return tree


def cut(
    tree: NDArray[np.float64] | None, vectors: Vectors, distance: float, smallest: int
) -> Partition:
    """Groups of at least `smallest` vectors that are within `distance` of each other in the mean;
    without a tree (fewer than two vectors) there are none."""
    count = len(vectors)
    found = np.full(count, UNSORTED, np.int64)
    apart = np.full(count, np.nan)
    if tree is None:
        return Partition(found, apart)
    labels = fcluster(tree, distance, "distance")
    unit = _unit(vectors)
    mine = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    kept = [rows for rows in mine if len(rows) >= smallest and np.any(unit[rows])]
    for number, rows in enumerate(sorted(kept, key=lambda rows: (-len(rows), rows[0]))):
        found[rows] = number
        middle = _unit(unit[rows].mean(axis=0))
        apart[rows] = np.maximum(0.0, 1.0 - unit[rows] @ middle)
    return Partition(found, apart)


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Vectors of length 1; one of zeros stays, at a distance of 1 from all."""
    wide = vectors.astype(np.float64)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), 1e-12))
