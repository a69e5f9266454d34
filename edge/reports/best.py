"""The best detections of each species, how often it was heard, and what led to the one that is
shown. Reads the store; knows no sound and no page."""

from collections.abc import Collection
from dataclasses import dataclass

from edge.reports.why import explain
from edge.store.record import Store

CANDIDATES = 5  # detections of a species, of which the first is shown whose sound is there
_NOT_WRONG = "NOT EXISTS (SELECT 1 FROM reviews v WHERE v.detection = d.id AND v.verdict = 'wrong')"


@dataclass(frozen=True)
class DetectionCandidate:
    """A detection that may be shown."""

    id: str
    recording: str
    clip: str | None  # path in the clips' folder


@dataclass(frozen=True)
class SpeciesRecord:
    """A species as the record has it, without what a person has called wrong."""

    code: str
    common_name: str
    scientific_name: str
    detections: int
    recordings: int
    best: float  # score
    candidates: tuple[DetectionCandidate, ...]  # its best detections, the best first


@dataclass(frozen=True)
class Evidence:
    """One detection and what led to it."""

    id: str
    recording: str
    path: str  # of the recording, as the record knows it
    source: str
    offset_s: float  # of the window in the recording
    when: str  # at the place, as far as it is known
    score: float
    acoustic: float
    geo: (
        float | None
    )  # probability of meeting the species there on that day; None: not known, or another prior
    odds_moved: float | None  # by place and day; None: they did not weigh in
    threshold: float
    rule: str
    clip: str | None  # path in the clips' folder
    clip_offset_s: float  # of the window in the clip
    bundle: str
    licence: str | None
    notice: str | None  # what is to be said of the model: its birds are invented


def heard_in(store: Store, recordings: Collection[str] | None = None) -> list[SpeciesRecord]:
    """The species of these recordings (None: of all), the most heard first."""
    counted: dict[str, list[tuple[float, int, str]]] = {}
    for recording, species, count, best in store.rows(
        f"SELECT recording, species, count(*), max(score) FROM detections d WHERE {_NOT_WRONG} "
        f"GROUP BY 1, 2"
    ):
        if recordings is None or recording in recordings:
            counted.setdefault(species, []).append((best, count, recording))
    names = {
        code: (common, scientific)
        for code, common, scientific in store.rows(
            "SELECT code, coalesce(nullif(common_name, ''), code), scientific_name FROM species"
        )
    }
    found = [_heard(store, code, *names[code], of_it) for code, of_it in counted.items()]
    return sorted(found, key=lambda heard: (-heard.detections, heard.code))


def _heard(
    store: Store, code: str, common: str, scientific: str, of_it: list[tuple[float, int, str]]
) -> SpeciesRecord:
    of_it.sort(key=lambda one: (-one[0], one[2]))
    best: list[tuple[float, str, str, str | None, str]] = []
    for _, _, recording in of_it[:CANDIDATES]:
        best += store.rows(
            "SELECT -d.score, d.start_utc, d.id, c.path, d.recording"
            " FROM detections d LEFT JOIN clips c ON c.id = d.clip"
            f" WHERE d.recording = ? AND d.species = ? AND {_NOT_WRONG} ORDER BY 1, 2, 3 LIMIT ?",
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
        sum(count for _, count, _ in of_it),
        len(of_it),
        of_it[0][0],
        candidates,
    )


def evidence_of(store: Store, detection: str) -> Evidence:
    """What the record has of a detection."""
    why = explain(store, detection)
    recording, clip_offset_s = store.rows(
        "SELECT d.recording, coalesce(86400 * (julianday(d.start_utc) - julianday(c.start_utc)), 0)"
        " FROM detections d LEFT JOIN clips c ON c.id = d.clip WHERE d.id = ?",
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
