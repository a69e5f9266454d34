"""Backbone and heads together: from windows of sound to scores of members on one scale, as the
exported bundle gives them. Knows no threshold."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge.contract.audio import WAVEFORM, FrontEnd, Input
from edge.contract.blend import Scores, scaled
from trainer.run import MemberInfo, Run
from trainer.transfer.backbone import FOLDER, Backbone
from trainer.transfer.embeddings import known_classes
from trainer.transfer.fit import load_head
from trainer.transfer.head_windows import KIND, head_scores
from trainer.transfer.heads import scores_of
from trainer.transfer.out_of_fold import OWN, Scales


class TransferEnsemble:
    """The members of a transfer run: its heads, then the backbone's own scores, if it knows any of
    the species."""

    front: FrontEnd = WAVEFORM

    def __init__(self, run: Run, bag: Sequence[MemberInfo]) -> None:
        self.backbone = Backbone.open(run.folder / FOLDER)
        self.scales = Scales.read(run)
        self.classes = known_classes(run.taxonomy, self.backbone.bundle.taxonomy)
        self.heads = [load_head(run, info, self.backbone.width) for info in bag]
        self._taxonomy = run.taxonomy
        self._trained = [trained_species(run, info) for info in bag]
        self.kinds = [KIND] * len(self.heads) + ([OWN] if self.classes else [])

    @property
    def known(self) -> NDArray[np.bool_]:
        """The species that each member knows, `(members, species)`."""
        own = [self.scales.known] if self.classes else []
        return np.stack([*self._trained, *own])

    def scores(self, inputs: Input) -> Scores:
        """Scores `(members, n, species)` of windows `(n, 160000)`; NaN: the member does not know
        the species."""
        heard = self.backbone.hear(inputs)
        found = [scaled(scores_of(head, heard.embedding), self.scales.head) for head in self.heads]
        if self.classes:
            own = np.full((len(inputs), len(self._taxonomy)), np.nan, np.float32)
            mine = [self._taxonomy.index(code) for code in self.classes]
            own[:, mine] = scaled(
                heard.scores[:, list(self.classes.values())], self.scales.own[:, mine]
            )
            found.append(own)
        scores = np.stack(found)
        return np.where(self.known[:, None, :], scores, np.float32(np.nan))


def trained_species(run: Run, info: MemberInfo) -> NDArray[np.bool_]:
    """Mask of the species that a head was trained on."""
    return head_scores(run, info.name).known
