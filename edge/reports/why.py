"""Explanation of one detection: scores, prior, threshold, clock and reviews behind it. Reads the
store; knows no sound."""

import json
import math
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from edge.contract.bundle import Licence
from edge.contract.errors import UsageError
from edge.demo.invented import notice_of
from edge.store.record import Store
from edge.store.schema import at_the_place

_SHED = (
    "full analysis",
    "windows without overlap, since sound came too fast",
    "one member of each kind or the student alone, since sound came too fast",
)
# key: the networks that were loaded, and those whose scores count
_DECIDED = {
    ("bag", "bag"): "the ensemble: all networks together",
    ("student", "student"): "the student alone",
    ("cascade", "student"): "the student, which runs first; the ensemble was not run",
    ("cascade", "bag"): "the ensemble, since the student was not sure of this window",
}
_NO_CLIP = (
    "none, as of recordings by default (clips.of_recordings); birdstation pictures plays the "
    "recording"
)
_SET_BY = {
    "bundle": "the model's",
    "bundle-acoustic": "the model's, for sound without a place",
    "station": "by detect.threshold",
    "station-acoustic": "by detect.threshold",
    "species": "of this species",
}
_TIME_FROM = {
    "clock": "this machine's clock",
    "name": "the file's name",
    "date": "the file's name, which gives the day only",
    "mtime": "the file's date, which copying may have changed",
    "guano": "the recorder (GUANO)",
    "audiomoth": "the recorder (AudioMoth)",
    "wamd": "the recorder (wamd)",
    "frontierlabs": "the recorder (Frontier Labs)",
    "bext": "the recorder (bext)",
}
_CLOCKS = {
    "recorder": "the recorder's clock",
    "synced": "a clock that was set (synced)",
    "rtc": "the hardware clock (rtc)",
    "unsynced": "a clock that nothing had set (unsynced)",
}
# detection: the id that was reviewed, perhaps of an earlier analysis
_REVIEW = ("reviewer", "verdict", "instead", "note", "reviewed_utc", "detection")
_COLUMNS = (
    "d.id, d.species, s.common_name, s.scientific_name, d.start_utc, d.end_utc, d.offset_s, "
    "d.score, d.acoustic, d.prior, d.threshold, d.rule, d.members, d.decided_by, d.runner_ups, "
    "d.shed, d.level_dbfs, c.path AS clip, d.bundle, r.path, r.source, r.time_source, "
    "r.clock_state, r.clock_fix_s, r.latitude, r.longitude"
)
_BEGINS = "d.id >= ? AND d.id < ? || char(0x10ffff)"  # a prefix match that uses the index


def explain(store: Store, prefix: str) -> dict[str, Any]:
    """Everything about the detection whose id begins with `prefix`. Raises UsageError if there is
    none, or several."""
    rows = store.rows(
        f"SELECT {_COLUMNS}, {at_the_place('datetime', 'd.start_utc', 'd')} FROM detections d JOIN "
        "species s ON s.code = d.species JOIN recordings r ON r.id = d.recording LEFT JOIN clips "
        f"c ON c.id = d.clip WHERE {_BEGINS} LIMIT 2",
        (prefix, prefix),
    )
    if not rows:
        _check_reviews(store, prefix)
        raise UsageError(
            f"ID: no detection in {store.path} begins with {prefix!r}; the ids are in the view "
            "heard"
        )
    if len(rows) > 1:
        ((count,),) = store.rows(
            f"SELECT count(*) FROM detections d WHERE {_BEGINS}", (prefix, prefix)
        )
        raise UsageError(
            f"ID: {count} detections in {store.path} begin with {prefix!r}; give more of the id"
        )
    names = [column.split(" AS ")[-1].split(".")[-1].strip() for column in _COLUMNS.split(",")] + [
        "local_time"
    ]
    why = dict(zip(names, rows[0], strict=True))
    manifest = json.loads(
        store.rows("SELECT manifest FROM bundles WHERE id = ?", (why["bundle"],))[0][0]
    )
    why["loaded"], why["members"] = _members(manifest, why)
    why["licence"] = _licence(manifest)
    why["clip_file"] = (
        str((store.path.parent / "clips" / why["clip"]).absolute()) if why["clip"] else None
    )
    why["notice"] = notice_of(manifest.get("taxonomy_digest"))
    why["odds_moved"] = _odds_moved(why)
    why["geo"] = _geo(manifest, why)
    why["runner_ups"] = dict(json.loads(why["runner_ups"] or "[]"))
    why["reviews"] = [
        dict(zip(_REVIEW, row, strict=True))
        for row in store.rows(
            f"SELECT {', '.join(_REVIEW)} FROM reviews_kept WHERE stands_now = ? ORDER BY "
            "reviewed_utc",
            (why["id"],),
        )
    ]
    return why


def _check_reviews(store: Store, prefix: str) -> None:
    """Look for a reviewed detection that is no longer in the record. Raises UsageError if there is
    one with this id."""
    gone = store.rows(
        "SELECT detection, verdict, reviewer, coalesce(stands_now, 'nothing') FROM reviews_kept "
        "WHERE substr(detection, 1, ?) = ? AND NOT is_there",
        (len(prefix), prefix),
    )
    if gone and prefix:
        words = "; ".join(f"{verdict} ({reviewer})" for _, verdict, reviewer, _ in gone)
        raise UsageError(
            f"ID: {gone[0][0]} is gone, since its recording was analysed again; its review is "
            f"kept: {words}; in its place there is now: {gone[0][3]}"
        )


def species_instead(store: Store, text: str | None, verdict: str) -> str | None:
    """Code of the species, if the record has one of this code or name; else the text unchanged,
    since a reviewer may know species that the bundle does not. Raises UsageError with verdict
    correct."""
    words = " ".join((text or "").split())
    if words and verdict == "correct":
        raise UsageError(
            f"--instead: found {words!r} with verdict correct; expected with wrong or unsure"
        )
    return (store.species_named(words) or words) if words else None


def _licence(manifest: dict[str, Any]) -> str | None:
    licence = manifest.get("licence")
    return None if not licence else str(Licence(**licence))


def _odds_moved(why: dict[str, Any]) -> float | None:
    """Factor by which place and day changed the odds; None where they were not used, or where a
    score is 0 or 1."""
    scores = why["acoustic"], why["score"]
    if why["prior"] is None or not all(0 < score < 1 for score in scores):
        return None
    before, after = (score / (1 - score) for score in scores)
    return float(after / before)


def _geo(manifest: dict[str, Any], why: dict[str, Any]) -> float | None:
    """Probability by a geo model of meeting the species there on that day. None with another prior,
    and for classes that the model cannot place: their prior is 1 over all classes everywhere, which
    is not an answer of the model."""
    geo = manifest["training"].get("geo") if manifest.get("prior") == "geo" else None
    if (
        geo is None
        or why["prior"] is None
        or math.isclose(why["prior"] * geo["classes"], 1.0, rel_tol=1e-6)
    ):
        return None
    return float(why["prior"] * geo["floor"] * geo["classes"])


def _members(manifest: dict[str, Any], why: dict[str, Any]) -> tuple[str, dict[str, float | None]]:
    """The networks that were loaded (`bag`, `student` or `cascade`), and their scores by their
    names in the bundle; None for a network that was not run on this window."""
    scores = json.loads(why["members"] or "[]")
    members = manifest.get("members", [])
    student = [manifest["student"]["member"]] if manifest.get("student") else []
    kinds = [m["kind"] for m in members]
    few = [m for index, m in enumerate(members) if kinds.index(m["kind"]) == index]
    loaded = "student" if why["decided_by"] == "student" and len(scores) == 1 else "bag"
    if student and len(scores) == len(members) + 1:
        loaded = "cascade"
    # few: in rows of the first releases
    for networks in (student,) if loaded == "student" else (members, members + student, few):
        if len(networks) == len(scores):
            return loaded, dict(
                zip([str(network["name"]) for network in networks], scores, strict=True)
            )
    return loaded, {f"{number}": score for number, score in enumerate(scores)}


def why_tables(why: dict[str, Any]) -> RenderableType:
    """Tables of an explanation for people."""
    name = escape(why["common_name"] or why["species"])
    facts = Table(
        title=f"{name} ({escape(why['scientific_name'])}), {why['start_utc']}", title_justify="left"
    )
    facts.add_column("what")
    facts.add_column("found", overflow="fold")
    for what, value in _facts(why):
        facts.add_row(what, escape(value))
    members = Table(title="This window alone, by member", title_justify="left")
    members.add_column("member")
    members.add_column("score", justify="right")
    for member, score in sorted(why["members"].items(), key=lambda item: -(item[1] or 0.0)):
        members.add_row(escape(member), "not run" if score is None else f"{score:.3f}")
    others = Table(title="The next species of this window", title_justify="left")
    others.add_column("species")
    others.add_column("score", justify="right")
    for species, score in why["runner_ups"].items():
        others.add_row(escape(species), f"{score:.3f}")
    return Group(facts, members, others)


def _words(review: dict[str, Any], detection: str) -> str:
    instead = f", instead {review['instead']}" if review["instead"] else ""
    of = (
        ""
        if review["detection"] == detection
        else f", of {review['detection'][:8]}, which was here before"
    )
    return f"{review['verdict']}{instead} ({review['reviewer']}{of})"


def chance_text(chance: float) -> str:
    """Probability of a geo model as text."""
    return f"{chance:.1%}" if chance >= 0.001 else "less than 0.1%"


def _moved(why: dict[str, Any]) -> str:
    """Text on the geo model's answer and its effect on the odds."""
    geo = (
        ""
        if why["geo"] is None
        else f": probability by the geo model on that day {chance_text(why['geo'])}"
    )
    return geo + ("" if why["odds_moved"] is None else f"; odds × {why['odds_moved']:.2g}")


def _facts(why: dict[str, Any]) -> Sequence[tuple[str, str]]:
    spread = [score for score in why["members"].values() if score is not None]
    prior = (
        "none: no place or date, or switched off" if why["prior"] is None else f"{why['prior']:.4f}"
    )
    level = "digital silence" if why["level_dbfs"] is None else f"{why['level_dbfs']:.1f} dBFS"
    reviews = ", ".join(_words(review, why["id"]) for review in why["reviews"])
    clock = _TIME_FROM.get(why["time_source"], why["time_source"])
    clock += f", by {_CLOCKS.get(why['clock_state'], why['clock_state'])}"
    clock += f", moved by {why['clock_fix_s']:+.1f} s" if why["clock_fix_s"] else ""
    day = why["local_time"][:10]
    hour = why["local_time"][11:]
    local_time = f"{day}, hour not known" if why["time_source"] == "date" else f"{day} {hour}"
    return (
        ("heard in", f"{why['path']} at {why['offset_s']:.1f} s ({why['source']})"),
        ("clip", why["clip"] or ("none" if why["source"] == "microphone" else _NO_CLIP)),
        ("local time", local_time),
        ("time from", clock),
        ("decided by", _DECIDED.get((why["loaded"], why["decided_by"]), why["decided_by"])),
        ("members", f"{min(spread):.3f} to {max(spread):.3f}" if spread else "not recorded"),
        ("acoustic score", f"{why['acoustic']:.3f}"),
        ("prior, place and day", prior + _moved(why)),
        ("blended score", f"{why['score']:.3f}"),
        ("threshold", f"{why['threshold']:.3f}, {_SET_BY.get(why['rule'], why['rule'])}"),
        ("level", level),
        ("analysed with", f"bundle {why['bundle'][:16]}, {_SHED[why['shed']]}"),
        *([("the model", why["notice"])] if why["notice"] else []),
        *([("licence", why["licence"])] if why["licence"] else []),
        ("reviews", reviews or "none"),
        ("id", why["id"]),
    )
