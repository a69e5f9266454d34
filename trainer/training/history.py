"""The epochs of a member as lines of history.csv. Knows no training."""

from dataclasses import dataclass, fields
from pathlib import Path

from trainer.files import read_csv
from trainer.run import HISTORY as FILE


@dataclass(frozen=True)
class Epoch:
    """One line of history.csv. Losses are means over crops; F1 is micro F1 at threshold 0.5 on the
    validation fold."""

    epoch: int
    train_loss: float
    valid_loss: float
    valid_f1: float
    valid_f1_low: float  # lower end of its interval with validation.bootstrap, else the same
    soundscape_f1: float  # row-wise F1 on labelled soundscapes with keep: soundscapes, else NaN
    seconds: float
    data_wait: float  # share of the seconds that the loop waited for batches


HISTORY = tuple(field.name for field in fields(Epoch))


def read_history(folder: Path) -> list[Epoch]:
    """Read the epochs of a member so far."""
    path = folder / FILE
    if not path.is_file():
        return []
    return [
        Epoch(int(r["epoch"]), *(float(r[name]) for name in HISTORY[1:]))
        for r in read_csv(path, HISTORY)
    ]
