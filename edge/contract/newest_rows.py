"""The newest rows of an array that grows at one end. Knows nothing of sound."""

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]


class Recent:
    """The newest rows of an array that grows endlessly at one end, contiguous in memory."""

    def __init__(self, *row: int, begin: int = 0) -> None:
        self._rows = np.empty((0, *row), np.float32)
        self._from = self._to = 0  # range in use of _rows
        self.begin = begin  # number of the first row that is kept

    @property
    def end(self) -> int:
        """Number of the next row."""
        return self.begin + self._to - self._from

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return self._rows.nbytes

    def grow(self, count: int) -> Rows:
        """Space for the next rows, to be written to."""
        if self._to + count > len(self._rows):
            kept = self._rows[self._from : self._to]
            if len(kept) + count > len(self._rows):
                self._rows = np.empty((len(kept) + count, *kept.shape[1:]), np.float32)
            self._rows[: len(kept)] = kept
            self._from = 0
            self._to = len(kept)
        self._to += count
        return self._rows[self._to - count : self._to]

    def between(self, first: int, stop: int) -> Rows:
        """Rows from `first` up to `stop`, as far as they are kept."""
        at = self._from - self.begin
        return self._rows[max(first, self.begin) + at : max(min(stop, self.end), self.begin) + at]

    def forget(self, first: int) -> None:
        """Keep only rows from `first` on."""
        dropped = max(0, min(first, self.end) - self.begin)
        self._from += dropped
        self.begin += dropped
