"""Labelled parts of sound files, from folders or tables, as the recordings and backgrounds of a
corpus.

Does not know where the labels are from.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edge.capture.recording import record_name
from edge.contract.errors import CorpusError
from edge.contract.taxonomy import NOCALL, Species, Taxonomy
from trainer.corpus.origins import NOWHERE, Origin, Origins, Place
from trainer.corpus.sound import Recording
from trainer.corpus.sound_files import SoundFiles
from trainer.corpus.species_labels import meanings_of
from trainer.corpus.species_names import Label, SpeciesNames
from trainer.corpus.tables import Problems

_RATING_MAX = 5.0
_RATING_MIN = 0.5  # 0 means "not rated"


@dataclass(frozen=True)
class ReadOptions:
    """Options of reading a corpus: the names of a model's species, a place for all recordings that
    have none, species that the model does not know, the least number of species."""

    names: SpeciesNames | None = None
    place: Place | None = None
    new: tuple[str, ...] = ()
    species_min: int = 2


@dataclass(frozen=True)
class LabelledPart:
    """What is heard in a file, or from `start_s` to `end_s` (None: the end) of it."""

    path: Path
    label: Label
    start_s: float = 0.0
    end_s: float | None = None
    origin: Origin = NOWHERE
    confidence: float | None = None  # 0 to 1
    where: str = ""  # what says so

    @property
    def span(self) -> tuple[float, float]:
        return self.start_s, float("inf") if self.end_s is None else self.end_s


@dataclass(frozen=True)
class CorpusContent:
    """The recordings and species of a corpus, its sounds without any species (with the label
    nocall), and the code under which a model knows a species."""

    recordings: tuple[Recording, ...]
    taxonomy: Taxonomy
    backgrounds: tuple[Recording, ...]
    known: Mapping[str, str]


def content_of(
    parts: Sequence[LabelledPart], files: SoundFiles, options: ReadOptions, problems: Problems
) -> CorpusContent:
    """The content of a corpus that consists of these parts. Species that are heard at the same time
    in a file are secondary labels of each other. Raises CorpusError for names that are not
    recognised, and for too few species."""
    data = files.folder
    labels = list(dict.fromkeys(p.label for p in parts if not p.label.is_background))
    meaning = meanings_of(labels, options.names, options.new, data, problems)
    codes = [NOCALL if p.label.is_background else meaning.species[p.label].code for p in parts]
    taxonomy = _taxonomy(data, meaning.species.values(), options.species_min)
    keys = _keys(parts, codes, files)
    origins = Origins(files, options.place, problems)
    others = _heard_together(parts, codes)
    recordings: dict[str, Recording] = {}
    for part, code, key, heard in zip(parts, codes, keys, others, strict=True):
        if key in recordings:
            problems.add("annotation twice", f"{part.where or part.path.name}: {key}")
            if heard - set(recordings[key].secondary_labels):
                both = heard.union(recordings[key].secondary_labels)
                recordings[key] = replace(recordings[key], secondary_labels=tuple(sorted(both)))
            continue
        origin = part.origin
        if code != NOCALL:  # where and when nothing is heard teaches nothing
            origin = origins.of(part.path, key, part.origin, part.start_s)
        latitude, longitude = origin.place or (None, None)
        recordings[key] = Recording(
            recording=key,
            path=part.path,
            primary_label=code,
            secondary_labels=tuple(sorted(heard)),
            latitude=latitude,
            longitude=longitude,
            date=origin.day,
            rating=_rating(part.confidence),
            author="",
            type="",
            start_s=part.start_s,
            end_s=part.end_s,
        )
    found = [recordings[key] for key in sorted(recordings)]
    return CorpusContent(
        tuple(r for r in found if r.primary_label != NOCALL),
        taxonomy,
        tuple(r for r in found if r.primary_label == NOCALL),
        meaning.known,
    )


def _rating(confidence: float | None) -> float:
    """A rating of 0.5 to 5 that stands for a confidence; 0 without one."""
    if confidence is None:
        return 0.0
    return round(max(_RATING_MIN, confidence * _RATING_MAX), 2)


def _taxonomy(data: Path, species: Iterable[Species], species_min: int) -> Taxonomy:
    by_code = {one.code: one for one in species}
    if len(by_code) < species_min:
        there = f" ({', '.join(by_code)})" if by_code else ""
        raise CorpusError(
            f"{data}: expected at least {species_min} species, found {len(by_code)}{there}"
        )
    return Taxonomy(by_code[code] for code in sorted(by_code))


def _keys(parts: Sequence[LabelledPart], codes: Sequence[str], files: SoundFiles) -> list[str]:
    """A key for each part: `<code>/<filename>` of a whole file, `<code>/<filename>@<start>-<end>`
    of a segment. Where files of a species have the same name, their path stands for it."""
    there = {(code, part.path) for part, code in zip(parts, codes, strict=True)}
    same_name = Counter((code, path.name) for code, path in there)
    keys = []
    for part, code in zip(parts, codes, strict=True):
        name = record_name(part.path, part.path.parent)
        if same_name[code, part.path.name] > 1 and part.path.is_relative_to(files.folder):
            name = record_name(part.path, files.folder)
        elif same_name[code, part.path.name] > 1:
            name = part.path.as_posix()
        keys.append(f"{code}/{name}{_span_text(part)}")
    return keys


def _span_text(part: LabelledPart) -> str:
    if part.start_s == 0.0 and part.end_s is None:
        return ""
    end = "" if part.end_s is None else f"{part.end_s:.3f}".rstrip("0").rstrip(".")
    return f"@{part.start_s:.3f}".rstrip("0").rstrip(".") + f"-{end}"


def _heard_together(parts: Sequence[LabelledPart], codes: Sequence[str]) -> list[set[str]]:
    """Other species of the parts of the same file that overlap with each part."""
    heard: list[set[str]] = [set() for _ in parts]
    by_file: dict[Path, list[int]] = defaultdict(list)
    for i, part in enumerate(parts):
        if codes[i] != NOCALL:
            by_file[part.path].append(i)
    for mine in by_file.values():
        mine.sort(key=lambda i: parts[i].span)
        for at, i in enumerate(mine):
            for j in mine[at + 1 :]:
                if parts[j].span[0] >= parts[i].span[1]:
                    break
                if codes[i] != codes[j]:
                    heard[i].add(codes[j])
                    heard[j].add(codes[i])
    return heard
