"""What a person must be told before they trust a run: that its networks tell no species apart, or
hear no birds.

Reads what stages have left in a Run; computes no score of its own.
"""

import math
from collections import Counter
from typing import Any

from rich.console import Console
from rich.markup import escape

from trainer.files import read_json
from trainer.run import SCHEMA, Run
from trainer.tuning.oof import CropScore, CropTable

_SURE = 2.0  # standard deviations above guessing that a score must be
_NOTHING = 0.0005  # an F1 that is shown as 0.000


def guessing(table: CropTable, crops: CropScore) -> dict[str, float]:
    """Balanced accuracy of guessing among the species that have crops, and the most that luck makes
    of it with so many recordings (the crops of one recording are alike, so recordings count, not
    crops)."""
    recordings = Counter(key.split("/")[0] for key in set(table.recordings))
    species = [score.code for score in crops.species if score.crops]
    share = 1.0 / len(species)
    variance = sum(share * (1.0 - share) / recordings[code] for code in species) / len(species) ** 2
    return {
        "guessing": round(share, 4),
        "guessing_high": round(min(1.0, share + _SURE * math.sqrt(variance)), 4),
    }


def cautions(run: Run, tuned: bool = True) -> list[str]:
    """A line for everything that speaks against using the run, as far as its stages have come; none
    of a good one. Without `tuned` nothing is said of tuning, which may be that of other
    networks."""
    found = []
    if run.schema != SCHEMA:
        found.append(
            "this run was made by an older version, which kept no book of what was made from what: "
            "whether its parts fit each other cannot be told"
        )
    out_of_fold = _figures(run, "oof.json")
    high = out_of_fold.get("guessing_high")
    if high is not None and out_of_fold["balanced_accuracy"] <= high:
        found.append(
            "this model has learned nothing that can be told from luck: in recordings that it was "
            f"not trained on, its balanced accuracy is {out_of_fold['balanced_accuracy']:.3f}; "
            f"guessing has {out_of_fold['guessing']:.3f}, with luck {high:.3f}. Do not use it. "
            "More recordings of each species, or more epochs, may help"
        )
    elif _unsure(run):
        found.append(
            "no network of this model is ever sure of a sound that it was not trained on (F1 0.000 "
            "at a score of 0.5): its scores are low, and so are thresholds. More recordings of "
            "each species, or more epochs, may help"
        )
    scores = _figures(run, "tune.json").get("scores", {}) if tuned else {}
    if scores.get("basis") == "soundscapes":
        f1 = scores["blended"]["f1"]
        silent = scores["blended"]["f1_all_nocall"]
        if f1 <= silent:
            found.append(
                "on the labelled soundscapes this model is no better than saying 'no bird' "
                f"throughout (row F1 {f1:.3f}, 'no bird' throughout {silent:.3f})"
            )
    return found


def tell_cautions(run: Run, console: Console, tuned: bool = True) -> None:
    """What speaks against using the run, loudly."""
    for line in cautions(run, tuned):
        console.print(
            f"[bold red]warning:[/bold red] {escape(line)}", highlight=False, soft_wrap=True
        )


def _unsure(run: Run) -> bool:
    members = run.members()
    return bool(members) and all(member.valid_f1 < _NOTHING for member in members)


def _figures(run: Run, name: str) -> dict[str, Any]:
    path = run.folder / name
    return read_json(path) if path.is_file() else {}
