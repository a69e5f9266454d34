"""The ensemble of a run, whatever it is made of: networks on images, or heads on a backbone's
embedding. Knows no blend and no soundscape."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edge.contract.audio import IMAGE, FrontEnd, Input
from edge.contract.blend import Scores
from trainer.networks.model import load_network
from trainer.run import MemberInfo, Run
from trainer.transfer.ensemble import TransferEnsemble
from trainer.tuning.bag import score_images

_BATCH = 64  # windows; the last bit of a score may depend on the size of its batch


class Ensemble(Protocol):
    """Members that score windows together."""

    @property
    def front(self) -> FrontEnd:
        """What they take of a window."""

    @property
    def kinds(self) -> Sequence[str]:
        """The kind of each member."""

    @property
    def known(self) -> NDArray[np.bool_] | None:
        """The species that each member knows, `(members, species)`; None: all know all."""

    def scores(self, inputs: Input) -> Scores:
        """Scores `(members, n, species)` of windows."""


class ImageEnsemble:
    """Networks on grey images."""

    front: FrontEnd = IMAGE
    known: NDArray[np.bool_] | None = None

    def __init__(self, networks: Sequence[nn.Module], kinds: Sequence[str]) -> None:
        self.networks = networks
        self.kinds = list(kinds)

    def scores(self, inputs: Input) -> Scores:
        return score_images(self.networks, inputs, _BATCH)


def open_ensemble(run: Run, bag: Sequence[MemberInfo], device: str = "cpu") -> Ensemble:
    """The members of a run, its networks on a device. Raises CorpusError naming a damaged file."""
    if run.recipe.transfer is not None:
        return TransferEnsemble(run, bag)
    networks = [load_network(run, member.name).to(device) for member in bag]
    return ImageEnsemble(networks, [member.kind for member in bag])
