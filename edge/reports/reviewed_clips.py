"""Reviewers' verdicts on the clips in the record: which species are heard in each, where no bird
calls, and which clips must not be given away.

Reads rows; knows no sound, no file and no page.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from edge.contract.local_clock import LocalClock
from edge.contract.taxonomy import NOCALL, Species
from edge.store.read_only import Reader
from edge.types import Place, utc_text

# Why a reviewed clip is not given away, or says nothing.
Reason = Literal[
    "unsure",
    "not_named",
    "contradicting",
    "no_clip",
    "sensitive",
    "voices",
    "missing",
    "damaged",
    "changed",
    "same_sound",
]
_CODE_MAX = 32
_NEAR = 8  # clips before one, by their start, that may overlap it
_TOLERANCE = timedelta(milliseconds=10)  # times in the record are rounded to milliseconds
_REVIEWS = """
    SELECT coalesce(k.stands_now, k.detection), k.verdict, coalesce(k.instead, ''),
        coalesce(k.species, d.species), coalesce(k.recording, d.recording, ''),
        coalesce(k.start_utc, d.start_utc, ''), iif(k.is_there, d.clip, NULL), d.clip
    FROM reviews_kept k LEFT JOIN detections d ON d.id = coalesce(k.stands_now, k.detection)
    ORDER BY k.reviewed_utc, k.reviewer"""
_CLIPS = """
    SELECT c.id, c.path, c.recording, c.start_utc, c.seconds, c.bytes, c.kept, r.station,
        r.latitude, r.longitude, coalesce(r.time_source, 'mtime'), r.clock_state,
        coalesce(r.zone_source, ''), coalesce(r.utc_offset_minutes, 0), coalesce(r.grown_into, '')
    FROM clips c JOIN recordings r ON r.id = c.recording
    WHERE c.recording IN (
        SELECT recording FROM reviews
        UNION SELECT d.recording FROM detections d JOIN reviews v ON v.detection = d.id
        UNION SELECT o.grown_into FROM recordings o JOIN reviews v ON v.recording = o.id)
    ORDER BY c.kept DESC, c.id"""
# What people write after --instead where no bird calls; a class of noise is none either.
NO_BIRD = frozenset(
    {NOCALL, "no call", "no bird", "nothing", "none", "noise", "background", "silence"}
)
_DETECTED = """
    SELECT id, species FROM detections
    WHERE recording IN (?, ?) AND start_utc < ? AND end_utc > ?"""


@dataclass(frozen=True)
class SavedClip:
    """A clip in the record, with what the record knows of its place and time."""

    id: str
    path: str  # relative to the clips' folder, with forward slashes
    recording: str
    start: datetime  # aware UTC
    seconds: float
    bytes: int
    kept: bool
    station: str
    place: Place | None
    utc_offset_minutes: int  # at the recording's start
    zone_is_ours: bool  # the station's zone gave the offset
    day_known: bool
    hour_known: bool
    grown_into: str  # id of the recording that contains its own; "": none

    @property
    def end(self) -> datetime:
        """Its end, aware UTC."""
        return self.start + timedelta(seconds=self.seconds)

    def overlaps(self, other: "SavedClip") -> bool:
        """True if both are of one recording and share more than half of the shorter one."""
        shared = (min(self.end, other.end) - max(self.start, other.start)).total_seconds()
        return self.recording == other.recording and shared > min(self.seconds, other.seconds) / 2

    def local(self, clock: LocalClock) -> tuple[str, str]:
        """Local date and time of day at its start, as far as they are known; `clock` is the
        station's."""
        at_recorder = LocalClock(None, self.utc_offset_minutes)
        minutes = (clock if self.zone_is_ours else at_recorder).offset_minutes(self.start)
        local = self.start + timedelta(minutes=minutes)
        day = local.strftime("%Y-%m-%d") if self.day_known else ""
        return day, local.strftime("%H:%M") if self.hour_known else ""


@dataclass
class ClipVerdicts:
    """A clip, and what its latest reviews say."""

    clip: SavedClip
    heard: set[str] = field(default_factory=set)  # codes
    not_heard: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)  # detections that are in truth no bird at all
    detections: set[str] = field(default_factory=set)  # all of any window of it, by id
    detected: set[str] = field(default_factory=set)  # their species

    @property
    def certain(self) -> list[str]:
        """Codes of the species that are heard, without those of which reviews contradict each
        other."""
        return sorted(self.heard - self.not_heard)

    @property
    def contradicting(self) -> list[str]:
        """Codes of the others."""
        return sorted(self.heard & self.not_heard)

    @property
    def is_background(self) -> bool:
        """True if reviewers said of every single detection that no bird calls there."""
        return bool(self.silent) and not self.heard and self.detections <= self.silent

    @property
    def named(self) -> set[str]:
        """Codes of all species that anybody has named in it."""
        return self.heard | self.not_heard | self.detected


@dataclass
class ReviewedClips:
    """All reviewed clips of a record."""

    clips: dict[str, ClipVerdicts] = field(default_factory=dict)  # by the id of the clip
    species: dict[str, Species] = field(default_factory=dict)  # by code
    left_out: Counter[Reason] = field(default_factory=Counter)  # reviews that give no clip
    named_by_people: set[str] = field(default_factory=set)  # codes that no bundle has
    merged: set[str] = field(default_factory=set)  # ids of clips for which another one stands


def read_reviewed(record: Reader) -> ReviewedClips:
    """All reviewed clips. The latest review of a detection counts, whoever gave it."""
    reviewed = ReviewedClips()
    names: dict[str, str] = {}
    for code, scientific, common in record.rows(
        "SELECT code, scientific_name, common_name FROM species ORDER BY code DESC"
    ):
        reviewed.species[code] = Species(code, scientific, common)
        names |= {name.casefold(): code for name in (common, scientific, code) if name}
    clips = _ClipIndex(_clip(row) for row in record.rows(_CLIPS))
    latest = {row[0]: row for row in record.rows(_REVIEWS)}  # a later one replaces an earlier
    for detection, verdict, instead, species, recording, start, own, stands in latest.values():
        if verdict == "unsure":
            reviewed.left_out["unsure"] += 1
            continue
        clip = clips.of_review(recording, start, own, stands)
        if clip is None:
            reviewed.left_out["no_clip"] += 1
            continue
        said = reviewed.clips.setdefault(clip.id, ClipVerdicts(clip))
        if verdict == "wrong" and instead.casefold() in NO_BIRD:
            said.not_heard.add(species)
            said.silent.add(detection)
        else:
            _take(reviewed, said, species, verdict == "correct", instead, names)
    for said in reviewed.clips.values():
        clip = said.clip
        span = utc_text(clip.end), utc_text(clip.start)
        for detection, species in record.rows(_DETECTED, (clip.recording, clip.grown_into, *span)):
            said.detections.add(detection)
            said.detected.add(species)
    merge_overlapping(reviewed)
    return reviewed


def merge_overlapping(reviewed: ReviewedClips) -> None:
    """Let one clip stand for those of the same sound, as clips of other settings leave them: two
    copies of a call would be trained on and judged by."""
    kept: list[ClipVerdicts] = []
    for said in sorted(
        reviewed.clips.values(), key=lambda one: (one.clip.recording, one.clip.start, one.clip.id)
    ):
        twin = next((one for one in kept[-_NEAR:] if one.clip.overlaps(said.clip)), None)
        if twin is None:
            kept.append(said)
            continue
        for name in ("heard", "not_heard", "silent", "detections", "detected"):
            getattr(twin, name).update(getattr(said, name))
        reviewed.left_out["same_sound"] += 1
        reviewed.merged.add(said.clip.id)
    reviewed.clips = {said.clip.id: said for said in kept}


def _clip(row: Sequence[object]) -> SavedClip:
    id_, path, recording, start, seconds, size, kept, station, *rest = row
    latitude, longitude, time_source, clock_state, zone_source, minutes, grown = rest
    place = None
    if isinstance(latitude, float) and isinstance(longitude, float):
        place = Place(latitude, longitude)
    known = time_source != "mtime" and clock_state != "unsynced"
    return SavedClip(
        str(id_),
        str(path),
        str(recording),
        datetime.fromisoformat(str(start).replace("Z", "+00:00")),
        float(str(seconds)),
        int(str(size)),
        bool(kept),
        str(station),
        place,
        int(str(minutes)),
        zone_source == "config",
        known,
        known and time_source != "date",
        str(grown),
    )


class _ClipIndex:
    """Clips by id and by recording, those that were kept first."""

    def __init__(self, clips: Iterable[SavedClip]) -> None:
        self._by_id = {clip.id: clip for clip in clips}
        self._of_recording: dict[str, list[SavedClip]] = {}
        for clip in self._by_id.values():
            self._of_recording.setdefault(clip.recording, []).append(clip)

    def of_review(
        self, recording: str, start: str, own: str | None, stands: str | None
    ) -> SavedClip | None:
        """The clip of a review: that of its detection; if that is gone, one that was kept for it,
        or that of the detection in its place."""
        if own in self._by_id:
            return self._by_id[own]
        if not start:  # of a repaired record
            return self._by_id.get(stands or "")
        begin = datetime.fromisoformat(start.replace("Z", "+00:00"))
        for clip in self._of_recording.get(recording, ()):
            if clip.start <= begin + _TOLERANCE and begin < clip.end - _TOLERANCE:
                return clip
        return self._by_id.get(stands or "")


def _take(
    reviewed: ReviewedClips,
    said: ClipVerdicts,
    species: str,
    correct: bool,
    instead: str,
    names: Mapping[str, str],
) -> None:
    """Add a review to what is said of its clip."""
    if correct:
        said.heard.add(species)
        return
    said.not_heard.add(species)
    if not instead:
        reviewed.left_out["not_named"] += 1
    else:
        code = names.get(instead.casefold()) or code_of(instead)
        if code not in reviewed.species:
            reviewed.species[code] = Species(code, "", instead)
        if instead.casefold() not in names:
            reviewed.named_by_people.add(code)
        said.heard.add(code)


def code_of(name: str) -> str:
    """A code for a species that no bundle has, from the reviewer's words; equal for words that
    differ in case and accents only."""
    plain = unicodedata.normalize("NFKD", name.casefold())
    code = re.sub("[^a-z0-9]+", "_", re.sub("[\u0300-\u036f]", "", plain)).strip("_")
    letters = sum(sign.isalnum() for sign in plain)
    if len(code) <= _CODE_MAX and len(code.replace("_", "")) == letters and letters > 1:
        return code if code != NOCALL else f"{code}_"
    digest = hashlib.sha256(unicodedata.normalize("NFKC", name.casefold()).encode()).hexdigest()
    return f"{code[: _CODE_MAX - 9]}_{digest[:8]}".lstrip("_")


def hidden(
    said: ClipVerdicts, sensitive: Collection[str], voices: Collection[str]
) -> Reason | None:
    """The reason for which a clip must not be given away, by the rules for saving clips; None
    if it may."""
    if said.named & set(sensitive):
        return "sensitive"
    return "voices" if said.named & set(voices) else None
