"""The species that the labels of a corpus stand for: those of a model where it knows them, else
species of their own.

All labels are looked at together, so that one message names everything that is not recognised.
Knows no file and no recording."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edge.contract.errors import CorpusError
from edge.contract.taxonomy import Species
from edge.contract.text import printable
from trainer.corpus.species_names import Label, SpeciesNames, squeezed
from trainer.corpus.tables import Problems

ONE_SPECIES = "names that are one species"


@dataclass(frozen=True)
class LabelMeanings:
    """The species of each label, and the code under which a model knows a species of the corpus."""

    species: Mapping[Label, Species]
    known: Mapping[str, str]


def meanings_of(
    labels: Sequence[Label],
    names: SpeciesNames | None,
    new: Sequence[str],
    data: Path,
    problems: Problems,
) -> LabelMeanings:
    """The species of labels, which are none of backgrounds. Without `names` every label is a
    species of its own; `new` are the names of species that the model does not know. Labels of one
    species are noted as a problem. Raises CorpusError with all labels that are not recognised."""
    if names is None:
        found = {label: label.species for label in labels}
        known: dict[str, str] = {}
    else:
        found = _recognised(labels, names, new, data)
        codes = {species.code for species in found.values()}
        known = {code: code for code in sorted(codes) if code in names.by_code}
    by_code: dict[str, list[Label]] = {}
    for label in sorted(found, key=lambda label: label.text):
        by_code.setdefault(found[label].code, []).append(label)
    for code, alike in sorted(by_code.items()):
        texts = sorted({printable(label.text) for label in alike})
        if len(texts) > 1:
            problems.add(ONE_SPECIES, f"{', '.join(texts)}: {code}")
        # The fullest names, whichever label has them.
        fullest = max((found[label] for label in alike), key=lambda s: bool(s.scientific_name))
        found |= dict.fromkeys(alike, fullest)
    return LabelMeanings(found, known)


def is_new(label: Label, new: Sequence[str]) -> bool:
    """True if a label is declared as a species that the model does not know."""
    mine = {squeezed(name) for name in (label.text, label.code, label.scientific, label.common)}
    return any(squeezed(name) in mine for name in new)


def require_recognised(
    data: Path, unknown: Mapping[str, Sequence[str]], ambiguous: Mapping[str, Sequence[str]]
) -> None:
    """Raise CorpusError naming every unknown name with the nearest ones, and every ambiguous one
    with its species."""
    told = [
        f"{name!r} (nearest: {', '.join(near)})" if near else f"{name!r} (nothing like it)"
        for name, near in sorted(unknown.items())
    ]
    told += [f"{name!r} (may be {' or '.join(of)})" for name, of in sorted(ambiguous.items())]
    if not told:
        return
    some = [*sorted(unknown), *sorted(ambiguous)][0]
    is_one = "1 name is" if len(told) == 1 else f"{len(told)} names are"
    raise CorpusError(
        f"{data}: {is_one} not of a species that the model knows: {'; '.join(told)}; correct the "
        f"name, or declare a species that the model does not know: --new {some!r}"
    )


def require_met(data: Path, labels: Sequence[Label], new: Sequence[str]) -> None:
    """Raise CorpusError for a name of `new` that no label of the corpus has."""
    for name in new:
        if not any(is_new(label, [name]) for label in labels):
            there = sorted({printable(label.text) for label in labels})
            shown = ", ".join(there[:10]) + (" …" if len(there) > 10 else "")
            raise CorpusError(
                f"{data}: --new {name!r}: no such species in this corpus; expected one of {shown}"
            )


def _recognised(
    labels: Sequence[Label], names: SpeciesNames, new: Sequence[str], data: Path
) -> dict[Label, Species]:
    found: dict[Label, Species] = {}
    unknown: dict[str, list[str]] = {}
    ambiguous: dict[str, list[str]] = {}
    for label in labels:
        if is_new(label, new):
            found[label] = _own(label.species, names)
            continue
        species = names.find(label)
        if len(species) == 1:
            found[label] = species[0]
        elif species:
            ambiguous[printable(label.text)] = [f"{s.scientific_name} ({s.code})" for s in species]
        else:
            asked = label.common or label.scientific or label.code
            unknown[printable(label.text)] = names.nearest(asked)
    require_recognised(data, unknown, ambiguous)
    require_met(data, labels, new)
    return found


def _own(species: Species, names: SpeciesNames) -> Species:
    """A species that the model does not know, with a code that is none of the model's."""
    if species.code not in names.by_code:
        return species
    return replace(species, code=f"{species.code[:28]}_new")
