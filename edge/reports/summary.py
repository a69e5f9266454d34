"""The figures of one replay, for `--json` and for scripts. The field names are public: fields are
only ever added."""

import math
import resource
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edge.demo.invented import notice_of
from edge.replay.archive import ReplaySummary
from edge.reports.score import ReplayScore
from edge.store.record import Store
from edge.types import Outcome


@dataclass(frozen=True)
class Cost:
    """Cost of a run in time."""

    wall_s: float
    cpu_s: float
    seconds: dict[str, float]  # wall seconds by step


def cpu_seconds() -> float:
    """User and system time of this process and of the children it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far; ru_maxrss is KiB on Linux, bytes on macOS."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def of_recordings(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """One outcome per recording: that of the file that was read, if one was. Each refused file
    counts by itself."""
    first: dict[str, Outcome] = {}
    for outcome in sorted(outcomes, key=lambda o: o.earlier):
        of = outcome.recording if outcome.state == "analysed" else None
        first.setdefault(of or outcome.path, outcome)
    return sorted(first.values(), key=lambda o: o.path)


@dataclass(frozen=True)
class Times:
    """Numbers of recordings whose recorder did not give the complete start time."""

    times_guessed: int  # no time of their own: the file's modification time was taken
    hours_unknown: int  # only the day is known
    zones_assumed: int  # a time without a zone, counted as UTC since the settings name none


def times_of(store: Store, recordings: Collection[str]) -> Times:
    """Counts of these recordings whose start time is uncertain."""
    mine = set(recordings)
    rows = store.rows("SELECT id, time_source, zone_source FROM recordings")
    known = [(source, zone) for recording, source, zone in rows if recording in mine]
    return Times(
        times_guessed=sum(source == "mtime" for source, _ in known),
        hours_unknown=sum(source == "date" for source, _ in known),
        zones_assumed=sum(zone == "assumed_utc" and source != "mtime" for source, zone in known),
    )


def also_of_another_station(store: Store, recordings: Collection[str]) -> int:
    """Number of these recordings that the record also has under another station's id, as after a
    change of station.id."""
    rows = store.rows(
        "SELECT DISTINCT mine.id FROM recordings mine JOIN recordings other ON other.sha256 = "
        "mine.sha256 WHERE mine.state = 'analysed' AND other.state = 'analysed' AND other.station "
        "<> mine.station AND mine.grown_into IS NULL AND other.grown_into IS NULL"
    )
    return len(set(recordings) & {recording for (recording,) in rows})


def replay_summary(
    store: Store, done: ReplaySummary, cost: Cost, score: ReplayScore | None
) -> dict[str, Any]:
    """JSON object of a replay, about its own recordings only.

    `analysed` and `audio_s` include earlier runs, `new_…` counts this run alone; `mqtt_waiting` is
    the number of messages that the broker has not acknowledged yet, None if no broker is
    configured. A recording that has several files in the folder counts once. NaN becomes null.
    """
    files = len(done.outcomes)
    outcomes = of_recordings(done.outcomes)
    detections, species = store.heard_in(done.bundle.id, done.recordings.values())
    analysed = [o for o in outcomes if o.state == "analysed"]
    new_audio_s = sum(o.audio_s for o in analysed if not o.earlier)
    summary: dict[str, Any] = {
        "files": files,
        "recordings": len(outcomes),
        "analysed": len(analysed),
        "unchanged": sum(o.earlier for o in outcomes),
        "refused": [{"file": o.path, "reason": o.reason} for o in outcomes if o.state == "refused"],
        "partly_lost": [{"file": o.path, "reason": o.reason} for o in analysed if o.reason],
        "audio_s": round(sum(o.audio_s for o in analysed), 3),
        "new_audio_s": round(new_audio_s, 3),
        "windows": sum(o.windows for o in analysed),
        "detections": detections,
        "new_detections": sum(o.new_detections for o in outcomes),
        "species": species,
        "mqtt_waiting": done.waiting,
        "wall_s": round(cost.wall_s, 3),
        "cpu_s": round(cost.cpu_s, 3),
        "x_real_time": round(new_audio_s / cost.wall_s, 1),
        "seconds": {step: round(seconds, 3) for step, seconds in cost.seconds.items()},
        "peak_rss_mb": round(peak_rss_mb(), 1),
    }
    summary |= asdict(times_of(store, done.recordings.values()))
    summary["also_of_another_station"] = also_of_another_station(store, done.recordings.values())
    summary |= {"licence": done.bundle.licence} if done.bundle.licence else {}
    summary["notice"] = notice_of(done.bundle.manifest.taxonomy_digest)
    if score:
        summary |= {
            key: None if math.isnan(value) else value for key, value in asdict(score.rows).items()
        }
        if score.recordings < 2:  # no interval from a single recording
            summary["f1_low"] = summary["f1_high"] = None
        summary["rows_without_recording"] = score.rows_without_recording
        summary["labelled_species_unknown"] = score.unknown_species
    return summary
