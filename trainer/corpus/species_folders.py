"""Corpora of one folder for each species: its sound files lie in the folder or below it.

Folders of BirdNET-Analyzer's classes that are no events (noise, background, other, silence) and
nocall hold backgrounds. Decodes nothing.
"""

from collections.abc import Iterator
from pathlib import Path

from edge.capture.recording import SIDECAR_SUFFIXES
from edge.contract.errors import CorpusError
from edge.contract.folders import entries_of, files_under
from edge.contract.text import printable
from trainer.corpus.labelled_parts import LabelledPart
from trainer.corpus.sound_files import SoundFiles, is_sound, is_text
from trainer.corpus.species_names import Label, squeezed
from trainer.corpus.tables import Problems

# Folders of labelled soundscapes (soundscapes.py), which hold many species.
_NOT_SPECIES = ("train_soundscapes", "test_soundscapes")


def has_species_folders(data: Path) -> bool:
    """True if any folder in `data` holds a sound file."""
    return any(is_sound(path) for folder in _folders(data) for path in files_under(folder))


def folder_parts(data: Path, files: SoundFiles, problems: Problems) -> list[LabelledPart]:
    """The sound files of all folders, each labelled by the folder that it is in. Raises CorpusError
    for what is one level above or below such folders."""
    folders = _folders(data)
    if [f.name for f in folders if any(map(is_sound, files_under(f)))] == ["train_short_audio"]:
        raise CorpusError(
            f"{data}: train_metadata.csv is missing beside train_short_audio/; without one, give "
            f"the folder of the species' folders: --data {data / 'train_short_audio'}"
        )
    for path in files.sound:
        if path.parent == data:
            problems.add("sound file outside the species' folders", printable(path.name))
    parts: list[LabelledPart] = []
    for folder in folders:
        if data.resolve().is_relative_to(folder.resolve()):
            problems.add("folder that leads back to the corpus", printable(folder.name))
            continue
        mine = list(_sound_in(folder, problems))
        labels = _labels(folder.name)
        if not mine:
            problems.add("species folder without sound", printable(folder.name))
        elif folder.name.startswith("-"):
            problems.add("folder of sounds that a species is not", printable(folder.name))
        elif not labels:
            problems.add("folder whose name has no letters", printable(folder.name))
        else:
            parts += [LabelledPart(path, label) for label in labels for path in mine]
    return parts


def _folders(data: Path) -> list[Path]:
    """Folders of a corpus, also links to folders."""
    return [p for p in entries_of(data) if p.is_dir() and p.name not in _NOT_SPECIES]


def _labels(name: str) -> list[Label]:
    """The species of a folder: several, separated by commas, where all of them are written in
    BirdNET-Analyzer's way."""
    parts = [Label.of(part) for part in name.split(",")]
    if len(parts) > 1 and all(p.scientific and p.common != p.text for p in parts):
        return parts
    label = Label.of(name.strip())
    return [label] if squeezed(name) else []


def _sound_in(folder: Path, problems: Problems) -> Iterator[Path]:
    """The sound files below a folder; files that may be sound in other formats are counted."""
    for path in files_under(folder):
        shown = printable(f"{folder.name}/{path.relative_to(folder).as_posix()}")
        if is_sound(path) and not is_text(path.name):
            problems.add("file whose name is not UTF-8", shown)
        elif is_sound(path):
            yield path
        elif path.suffix.lower() not in SIDECAR_SUFFIXES:
            problems.add("not a sound file that can be read", shown)
