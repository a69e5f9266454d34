"""Allowed differences of scores from torch's in float32, by precision: one rule for all
runtimes."""

from dataclasses import dataclass

import numpy as np

from edge.contract.blend import Scores
from edge.contract.bundle import HALF_TOLERANCE, PROBE_TOLERANCE
from edge.engines.engine_record import Precision
from edge.engines.openvino import CpuPrecision

_ALLOWED = {  # largest and mean |Δscore|; 8 bits are evaluated by decisions instead
    # Exports keep a tenth of it; other machines round differently.
    "fp32": (PROBE_TOLERANCE, PROBE_TOLERANCE),
    "fp16": (HALF_TOLERANCE, 0.002),
    "bf16": (HALF_TOLERANCE, 0.002),
    "int8": (1.0, 1.0),
}


@dataclass(frozen=True)
class Parity:
    """Differences of scores; NaN if a score is NaN."""

    largest: float
    mean: float

    def holds(self, precision: Precision | CpuPrecision) -> bool:
        """True if the differences are within the tolerance for rounding."""
        largest, mean = _ALLOWED[precision]
        return self.largest <= largest and self.mean <= mean  # false for NaN

    def __str__(self) -> str:
        return f"max |Δp| {self.largest:.2g}, mean {self.mean:.2g}"


def parity(scores: Scores, reference: Scores) -> Parity:
    """Parity of arrays of one shape, where the reference has a score: a member may lack a
    species."""
    apart = np.abs(scores - reference)[~np.isnan(reference)]
    return Parity(float(np.max(apart)), float(np.mean(apart)))


def allowed(precision: Precision | CpuPrecision) -> str:
    """The rule in words."""
    largest, mean = _ALLOWED[precision]
    return f"max {largest:g}, mean {mean:g}"
