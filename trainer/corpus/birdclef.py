"""Corpora in the layout of BirdCLEF: train_metadata.csv and train_short_audio/<code>/<filename>.
Malformed rows are counted, with examples, and left out.

Decodes no sound.
"""

import ast
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from edge.contract.errors import CorpusError
from edge.contract.folders import entries_of
from edge.contract.taxonomy import Species, Taxonomy
from trainer.corpus.labelled_parts import CorpusContent, ReadOptions
from trainer.corpus.origins import Place
from trainer.corpus.sound import Recording
from trainer.corpus.species_labels import is_new, require_met, require_recognised
from trainer.corpus.species_names import Label, SpeciesNames
from trainer.corpus.tables import Problems, day_of, place_of, read_table

METADATA = "train_metadata.csv"
COLUMNS = (
    *("primary_label", "secondary_labels", "type", "latitude", "longitude"),
    *("scientific_name", "common_name"),
    *("author", "date", "filename", "license", "rating", "time", "url"),
)
# The other official columns may be empty, but must be there.
_NEEDED = ("primary_label", "filename")
_LAYOUT = "docs/corpus.md shows the layout"


def read_birdclef(data: Path, options: ReadOptions, problems: Problems) -> CorpusContent:
    """The content of a corpus in this layout. A species that the model of `options.names` does not
    have under its code is recognised by its scientific name, and keeps its own code. Raises
    CorpusError naming the table."""
    rows = _good_rows(data, problems)
    taxonomy = _taxonomy(data / METADATA, rows, options.species_min, problems)
    known = {} if options.names is None else _known(data, taxonomy, options.names, options.new)
    present = _files(data / "train_short_audio")
    recordings = []
    for row in rows:
        recording = _recording(data, row, taxonomy, options.place, problems)
        if recording is None:
            continue
        if recording.recording not in present:
            problems.add("audio file missing", recording.recording)
        recordings.append(recording)
    if not recordings:
        raise CorpusError(f"{data / METADATA}: no usable row")
    return CorpusContent(tuple(recordings), taxonomy, (), known)


def row_of(recording: Recording, filename: str, species: Species) -> dict[str, str]:
    """The row of train_metadata.csv for a recording of any layout."""
    place = recording.latitude, recording.longitude
    return dict.fromkeys(COLUMNS, "") | {
        "primary_label": recording.primary_label,
        "secondary_labels": str(list(recording.secondary_labels)),
        "latitude": "" if place[0] is None else str(place[0]),
        "longitude": "" if place[1] is None else str(place[1]),
        "scientific_name": species.scientific_name,
        "common_name": species.common_name,
        "date": "" if recording.date is None else recording.date.isoformat(),
        "filename": filename,
        "rating": f"{recording.rating:g}",
    }


def _known(
    data: Path, taxonomy: Taxonomy, names: SpeciesNames, new: Sequence[str]
) -> Mapping[str, str]:
    """The model's code of each species that it knows, by the corpus's. Raises CorpusError for
    species that it does not know and that are not declared as new."""
    known: dict[str, str] = {}
    unknown: dict[str, list[str]] = {}
    labels = {s.code: Label(s.code, s.code, s.scientific_name, s.common_name) for s in taxonomy}
    for species in taxonomy:
        if is_new(labels[species.code], new):
            continue
        same = names.by_code.get(species.code)
        if same is None and species.scientific_name:
            same = names.by_scientific(species.scientific_name)
        if same is not None:
            known[species.code] = same.code
        else:
            asked = species.scientific_name or species.code
            unknown[species.code] = names.nearest(asked)
    require_recognised(data / METADATA, unknown, {})
    require_met(data / METADATA, list(labels.values()), new)
    return known


def _good_rows(data: Path, problems: Problems) -> list[dict[str, str]]:
    rows = []
    seen = set()
    advice = f"all but {' and '.join(_NEEDED)} may be empty: {_LAYOUT}"
    for line, row in read_table(data / METADATA, COLUMNS, problems, advice):
        if row is None:
            problems.add("row malformed", f"{METADATA} line {line}")
            continue
        code = row["primary_label"].strip()
        name = row["filename"].strip()
        if not code or not name or "/" in name or "/" in code or name in (".", ".."):
            problems.add("row without species or file", f"{METADATA} line {line}")
        elif (code, name) in seen:
            problems.add("row twice", f"{METADATA} line {line}: {code}/{name}")
        else:
            seen.add((code, name))
            rows.append(row | {"primary_label": code, "filename": name})
    return rows


def _taxonomy(
    path: Path, rows: list[dict[str, str]], species_min: int, problems: Problems
) -> Taxonomy:
    species: dict[str, Species] = {}
    for row in rows:
        code = row["primary_label"]
        if code not in species:
            species[code] = Species(
                code, row["scientific_name"].strip(), row["common_name"].strip()
            )
    good = []
    for code in sorted(species):
        try:
            good.append(Taxonomy([species[code]])[0])
        except ValueError as error:
            problems.add("species code not usable", f"{path.name}: {error}")
    if len(good) < species_min:
        raise CorpusError(f"{path}: expected at least {species_min} species, found {len(good)}")
    return Taxonomy(good)


def _files(folder: Path) -> set[str]:
    """Keys "<code>/<filename>" of all files, from one listing: far faster than a stat for each."""
    if not folder.is_dir():
        return set()
    return {
        f"{code.name}/{file.name}"
        for code in entries_of(folder)
        if code.is_dir()
        for file in code.iterdir()
    }


def _recording(
    data: Path,
    row: dict[str, str],
    taxonomy: Taxonomy,
    place: Place | None,
    problems: Problems,
) -> Recording | None:
    code = row["primary_label"]
    name = row["filename"]
    key = f"{code}/{name}"
    if code not in taxonomy:
        problems.add("row of a species that is not usable", key)
        return None
    if place is not None and not (row["latitude"].strip() and row["longitude"].strip()):
        row = row | {"latitude": str(place[0]), "longitude": str(place[1])}
    latitude, longitude = place_of(row, key, problems)
    return Recording(
        recording=key,
        path=data / "train_short_audio" / code / name,
        primary_label=code,
        secondary_labels=_secondary(row["secondary_labels"], key, taxonomy, problems),
        latitude=latitude,
        longitude=longitude,
        date=day_of(row["date"], key, problems),
        rating=_rating(row["rating"], key, problems),
        author=row["author"].strip(),
        type=row["type"].strip(),
    )


def _rating(text: str, key: str, problems: Problems) -> float:
    try:
        rating = float(text) if text.strip() else 0.0
    except ValueError:
        rating = math.nan
    if not 0.0 <= rating <= 5.0:
        problems.add("rating not valid", f"{key}: {text}")
        return 0.0
    return rating


def _secondary(text: str, key: str, taxonomy: Taxonomy, problems: Problems) -> tuple[str, ...]:
    try:
        found = ast.literal_eval(text) if text.strip() else []
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(code, str) for code in found):
        problems.add("secondary labels not valid", f"{key}: {text[:40]}")
        return ()
    for code in found:
        if code not in taxonomy:
            problems.add("secondary label of an unknown species", f"{key}: {code}")
    primary = key.split("/")[0]
    return tuple(sorted({code for code in found if code in taxonomy and code != primary}))
