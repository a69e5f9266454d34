"""Scored rows without labelled soundscapes: recordings mixed over backgrounds, as heads score them
that have not heard the recording, each at its place and day. Knows no threshold."""

from collections.abc import Sequence

import numpy as np

from edge.contract.blend import Scores
from trainer.corpus.recordings import Corpus, Recording
from trainer.place.place_prior import place_scores
from trainer.run import MemberInfo, Run
from trainer.transfer.embeddings import FOLDER, Embeddings
from trainer.transfer.head_windows import transfer_set
from trainer.transfer.out_of_fold import KINDS, Scales
from trainer.transfer.unseen_rows import unseen_rows
from trainer.tuning.soundscape_scores import ScoredRows
from trainer.tuning.sweep import LabelledRows


def score_mixtures(run: Run, corpus: Corpus, bag: Sequence[MemberInfo]) -> ScoredRows:
    """Rows of the mixed copies and of backgrounds, each a stretch of its own: they have no
    neighbours. A background stands at the place of some recording."""
    embeddings = Embeddings(run.folder / FOLDER)
    found = unseen_rows(run, list(bag), transfer_set(run, corpus, embeddings))
    own = Scales.read(run).known
    known = np.stack([np.ones(len(own), bool), own])
    kinds = [index for index in range(len(KINDS)) if known[index].any()]
    scores = np.nan_to_num(found.scores[kinds], nan=0.0)
    silent = np.zeros((len(kinds), 1, len(own)), np.float32)
    by_key = {r.recording: r for r in corpus.recordings}
    recordings = [by_key[entry.recording] for entry in embeddings.entries]
    random = np.random.default_rng(run.recipe.seed)
    number = np.where(
        found.recording >= 0,
        found.recording,
        random.integers(len(recordings), size=len(found.recording)),
    )
    labelled = [
        (f"{group}-{row}", group, labels)
        for row, (group, labels) in enumerate(zip(found.group, found.labels, strict=True))
    ]
    padding = run.recipe.tune.padding[0]
    return ScoredRows(
        rows=LabelledRows.of(labelled, run.taxonomy),
        kinds=tuple(KINDS[index] for index in kinds),
        windows={padding: np.concatenate([scores, silent], axis=1).astype(np.float32)},
        stretch=np.arange(len(labelled) + 1),
        at=np.arange(len(labelled)),
        step=1,
        prior=_priors(run, recordings)[number],
        unreadable=(),
        known=known[kinds],
    )


def _priors(run: Run, recordings: Sequence[Recording]) -> Scores:
    """The prior of each recording, `(recordings, species)`; NaN where place, day or model is
    missing."""
    prior = np.full((len(recordings), len(run.taxonomy)), np.nan, np.float32)
    folder = run.metadata()
    if folder is None:
        return prior
    for row, recording in zip(prior, recordings, strict=True):
        if recording.latitude is None or recording.longitude is None or recording.date is None:
            continue
        day = recording.date.timetuple().tm_yday
        place = (recording.latitude, recording.longitude, day)
        row[:] = place_scores(folder, run.taxonomy, *(np.array([v], np.float32) for v in place))[0]
    return prior
