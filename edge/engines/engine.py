"""Interface of all engines, and the mapping of a network's output to scores of the bundle's
species. Knows no engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge.contract.audio import Input
from edge.contract.blend import Scores, scaled
from edge.contract.bundle import Bundle, BundleMember

_SOUNDS_AT_ONCE = 2


class Engine(Protocol):
    """The members of a bundle on a runtime of this machine."""

    @property
    def name(self) -> str:
        """The runtime's name in health and in the rows of a replay."""

    @property
    def tolerance(self) -> float:
        """Largest difference of a probe score that is explained by this engine's precision."""

    def scores(self, inputs: Input, members: Sequence[int] | None = None) -> Scores:
        """Sigmoid scores `(members, n, species)` float32 of all members, or of those given.

        `inputs` are grey images `(n, 128, 281)` uint8 or samples `(n, 160000)` float32, as the
        networks require. NaN: the member does not know the species. Raises EngineError if the
        machine fails.
        """

    def close(self) -> None:
        """Release what the engine holds; it is not used again."""


@dataclass(frozen=True)
class Answer:
    """Source of one member's scores, and the species that they belong to."""

    file: Path  # the network's; several members may share one
    output: str | None = None  # the network's output; None: the first
    # indices of its species in the taxonomy; None: it knows all, in that order
    columns: Sequence[int] | None = None
    species: int | None = None  # number in the taxonomy; None: as many as the network gives
    scale: Scores | None = None  # (2, its species): slopes and offsets of its log-odds

    @property
    def width(self) -> int | None:
        """Number of scores that the network gives for a window; None: any number."""
        return self.species if self.columns is None else len(self.columns)


def answers_of(
    bundle: Bundle, networks: Sequence[BundleMember], files: Sequence[str] | None = None
) -> list[Answer]:
    """Answers of these networks of a bundle; `files` of the bundle replace those in full
    precision."""
    found = []
    for network, file in zip(networks, files or [one.file for one in networks], strict=True):
        columns = (
            None
            if network.species is None
            else [bundle.taxonomy.index(code) for code in network.species]
        )
        species = len(bundle.taxonomy)
        found.append(
            Answer(bundle.folder / file, network.output, columns, species, bundle.scale(network))
        )
    return found


def as_answers(members: Sequence[Path | Answer]) -> list[Answer]:
    """Members as Answers: a plain file gives the scores of all species in its first output."""
    return [member if isinstance(member, Answer) else Answer(member) for member in members]


def arranged(found: Sequence[Scores], answers: Sequence[Answer]) -> Scores:
    """Outputs of the networks, `(n, their species)` each, as scores `(members, n, species)`."""
    if all(answer.columns is None and answer.scale is None for answer in answers):
        return np.stack(found)
    width = (
        next((answer.species for answer in answers if answer.columns is not None), None)
        or found[0].shape[1]
    )
    scores = np.full((len(found), len(found[0]), width), np.nan, np.float32)
    for row, raw, answer in zip(scores, found, answers, strict=True):
        columns = slice(None) if answer.columns is None else list(answer.columns)
        row[:, columns] = raw if answer.scale is None else scaled(raw, answer.scale)
    return scores


def at_once(inputs: Input, shape: Sequence[int]) -> list[Input]:
    """Windows in parts of the size at which a CPU runtime is fastest.

    Networks that take the sound hold some megabytes a window between two layers: two windows stay
    in the cache, with sixteen each costs a quarter more. Images are not divided.
    """
    if len(shape) > 1 or len(inputs) <= _SOUNDS_AT_ONCE:
        return [inputs]
    return [inputs[at : at + _SOUNDS_AT_ONCE] for at in range(0, len(inputs), _SOUNDS_AT_ONCE)]


def float_batch(inputs: Input, shape: Sequence[int], pairs: bool = False) -> NDArray[np.float32]:
    """Windows `(n, 128, 281)` or `(n, 160000)` as the networks' input, `(n, *shape)` float32,
    converted once for all of them.

    With `pairs` a single window is doubled. No windows become one of silence, since graphs that
    fold sound into frames cannot take an empty batch. The caller keeps as many scores as there were
    windows.
    """
    if not len(inputs):
        return np.zeros((1, *shape), np.float32)
    several = np.repeat(inputs, 2, axis=0) if pairs and len(inputs) == 1 else inputs
    return np.ascontiguousarray(several.reshape(len(several), *shape), np.float32)
