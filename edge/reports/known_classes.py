"""The classes of a bundle, and the score from which each of them counts as heard. Knows no sound
and no record."""

from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, replace
from math import isnan

from rich.markup import escape
from rich.table import Table

from edge.analysis.detector import rules_of
from edge.config import DetectSettings
from edge.contract.bundle import Bundle
from edge.demo.invented import REMEDY, notice_of


@dataclass(frozen=True)
class KnownClass:
    """One class of the bundle."""

    code: str
    scientific_name: str
    common_name: str
    kind: str  # bird, animal, human or sound
    # 0 to 1, for sound with a place and a date; None: detect.kinds leaves the class out
    threshold: float | None
    threshold_acoustic: float | None  # the same for sound without them


def known_species(bundle: Bundle, detect: DetectSettings, text: str = "") -> list[KnownClass]:
    """Classes with `text` in their code or names, upper or lower case, in the order of the model.

    Thresholds are those of the settings, else of the bundle. Codes in the settings that the bundle
    does not know are ignored here, since this list is where people look them up.
    """
    own = {code: score for code, score in detect.thresholds.items() if code in bundle.taxonomy}
    blended, alone = rules_of(bundle, replace(detect, thresholds=own))
    known = []
    for index, one in enumerate(bundle.taxonomy):
        names = (one.code, one.scientific_name, one.common_name)
        if text.casefold() in "\n".join(names).casefold():
            scores = (float(rules.thresholds[index]) for rules in (blended, alone))
            thresholds = (None if isnan(score) else round(score, 6) for score in scores)
            known.append(KnownClass(*names, one.kind, *thresholds))
    return known


def known_table(known: Iterable[KnownClass]) -> Table:
    """Table of these classes for people."""
    table = Table("code", "common name", "scientific name", "kind")
    table.add_column("heard from", justify="right")
    table.caption = "heard from: the score, with a place and a date / by sound alone"
    for one in known:
        scores = (
            "never" if score is None else f"{score:.2f}"
            for score in (one.threshold, one.threshold_acoustic)
        )
        table.add_row(
            *map(escape, (one.code, one.common_name, one.scientific_name)),
            one.kind,
            " / ".join(scores),
        )
    return table


def known_lines(bundle: Bundle, known: Sized) -> Iterator[str]:
    """Lines below the table, with markup: how many of the bundle's classes are `known`, and a
    notice if its birds are invented."""
    yield f"{len(known)} of {len(bundle.taxonomy)} classes of the bundle in {bundle.folder}"
    if notice := notice_of(bundle.manifest.taxonomy_digest):
        yield f"[yellow]The {notice}.[/]\n{REMEDY}."
