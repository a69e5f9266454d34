"""The one rule by which costs are compared: rounds in turn, the median of their ratios, and its
interval.

    costs = interleaved({"before": cost_before, "after": cost_after})
    ratio = Ratio.of(costs["after"], costs["before"])
    print(ratio, ratio.verdict(1.05))

A machine drifts within minutes, so two costs are only compared within a round. Knows nothing of
what is measured.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

ROUNDS = 7
_COVERAGE_MIN = 0.95


def interleaved(
    works: Mapping[str, Callable[[], float]], rounds: int = ROUNDS
) -> dict[str, list[float]]:
    """Cost of each work in each round. All of a round run one after the other, in every second
    round from the last to the first, so that a machine that gets slower favours none."""
    if rounds < ROUNDS:
        raise ValueError(f"expected at least {ROUNDS} rounds, found {rounds}")
    costs: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds):
        for name in list(works)[:: -1 if number % 2 else 1]:
            costs[name].append(works[name]())
    return costs


@dataclass(frozen=True)
class Ratio:
    """Median of the ratios of all rounds, and an interval that holds the true median with 95 % or
    more."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, costs: Sequence[float], others: Sequence[float]) -> "Ratio":
        """`costs` in units of `others`, round by round. Raises ValueError for what is no ratio."""
        if not all(0 < value < math.inf for value in (*costs, *others)):
            raise ValueError("no ratio of what is not above 0")
        ratios = sorted(cost / other for cost, other in zip(costs, others, strict=True))
        rank = interval_rank(len(ratios))
        return cls(statistics.median(ratios), ratios[rank], ratios[-1 - rank])

    def verdict(self, bound: float) -> str:
        """Whether it is worse than `bound`: said only where the whole interval is."""
        if self.low > bound:
            return "worse"
        return "not worse" if self.high <= bound else "not shown to be worse"

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def interval_rank(count: int) -> int:
    """How many of the smallest and of the largest of `count` values lie outside the interval of
    their median.

    By order statistics, which ask nothing of the distribution: values r + 1 to n - r hold the
    median with probability 1 - 2 * sum of C(n, i) / 2^n over i = 0 to r (David and Nagaraja, Order
    Statistics, 2003, section 7.1).
    """
    outside = 0.0
    rank = 0
    for tail in range(count // 2):
        outside += 2 * math.comb(count, tail) / 2**count
        if 1 - outside < _COVERAGE_MIN:
            break
        rank = tail
    return rank
