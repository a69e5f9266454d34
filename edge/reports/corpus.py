"""`birdstation corpus`: the clips that reviewers confirmed, or named as another species, as a
corpus to train on, by the rules for what may leave the station.

The record is only read. What is in the folder already stays as it is, what a later review took back
goes.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge.capture.recording import Decoder
from edge.clips.retention import clip_file
from edge.clips.told_text import told_clip
from edge.config import Config
from edge.contract.audio import Samples
from edge.contract.errors import RecordingError, UsageError
from edge.contract.local_clock import LocalClock
from edge.contract.taxonomy import Species, Taxonomy
from edge.disclosure import Disclosure, check_sensitive
from edge.reports.corpus_folder import BACKGROUNDS, SOUNDS, CorpusFolder, CorpusRow, OwnFile
from edge.reports.reviewed_clips import (
    ClipVerdicts,
    Reason,
    ReviewedClips,
    SavedClip,
    hidden,
    read_reviewed,
)
from edge.speech.listener import RULE, Listener
from edge.store.read_only import read_record
from edge.types import Gap

_LENGTH_TOLERANCE_S = 0.01
_ID_DIGITS = 16  # of a clip's id, in the name of its file
_UNREAD: tuple[Reason, ...] = ("missing", "damaged", "changed")
_WORDS: dict[Reason, str] = {
    "unsure": "reviews are unsure",
    "not_named": "reviews say wrong, and not what it is (birdstation review ID wrong --instead)",
    "contradicting": "times reviews of one clip contradict each other about a species",
    "no_clip": "reviewed detections have no clip",
    "sensitive": "clips have a sensitive species in them (sensitive.species)",
    "voices": "clips have people's voices in them (privacy)",
    "missing": "clips have no file any more",
    "damaged": "clips are damaged",
    "changed": "clips were changed since they were saved, or their name is taken in the corpus",
    "same_sound": "clips are of the same sound as another, which stands for both",
}


@dataclass(frozen=True)
class StationCorpus:
    """A corpus as it is now, and the reasons for what is not in it. Counts are of the station's own
    files; a clip with two species is two recordings."""

    corpus: str  # path of the folder
    recordings: int
    backgrounds: int  # clips without any bird
    added: int
    removed: int
    species: dict[str, int]  # recordings by code
    named_by_people: dict[str, str]  # code -> the reviewers' words for species of no bundle
    left_out: dict[Reason, int]
    details: list[str]  # a line for each clip that contradicts itself or cannot be read

    @property
    def unread(self) -> int:
        """Number of clips that should be in it and cannot be read."""
        return sum(self.left_out.get(reason, 0) for reason in _UNREAD)


class _Unusable(Exception):
    """A clip that is not written, with the reason."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(detail)
        self.reason = reason


def write_corpus(
    config: Config, out: Path, show: Callable[[str], None] = lambda _: None
) -> StationCorpus:
    """Write the corpus, or bring it up to date. `show` is called with a few words on what is being
    done.

    Raises UsageError if `out` holds other things or lies where clips or recordings are, ConfigError
    for a sensitive species that the record does not know, StoreError if the record cannot be read,
    BundleError if the bundle's taxonomy cannot be, OSError where a file cannot be written.
    """
    _check_place(config, out)
    reviewed = read_record(config.database, read_reviewed)
    check_sensitive(config, reviewed.species, config.database)
    rules = _rules(config)
    with CorpusFolder(out, config.station.id, rules) as folder:
        return _CorpusWriter(config, reviewed, folder, show).written(out)


def summary_lines(done: StationCorpus) -> Iterator[str]:
    """Lines on a corpus, for people."""
    beside = (
        f", {done.backgrounds} clips without birds in {BACKGROUNDS}/" if done.backgrounds else ""
    )
    yield (
        f"{done.corpus}: {done.recordings} recordings of {len(done.species)} species{beside}; "
        f"{done.added} new, {done.removed} taken out"
    )
    for reason, count in done.left_out.items():
        yield f"not in it: {count} {_WORDS[reason]}"
    yield from done.details
    if done.named_by_people:
        named = ", ".join(f"{code} ({words})" for code, words in done.named_by_people.items())
        yield f"of no bundle, as reviewers named them: {named}"
    if not done.recordings:
        yield "first review detections: birdstation review ID correct (ids are in the view heard)"


class _CorpusWriter:
    """One run over all reviewed clips."""

    def __init__(
        self,
        config: Config,
        reviewed: ReviewedClips,
        folder: CorpusFolder,
        show: Callable[[str], None],
    ) -> None:
        self._config = config
        self._reviewed = reviewed
        self._folder = folder
        self._show = show
        self._disclosure = Disclosure.of(config)
        self._left_out: Counter[Reason] = Counter(reviewed.left_out)
        self._details: list[str] = []
        self._added = 0

    def written(self, out: Path) -> StationCorpus:
        """Write what is new, then the table, and remove what was taken back."""
        plan = list(self._planned())
        before = set(self._folder.files)
        self._folder.announce(
            {
                path: OwnFile(said.clip.id, said.clip.bytes)
                for said, paths in plan
                for path in paths
                if not self._folder.is_taken(path)
            }
        )
        rows: dict[str, CorpusRow] = {}
        files = self._of_the_past()
        rows |= {path: row for path, row in self._folder.rows.items() if path in files}
        for number, (said, paths) in enumerate(plan, start=1):
            self._show(f"clip {number} of {len(plan)}")
            for path in self._put(said.clip, paths):
                files[path] = OwnFile(said.clip.id, said.clip.bytes)
                if path.startswith(f"{SOUNDS}/"):
                    rows[path] = self._row(said, path)
        self._folder.finish(rows, files)
        return self._summary(out, rows, files, before)

    def _planned(self) -> Iterator[tuple[ClipVerdicts, list[str]]]:
        """Clips that may leave, and the names under which they do."""
        voices = _voices(self._config)
        clips = self._reviewed.clips.values()
        for said in sorted(clips, key=lambda one: (one.clip.start, one.clip.id)):
            reason = hidden(said, self._config.sensitive.species, voices)
            if reason:
                self._left_out[reason] += 1
                continue
            for code in said.contradicting:
                self._left_out["contradicting"] += 1
                self._details.append(f"{said.clip.path}: reviews contradict each other on {code}")
            name = f"{said.clip.station}_{said.clip.id.replace('-', '')[:_ID_DIGITS]}"
            name += Path(said.clip.path).suffix
            paths = [f"{SOUNDS}/{code}/{name}" for code in said.certain]
            paths += [f"{BACKGROUNDS}/{name}"] if said.is_background else []
            if paths:
                yield said, paths

    def _of_the_past(self) -> dict[str, OwnFile]:
        """Files in the corpus whose reviews the record no longer has, as after a backup was put
        back: no reviewer took them back, so they stay."""
        known = self._reviewed.clips.keys() | self._reviewed.merged
        return {
            path: own
            for path, own in self._folder.files.items()
            if own.clip not in known and self._folder.holds(path)
        }

    def _put(self, clip: SavedClip, paths: list[str]) -> list[str]:
        """Write a clip where it is not yet; the names under which it is there now."""
        there = [path for path in paths if self._folder.holds(path)]
        new = [path for path in paths if path not in there]
        try:
            if any(self._folder.is_taken(path) for path in new):
                raise _Unusable("changed", "another file has its name in the corpus")
            content = self._content(clip) if new else b""
        except _Unusable as error:
            self._left_out[error.reason] += 1
            if error.reason in _UNREAD:
                self._details.append(f"{clip.path}: {error}")
            return there
        for path in new:
            self._folder.put(path, content)
            self._added += 1
        return paths

    def _content(self, clip: SavedClip) -> bytes:
        """The bytes of a clip as they may leave. Raises _Unusable."""
        try:
            path = clip_file(self._config.clips_folder, clip.path)
            with path.open("rb") as file:
                content = told_clip(file, self._disclosure)
        except FileNotFoundError as error:
            raise _Unusable("missing", "no such file") from error
        except OSError as error:
            raise _Unusable("damaged", error.strerror or str(error)) from error
        except ValueError as error:
            raise _Unusable("changed", str(error)) from error
        if len(content) != clip.bytes:
            found = f"expected {clip.bytes} bytes, found {len(content)}"
            raise _Unusable("damaged" if len(content) < clip.bytes else "changed", found)
        samples = _samples(path, clip.seconds)
        if self._config.privacy.speech and self._config.privacy.human != "off":
            listener = Listener()
            listener.push(samples)
            if listener.spoken(0, len(samples)) is not None:
                raise _Unusable("voices")
        return content

    def _row(self, said: ClipVerdicts, path: str) -> CorpusRow:
        clip = said.clip
        _, code, name = path.split("/")
        place = self._disclosure.clip_place(clip.place).split() if clip.place else ("", "")
        day, time = clip.local(LocalClock(self._config.zone))
        known = self._reviewed.species.get(code, Species(code, "", ""))
        return CorpusRow(
            primary_label=code,
            secondary_labels=str(sorted(said.heard - {code})),
            type="",
            latitude=place[0],
            longitude=place[1],
            scientific_name=known.scientific_name,
            common_name=known.common_name,
            author=clip.station,
            date=day,
            filename=name,
            license="",
            rating="0",
            time=time,
            url="",
        )

    def _summary(
        self,
        out: Path,
        rows: dict[str, CorpusRow],
        files: dict[str, OwnFile],
        before: set[str],
    ) -> StationCorpus:
        counts = Counter(row.primary_label for row in rows.values())
        named = self._reviewed.named_by_people & counts.keys()
        return StationCorpus(
            corpus=str(out),
            recordings=len(rows),
            backgrounds=len(files) - len(rows),
            added=self._added,
            removed=len(before - files.keys()),
            species=dict(sorted(counts.items())),
            named_by_people={
                code: self._reviewed.species[code].common_name for code in sorted(named)
            },
            left_out={
                reason: self._left_out[reason] for reason in _WORDS if self._left_out[reason]
            },
            details=self._details,
        )


def _check_place(config: Config, out: Path) -> None:
    """Raise UsageError if the corpus would lie among clips, or be analysed as recordings."""
    watched = config.folder.path if config.source == "folder" else None
    for folder, what in ((config.clips_folder, "clips"), (watched, "recordings")):
        if folder and out.resolve().is_relative_to(folder.resolve()):
            raise UsageError(
                f"--out {out}: is inside {folder}, where the station has its {what}; choose "
                "another folder"
            )


def _rules(config: Config) -> str:
    """Digest of all rules by which files are chosen and written, besides the record."""
    disclosure = Disclosure.of(config)
    listens = config.privacy.speech and config.privacy.human != "off"
    rules = [
        disclosure.hides,
        disclosure.clip_decimals,
        sorted(config.sensitive.species),
        config.privacy.human,
        RULE if listens else "",
    ]
    return hashlib.sha256(json.dumps(rules).encode()).hexdigest()


def _voices(config: Config) -> set[str]:
    """Codes of classes that are people's voices. Raises BundleError."""
    if config.privacy.human == "off":
        return set()
    taxonomy = Taxonomy.read_csv(config.bundle_folder / "taxonomy.csv")
    of_kind = (taxonomy.codes[index] for index in taxonomy.of_kind(["human"]))
    return {*config.privacy.classes, *of_kind}


def _samples(path: Path, seconds: float) -> Samples:
    """All sound of a clip. Raises _Unusable unless all of it can be decoded."""
    try:
        with Decoder(path) as decoder:
            pieces = list(decoder)
    except RecordingError as error:
        raise _Unusable("damaged", error.reason) from error
    whole = abs(decoder.decoded_s - seconds) < _LENGTH_TOLERANCE_S
    if decoder.warning or not whole or any(isinstance(piece, Gap) for piece in pieces):
        reason = f"expected {seconds:.3f} s of sound, found {decoder.decoded_s:.3f} s"
        raise _Unusable("damaged", decoder.warning or reason)
    return np.concatenate([piece for piece in pieces if not isinstance(piece, Gap)])
