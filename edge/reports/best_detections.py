"""The best detections of each species, its number of detections, and the evidence for the detection
that is shown. Reads the store; knows no sound and no page."""

from collections.abc import Collection
from dataclasses import dataclass

from edge.reports.why import explain
from edge.store.record import Store

CANDIDATES = 5  # per species; the first of them whose sound is available is shown
_NOT_WRONG = "NOT EXISTS (SELECT 1 FROM reviews v WHERE v.detection = d.id AND v.verdict = 'wrong')"


@dataclass(frozen=True)
class DetectionCandidate:
    """A detection that may be shown."""

    id: str
    recording: str
    clip: str | None  # path in the clips' folder


@dataclass(frozen=True)
class SpeciesRecord:
    """A species in the record, without detections that a reviewer called wrong."""

    code: str
    common_name: str
    scientific_name: str
    detections: int
    recordings: int
    best: float  # score
    candidates: tuple[DetectionCandidate, ...]  # its best detections, the best first


@dataclass(frozen=True)
class Evidence:
    """One detection and the figures that led to it."""

    id: str
    recording: str
    path: str  # of the recording, as the record knows it
    source: str
    offset_s: float  # of the window in the recording
    when: str  # local time at the place, as far as it is known
    score: float
    acoustic: float
    # probability of meeting the species there on that day; None: not known, or another prior
    geo: float | None
    odds_moved: float | None  # factor due to place and day; None: no prior was used
    threshold: float
    rule: str
    clip: str | None  # path in the clips' folder
    clip_offset_s: float  # of the window in the clip
    bundle: str
    licence: str | None
    notice: str | None  # a warning about the model: its birds are invented


def heard_in(store: Store, recordings: Collection[str] | None = None) -> list[SpeciesRecord]:
    """Species detected in these recordings (None: in all), the most frequent first."""
    counted: dict[str, list[tuple[float, int, str]]] = {}
    for recording, species, count, best in store.rows(
        f"SELECT recording, species, count(*), max(score) FROM detections d WHERE {_NOT_WRONG} "
        "GROUP BY 1, 2"
    ):
        if recordings is None or recording in recordings:
            counted.setdefault(species, []).append((best, count, recording))
    names = {
        code: (common, scientific)
        for code, common, scientific in store.rows(
            "SELECT code, coalesce(nullif(common_name, ''), code), scientific_name FROM species"
        )
    }
    species = [_species(store, code, *names[code], counts) for code, counts in counted.items()]
    return sorted(species, key=lambda one: (-one.detections, one.code))


def _species(
    store: Store, code: str, common: str, scientific: str, counts: list[tuple[float, int, str]]
) -> SpeciesRecord:
    """Record of one species from its best score, number of detections and id per recording."""
    counts.sort(key=lambda one: (-one[0], one[2]))
    best: list[tuple[float, str, str, str | None, str]] = []
    for _, _, recording in counts[:CANDIDATES]:
        best += store.rows(
            "SELECT -d.score, d.start_utc, d.id, c.path, d.recording FROM detections d LEFT JOIN "
            f"clips c ON c.id = d.clip WHERE d.recording = ? AND d.species = ? AND {_NOT_WRONG} "
            "ORDER BY 1, 2, 3 LIMIT ?",
            (recording, code, CANDIDATES),
        )
    best.sort(key=lambda one: one[:3])
    candidates = tuple(
        DetectionCandidate(id_, recording, clip) for _, _, id_, clip, recording in best[:CANDIDATES]
    )
    return SpeciesRecord(
        code,
        common,
        scientific,
        sum(count for _, count, _ in counts),
        len(counts),
        counts[0][0],
        candidates,
    )


def evidence_of(store: Store, detection: str) -> Evidence:
    """Evidence in the record for one detection. Raises UsageError if there is no such id."""
    why = explain(store, detection)
    recording, clip_offset_s = store.rows(
        "SELECT d.recording, coalesce(86400 * (julianday(d.start_utc) - julianday(c.start_utc)), "
        "0) FROM detections d LEFT JOIN clips c ON c.id = d.clip WHERE d.id = ?",
        (detection,),
    )[0]
    return Evidence(
        id=why["id"],
        recording=recording,
        path=why["path"],
        source=why["source"],
        offset_s=why["offset_s"],
        when=_when(why["local_time"], why["time_source"], why["clock_state"]),
        score=why["score"],
        acoustic=why["acoustic"],
        geo=why["geo"],
        odds_moved=None if why["prior"] is None else why["odds_moved"],
        threshold=why["threshold"],
        rule=why["rule"],
        clip=why["clip"],
        clip_offset_s=clip_offset_s,
        bundle=why["bundle"],
        licence=why["licence"],
        notice=why["notice"],
    )


def _when(local: str, source: str, clock: str) -> str:
    if source == "mtime":
        return f"not known; by the file's date {local}"
    if source == "date":
        return f"{local[:10]}, hour not known"
    return f"{local}{', clock not set' if clock == 'unsynced' else ''}"
