"""`birdstation pictures`: a page with the best detection of each species, its picture and its
sound, made from the record.

Replaces only files that it made itself. Each file is written whole or not at all.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from edge.clips.encode import encode, pcm
from edge.clips.retention import is_there
from edge.config import Config
from edge.contract.audio import Samples
from edge.contract.errors import RecordingError, StoreError, UsageError
from edge.contract.folders import holds_nothing
from edge.disclosure import Disclosure, check_sensitive
from edge.reports.best_detections import Evidence, SpeciesRecord, evidence_of, heard_in
from edge.reports.page import MARK, Card, page
from edge.reports.sound import WindowSound, cut_of_clip, cut_out, recordings_under
from edge.reports.spectrogram import svg
from edge.speech.listener import Listener
from edge.store.record import Store

PAGE = "birds.html"
BESIDE = "birds_files"
_FOLDER_MARK = ".birdstation-pictures"
_OURS = re.compile(r"[\w-]+-[0-9a-f]{8}\.(svg|flac)|\.birdstation-\S+\.part")
# field recordings are faint: sounds are amplified to this peak, by at most so many dB
_PEAK = 0.7
_LOUDER_DB_MAX = 40.0


@dataclass(frozen=True)
class PictureSummary:
    """The page and its numbers of species."""

    page: Path
    species: int
    with_sound: int


def write_pictures(
    store: Store, config: Config, out: Path, folder: Path | None = None
) -> PictureSummary:
    """Write `out/birds.html`, and its pictures and sounds into `out/birds_files`.

    `folder`: the page covers the recordings in it, and the sound comes from them. None: the page
    covers the whole record, with sound from the watched folder and from clips. Raises UsageError if
    the folder does not exist or `out` holds other things, ConfigError for a sensitive species that
    the record does not know, StoreError if a file cannot be written.
    """
    root = folder or (config.folder.path if config.source == "folder" else None)
    disclosure = Disclosure.of(config)
    _check(out, root)
    known = {code for (code,) in store.rows("SELECT code FROM species")}
    check_sensitive(config, known, store.path)
    try:
        files = recordings_under(store, config.station.id, root) if root else {}
    except RecordingError as error:
        if folder:
            raise UsageError(str(error)) from error
        files = {}  # the watched folder's disk is missing: there may still be clips
    species = heard_in(store, set(files) if folder else None)
    chosen = [(heard, evidence_of(store, _choose(config, files, heard))) for heard in species]
    beside = out / BESIDE
    _make(beside)
    chosen = [(heard, replace(shown, path=disclosure.name(shown.path))) for heard, shown in chosen]
    sounds = _sounds(config, files, [shown for _, shown in chosen])
    heard_of = {shown.id: heard for heard, shown in chosen}
    made_of = {
        shown.id: _card(config, beside, heard_of[shown.id], shown, sound) for shown, sound in sounds
    }
    cards = [made_of[shown.id] for _, shown in chosen]
    now = datetime.now(timezone.utc).astimezone(config.zone or timezone.utc)
    made = (
        f"Station {config.station.id}, {len(cards)} species; made {now:%Y-%m-%d %H:%M %Z} by "
        "birdstation"
    )
    title = (
        f"Birds in {disclosure.name(folder.resolve().name)}"
        if folder
        else f"Birds heard by station {config.station.id}"
    )
    # backslashreplace: file names that are not text
    _put(out / PAGE, page(title, cards, made).encode("utf8", "backslashreplace"))
    used = {name for card in cards for name in (card.picture, card.sound) if name}
    _tidy(beside, {Path(name).name for name in used})
    return PictureSummary(out / PAGE, len(cards), sum(card.sound is not None for card in cards))


def _check(out: Path, root: Path | None) -> None:
    """Check the output folder. Raises UsageError if a file would be replaced that is not ours, or
    if the page's sounds would themselves be replayed as recordings."""
    if root and out.resolve().is_relative_to(root.resolve()):
        raise UsageError(
            f"--out {out}: is inside {root}, where the page's sounds would count as recordings"
        )
    path = out / PAGE
    beside = out / BESIDE
    try:
        with path.open("rb") as file:
            ours = file.read(len(MARK)) == MARK.encode()
    except FileNotFoundError:
        ours = True
    except OSError:
        ours = False
    if not ours:
        raise UsageError(f"{path}: not made by `edge pictures`; choose another folder for --out")
    if not holds_nothing(beside) and not (beside / _FOLDER_MARK).is_file():
        raise UsageError(f"{beside}: not made by `edge pictures`; choose another folder for --out")


def _make(beside: Path) -> None:
    try:
        beside.mkdir(parents=True, exist_ok=True)
        (beside / _FOLDER_MARK).touch()
    except OSError as error:
        raise StoreError(f"{beside}: {error.strerror or error}") from error


def _choose(config: Config, files: Mapping[str, Path], heard: SpeciesRecord) -> str:
    """Id of the best of a few candidates that has sound; else of the best one."""
    for one in heard.candidates:
        if one.recording in files or (one.clip and is_there(config.clips_folder, one.clip)):
            return one.id
    return heard.candidates[0].id


def _sounds(
    config: Config, files: Mapping[str, Path], shown: list[Evidence]
) -> Iterator[tuple[Evidence, WindowSound | None]]:
    """Each detection with its sound, where that is available; each recording is decoded once."""
    of_recording: dict[str, list[Evidence]] = {}
    for one in shown:
        of_recording.setdefault(one.recording, []).append(one)
    for recording, ones in of_recording.items():
        path = files.get(recording)
        cuts = cut_out(path, {one.offset_s for one in ones}) if path else {}
        for one in ones:
            sound = cuts.get(one.offset_s)
            if sound is None and one.clip:
                sound = cut_of_clip(config.clips_folder, one.clip, one.clip_offset_s)
            yield one, sound


def _card(
    config: Config, beside: Path, heard: SpeciesRecord, shown: Evidence, sound: WindowSound | None
) -> Card:
    if sound is None:
        return Card(
            heard, shown, None, None, 0.0, "Neither its recording nor a clip of it is available."
        )
    name = f"{re.sub(r'[^A-Za-z0-9_-]', '_', heard.code)}-{shown.id[:8]}"
    from_s = shown.offset_s - sound.before_s
    _put(beside / f"{name}.svg", svg(sound.samples, sound.before_s, from_s).encode())
    silent = _silent(config, heard, sound.samples)
    louder_db = _louder_db(sound.samples)
    if not silent:
        text = f"Original Filename: {' '.join(shown.path.split())}\nSpecies Auto ID: {heard.code}\n"
        text += f"Note: {louder_db:.0f} dB louder than recorded\n" if louder_db else ""
        gain = np.float32(10 ** (louder_db / 20))
        _put(
            beside / f"{name}.flac",
            encode(pcm(sound.samples * gain), f"GUANO|Version: 1.0\n{text}", "flac"),
        )
    picture = f"{BESIDE}/{name}.svg"
    heard_at = f"{BESIDE}/{name}.flac"
    return Card(heard, shown, picture, None if silent else heard_at, louder_db, silent)


def _silent(config: Config, heard: SpeciesRecord, samples: Samples) -> str:
    """Reason for which the sound must not be published, by the rules for clips; "" if it may be.
    People are recognised by the speech detector alone: the scores of the bundle's human classes
    are not in the record."""
    if heard.code in config.sensitive.species:
        return "No sound: the species is among this station's sensitive ones."
    if config.privacy.speech and config.privacy.human != "off":
        listener = Listener()
        listener.push(samples)
        if listener.spoken(0, len(samples)) is not None:
            return "No sound: people seem to speak in it (privacy.speech)."
    return ""


def _louder_db(samples: Samples) -> float:
    peak = float(np.abs(samples).max())
    return min(_LOUDER_DB_MAX, 20 * np.log10(_PEAK / peak)) if 0 < peak < _PEAK / 2 else 0.0


def _put(path: Path, content: bytes) -> None:
    part = path.with_name(f".birdstation-{path.name}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StoreError(f"{path}: {error.strerror or error}") from error


def _tidy(beside: Path, used: set[str]) -> None:
    """Remove the files of an earlier page, and unfinished files of a run that was killed."""
    for path in beside.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in used:
            path.unlink(missing_ok=True)
