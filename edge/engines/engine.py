"""What every engine can do. Knows none of them."""

from collections.abc import Sequence
from typing import Protocol

from edge.contract.audio import Image
from edge.contract.blend import Scores


class Engine(Protocol):
    """The members of a bundle on a runtime of this machine."""

    @property
    def name(self) -> str:
        """The runtime, as health and the rows of a replay call it."""

    @property
    def tolerance(self) -> float:
        """Largest difference of a score of the probe that still is the same model, in this engine's precision."""

    def scores(self, images: Image, members: Sequence[int] | None = None) -> Scores:
        """Grey images `(n, 128, 281)` uint8 to sigmoid scores `(members, n, species)` float32; of all members, or of
        these. Raises EngineError if the machine fails."""

    def close(self) -> None:
        """Give back what the engine holds; it is not used again."""
