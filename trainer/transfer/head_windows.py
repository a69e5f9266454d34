"""What heads learn from and are judged on: the windows of all recordings with species and fold, and
the scores of heads for the folds that they have not heard. Knows no training.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.corpus.folds import read_folds
from trainer.corpus.recordings import Corpus
from trainer.files import read_npz
from trainer.run import SCORES, Run
from trainer.transfer.embeddings import Embeddings

KIND = "head"
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
# A window counts as having a call if the backbone's highest score of any animal is this, or half of
# the highest of its recording.
_CALL = 0.1
_CALL_SHARE = 0.5
_PARTS = ("rows", "scores", "mixed", "background_rows", "backgrounds", "known")


@dataclass(frozen=True)
class TransferSet:
    """The windows of all recordings and what is known of them."""

    recording: Ints  # (n,) number of the recording
    primary: Ints  # (n,) index of its species
    secondary: NDArray[np.bool_]  # (n, species) in the background of the recording
    fold: Ints  # (n,)
    calling: NDArray[np.bool_]  # (n,) something calls there
    rating: Floats  # (n,) of the recording, 0 to 1
    background_fold: Ints  # (m,) of the windows without birds
    classes: int

    def knows(self, fold: int) -> NDArray[np.bool_]:
        """The species that have a recording outside a fold, `(species,)`."""
        known = np.zeros(self.classes, bool)
        known[self.primary[self.fold != fold]] = True
        return known


@dataclass(frozen=True)
class HeadScores:
    """Scores of a head for the fold that it was not trained on."""

    rows: Ints  # (n,) windows
    scores: Floats  # (n, species) as they are
    mixed: Floats  # (copies, n, species) over backgrounds
    background_rows: Ints  # (m,)
    backgrounds: Floats  # (m, species)
    known: NDArray[np.bool_]  # (species,) those that it was trained on


def transfer_set(run: Run, corpus: Corpus, embeddings: Embeddings) -> TransferSet:
    """Arrange windows by recording, species and fold. Backgrounds go to folds by their files."""
    placed = {p.recording: p.fold for p in read_folds(run.folder / "folds.csv")}
    known = {r.recording: r for r in corpus.recordings}
    counts = [entry.count for entry in embeddings.entries]
    mine = [known[entry.recording] for entry in embeddings.entries]
    species = len(corpus.taxonomy)
    secondary = np.zeros((len(mine), species), bool)
    for row, recording in zip(secondary, mine, strict=True):
        row[[corpus.taxonomy.index(code) for code in recording.secondary_labels]] = True
    highest = max((r.rating for r in mine), default=0.0)
    weighs = run.recipe.loss.rating_weight and highest > 0
    rating = [r.rating / highest if weighs else 1.0 for r in mine]
    call = embeddings.calls()
    number = np.repeat(np.arange(len(mine)), counts)
    best = np.zeros(len(mine), np.float32)
    np.maximum.at(best, number, call)
    backgrounds = embeddings.backgrounds()
    return TransferSet(
        recording=number,
        primary=np.repeat([corpus.taxonomy.index(r.primary_label) for r in mine], counts),
        secondary=np.repeat(secondary, counts, axis=0),
        fold=np.repeat([placed[r.recording] for r in mine], counts),
        calling=call >= np.minimum(_CALL, _CALL_SHARE * best)[number],
        rating=np.repeat(np.array(rating, np.float32), counts),
        background_fold=backgrounds.origin % run.recipe.folds.count,
        classes=species,
    )


def head_scores(run: Run, name: str) -> HeadScores:
    """Scores of a head for its fold. Raises CorpusError naming the file."""
    path = run.member_folder(name) / SCORES
    advice = f"remove {path.parent} and run: python -m trainer fit-all"
    return HeadScores(**read_npz(path, _PARTS, advice))
