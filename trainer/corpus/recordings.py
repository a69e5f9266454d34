"""The corpus: a folder of recordings whose species are told by folders, by tables of annotations,
or as in BirdCLEF. What is malformed is skipped and counted, with examples.

Opens no sound file itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge.contract.errors import CorpusError
from edge.contract.folders import entries_of
from edge.contract.taxonomy import Taxonomy
from edge.contract.text import printable
from trainer.corpus.annotated_files import find_tables, table_parts, tell_unused
from trainer.corpus.birdclef import COLUMNS, METADATA, read_birdclef
from trainer.corpus.labelled_parts import CorpusContent, ReadOptions, content_of
from trainer.corpus.origins import Place
from trainer.corpus.sound import AUDIO, Audio, Recording, probe_audio, read_segments, read_sound
from trainer.corpus.sound_files import SoundFiles
from trainer.corpus.soundscapes import Soundscape, read_soundscapes
from trainer.corpus.species_folders import folder_parts, has_species_folders
from trainer.corpus.species_names import SpeciesNames
from trainer.corpus.tables import Problems

__all__ = [
    "AUDIO",
    "COLUMNS",
    "METADATA",
    "Audio",
    "Corpus",
    "Recording",
    "probe_audio",
    "read_segments",
    "read_sound",
    "require_corpus",
]

BIRDCLEF = "BirdCLEF's layout"
FOLDERS = "a folder for each species"
_EXPECTED = f"expected a corpus with {METADATA} and train_short_audio/"
_OR = (
    "or one with a folder of sound files for each species, or with sound files and a table of "
    "file, start, end and species: docs/corpus.md shows the layouts"
)


@dataclass(frozen=True)
class Corpus:
    """A corpus as read from its folders and tables."""

    data: Path
    recordings: tuple[Recording, ...]
    taxonomy: Taxonomy
    soundscapes: tuple[Soundscape, ...]
    problems: Problems
    layout: str = BIRDCLEF
    # Sounds without any species, labelled nocall: whole files or segments.
    backgrounds: tuple[Recording, ...] = ()
    # The code under which a model knows a species, by the corpus's code; empty without `names`.
    known: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.data.resolve().name

    @classmethod
    def read(
        cls,
        data: Path,
        names: SpeciesNames | None = None,
        place: Place | None = None,
        new: Sequence[str] = (),
        species_min: int = 2,
    ) -> "Corpus":
        """Read a corpus in any of the three layouts. What is malformed is counted and skipped.

        With `names`, every species must be one that the model knows, or be among the names in
        `new`; without, each is what it is called. `place` (latitude, longitude) is that of
        recordings that no table and no file gives one. Raises CorpusError if it is no corpus, or
        for names that are not recognised."""
        problems = Problems()
        options = ReadOptions(names, place, tuple(new), species_min)
        layout, content = _read(data, options, problems)
        return cls(
            data,
            content.recordings,
            content.taxonomy,
            tuple(read_soundscapes(data, content.taxonomy, problems)),
            problems,
            layout,
            content.backgrounds,
            content.known,
        )


def require_corpus(data: Path) -> None:
    """Raise CorpusError unless a folder looks like a corpus, naming what is expected."""
    if not data.is_dir():
        raise CorpusError(
            f"{data}: {'is a file' if data.exists() else 'no such folder'}; {_EXPECTED}, {_OR}"
        )
    if (data / METADATA).is_file() or has_species_folders(data):
        return
    if not find_tables(SoundFiles(data)):
        raise _no_corpus(data)


def _read(data: Path, options: ReadOptions, problems: Problems) -> tuple[str, CorpusContent]:
    """The layout of a corpus, in words, and its content."""
    require_corpus(data)
    if (data / METADATA).is_file():
        return BIRDCLEF, read_birdclef(data, options, problems)
    files = SoundFiles(data)
    tables = find_tables(files)
    if tables:
        some = printable(", ".join(files.name_of(table.path) for table in tables[:2]))
        layout = f"annotations in {some}" + (f" and {len(tables) - 2} more" if tables[2:] else "")
        parts = table_parts(tables, files, problems)
    else:
        layout = FOLDERS
        parts = folder_parts(data, files, problems)
    tell_unused(tables, files, problems)
    return layout, content_of(parts, files, options, problems)


def _no_corpus(data: Path) -> CorpusError:
    there = [f"{path.name}/" if path.is_dir() else path.name for path in entries_of(data)]
    found = printable(", ".join(there[:3])) + (" …" if len(there) > 3 else "") or "nothing"
    return CorpusError(f"{data}: {_EXPECTED}, found {found}; {_OR}")
