"""What an edit between two fit-alls touches, and the list of all edits.

An edit is a function of the ground and of chance. It returns what it touches, or None where it
cannot be done now.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.helpers.trainer_ground import Ground
from trainer.pipeline.stages import STAGES

Stages = frozenset[str]
ALL: Stages = frozenset(STAGES)
NOTHING: Stages = frozenset()
LATER = frozenset({"fit-cnn", "bag", "tune", "report"})  # from the networks on
COUNTED = frozenset({"check-data", "report"})
TUNED = frozenset({"tune", "report"})


@dataclass(frozen=True)
class Touched:
    """Stages that must be made again for an edit alone, and those that may be. `refused` is a part
    of the line where the edit cannot be gone on with; it is taken back then. `trained`: networks
    that may be; None: all."""

    must: Stages = NOTHING
    may: Stages = NOTHING
    refused: str = ""
    trained: tuple[str, ...] | None = None


Edit = Callable[[Ground, random.Random], Touched | None]
EDITS: dict[str, Edit] = {}


def edit(function: Edit) -> Edit:
    """An edit by its name."""
    EDITS[function.__name__.replace("_", " ")] = function
    return function
