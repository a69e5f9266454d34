"""The bag: the ensemble members that the station runs, and their scores. Knows no training and no
soundscape."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge.contract.audio import IMAGE_SHAPE, Image
from edge.contract.errors import CorpusError
from edge.contract.screen import say
from trainer.files import write_json
from trainer.run import MemberInfo, Run


def score_images(
    networks: Sequence[nn.Module], images: Image, batch: int = 64
) -> NDArray[np.float32]:
    """Sigmoid scores `(members, n, species)` of grey images `(n, 128, 281)`, each network on the
    device of its weights."""
    if images.dtype != np.uint8 or images.shape[1:] != IMAGE_SHAPE:
        raise ValueError(
            f"expected uint8 images (n, *{IMAGE_SHAPE}), found {images.dtype} {images.shape}"
        )
    return np.stack([_score(network, images, batch) for network in networks])


def _score(network: nn.Module, images: Image, batch: int) -> NDArray[np.float32]:
    device = next(network.parameters()).device
    parts = []
    with torch.inference_mode():
        # Without images, one empty batch gives the number of species.
        for start in range(0, max(len(images), 1), batch):
            grey = torch.from_numpy(np.ascontiguousarray(images[start : start + batch]))[
                :, None
            ].to(device)
            parts.append(torch.sigmoid(network(grey.float()).float()).cpu().numpy())
    return np.concatenate(parts)


def choose(
    members: Sequence[MemberInfo], per_fold_max: int, by_form: bool = False
) -> list[MemberInfo]:
    """The best member of each kind in each fold by F1 on the crops of the fold, at most
    `per_fold_max` per fold; `by_form`: the best of each architecture.

    Ordered by kind, then fold; ties are broken by name, so that the choice is always the same.
    """
    best: dict[tuple[int, str, str], MemberInfo] = {}
    for member in sorted(members, key=_rank):
        # Heads of both forms are one kind, and complement each other.
        form = member.architecture if by_form else ""
        best.setdefault((member.fold, member.kind, form), member)
    chosen = []
    for fold in sorted({fold for fold, _, _ in best}):
        mine = (m for (f, _, _), m in best.items() if f == fold)
        chosen += sorted(mine, key=_rank)[:per_fold_max]
    return sorted(chosen, key=lambda m: (m.kind, m.fold))


def _rank(member: MemberInfo) -> tuple[float, str]:
    """Sort key: the lower end of the interval of F1, which is F1 itself without
    validation.bootstrap."""
    f1 = member.valid_f1 if member.valid_f1_low is None else member.valid_f1_low
    return -f1 if np.isfinite(f1) else 1.0, member.name


def choose_bag(run: Run) -> None:
    """Write bag.json. Raises CorpusError if a fold has no finished member."""
    members = run.members()
    missing = sorted(set(range(run.recipe.folds.count)) - {member.fold for member in members})
    if missing:
        folds = ", ".join(map(str, missing))
        raise CorpusError(
            f"{run.folder}: no finished member of fold {folds}; run: python -m trainer "
            f"{'fit-heads' if run.recipe.transfer else 'fit-cnn'}"
        )
    heads = run.recipe.transfer is not None
    bag = choose(members, run.recipe.bag.per_fold_max, heads)
    write_json(run.folder / "bag.json", {"members": [member.name for member in bag]})
    f1 = [member.valid_f1 for member in bag]
    say(f"bag: {len(bag)} of {len(members)} members, F1 {min(f1):.3f} to {max(f1):.3f}")
