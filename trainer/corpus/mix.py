"""mix-soundscapes: makes labelled soundscapes from a corpus of single recordings, over real
backgrounds.

Recordings are held out of training by species and divided between the soundscapes for tuning and
those for testing, as are the backgrounds; files with the same sound stay on one side. mixture.py
determines the rows in which a call sounds; a second bird in the background of a call is unknown and
not labelled. Knows no network.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from rich.markup import escape
from rich.table import Table

from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES, Samples
from edge.contract.errors import ConfigError, CorpusError, RecordingError, UsageError
from edge.contract.folders import files_under, holds_nothing
from edge.contract.taxonomy import NOCALL
from trainer.corpus.birdclef import COLUMNS, METADATA, row_of
from trainer.corpus.duplicates import same_files, two_species
from trainer.corpus.mixture import SILENCE, Call, cut_call, lay_background, mean_square, place_call
from trainer.corpus.recordings import BIRDCLEF, Corpus
from trainer.corpus.sound import AUDIO, Recording, read_sound
from trainer.corpus.tables import Problems, read_table
from trainer.demo.seeds import stream
from trainer.demo.vorbis import encode, write_bytes
from trainer.files import digest, read_json, write_csv, write_json

PARTS = ("train", "test")
LABEL_COLUMNS = ("row_id", "site", "audio_id", "seconds", "birds")
EVENT_COLUMNS = (
    *("soundscape", "start_s", "end_s", "species", "snr_db"),
    *("recording", "recording_start_s"),
)
# Placeholders for site and day, of which nobody knows coordinates.
SITE = "MIX"
DAY = "20210101"
_FIRST_ID = {"train": 10_000, "test": 50_000}
_ROW_S = WINDOW_SAMPLES // RATE_HZ
# Share of a soundscape's rows with a call: in the competition's labels it is 0.37.
_BUSY = (0.25, 0.5)
_COMPANY = 3  # maximum number of further species beside a soundscape's main one
_ANCHORED = 0.5  # share of the calls of the main species
_LEVEL = 0.01  # of the background: -40 dBFS
_PIECES = 16  # backgrounds in one soundscape
_READ_S = 60  # of a recording or background at most
_TRIES = 200
_CUT_S = 600  # of a segment that becomes a file of its own; training uses less


@dataclass(frozen=True)
class MixOptions:
    """Options of mix-soundscapes; `soundscapes` counts those of each of the two parts."""

    hold_out: float
    soundscapes: int
    minutes: int
    snr_db: tuple[float, float]
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.hold_out < 1:
            raise ConfigError(
                f"--hold-out: expected a share between 0 and 1, found {self.hold_out:g}"
            )
        if self.soundscapes < 1 or self.minutes < 1:
            raise ConfigError(
                f"--soundscapes, --minutes: expected 1 or more, found {self.soundscapes}, "
                f"{self.minutes}"
            )
        if not self.snr_db[0] <= self.snr_db[1] or not all(map(math.isfinite, self.snr_db)):
            raise ConfigError(
                f"--snr: expected LOW HIGH, found {self.snr_db[0]:g} {self.snr_db[1]:g}"
            )


@dataclass(frozen=True)
class MixSummary:
    """The result of mixing; `nocall` is the share of rows without a call in each part."""

    kept: int
    held_out: int
    backgrounds: int
    events: int
    nocall: dict[str, float]
    problems: dict[str, int]
    examples: dict[str, list[str]]

    def table(self, out: Path) -> Table:
        """A table of the contents of the new corpus, and of problems."""
        table = Table("what", "count", "for example", title=f"{out}", title_justify="left")
        counts = {"recordings kept for training": self.kept, "recordings held out": self.held_out}
        counts |= {"backgrounds": self.backgrounds, "calls placed": self.events}
        for name, count in counts.items():
            table.add_row(name, f"{count:,}", "")
        for part, share in self.nocall.items():
            table.add_row(f"rows without a call, {part}", f"{share:.0%}", "")
        table.add_section()
        for kind, count in sorted(self.problems.items()):
            table.add_row(
                f"[yellow]{kind}[/yellow]", f"{count:,}", escape(", ".join(self.examples[kind][:3]))
            )
        return table


@dataclass(frozen=True)
class _Source:
    """The sources of the soundscapes of one part."""

    recordings: dict[str, list[Recording]]  # by species
    backgrounds: list[Path]


def mix_soundscapes(
    data: Path,
    backgrounds: Path,
    out: Path,
    options: MixOptions,
    progress: Callable[[int, int], None],
) -> MixSummary:
    """Make the corpus `out`; the same sources and options give the same result. Existing files are
    left alone.

    Raises UsageError for a folder with other contents, CorpusError if there is nothing to mix.
    """
    corpus = Corpus.read(data)
    files = [p for p in files_under(backgrounds) if p.suffix.lower() in AUDIO]
    if not files:
        raise CorpusError(
            f"{backgrounds}: expected sound files without birds ({', '.join(AUDIO)}), found none"
        )
    present = [r for r in corpus.recordings if r.path.is_file()]
    same = same_files([*(r.path for r in present), *files])
    sound = sorted(r.recording for r in present)
    parts = [asdict(options), data / METADATA, sound, [(p.name, p.stat().st_size) for p in files]]
    if corpus.layout != BIRDCLEF:
        parts.append([str(r) for r in corpus.recordings])
    # Without identical sounds, the digest equals that of earlier versions.
    made_of = digest(*parts, *([same] if same else []))
    plan = out / "mix.json"
    if plan.is_file():
        found = read_json(plan)
        if found.get("made_of") != made_of:
            raise UsageError(
                f"{out}: mixed from other sources or with other options; choose another --out"
            )
        if "mixed" in found:
            return MixSummary(**found["mixed"])
    elif not holds_nothing(out):
        raise UsageError(f"{out}: contains other files; choose a new or empty folder for --out")
    write_json(plan, {"made_of": made_of, "options": asdict(options)})
    mixed = _Mix(data, out, corpus, present, files, same, options).make(progress)
    write_json(plan, {"made_of": made_of, "options": asdict(options), "mixed": asdict(mixed)})
    return mixed


def hold_out(
    recordings: Sequence[Recording], share: float, seed: int
) -> dict[str, dict[str, list[Recording]]]:
    """Recordings to hold out of training, by part and species: `share` of a species' recordings, at
    least one for each part. Of three recordings only the test part gets one; of fewer, none is held
    out."""
    held: dict[str, dict[str, list[Recording]]] = {part: {} for part in PARTS}
    by_species: dict[str, list[Recording]] = {}
    for recording in recordings:
        by_species.setdefault(recording.primary_label, []).append(recording)
    for code, mine in sorted(by_species.items()):
        order = stream(seed, "hold out", code).permutation(len(mine))
        enough = (0, 0, 0, 1)[len(mine)] if len(mine) < 4 else max(2, round(share * len(mine)))
        chosen = [mine[i] for i in order[: min(enough, max(1, len(mine) - 2))]]
        for part, own in (("test", chosen[0::2]), ("train", chosen[1::2])):
            if own:
                held[part][code] = own
    return held


class _Mix:
    """One corpus in the making."""

    def __init__(
        self,
        data: Path,
        out: Path,
        corpus: Corpus,
        present: list[Recording],  # recordings of the corpus whose file exists
        files: list[Path],  # backgrounds
        # Groups of the same sound, as positions in the recordings followed by the backgrounds.
        same: list[list[int]],
        options: MixOptions,
    ) -> None:
        self.data = data
        self.out = out
        self.corpus = corpus
        self.options = options
        self.problems = Problems()
        self.noted = set[tuple[str, str]]()
        self.sound = lru_cache(maxsize=64)(self._sound)
        # Other recordings with the same sound as one that may be held out, by their keys.
        self.twins: dict[str, list[str]] = {}
        single, files = self._tell_apart(present, files, same)
        held = hold_out(single, options.hold_out, options.seed)
        for code in corpus.taxonomy.codes:
            for part in PARTS:
                if code not in held[part]:
                    self.problems.add(
                        f"species with too few recordings for {part} soundscapes", code
                    )
        split = self._split(files)
        self.sources = {part: _Source(held[part], split[part]) for part in PARTS}
        self.held = self._names(r for part in PARTS for own in held[part].values() for r in own)
        if not all(held.values()):
            raise CorpusError(
                f"{data}: no species has 4 recordings with sound; there is nothing to hold out"
            )

    def _tell_apart(
        self, present: list[Recording], files: list[Path], same: list[list[int]]
    ) -> tuple[list[Recording], list[Path]]:
        """The recordings that may be held out and the backgrounds, each sound once. A sound
        labelled with two species is held out for neither; a background that is a recording of the
        corpus is left out."""
        out: set[int] = set()
        for group in same:
            mine = [present[i] for i in group if i < len(present)]
            names = [r.recording for r in mine]
            theirs = [i for i in group if i >= len(present)]
            out.update(group if two_species(mine) else group[1:])
            self.twins |= dict.fromkeys(names[:1], names[1:])
            if two_species(mine):
                self.problems.add("same sound as two species", ", ".join(names))
            for i in theirs if mine else theirs[1:]:
                kind = (
                    "background that is a recording" if mine else "same sound as another background"
                )
                other = names[0] if mine else files[theirs[0] - len(present)]
                self.problems.add(kind, f"{files[i - len(present)]} is {other}")
        single = [r for i, r in enumerate(present) if i not in out]
        left = [path for i, path in enumerate(files, len(present)) if i not in out]
        if not left:
            raise CorpusError(
                f"{files[0].parent}: expected sound files without birds, found recordings of "
                f"{self.data}"
            )
        return single, left

    def _names(self, recordings: Iterable[Recording]) -> set[str]:
        """Keys of recordings and of others with the same sound."""
        return {
            name for r in recordings for name in (r.recording, *self.twins.get(r.recording, ()))
        }

    def _split(self, files: list[Path]) -> dict[str, list[Path]]:
        """Backgrounds of each part: alternate files of every folder, in random order; all files for
        both parts if there are too few to divide."""
        split: dict[str, list[Path]] = {part: [] for part in PARTS}
        turn = 0
        for folder in sorted({path.parent for path in files}):
            mine = [path for path in files if path.parent == folder]
            for i in stream(self.options.seed, "backgrounds", folder.name).permutation(len(mine)):
                split[PARTS[turn % 2]].append(mine[i])
                turn += 1
        if not split["test"]:
            self.problems.add("background used for train and test soundscapes", files[0].name)
            split["test"] = split["train"]
        return split

    def make(self, progress: Callable[[int, int], None]) -> MixSummary:
        events = []
        nocall = {}
        done = 0
        total = 2 * self.options.soundscapes
        for part in PARTS:
            labels: list[tuple[object, ...]] = []
            for number in range(self.options.soundscapes):
                rows, mine = self._soundscape(part, number)
                labels += rows
                events += mine
                done += 1
                progress(done, total)
            write_csv(self.out / f"{part}_soundscape_labels.csv", LABEL_COLUMNS, labels)
            nocall[part] = round(sum(row[-1] == NOCALL for row in labels) / len(labels), 4)
        write_csv(self.out / "events.csv", EVENT_COLUMNS, events)
        self._link_recordings()
        train = self.sources["train"].backgrounds
        for path in train:
            _link(path, self.out / "nocall" / path.parent.name / path.name)
        kept = sum(r.recording not in self.held for r in self.corpus.recordings)
        found = self.problems
        both = len({*train, *self.sources["test"].backgrounds})
        return MixSummary(
            kept, len(self.held), both, len(events), nocall, found.counts, found.examples
        )

    def _soundscape(
        self, part: str, number: int
    ) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
        """Write one soundscape. Returns its rows of the labels and of the events."""
        random = stream(self.options.seed, "mix", part, number)
        name = f"{_FIRST_ID[part] + number}_{SITE}_{DAY}"
        rows = self.options.minutes * 60 // _ROW_S
        background = self._background(part, rows * WINDOW_SAMPLES, random)
        scene = background.copy()
        birds = [set[str]() for _ in range(rows)]
        species = self._cast(part, number, random)
        events: list[tuple[object, ...]] = []
        goal = round(rows * random.uniform(*_BUSY))
        for _ in range(_TRIES):
            busy = sum(map(bool, birds))
            if busy >= goal:
                break
            code = species[0] if random.random() < _ANCHORED else str(random.choice(species))
            mine = self.sources[part].recordings[code]
            recording = mine[int(random.integers(len(mine)))]
            call = self._call(recording, random)
            if call is None or len(call.samples) > len(scene):
                continue
            start = int(random.integers(len(scene) - len(call.samples) + 1))
            placed = place_call(
                scene, background, call, start, float(random.uniform(*self.options.snr_db))
            )
            for row in placed.rows:
                birds[row].add(code)
            where = f"{part}_soundscapes/{name}.ogg"
            times = (f"{placed.start_s:.2f}", f"{placed.end_s:.2f}")
            events.append(
                (
                    where,
                    *times,
                    code,
                    f"{placed.snr_db:.1f}",
                    recording.recording,
                    f"{call.start_s:.2f}",
                )
            )
        peak = float(np.abs(scene).max())
        write_bytes(
            self.out / f"{part}_soundscapes" / f"{name}.ogg",
            encode(scene * np.float32(min(1.0, 0.95 / peak))),
        )
        audio_id = name.split("_")[0]
        labels: list[tuple[object, ...]] = []
        for row, heard in enumerate(birds):
            end = (row + 1) * _ROW_S
            labels.append(
                (f"{audio_id}_{SITE}_{end}", SITE, audio_id, end, " ".join(sorted(heard)) or NOCALL)
            )
        return labels, sorted(events, key=lambda event: float(str(event[1])))

    def _cast(self, part: str, number: int, random: np.random.Generator) -> list[str]:
        """The species of a soundscape: every species in turn, and a few others."""
        codes = sorted(self.sources[part].recordings)
        anchor = codes[number % len(codes)]
        others = [code for code in codes if code != anchor]
        company = random.permutation(others)[: int(random.integers(_COMPANY + 1))]
        return [anchor, *map(str, company)]

    def _call(self, recording: Recording, random: np.random.Generator) -> Call | None:
        sound = self.sound(recording.path, recording.start_s, recording.end_s)
        call = None if sound is None else cut_call(sound, random)
        if sound is not None and call is None:
            self._note("recording without a clear call", recording.recording)
        return call

    def _sound(
        self, path: Path, start_s: float = 0.0, end_s: float | None = None
    ) -> Samples | None:
        try:
            sound = read_sound(path, _READ_S * RATE_HZ, start_s, end_s)
        except RecordingError as error:
            self._note("sound file not readable", str(error))
            return None
        if mean_square(sound).mean() < SILENCE:
            self._note("sound file is silent", str(path))
            return None
        return sound

    def _note(self, kind: str, example: str) -> None:
        if (kind, example) not in self.noted:
            self.noted.add((kind, example))
            self.problems.add(kind, example)

    def _background(self, part: str, count: int, random: np.random.Generator) -> Samples:
        files = self.sources[part].backgrounds
        chosen = [files[i] for i in random.permutation(len(files))]
        pieces: list[Samples] = []
        for path in chosen:
            sound = self.sound(path)
            if sound is not None:
                pieces.append(sound)
            if len(pieces) == _PIECES:
                break
        if not pieces:
            raise CorpusError(
                f"{files[0].parent}: no background for the {part} soundscapes can be read"
            )
        return lay_background(pieces, count, _LEVEL, random)

    def _link_recordings(self) -> None:
        """Link the kept recordings into the new corpus, and those of the test part into a corpus of
        their own, on which nothing is trained or tuned."""
        judged = self._names(r for own in self.sources["test"].recordings.values() for r in own)
        tables: dict[Path, list[dict[str, str]]] = {self.out: [], self.out / "test_recordings": []}
        for key, row, source in self._rows():
            folder = self.out / "test_recordings" if key in judged else self.out
            if key not in judged and key in self.held:
                continue
            tables[folder].append(row)
            code = row["primary_label"].strip()
            target = folder / "train_short_audio" / code / row["filename"].strip()
            if isinstance(source, Path) and source.is_file():
                _link(source, target)
            elif isinstance(source, Recording):
                self._cut(source, target)
        for folder, rows in tables.items():
            write_csv(
                folder / METADATA, COLUMNS, ([row[column] for column in COLUMNS] for row in rows)
            )

    def _rows(self) -> Iterator[tuple[str, dict[str, str], Path | Recording]]:
        """Key and row of each recording, and its file, or the segment of one that it is."""
        if self.corpus.layout == BIRDCLEF:
            for _, row in read_table(self.data / METADATA, COLUMNS, Problems()):
                if row is not None:
                    code = row["primary_label"].strip()
                    name = row["filename"].strip()
                    path = self.data / "train_short_audio" / code / name
                    yield f"{code}/{name}", row, path
            return
        taxonomy = self.corpus.taxonomy
        for r in self.corpus.recordings:
            name = r.recording.split("/", 1)[1].replace("/", "_") + (".ogg" if r.is_segment else "")
            row = row_of(r, name, taxonomy[taxonomy.index(r.primary_label)])
            yield r.recording, row, r if r.is_segment else r.path

    def _cut(self, segment: Recording, target: Path) -> None:
        """Write a segment as a file of its own."""
        if not target.exists():
            try:
                samples = _CUT_S * RATE_HZ
                sound = read_sound(segment.path, samples, segment.start_s, segment.end_s)
            except RecordingError as error:
                self._note("sound file not readable", str(error))
                return
            write_bytes(target, encode(np.clip(sound, -1.0, 1.0)))


def _link(source: Path, target: Path) -> None:
    """Hard-link a file to another name; by a symbolic link if that is not possible."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # a broken symbolic link
    try:
        os.link(source, target)
    except OSError:
        target.symlink_to(source.resolve())
