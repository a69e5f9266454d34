"""Labels of a model as species with codes, kinds, and names in several languages. Knows no
network."""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from edge.contract.errors import BundleError
from edge.contract.taxonomy import Kind, Species
from edge.contract.text import TextError, lines_of, text_of
from export.adopt.known import KnownModel

_CODE_MAX = 32
_SCIENTIFIC = ("scientific_name", "sci_name")
_COMMON = ("common_name", "com_name")
_CODES = ("code", "ebird_code")
# Never a bird, in any model.
_HUMAN = frozenset(("homo sapiens", "human vocal", "human non-vocal", "human whistle"))
# Words of labels of people in data sets of sound events: Human_voice, Male_singing
_PEOPLE = (
    "human",
    "speech",
    "voice",
    "singing",
    "conversation",
    "chatter",
    "crowd",
    "shout",
    "yell",
)
_VOICES = frozenset((*_PEOPLE, "screaming", "whispering", "laughter", "giggle", "crying"))


def read_labels(content: bytes, where: str) -> list[tuple[str, str, str | None]]:
    """Read scientific name, common name and code (or None) of each class. Lines are `Scientific
    name_Common name` or a scientific name alone; or the file is a table with commas or semicolons
    and a column scientific_name (or sci_name).

    Raises BundleError naming `where` if it is none of these.
    """
    try:
        lines = [line for line in lines_of(text_of(content)) if line.strip()]
    except TextError as error:
        raise BundleError(f"{where}: {error}") from error
    separator = ";" if lines and ";" in lines[0] else ","
    header = [cell.strip().lower() for cell in lines[0].split(separator)] if lines else []
    if not lines:
        raise BundleError(f"{where}: no labels")
    if not set(_SCIENTIFIC) & set(header):
        split = [line.strip().partition("_") for line in lines]
        return [(scientific, common or scientific, None) for scientific, _, common in split]
    rows = csv.DictReader(lines, fieldnames=header, delimiter=separator)
    next(rows)
    found = []
    for row in rows:
        scientific, common, code = (_cell(row, names) for names in (_SCIENTIFIC, _COMMON, _CODES))
        if not scientific:
            raise BundleError(f"{where}: line {rows.line_num}: no scientific name")
        found.append((scientific, common or scientific, code))
    return found


def _cell(row: Mapping[str, str | None], names: Sequence[str]) -> str | None:
    return next(
        (value.strip() for name in names if (value := row.get(name)) and value.strip()), None
    )


def read_codes(content: bytes, where: str) -> dict[str, str]:
    """Read BirdNET-Analyzer's table of eBird codes by `Scientific name_Common name`. Raises
    BundleError."""
    try:
        table = json.loads(text_of(content))
        return {str(label): str(code) for label, code in table.items() if "_" in label}
    except (TextError, ValueError, AttributeError) as error:
        raise BundleError(f"{where}: not a table of codes: {error}") from error


def species_of(
    known: KnownModel, labels: Sequence[tuple[str, str, str | None]], codes: Mapping[str, str]
) -> list[Species]:
    """The species of all labels, in their order: with eBird's code if there is one, else a code
    from the scientific name."""
    taken: set[str] = set()
    species = []
    for scientific, common, own in labels:
        code = (own or codes.get(f"{scientific}_{common}") or "").lower()
        code = known.rename.get(code, code) or _named(scientific, taken)
        taken.add(code)
        species.append(Species(code, scientific, common, _kind(known, scientific, common, code)))
    return species


def _named(scientific: str, taken: set[str]) -> str:
    """A code from a scientific name: turdus_merula; with a number if that is taken."""
    base = re.sub(r"[^a-z0-9]+", "_", scientific.lower()).strip("_").ljust(2, "_")[:_CODE_MAX]
    code = base
    count = 1
    while code in taken:
        count += 1
        code = f"{base[: _CODE_MAX - len(str(count)) - 1]}_{count}"
    return code


def _kind(known: KnownModel, scientific: str, common: str, code: str) -> Kind:
    words = set() if " " in scientific else set(f"{scientific}_{common}".lower().split("_"))
    if scientific in known.kinds.human or scientific.lower() in _HUMAN or words & _VOICES:
        return "human"
    if scientific in known.kinds.sound:
        return "sound"
    begins = known.kinds.animal_codes
    return "animal" if begins is not None and code.startswith(begins) else "bird"


def write_names(
    path: Path, codes: Sequence[str], kept: Sequence[int], languages: Mapping[str, bytes]
) -> None:
    """Write names.csv: names of the classes `kept` from label files by language, which all have the
    order of the labels."""
    columns = {language: read_labels(content, language) for language, content in languages.items()}
    with path.open("w", newline="", encoding="utf8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["code", *columns])
        for code, index in zip(codes, kept, strict=True):
            writer.writerow([code, *(labels[index][1] for labels in columns.values())])
