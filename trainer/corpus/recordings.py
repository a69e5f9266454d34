"""The corpus: a folder in the layout of BirdCLEF. Malformed entries are skipped and counted, with
examples.

Knows CSV tables and file names; only `probe_audio` and `read_sound` open sound files.
"""

import ast
import math
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from edge.capture.recording import Decoder, stream
from edge.contract.audio import RATE_HZ, Samples
from edge.contract.errors import CorpusError, RecordingError
from edge.contract.folders import entries_of
from edge.contract.taxonomy import Species, Taxonomy
from trainer.corpus.soundscapes import Soundscape, read_soundscapes
from trainer.corpus.tables import Problems, day_of, place_of, read_table

METADATA = "train_metadata.csv"
AUDIO = (  # suffixes of sound files
    *(".ogg", ".oga", ".opus", ".wav", ".flac", ".mp3"),
    *(".aif", ".aiff", ".aifc", ".au", ".caf", ".w64", ".rf64", ".bwf"),
)
COLUMNS = (
    *("primary_label", "secondary_labels", "type", "latitude", "longitude"),
    *("scientific_name", "common_name"),
    *("author", "date", "filename", "license", "rating", "time", "url"),
)
# The other official columns may be empty, but must be there.
_NEEDED = ("primary_label", "filename")
_LAYOUT = "docs/corpus.md shows the layout"
_BLOCK_S = 5.0


@dataclass(frozen=True)
class Recording:
    """One row of train_metadata.csv. Place and date are None unless valid."""

    recording: str  # unique key "<code>/<filename>"
    path: Path  # may be missing: the metadata model also learns from rows without sound
    primary_label: str
    secondary_labels: tuple[str, ...]  # only species of the taxonomy, without the primary one
    latitude: float | None  # degrees WGS84; both or neither
    longitude: float | None
    date: date | None
    rating: float  # 0 to 5; 0 is "not rated"
    author: str
    type: str

    @property
    def quarter(self) -> int | None:
        """Quarter of the year, 1 to 4."""
        return None if self.date is None else (self.date.month + 2) // 3


@dataclass(frozen=True)
class Corpus:
    """A corpus as read from its tables."""

    data: Path
    recordings: tuple[Recording, ...]
    taxonomy: Taxonomy
    soundscapes: tuple[Soundscape, ...]
    problems: Problems

    @property
    def name(self) -> str:
        return self.data.resolve().name

    @classmethod
    def read(cls, data: Path) -> "Corpus":
        """Read the tables of a corpus. Malformed rows are counted and skipped. Raises CorpusError
        if it is not a corpus."""
        require_corpus(data)
        problems = Problems()
        rows = _good_rows(data, problems)
        taxonomy = _taxonomy(data / METADATA, rows, problems)
        present = _files(data / "train_short_audio")
        recordings = []
        for row in rows:
            recording = _recording(data, row, taxonomy, problems)
            if recording is None:
                continue
            if recording.recording not in present:
                problems.add("audio file missing", recording.recording)
            recordings.append(recording)
        if not recordings:
            raise CorpusError(f"{data / METADATA}: no usable row")
        return cls(
            data,
            tuple(recordings),
            taxonomy,
            tuple(read_soundscapes(data, taxonomy, problems)),
            problems,
        )


def require_corpus(data: Path) -> None:
    """Raise CorpusError unless a folder looks like a corpus, naming what is expected."""
    expected = f"expected a corpus with {METADATA} and train_short_audio/"
    if not data.is_dir():
        raise CorpusError(
            f"{data}: {'is a file' if data.exists() else 'no such folder'}; {expected}"
        )
    if not (data / METADATA).is_file():
        there = [f"{path.name}/" if path.is_dir() else path.name for path in entries_of(data)]
        found = ", ".join(there[:3]) + (" …" if len(there) > 3 else "") or "nothing"
        raise CorpusError(
            f"{data}: {expected}, found {found}; {_LAYOUT}, also for one folder for each species"
        )


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


def _taxonomy(path: Path, rows: list[dict[str, str]], problems: Problems) -> Taxonomy:
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
    if len(good) < 2:
        raise CorpusError(f"{path}: expected at least 2 species, found {len(good)}")
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
    data: Path, row: dict[str, str], taxonomy: Taxonomy, problems: Problems
) -> Recording | None:
    code = row["primary_label"]
    name = row["filename"]
    key = f"{code}/{name}"
    if code not in taxonomy:
        problems.add("row of a species that is not usable", key)
        return None
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


@dataclass(frozen=True)
class Audio:
    """The header of a sound file; `problem` is empty if it can be read."""

    seconds: float
    rate_hz: int
    channels: int
    problem: str = ""

    @property
    def samples(self) -> int:
        """Number of samples at 32 kHz."""
        return round(self.seconds * RATE_HZ)


def probe_audio(path: Path) -> Audio:
    """Probe a sound file with the station's decoder; never raises. Only the header is read, or the
    whole file if header and end do not determine its duration."""
    try:
        with Decoder(path, block_s=_BLOCK_S) as decoder:
            seconds = decoder.certain_s
            if seconds is None:
                for _ in decoder:
                    pass
                seconds = decoder.decoded_s
    except RecordingError as error:
        return Audio(0.0, 0, 0, f"{path.name}: {error.reason}")
    return Audio(seconds, decoder.recording.rate_hz, decoder.recording.channels)


def read_sound(path: Path, samples_max: int) -> Samples:
    """The first `samples_max` samples, float32 mono at 32 kHz, as the station hears them; gaps are
    closed. A truncated file gives the part before its end. Raises RecordingError if nothing can be
    decoded."""
    blocks: list[Samples] = []
    for block in stream(path, block_s=_BLOCK_S):
        blocks.append(block)
        if sum(map(len, blocks)) >= samples_max:
            break
    return np.concatenate(blocks)[:samples_max]
