"""What every engine can do, and how a network's answer becomes scores of the bundle's species.
Knows no engine."""

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
        """The runtime, as health and the rows of a replay call it."""

    @property
    def tolerance(self) -> float:
        """Largest difference of a score of the probe that still is the same model, in this engine's
        precision."""

    def scores(self, inputs: Input, members: Sequence[int] | None = None) -> Scores:
        """Grey images `(n, 128, 281)` uint8 or samples `(n, 160000)` float32, whatever the networks
        take, to sigmoid scores `(members, n, species)` float32; of all members, or of these. NaN:
        the member does not know the species. Raises EngineError if the machine fails."""

    def close(self) -> None:
        """Give back what the engine holds; it is not used again."""


@dataclass(frozen=True)
class Answer:
    """Where one member's scores come from, and where they go."""

    file: Path  # of the network; several members may name one
    output: str | None = None  # of the network; None: the first
    columns: Sequence[int] | None = (
        None  # indices of its species in the taxonomy; None: it knows all, in that order
    )
    species: int | None = None  # of the taxonomy; None: as many as the network gives
    scale: Scores | None = None  # (2, its species): slopes and offsets of its log-odds

    @property
    def width(self) -> int | None:
        """How many scores the network gives of a window; None: any number."""
        return self.species if self.columns is None else len(self.columns)


def answers_of(
    bundle: Bundle, networks: Sequence[BundleMember], files: Sequence[str] | None = None
) -> list[Answer]:
    """What these networks of a bundle answer; `files` of the bundle in place of those in full
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
    """Bare files give the scores of all species in their first output."""
    return [member if isinstance(member, Answer) else Answer(member) for member in members]


def arranged(found: Sequence[Scores], answers: Sequence[Answer]) -> Scores:
    """What the networks gave, `(n, their species)` each, as scores `(members, n, species)`."""
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
    """Windows in parts as large as a CPU runtime is fastest with. What networks that take the sound
    hold between two layers is some megabytes a window: two stay in the cache, sixteen cost a
    quarter more each. Images go in whole."""
    if len(shape) > 1 or len(inputs) <= _SOUNDS_AT_ONCE:
        return [inputs]
    return [inputs[at : at + _SOUNDS_AT_ONCE] for at in range(0, len(inputs), _SOUNDS_AT_ONCE)]


def float_batch(inputs: Input, shape: Sequence[int], pairs: bool = False) -> NDArray[np.float32]:
    """Windows `(n, 128, 281)` or `(n, 160000)` as what the networks take, `(n, *shape)` float32,
    converted once for all of them; with `pairs` a lone one goes in twice. None is one of silence:
    graphs that fold sound into frames cannot be given none. Whoever asks takes as many scores as
    there were windows."""
    if not len(inputs):
        return np.zeros((1, *shape), np.float32)
    several = np.repeat(inputs, 2, axis=0) if pairs and len(inputs) == 1 else inputs
    return np.ascontiguousarray(several.reshape(len(several), *shape), np.float32)
