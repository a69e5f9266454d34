"""Why a detection is there: everything that led to it, for a person who doubts it. Reads the store; knows no sound."""

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from edge.contract.errors import ConfigError
from edge.store.record import Store

_SHED = ("full analysis", "windows without overlap, since sound came too fast", "one member of each kind, likewise")
_COLUMNS = (
    "d.id, d.species, s.common_name, s.scientific_name, d.start_utc, d.end_utc, d.offset_s, d.score, d.acoustic,"
    " d.prior, d.threshold, d.rule, d.members, d.runner_ups, d.shed, d.level_dbfs, c.path AS clip, d.bundle,"
    " r.path, r.source, r.time_source, r.clock_state, r.clock_fix_s, r.latitude, r.longitude"
)


def explain(store: Store, wanted: str) -> dict[str, Any]:
    """Everything about the detection whose id begins with `wanted`. Raises ConfigError if there is none, or several."""
    rows = store.rows(
        f"SELECT {_COLUMNS} FROM detections d JOIN species s ON s.code = d.species"
        " JOIN recordings r ON r.id = d.recording LEFT JOIN clips c ON c.id = d.clip"
        " WHERE substr(d.id, 1, ?) = ? LIMIT 3",
        (len(wanted), wanted),
    )
    if len(rows) != 1:
        found = "several" if len(rows) > 1 else "none"
        raise ConfigError(f"ID: {found} of the detections in {store.path} begin with {wanted!r}; one is wanted")
    names = [column.split(" AS ")[-1].split(".")[-1].strip() for column in _COLUMNS.split(",")]
    why = dict(zip(names, rows[0], strict=True))
    why["members"] = _members(store, why)
    why["runner_ups"] = dict(json.loads(why["runner_ups"] or "[]"))
    why["reviews"] = [
        {"reviewer": reviewer, "verdict": verdict, "note": note, "reviewed_utc": when}
        for reviewer, verdict, note, when in store.rows(
            "SELECT reviewer, verdict, note, reviewed_utc FROM reviews WHERE detection = ?", (why["id"],)
        )
    ]
    return why


def _members(store: Store, why: dict[str, Any]) -> dict[str, float]:
    """Scores by the names that the bundle gives its members; in a hurry the first of each kind answered alone."""
    scores = json.loads(why["members"] or "[]")
    manifest = json.loads(store.rows("SELECT manifest FROM bundles WHERE id = ?", (why["bundle"],))[0][0])
    members = manifest.get("members", [])
    if len(scores) < len(members):
        kinds = [m["kind"] for m in members]
        members = [m for index, m in enumerate(members) if kinds.index(m["kind"]) == index]
    named = [str(m["name"]) for m in members] if len(members) == len(scores) else [f"{n}" for n in range(len(scores))]
    return dict(zip(named, scores, strict=True))


def why_tables(why: dict[str, Any]) -> RenderableType:
    """The same as people read it."""
    name = escape(why["common_name"] or why["species"])
    facts = Table(title=f"{name} ({escape(why['scientific_name'])}), {why['start_utc']}", title_justify="left")
    facts.add_column("what")
    facts.add_column("found", overflow="fold")
    for what, found in _facts(why):
        facts.add_row(what, escape(found))
    members = Table(title="This window alone, by member", title_justify="left")
    members.add_column("member")
    members.add_column("score", justify="right")
    for member, score in sorted(why["members"].items(), key=lambda item: -item[1]):
        members.add_row(escape(member), f"{score:.3f}")
    others = Table(title="What else it may have been", title_justify="left")
    others.add_column("species")
    others.add_column("score", justify="right")
    for species, score in why["runner_ups"].items():
        others.add_row(escape(species), f"{score:.3f}")
    return Group(facts, members, others)


def _facts(why: dict[str, Any]) -> Sequence[tuple[str, str]]:
    spread = why["members"].values()
    prior = "none: no place or date, or switched off" if why["prior"] is None else f"{why['prior']:.4f}"
    level = "digital silence" if why["level_dbfs"] is None else f"{why['level_dbfs']:.1f} dBFS"
    reviews = ", ".join(f"{r['verdict']} ({r['reviewer']})" for r in why["reviews"])
    clock = f"{why['time_source']}, clock {why['clock_state']}"
    clock += f", moved by {why['clock_fix_s']:+.1f} s" if why["clock_fix_s"] else ""
    return (
        ("heard in", f"{why['path']} at {why['offset_s']:.1f} s ({why['source']})"),
        ("clip", why["clip"] or "none"),
        ("time from", clock),
        ("members", f"{min(spread):.3f} to {max(spread):.3f}" if spread else "not recorded"),
        ("by sound alone", f"{why['acoustic']:.3f}"),
        ("prior of place and day", prior),
        ("blended score", f"{why['score']:.3f}"),
        ("threshold", f"{why['threshold']:.3f}, set by: {why['rule']}"),
        ("level", level),
        ("analysed with", f"bundle {why['bundle'][:16]}, {_SHED[why['shed']]}"),
        ("reviews", reviews or "none"),
        ("id", why["id"]),
    )
