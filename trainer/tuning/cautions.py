"""Warnings against using a run: its networks do not distinguish species, or recognise no birds.

Reads the results of stages in a Run; computes no score of its own.
"""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape

from trainer.files import read_json
from trainer.run import SCHEMA, Run
from trainer.tuning.out_of_fold import CropScore, CropTable

_SURE = 2.0  # standard deviations by which a score must exceed guessing
_BASIS = {
    "soundscapes": "the labelled soundscapes",
    "mixtures": "recordings not heard in training, mixed over backgrounds,",
}
_SHOWN = 10  # species named in a line
_NOTHING = 0.0005  # a smaller F1 is shown as 0.000


def guessing(table: CropTable, crops: CropScore) -> dict[str, float]:
    """Balanced accuracy of guessing among the species that have crops, and its upper limit by luck
    with so many recordings (crops of one recording are alike, so recordings count, not crops)."""
    recordings = Counter(key.split("/")[0] for key in set(table.recordings))
    species = [score.code for score in crops.species if score.crops]
    if len(species) < 2:
        return {}  # there is nothing to guess
    share = 1.0 / len(species)
    variance = sum(share * (1.0 - share) / recordings[code] for code in species) / len(species) ** 2
    return {
        "guessing": round(share, 4),
        "guessing_high": round(min(1.0, share + _SURE * math.sqrt(variance)), 4),
    }


def cautions(run: Run, tuned: bool = True) -> list[str]:
    """A line for each reason against using the run, from its finished stages; none for a good run.
    Without `tuned`, tuning is ignored, since it may be that of other networks."""
    found = []
    if run.schema != SCHEMA:
        found.append(
            "this run was made by an older version, which recorded no inputs of its stages: it is "
            "not known whether its parts fit together"
        )
    out_of_fold = _figures(run, "oof.json")
    high = out_of_fold.get("guessing_high")
    if high is not None and out_of_fold["balanced_accuracy"] <= high:
        found.append(
            "this model cannot be told from guessing: in recordings that it was not trained on, "
            f"its balanced accuracy is {out_of_fold['balanced_accuracy']:.3f}; guessing gives "
            f"{out_of_fold['guessing']:.3f}, with luck {high:.3f}. Do not use it. More recordings "
            "of each species, or more epochs, may help"
        )
    elif _unsure(run):
        found.append(
            "no network of this model is ever sure of a sound that it was not trained on (F1 0.000 "
            "at a score of 0.5): its scores are low, and so are its thresholds. More recordings of "
            "each species, or more epochs, may help"
        )
    found += _of_heads(run, out_of_fold)
    scores = _figures(run, "tune.json").get("scores", {}) if tuned else {}
    if scores.get("basis") in _BASIS:
        f1 = scores["blended"]["f1"]
        silent = scores["blended"]["f1_all_nocall"]
        if f1 <= silent:
            found.append(
                f"on {_BASIS[scores['basis']]} this model is no better than saying 'no bird' "
                f"throughout (row F1 {f1:.3f}, 'no bird' throughout {silent:.3f})"
            )
    return found


def _of_heads(run: Run, out_of_fold: Mapping[str, Any]) -> list[str]:
    """What nobody can know of heads on a published model."""
    if run.recipe.transfer is None:
        return []
    found = []
    counts = _figures(run, "check.json").get("counts", {})
    unknown = out_of_fold.get("not_judged", [])
    if unknown:
        shown = ", ".join(unknown[:_SHOWN]) + (
            f" and {len(unknown) - _SHOWN} more" * (len(unknown) > _SHOWN)
        )
        found.append(
            f"{shown}: learnt, but nobody can say how well: of each there is one recording, or all "
            "are of one place and season. Add recordings of another day or place"
        )
    if 0 in (counts.get("recordings_with_place"), counts.get("recordings_with_date")):
        found.append(
            "no recording says where and on which day it was made: recordings of one bird on one "
            "morning may be learnt from and judged by, so these figures may be too high"
        )
    if out_of_fold.get("backgrounds") == "pink noise":
        found.append(
            "what no bird is was learnt from pink noise alone: expect more false detections in the "
            "field than these figures say. Give a folder of sounds without birds: --nocall FOLDER"
        )
    return found


def tell_cautions(run: Run, console: Console, tuned: bool = True) -> None:
    """Print the reasons against using the run."""
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
