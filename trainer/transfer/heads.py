"""Heads: small networks from the embedding of a window to logits of species, and their training.

A window has several stretches, which the backbone hears one by one; a head answers for each, and
the highest answer counts, as in the backbone. Knows no sound and no files.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from trainer.recipe import HeadForm, OptimiserRecipe, TransferRecipe

Floats = NDArray[np.float32]

# Length of a normalised embedding: with 1, ridge and learning rates would have to be far from the
# usual ones.
LENGTH = 4.0
LENGTH_MIN = 1e-6
_STEPS = 100  # of L-BFGS at most


class Head(nn.Module):
    """Embeddings `(n, stretches, width)` to logits `(n, species)`."""

    def __init__(
        self, form: HeadForm, width: int, species: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.layers: nn.Module
        if form == "logistic":
            self.layers = nn.Linear(width, species)
        else:
            self.layers = nn.Sequential(
                nn.Dropout(dropout),
                nn.Linear(width, hidden),
                nn.ReLU(),
                nn.Dropout(dropout),
                nn.Linear(hidden, species),
            )

    def forward(self, embedding: Tensor) -> Tensor:
        logits: Tensor = self.each(embedding).amax(dim=1)
        return logits

    def each(self, embedding: Tensor) -> Tensor:
        """Logits of each stretch, `(…, species)`."""
        length = embedding.square().sum(dim=-1, keepdim=True).sqrt().clamp(min=LENGTH_MIN)
        logits: Tensor = self.layers(embedding / length * LENGTH)
        return logits


@dataclass(frozen=True)
class LearningSet:
    """Stretches to learn from."""

    embedding: Floats  # (n, width)
    target: Floats  # (n, species), 0 to 1
    weight: Floats  # (n,) mean 1


@dataclass(frozen=True)
class LearningStep:
    """A step of training, as shown in the report."""

    step: int
    loss: float


def build_head(form: HeadForm, width: int, species: int, recipe: TransferRecipe) -> Head:
    """A new head with weights of zero (logistic) or at random (MLP)."""
    head = Head(form, width, species, recipe.width, recipe.dropout)
    if form == "logistic":
        for parameter in head.parameters():
            nn.init.zeros_(parameter)
    return head


def fit_logistic(head: Head, learning: LearningSet, recipe: TransferRecipe) -> list[LearningStep]:
    """Logistic regression, one against the rest for each species, with ridge, by L-BFGS.

    The ridge of a species is in proportion to its share of all examples: among four hundred species
    each has few, and would otherwise learn nothing but to be rare."""
    parts = (learning.embedding, learning.target, learning.weight)
    inputs, target, weight = (torch.from_numpy(np.ascontiguousarray(p)) for p in parts)
    matrix = next(p for p in head.parameters() if p.ndim > 1)
    share = (target * weight[:, None]).sum(dim=0) / weight.sum()
    optimiser = torch.optim.LBFGS(
        head.parameters(), max_iter=_STEPS, history_size=10, line_search_fn="strong_wolfe"
    )
    steps: list[LearningStep] = []

    def loss() -> Tensor:
        optimiser.zero_grad()
        each = functional.binary_cross_entropy_with_logits(
            head.each(inputs), target, reduction="none"
        )
        total = (each.sum(dim=1) * weight).mean()
        total = total + recipe.ridge * (share[:, None] * matrix.square()).sum()
        total.backward()  # type: ignore[no-untyped-call]
        steps.append(LearningStep(len(steps) + 1, float(total.detach())))
        return total

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return steps


def fit_mlp(
    head: Head, learning: LearningSet, recipe: TransferRecipe, optimiser: OptimiserRecipe, seed: int
) -> list[LearningStep]:
    """A perceptron with one hidden layer, dropout and mixup (Zhang et al. 2018), whose learning
    rate falls along a cosine. The stretches of an epoch are drawn by their weights."""
    parts = (learning.embedding, learning.target)
    inputs, target = (torch.from_numpy(np.ascontiguousarray(p)) for p in parts)
    chance = torch.from_numpy(learning.weight.astype(np.float64))
    dice = torch.Generator().manual_seed(seed)
    mixing = np.random.default_rng(seed)
    kind = torch.optim.AdamW if optimiser.name == "adamw" else torch.optim.Adam
    rates = optimiser.learning_rate_min, optimiser.learning_rate
    adam = kind(head.parameters(), lr=rates[1], weight_decay=optimiser.weight_decay)
    batches = -(-len(inputs) // optimiser.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        adam, recipe.epochs * batches, eta_min=rates[0]
    )
    head.train()
    steps = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # dropout's
        for epoch in range(recipe.epochs):
            drawn = torch.multinomial(chance, len(inputs), replacement=True, generator=dice)
            total = 0.0
            for rows in torch.split(drawn, optimiser.batch):
                others = rows[torch.randperm(len(rows), generator=dice)]
                share = float(mixing.beta(recipe.mixup_alpha, recipe.mixup_alpha))
                adam.zero_grad()
                loss = functional.binary_cross_entropy_with_logits(
                    head.each(share * inputs[rows] + (1 - share) * inputs[others]),
                    share * target[rows] + (1 - share) * target[others],
                )
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
                schedule.step()
                total += float(loss.detach())
            steps.append(LearningStep(epoch + 1, total / batches))
    head.eval()
    return steps


def scores_of(head: Head, embedding: Floats, batch: int = 4096) -> Floats:
    """Sigmoid scores `(n, species)` of windows `(n, stretches, width)`."""
    head.eval()
    found = []
    with torch.inference_mode():
        # Without windows, one empty batch gives the number of species.
        for at in range(0, max(len(embedding), 1), batch):
            part = torch.from_numpy(np.ascontiguousarray(embedding[at : at + batch]))
            found.append(torch.sigmoid(head(part)).numpy())
    scores: Floats = np.concatenate(found)
    return scores
